"""What a network costs to keep and to run: parameters, FLOPs, bytes, and how long a forward pass takes here."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tutelage.graph.taps import call
from tutelage.models.network import weights_of
from tutelage.models.saved import metadata_of
from tutelage.system.files import pack
from tutelage.system.machine import describe_machine
from tutelage.types import View

CONVENTION = ("1 multiply-add = 2 FLOP; convolutions and matrix products of one image forward; norms, activations and "
              "pooling are not counted")
BATCHES = (1, 32)
SECONDS, WARM_UP_SECONDS = 2.0, 0.3
"""How long a latency is measured, and what is run before without a clock."""
LEAST, MOST = 5, 100
"""How many passes are timed."""


def costs(models: Mapping[str, nn.Module], shape: tuple[int, ...], classes: tuple[str, ...],
          device: torch.device, *, teacher: str | None = None, files: Mapping[str, Path] | None = None,
          seconds: float = SECONDS, example: View | None = None) -> dict[str, object]:
    """What each network costs for images of `shape` (channels, height, width), as docs/evaluation.md lists it.

    `shape` may be that of other rows; where a row is several tensors, `example` is a view of one of them or more.
    `files` are those that exist already. Compression is counted against the network of the node `teacher`.
    """
    whole = None if teacher is None else parameters(models[teacher])
    nodes = {}
    for node, model in models.items():
        file, own = (files or {}).get(node), parameters(model)
        with _judged(model):
            nodes[node] = {"parameters": own, "flops": flops(model, shape, device, example),
                           "bytes": file.stat().st_size if file else len(_packed(model, classes, node)),
                           "compression": whole / own if whole is not None and own else None,
                           "latency": {str(size): latency(model, shape, size, device, seconds, example)
                                       for size in BATCHES}}
    return {"machine": describe_machine(str(device)), "convention": CONVENTION, "nodes": nodes}


def parameters(model: nn.Module) -> int:
    """How many numbers of a network learn, or could; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def flops(model: nn.Module, shape: tuple[int, ...], device: torch.device, example: View | None = None) -> int:
    """FLOP of one image, or of the first row of `example`, forward in eval mode, by `CONVENTION`.

    >>> flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), torch.device("cpu"))
    120
    """
    counter = FlopCounterMode(display=False)
    with _operation_by_operation(), counter, _judged(model):
        call(model, torch.zeros(1, *shape, device=device) if example is None else _rows(example, 1, device))
    return counter.get_total_flops()


@torch.inference_mode()
def latency(model: nn.Module, shape: tuple[int, ...], size: int, device: torch.device,
            seconds: float = SECONDS, example: View | None = None) -> dict[str, float]:
    """How long a forward pass of `size` images takes, or of the first row of `example` so many times.

    Median and quartiles in milliseconds, images a second, and n.
    """
    images = torch.rand(size, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    run = _timed(model, images if example is None else _rows(example, size, device), device)
    began = time.perf_counter()
    run()
    while time.perf_counter() - began < min(WARM_UP_SECONDS, seconds):
        run()
    times, began = [run() for _ in range(LEAST)], time.perf_counter()
    while len(times) < MOST and time.perf_counter() - began + sum(times[:LEAST]) < seconds:
        times.append(run())
    low, median, high = (1000 * np.quantile(times, [0.25, 0.5, 0.75])).tolist()
    return {"median_ms": median, "low_ms": low, "high_ms": high, "images_per_second": 1000 * size / median,
            "n": len(times)}


def _timed(model: nn.Module, view: View, device: torch.device) -> Callable[[], float]:
    def run() -> float:
        began = _now(device)
        call(model, view)
        return _now(device) - began

    return run


def _rows(example: View, size: int, device: torch.device) -> View:
    """A view of `size` rows that are all like the first of `example`."""
    def repeated(tensor: Tensor) -> Tensor:
        return tensor[:1].expand(size, *tensor.shape[1:]).contiguous().to(device)

    return repeated(example) if isinstance(example, Tensor) else {name: repeated(x) for name, x in example.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _packed(model: nn.Module, classes: tuple[str, ...], node: str) -> bytes:
    return pack(weights_of(model), metadata_of(model, classes, node))


@contextmanager
def _operation_by_operation() -> Iterator[None]:
    """Without the fused operations that the counter does not know: attention, and recurrent layers as a whole."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    before = torch.backends.mha.get_fastpath_enabled(), cudnn.enabled, mkldnn.enabled
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        cudnn.enabled = mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue] - properties of a module
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before[0])
        cudnn.enabled, mkldnn.enabled = before[1:]  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _judged(model: nn.Module) -> Iterator[None]:
    """Eval mode within, and afterwards every module in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
