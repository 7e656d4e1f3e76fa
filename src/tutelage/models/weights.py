"""Weights from .safetensors files, strictly: every tensor has its place, and nothing in a file can run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tutelage.errors import ModelError, SecurityError
from tutelage.models.class_names import SHOWN
from tutelage.models.classifier import SECOND_HEAD, classifiers_of
from tutelage.models.network import Network, body_of, weights_of
from tutelage.system.files import fingerprint

Entry = TypeVar("Entry", list, dict, int)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar", ".th", ".npz", ".npy")
LARGEST_HEADER = 4 * 2**20
CONVERT = ("convert it once, where you trust it: safetensors.torch.save_file("
           "torch.load(PATH, weights_only=True), 'weights.safetensors')")


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors by name, and what it says of itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names of the head's rows, if the file tells them."""
        if "classes" not in self.metadata:
            return None
        names = json_entry(self, "classes", list)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ModelError("the class names in this file cannot be used", where=self.path, found=str(names)[:200],
                             expected="a JSON list of names, each once", fix="write the file again")
        return tuple(names)


def read_weights(path: str | Path, node: str = "model") -> WeightsFile:
    """Read a .safetensors file, a run folder (its only network, or the one of this node), or RUN/NODE."""
    file = _locate(Path(path), node)
    _check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise _damaged(file, str(problem)) from None
    if "sha256" in told and fingerprint(tensors) != told["sha256"]:  # the format itself notices no flipped bit
        raise _damaged(file, "other numbers than were written, by their SHA-256")
    return WeightsFile(file, tensors, told)


def read_metadata(path: str | Path, node: str = "model") -> Mapping[str, str]:
    """What a file of weights says of itself; no tensor is read. `path` is as in `read_weights`."""
    file = _locate(Path(path), node)
    _check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as problem:
        raise _damaged(file, str(problem)) from None


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, head: str = "strict",
                 where: object = None) -> None:
    """Copy `tensors` into a `Network` or any module; with head="new" the classifier keeps the weights that it has.

    A second head that only the network has keeps its weights too, and one that only the file has is left out.
    """
    own = weights_of(network)
    fresh = _classifier_names(network, own)
    second = {name for name in {*own, *tensors} if SECOND_HEAD in name.split(".")}
    added = isinstance(network, Network) and network.architecture.second_head  # else it is a user's own layer
    if not second & own.keys() or (added and (head == "new" or not second & tensors.keys())):
        own = {name: tensor for name, tensor in own.items() if name not in second}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in second}
    if head == "new":
        tensors = {name: tensor for name, tensor in tensors.items() if name not in fresh}
        own = {name: tensor for name, tensor in own.items() if name not in fresh}
    wrong = [f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}" for name in own
             if name in tensors and not is_lazy(own[name]) and own[name].numel()
             and tensors[name].shape != own[name].shape]
    missing, unexpected = [name for name in own if name not in tensors], [name for name in tensors if name not in own]
    if wrong or missing or unexpected:
        only_head = not missing and not unexpected and all(text.partition(" ")[0] in fresh for text in wrong)
        if missing and not unexpected and not wrong and set(missing) <= fresh:
            raise ModelError("these weights have no classifier", where=where, found=f"missing: {', '.join(missing)}",
                             expected="every tensor of the network, its classifier too",
                             fix='write head = "new" for a network that learns; for a frozen teacher train one so '
                                 "first, and give its run as weights")
        raise _misfit(where, missing, unexpected, wrong, only_head)
    body_of(network).load_state_dict(dict(tensors), strict=False)


def json_entry(file: WeightsFile, key: str, kind: type[Entry]) -> Entry:
    """The entry `key` of a file's metadata as JSON of that kind."""
    try:
        value = json.loads(file.metadata[key])
    except (KeyError, ValueError):
        value = None
    if not isinstance(value, kind):
        raise ModelError(f"the file's metadata has no usable entry {key!r}", where=file.path,
                         found=repr(file.metadata.get(key))[:200], expected=f"JSON, a {kind.__name__}",
                         fix="write the file again, or take one that this package wrote")
    return value


def _classifier_names(network: nn.Module, own: Iterable[str]) -> set[str]:
    prefixes = classifiers_of(body_of(network))
    # A network that is one linear layer has the classifier "", and every tensor is the classifier's.
    return {name for name in own for prefix in prefixes if prefix == "" or name.startswith(f"{prefix}.")}


def _locate(path: Path, node: str) -> Path:
    if path.suffix.lower() in PICKLES:
        raise SecurityError("refused: a pickled file can run code when it is read", where=path,
                            expected="a .safetensors file", fix=CONVERT)
    inside = path.parent / "models" / f"{path.name}.safetensors"
    if path.is_dir():
        return _in_run(path, node)
    if not path.exists() and inside.is_file():
        return inside
    if not path.is_file():
        raise ModelError("there is no such file of weights", where=path, expected="a .safetensors file or a run folder",
                         fix="mend the path; without weights= the network would start untrained")
    return path


def _in_run(folder: Path, node: str) -> Path:
    files = sorted((folder / "models").glob("*.safetensors"))
    named = [file for file in files if file.stem == node]
    chosen = files if len(files) == 1 else named
    if len(chosen) != 1:
        found = ", ".join(file.stem for file in files[:SHOWN]) or "no models/*.safetensors"
        what = "this run folder does not hold one network to take" if files else "this folder holds no network"
        raise ModelError(what, where=folder, found=found, expected=f"one network, or one called {node!r}",
                         fix=f"write {folder}/NODE with one of these names" if files else "take a finished run")
    return chosen[0]


def _check_header(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        size = file.stat().st_size
    except OSError as problem:
        raise ModelError("cannot read the weights", where=file, found=problem.strerror) from None
    if length + 8 > size:
        raise _damaged(file, f"{size} bytes, of which the first 8 promise a header of {length}")
    if length > LARGEST_HEADER:
        raise SecurityError("refused: the header of this file is too large", where=file, found=f"{length} bytes",
                            expected=f"at most {LARGEST_HEADER} bytes", fix="save the weights without further metadata")


def _damaged(file: Path, found: str) -> ModelError:
    return ModelError("this file of weights is damaged or cut short", where=file, found=found,
                      expected="a whole .safetensors file", fix="copy or download it again")


def _misfit(where: object, missing: list[str], unexpected: list[str], wrong: list[str], only_head: bool) -> ModelError:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    lines = [f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
             for kind, names in kinds.items() if names]
    if only_head:
        return ModelError("the classifier of the weights has another size", where=where, found="\n".join(lines),
                          fix='write head = "new" to start a fresh one and fine-tune, or classes = "by-name" (or a '
                              "file of names) to cut it to the data's classes")
    prefix = _common_prefix(unexpected, missing)
    fix = f"the names in the file all begin with {prefix!r}: save it without that" if prefix else (
        "take the weights of this very architecture (its options and its stem too)")
    return ModelError("the weights do not fit the network", where=where, found="\n".join(lines),
                      expected="every tensor of the network, and no other", fix=fix)


def _common_prefix(unexpected: list[str], missing: list[str]) -> str | None:
    prefix = unexpected[0].partition(".")[0] + "." if unexpected else ""
    return prefix if prefix and {name.removeprefix(prefix) for name in unexpected} == set(missing) else None
