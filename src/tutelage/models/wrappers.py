"""What a recipe changes of a network in one word: a cut of its gradient, many draws of its dropout, its classifier.

    cut = "layer3"        the labels teach what comes after this layer alone; the tap `cut` is what the layer gives
    draws = 30            the tap `draws.LAYER` is what LAYER gives in so many draws: [B, 30, ...]
    cosine = true         the classifier is one of cosines; its taps are `cosine` [B, C] and `cosine.features` [B, D]
    second_head = true    the tap `second_head` is what a second classifier says of the same features: [B, C]

Weights, their names and the logits stay as they were, but for the classifier of cosines, which has no bias. A second
head's own weights come to them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError, unknown
from tutelage.graph.taps import ReadsTaps, read_modules
from tutelage.models.classifier import SECOND_HEAD, classifiers_of
from tutelage.system.random import derive, uniform
from tutelage.types import View

CUT, DRAWS, COSINE, FEATURES = "cut", "draws.", "cosine", "cosine.features"
STEEP = 16.0
"""What cosines are multiplied by to be logits (a choice of this project): e^16 is sure enough for 10000 classes."""
_BY_NUMBER = (nn.Dropout,)
_BY_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class CosineHead(nn.Linear):
    """Logits = 16 cos(h, w_c) for features h [B, D] and one row w_c for each class, both at norm 1; no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.features, self.cosine = nn.Identity(), nn.Identity()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear has for it
        """Features [B, D] -> logits [B, C] in [-16, 16]."""
        features = self.features(F.normalize(input, dim=-1))
        return STEEP * self.cosine(F.linear(features, F.normalize(self.weight, dim=-1)))


def compare_directions(body: nn.Module) -> None:
    """Put a classifier of cosines in the place of the network's linear one, started afresh."""
    names = classifiers_of(body)
    head = body.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(head, nn.Linear) or names == ("",):
        raise ModelError("this network's classifier is not one linear layer", where="cosine",
                         found=", ".join(names) or "none", fix="choose another network")
    body.set_submodule(names[0], CosineHead(head.in_features, head.out_features))
    _offer_taps(body)


def taps_of(body: nn.Module) -> dict[str, nn.Module]:
    """The modules behind the taps that wrappers add, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in body.named_modules():
        if is_cut(module):
            found[CUT] = module
        if name.split(".")[-1] == SECOND_HEAD:
            found[SECOND_HEAD] = module
        if isinstance(module, CosineHead):
            found |= {COSINE: module.cosine, FEATURES: module.features}
    return found


def cut(body: nn.Module, layer: str) -> None:
    """Let no gradient through where `layer` ends: what comes after it learns, what is before it does not.

    A tap of the layer has its gradient. Everything must pass through the layer: one inside a block has a way around it.
    """
    modules = dict(body.named_modules())
    if not layer or layer not in modules:
        raise unknown("layer", layer, filter(None, modules), where="cut", error=ModelError)
    if any(name == layer or name.startswith(f"{layer}.") for name in classifiers_of(body)):
        raise ModelError("after the classifier there is nothing that could learn", where="cut", found=repr(layer),
                         fix="cut before it: at the network's last stage")
    modules[layer].register_forward_hook(_detached)
    _offer_taps(body)


def is_cut(module: nn.Module) -> bool:
    """Whether the gradient is cut where this module ends."""
    return any(hook is _detached for hook in module._forward_hooks.values())


def _detached(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ModelError("what is cut must be one tensor", where="cut", found=f"a {type(output).__name__}",
                         fix="cut at a layer before or after it")
    return output.detach()


def add_second_head(body: nn.Module, outputs: int | None = None) -> None:
    """Give a network a second classifier like its own, with first weights of its own from torch's generator.

    It has as many outputs as the first, or `outputs` where the logits are cut to the data's classes.
    It is a part of the first one and runs with it, in every pass; it is learned, averaged and saved with the network.
    """
    names = classifiers_of(body)
    first = body.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(first, nn.Linear):
        raise ModelError("a second head needs a first one to be like", where="second_head",
                         found=", ".join(names) or "no classifier", expected="one linear layer that makes the logits",
                         fix="take another network, or leave second_head out")
    second = nn.Linear(first.in_features, first.out_features if outputs is None else outputs,
                       bias=first.bias is not None, device=first.weight.device, dtype=first.weight.dtype)
    first.add_module(SECOND_HEAD, second)
    first.register_forward_hook(_also)
    _offer_taps(body)


def _also(module: nn.Module, inputs: Any, output: Any) -> None:
    module.get_submodule(SECOND_HEAD)(inputs[0])  # whoever taps it hears it


@dataclass
class Draws:
    """How a network's dropout is drawn: `count` times an image, by (key, its id) and by nothing else.

    `dropout`, if any, is the share of what a tapped layer gives that is left out, for networks that have no dropout of
    their own. `key` and `ids` [B] are what a method sets for each batch; else rows are numbered.
    """

    count: int
    dropout: float | None = None
    key: int = 0
    ids: Tensor | None = None

    def left_out(self, name: str, rows: Tensor, share: float, by_channel: bool = False) -> Tensor:
        """Rows [B * count, ...] with a share of their numbers (or channels) at 0 and the others made larger for it."""
        count, device = self.count, rows.device
        ids = self.ids
        if ids is None or len(ids) != len(rows) // count:  # none were told, or those of an earlier batch
            ids = torch.arange(len(rows) // count, device=device)
        ids = ids.to(device)
        numbers = (ids[:, None] * count + torch.arange(count, device=device)).flatten()
        shape = rows.shape[1:2] if by_channel else rows.shape[1:]
        kept = uniform(derive(self.key, name), numbers, shape.numel()).view(len(rows), *shape) >= share
        kept = kept.view(*kept.shape, *[1] * (rows.dim() - kept.dim()))
        return rows * kept / (1 - share)


def draw(network: nn.Module, count: int, dropout: float | None = None) -> None:
    """Give a network the taps `draws.LAYER`; ModelError if it has no dropout and is given none."""
    if dropout is None and not any(map(_share, network.modules())):
        raise ModelError("this network has no dropout to draw from", where="draws", found=f"draws = {count}",
                         fix="write dropout = 0.5 beside it: that share of what the tapped layer gives is left out")
    network.draws = Draws(count, dropout)  # pyright: ignore[reportArgumentType] - no tensor, and no module
    _offer_taps(network)


def draws_of(network: nn.Module) -> Draws | None:
    """How the network's dropout is drawn, if it is."""
    found = vars(network).get("draws")
    return found if isinstance(found, Draws) else None


