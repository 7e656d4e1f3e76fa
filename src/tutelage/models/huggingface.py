"""Encoders of Hugging Face from a local folder: config.json and model.safetensors, by the library `transformers`.

Nothing is fetched, no code of the folder is run, and no pickle is read. The body is the encoder that the configuration
names; the classifier `fc` on it is new.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tutelage.data.hf_tokenizer import require_no_code
from tutelage.errors import DataError, ModelError, SecurityError, UsageError
from tutelage.models.text import at_places, own_view

PREFIX = "hf"
WEIGHTS = "model.safetensors"
PICKLED = ("pytorch_model.bin", "model.pt", "pytorch_model.pt", "tf_model.h5", "flax_model.msgpack")


def hf_folder(name: str) -> Path:
    """The folder of `hf:NAME`, seen from here or from $TUTELAGE_DATA; UsageError where there is none."""
    given = Path(name).expanduser()
    places = [given, Path(os.environ.get("TUTELAGE_DATA", "data")) / given]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise UsageError("there is no such folder of a network", where=f"{PREFIX}:{name}",
                         expected=f"a local folder with config.json and {WEIGHTS}",
                         fix="download it yourself, and give its folder: nothing is fetched here")
    require_no_code(found)
    return found


def hf_most(name: str) -> int | None:
    """How many pieces a sentence of this network may have, where its configuration says so."""
    told = json.loads((hf_folder(name) / "config.json").read_text(encoding="utf-8"))
    most = told.get("max_position_embeddings")
    return most if isinstance(most, int) and most > 0 else None


def hf_network(num_classes: int, channels: int, *, folder: Path, per: str = "sentence", dropout: float = 0.1,
               tokenizer: str = "") -> nn.Module:
    """The encoder of a folder, with first weights of its own, and a classifier: of sentences, or `per` "word"."""
    if per not in ("sentence", "word"):
        raise UsageError("an option of the network that cannot be", where="options, per", found=per,
                         expected='"sentence" or "word"')
    library = _library()
    config = library.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if getattr(config, "vocab_size", channels) < channels:
        raise ModelError("the tokenizer has more pieces than the network knows", where=folder, found=channels,
                         expected=f"{config.vocab_size} at most", fix="give the tokenizer of the same folder in [data]")
    return HfEncoder(library.AutoModel.from_config(config, trust_remote_code=False), config, num_classes, per, dropout,
                     tokenizer)


def hf_weights(folder: Path) -> nn.Module:
    """The encoder of a folder with its own weights, from safetensors alone."""
    if not any(folder.glob("*.safetensors")):
        pickled = [name for name in PICKLED if (folder / name).is_file()]
        kind = SecurityError if pickled else DataError
        raise kind("refused: a pickled file can run code when it is read" if pickled else "no weights in this folder",
                   where=folder, found=", ".join(pickled) or "nothing", expected=WEIGHTS,
                   fix="model.save_pretrained(FOLDER, safe_serialization=True), where you trust it")
    return _library().AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True,
                                                trust_remote_code=False)


class HfEncoder(nn.Module):
    """See `hf_network`."""

    def __init__(self, encoder: nn.Module, config: Any, num_classes: int, per: str, dropout: float,
                 tokenizer: str) -> None:
        super().__init__()
        self.encoder, self.per, self.tokenizer = encoder, per, tokenizer
        self.padding = int(getattr(config, "pad_token_id", None) or 0)
        self.features = nn.Dropout(dropout)
        self.fc = nn.Linear(int(config.hidden_size), num_classes)

    def forward(self, tokens: Tensor | None = None, places: Tensor | None = None, **more: Tensor) -> Tensor:
        """Logits [B, classes], or [B, P, classes]."""
        own, where = own_view(self.tokenizer, {"tokens": tokens, "places": places, **more})
        there = own >= 0
        given = own.masked_fill(~there, self.padding)
        states = self.encoder(input_ids=given, attention_mask=there.long()).last_hidden_state
        if self.per == "word":
            return self.fc(self.features(at_places(states, where)))
        mean = states.masked_fill(~there[..., None], 0).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        return self.fc(self.features(mean))


def _library() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModelError("a network of Hugging Face needs transformers: pip install 'tutelage[text]'") from None
    return transformers
