"""Reading from inside a network: one pass, any number of tensors.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> {name: tuple(value.shape) for name, value in read(net, torch.zeros(5, 4), ["", "0"]).items()}
    {'': (5, 2), '0': (5, 3)}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tutelage.errors import ModelError, unknown
from tutelage.models.network import body_of, logits_of
from tutelage.models.weights import SECOND_HEAD
from tutelage.models.wrappers import COSINE, CUT, DRAWS, FEATURES, drawing, draws_of, is_cut, taps_of


def read(model: nn.Module, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """Run `model` once on `inputs` and give each tap asked for, with its gradient.

    "" is the logits; another name is a key of the mapping that the network returns, or else the output of the
    sub-module of that name, without "body." in front for a `Network`. A sub-module that runs several times in a pass
    gives its last output. `wrappers` says what the taps "cut", "draws.LAYER", "cosine", "cosine.features" and
    "second_head" are.
    """
    if not any(taps):
        return {"": logits_of(model(inputs))} if taps else {}
    if any(tap.startswith(DRAWS) for tap in taps):
        return _read_draws(model, inputs, taps)
    body = body_of(model)
    modules = dict(body.named_modules()) | taps_of(body)
    with _listening({tap: modules[tap] for tap in taps if tap and tap in modules}) as heard:
        output = model(inputs)
    returned = output if isinstance(output, Mapping) else {}
    return {tap: _choose(tap, output, returned, heard, modules) for tap in taps}


def _read_draws(model: nn.Module, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """The draws in a pass of their own, beside the pass for what is not drawn."""
    layers = [tap.removeprefix(DRAWS) for tap in taps if tap.startswith(DRAWS)]
    if draws_of(model) is None:
        raise ModelError("the dropout of this network is not drawn", found=f"tap {DRAWS + layers[0]!r}",
                         fix="write draws = 30 in its [models.NODE]: so many draws are made of each image")
    rest = read(model, inputs, [tap for tap in taps if not tap.startswith(DRAWS)])
    with drawing(model, len(inputs)) as drawn:
        heard = read(model, inputs, layers)
    return rest | {DRAWS + layer: drawn(layer, tensor) for layer, tensor in heard.items()}


class Tapped(nn.Module):
    """A network whose forward is `read`, so that a wrapper around it (DDP) sees every tensor that leaves it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, taps: Sequence[str] = ("",)) -> dict[str, Tensor]:
        """`read` of the network held."""
        return read(self.network, inputs, taps)


@dataclass(frozen=True)
class _Heard:
    value: Any
    version: int | None


def _choose(tap: str, output: object, returned: Mapping[str, Any], heard: Mapping[str, _Heard],
            modules: Mapping[str, nn.Module]) -> Tensor:
    if tap == "":
        return logits_of(output)
    if tap in returned:
        return _tensor(tap, returned[tap])
    if tap in heard:
        return _untouched(tap, heard[tap])
    if tap in modules:
        raise ModelError(f"tap {tap!r} did not run in this pass", found=type(modules[tap]).__name__,
                         fix="tap a sub-module that the network calls in its forward")
    if tap == CUT:
        raise ModelError("the gradient of this network is not cut", found=f"tap {CUT!r}",
                         fix='write cut = "LAYER" in its [models.NODE]: what comes after it learns from labels alone')
    if tap in (COSINE, FEATURES):
        raise ModelError("the classifier of this network is not one of cosines", found=f"tap {tap!r}",
                         fix="write cosine = true in its [models.NODE]")
    if tap == SECOND_HEAD:
        raise ModelError("this network has one head", found=f"tap {tap!r}",
                         fix="write second_head = true in its [models.NODE]: a second classifier on the same features")
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
def _listening(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, _Heard]]:
    heard: dict[str, _Heard] = {}

    def hook(tap: str) -> Callable[[nn.Module, Any, Any], None]:
        def hear(module: nn.Module, inputs: Any, output: Any) -> None:
            heard[tap] = _Heard(output, _version(output))
        return hear

    # First in line where the gradient is cut: what is tapped there still has it.
    handles = [module.register_forward_hook(hook(tap), prepend=is_cut(module)) for tap, module in modules.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
