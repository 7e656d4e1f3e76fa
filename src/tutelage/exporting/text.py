"""A network for text as a graph: pieces [B, L] and, of words, places [B, P] -> logits; its tokenizer beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from tutelage.data.hf_tokenizer import FolderTokenizer
from tutelage.data.text_preparation import TextPreparation
from tutelage.graph.taps import call, logits_of
from tutelage.models.network import Network
from tutelage.types import View

LARGEST = 16
"""Sentences of a .pte, whose memory is planned ahead."""


class ShippedText(nn.Module):
    """Pieces [B, L], -1 in the padding, and, where words are asked about, their places [B, P] -> logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer_of(network)

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits alone, whatever else the network returns."""
        given = {"tokens": tokens} if places is None else {"tokens": tokens, "places": places}
        return logits_of(call(self.network, _renamed(given, self.tokenizer)))


def tokenizer_of(network: nn.Module) -> str:
    """The name of the tokenizer that a network reads, "" for the main one."""
    return str(network.architecture.options.get("tokenizer", "")) if isinstance(network, Network) else ""


def view_for(network: nn.Module, given: Mapping[str, Tensor]) -> View:
    """What a file is given, by the file's names, as a view of the network: one tensor where it takes one."""
    if "tokens" in given:
        return _renamed(given, tokenizer_of(network))
    return dict(given) if len(given) > 1 else next(iter(given.values()))


def given_to_file(network: nn.Module, view: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a view with the pieces of all tokenizers those of this network, by the file's names."""
    name = tokenizer_of(network)
    return {kind: view[f"{kind}_{name}" if name else kind] for kind in ("tokens", "places")
            if (f"{kind}_{name}" if name else kind) in view}


def shortened_text(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same sentences cut to half of their pieces; what is asked about behind that is asked about at the end."""
    length = max(1, given["tokens"].shape[1] // 2)
    return {"tokens": given["tokens"][:, :length], **({"places": given["places"].clamp(max=length - 1)}
                                                      if "places" in given else {})}


def text_inputs(how: TextPreparation) -> list[str]:
    """What the inputs of the graph are called, in their order."""
    return ["tokens"] if how.task == "sentences" else ["tokens", "places"]


def about_text_inputs(how: TextPreparation) -> dict[str, object]:
    """Each input of the graph as JSON."""
    tokens = {"name": "tokens", "shape": ["batch", "length"], "type": "int64", "padding": -1, "most": how.length}
    places = {"name": "places", "shape": ["batch", "places"], "type": "int64"}
    return {"input": tokens, **({"places": places} if how.task != "sentences" else {})}


def followed_text(how: TextPreparation, pte: bool) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Sentences to follow through a network, and the axes of them that may have any length."""
    length = min(13, how.length)
    batch = Dim("batch", min=1, max=LARGEST) if pte else Dim("batch")
    steps = Dim("length", min=1, max=how.length)
    tokens = torch.zeros(2, length, dtype=torch.int64)
    tokens[1, length // 2:] = -1
    places = torch.zeros(2, 5, dtype=torch.int64)
    given, axes = (tokens, places), ({0: batch, 1: steps}, {0: batch, 1: Dim("places", min=1, max=how.length)})
    return (given, axes) if how.task != "sentences" else (given[:1], axes[:1])


def tokenizer_beside(target: Path) -> Path:
    """Where the tokenizer of an exported network lies: FILE.tokenizer.json."""
    return target.with_name(target.name + ".tokenizer.json")


def tokenizer_bytes(how: TextPreparation) -> bytes:
    """Our own vocabulary as JSON; of a tokenizer of others its tokenizer.json as it is."""
    coder = how.coder
    return (coder.text if isinstance(coder, FolderTokenizer) else json.dumps(coder.as_json(), indent=1)).encode()


def _renamed(given: Mapping[str, Tensor], tokenizer: str) -> dict[str, Tensor]:
    return {f"{kind}_{tokenizer}" if tokenizer else kind: tensor for kind, tensor in given.items()}
