"""Reading from inside a network: one pass, any number of tensors.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> {name: tuple(value.shape) for name, value in read(net, torch.zeros(5, 4), ["", "0"]).items()}
    {'': (5, 2), '0': (5, 3)}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tutelage.errors import ModelError, unknown
from tutelage.types import View


@runtime_checkable
class ReadsTaps(Protocol):
    """A network that reads its own taps: it has others than its sub-modules, or calls them by other names."""

    def read_taps(self, inputs: View, taps: Sequence[str]) -> dict[str, Tensor]:
        """Tap -> tensor, of one pass; "" is the logits."""
        ...


def call(model: nn.Module, view: View) -> Any:
    """What `model` returns for a view: `model(tensor)`, or `model(**tensors)` where it has several by name."""
    return model(**view) if isinstance(view, Mapping) else model(view)


def read(model: nn.Module, inputs: View, taps: Sequence[str]) -> dict[str, Tensor]:
    """Run `model` once on `inputs`, a view, and give each tap asked for, with its gradient.

    "" is the logits; another name is a key of the mapping that the network returns, or else the output of the
    sub-module of that name. A sub-module that runs several times in a pass gives its last output. A network that
    `ReadsTaps` says itself what its taps are.
    """
    if not any(taps):
        return {"": logits_of(call(model, inputs))} if taps else {}
    if isinstance(model, ReadsTaps):
        return model.read_taps(inputs, taps)
    return read_modules(model, dict(model.named_modules()), inputs, taps)


def read_modules(model: nn.Module, modules: Mapping[str, nn.Module], inputs: View, taps: Sequence[str],
                 first: Callable[[nn.Module], bool] = lambda module: False,
                 lacking: Mapping[str, tuple[str, str]] = MappingProxyType({})) -> dict[str, Tensor]:
    """`read` of a network whose taps are `modules`, by name, and the keys of the mapping that it returns.

    A tapped module's output is taken after its own hooks, or before them where `first` says so of the module.
    `lacking` are taps that another network may have: tap -> what this one lacks, and how to mend that.
    """
    with _listening({tap: modules[tap] for tap in taps if tap and tap in modules}, first) as heard:
        output = call(model, inputs)
    returned = output if isinstance(output, Mapping) else {}
    return {tap: _choose(tap, output, returned, heard, modules, lacking) for tap in taps}


def logits_of(output: object, where: object = None) -> Tensor:
    """The logits in what a network returned: the tensor itself, or the entry "logits" of a mapping."""
    logits = output.get("logits") if isinstance(output, Mapping) else output
    if isinstance(logits, Tensor):
        return logits
    found = f"a mapping of {sorted(map(str, output))}" if isinstance(output, Mapping) else f"a {type(output).__name__}"
    raise ModelError("the network does not return logits", where=where, found=found,
                     expected='a tensor [B, classes], or a mapping with the key "logits"',
                     fix="wrap it in a module that returns its logits (or switch auxiliary outputs off)")


class Tapped(nn.Module):
    """A network whose forward is `read`, so that a wrapper around it (DDP) sees every tensor that leaves it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: View, taps: Sequence[str] = ("",)) -> dict[str, Tensor]:
        """`read` of the network held."""
        return read(self.network, inputs, taps)


@dataclass(frozen=True)
class _Heard:
    value: Any
    version: int | None


def _choose(tap: str, output: object, returned: Mapping[str, Any], heard: Mapping[str, _Heard],
            modules: Mapping[str, nn.Module], lacking: Mapping[str, tuple[str, str]]) -> Tensor:
    if tap == "":
        return logits_of(output)
    if tap in returned:
        return _tensor(tap, returned[tap])
    if tap in heard:
        return _untouched(tap, heard[tap])
    if tap in modules:
        raise ModelError(f"tap {tap!r} did not run in this pass", found=type(modules[tap]).__name__,
                         fix="tap a sub-module that the network calls in its forward")
    if tap in lacking:
        what, fix = lacking[tap]
        raise ModelError(what, found=f"tap {tap!r}", fix=fix)
    raise unknown("tap", tap, [*filter(None, modules), *map(str, returned)], error=ModelError)


def _tensor(tap: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise ModelError(f"tap {tap!r} does not give a tensor", found=f"a {type(value).__name__}",
                     expected="a tensor [B, ...]", fix="tap a sub-module inside it or after it")


def _untouched(tap: str, heard: _Heard) -> Tensor:
    tensor = _tensor(tap, heard.value)
    if heard.version is not None and tensor._version != heard.version:
        raise ModelError(f"tap {tap!r} is overwritten by what comes after it",
                         found="an in-place operation (such as ReLU(inplace=True)) changed the tapped tensor",
                         fix="tap the next layer instead, or the block around it")
    return tensor


def _version(value: object) -> int | None:
    # A tensor made in inference mode does not count its versions. Nothing is lost: what overwrites a tap there
    # does so in training too, where it is refused.
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


@contextmanager
def _listening(modules: Mapping[str, nn.Module], first: Callable[[nn.Module], bool]) -> Iterator[dict[str, _Heard]]:
    heard: dict[str, _Heard] = {}

    def hook(tap: str) -> Callable[[nn.Module, Any, Any], None]:
        def hear(module: nn.Module, inputs: Any, output: Any) -> None:
            heard[tap] = _Heard(output, _version(output))
        return hear

    handles = [module.register_forward_hook(hook(tap), prepend=first(module)) for tap, module in modules.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