@contextmanager
def drawing(draws: Draws, body: nn.Module, rows: int) -> Iterator[Callable[[str, Tensor], Tensor]]:
    """Inside, a pass over `rows` images draws each of them so many times, from the first dropout on.

    Yields what makes of a layer's name and its output the draws of it: [rows, count, ...]. Where a block holds
    dropout all of the block is drawn, for its shortcut must have as many rows.
    """
    def wide(x: Any) -> Any:
        return x.repeat_interleave(draws.count, 0) if isinstance(x, Tensor) and x.dim() and len(x) == rows else x

    def widen(module: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return tuple(map(wide, inputs)), {name: wide(x) for name, x in named.items()}

    def drop(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        return lambda module, inputs, output: draws.left_out(name, inputs[0], _share(module),
                                                             isinstance(module, _BY_CHANNEL))

    def drawn(layer: str, output: Tensor) -> Tensor:
        if len(output) < rows * draws.count:
            if draws.dropout is None:
                raise ModelError(f"layer {layer!r} comes before the network's first dropout: all draws are alike",
                                 fix="name a later layer, or write dropout = 0.5 beside draws")
            output = output.repeat_interleave(draws.count, 0)
        if draws.dropout is not None:
            output = draws.left_out(f"{layer} itself", output, draws.dropout)
        return output.unflatten(0, (rows, draws.count))

    handles = [module.register_forward_pre_hook(widen, with_kwargs=True) for module in _entrances(body)]
    handles += [module.register_forward_hook(drop(name)) for name, module in body.named_modules() if _share(module)]
    try:
        yield drawn
    finally:
        for handle in handles:
            handle.remove()


def read_wrapped(network: nn.Module, body: nn.Module, inputs: View, taps: Sequence[str]) -> dict[str, Tensor]:
    """`taps.read` of a network that calls `body`: layers by their names there, and the taps that this module adds."""
    # First in line where the gradient is cut: what is tapped there still has it.
    pass_with = partial(read_modules, network, dict(body.named_modules()) | taps_of(body), inputs, first=is_cut,
                        lacking=_WORDS)
    layers = [tap.removeprefix(DRAWS) for tap in taps if tap.startswith(DRAWS)]
    rest = [tap for tap in taps if not tap.startswith(DRAWS)]
    if not layers:
        return pass_with(rest)
    draws = draws_of(network)
    if draws is None:
        raise ModelError("the dropout of this network is not drawn", found=f"tap {DRAWS + layers[0]!r}",
                         fix="write draws = 30 in its [models.NODE]: so many draws are made of each image")
    plain = pass_with(rest) if rest else {}
    # In a pass of their own, beside that for what is not drawn.
    with drawing(draws, body, rows_of_view(inputs)) as drawn:
        heard = pass_with(layers)
    return plain | {DRAWS + layer: drawn(layer, tensor) for layer, tensor in heard.items()}


def rows_of_view(view: View) -> int:
    """How many rows a view has."""
    return len(next(iter(view.values()))) if isinstance(view, Mapping) else len(view)


_NO_COSINES = ("the classifier of this network is not one of cosines", "write cosine = true in its [models.NODE]")
_WORDS = {
    CUT: ("the gradient of this network is not cut",
          'write cut = "LAYER" in its [models.NODE]: what comes after it learns from labels alone'),
    COSINE: _NO_COSINES, FEATURES: _NO_COSINES,
    SECOND_HEAD: ("this network has one head",
                  "write second_head = true in its [models.NODE]: a second classifier on the same features"),
}
"""Tap -> what a network without it lacks, and the word of a recipe that adds it."""


def _offer_taps(network: nn.Module) -> None:
    """Let a plain module read the taps of this module too; a `Network` does so by itself."""
    if not isinstance(network, ReadsTaps):
        network.read_taps = partial(read_wrapped, network, network)  # pyright: ignore[reportArgumentType]


def _share(module: nn.Module) -> float:
    return module.p if isinstance(module, (*_BY_NUMBER, *_BY_CHANNEL)) else 0.0


def _entrances(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network that hold dropout, as small as sequences let them be."""
    for child in module.children():
        if any(map(_share, child.modules())):
            plain = isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward
            yield from _entrances(child) if plain else [child]
