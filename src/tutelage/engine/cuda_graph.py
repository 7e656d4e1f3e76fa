"""A whole training step as one CUDA graph: a GPU is told once what to do, not once for each of hundreds of kernels.

What differs from step to step lies in memory of its own and is filled before each replay: images, labels, ids, what a
cache knows, and the learning rates. All else must be as it was recorded: the functions of a graph, which are called
then and not again, depend on their arguments alone. `loop.may_capture` says for which runs it is. `STEADY` steps with
the same weights and shapes are taken as usual before one is recorded: they load the kernels and make the buffers it
needs.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tutelage.engine.monitor import Seen

logger = logging.getLogger("tutelage")
STEADY = 3
"""Steps with the same weights before one is recorded."""
FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that decide on the device whether to step, and read their learning rate there."""
Body = Callable[[Mapping[str, Tensor]], Seen | None]
"""Named tensors -> the step that they lead to, taken: forward, backward, update."""
T = TypeVar("T")
Record = Callable[[Callable[[], Seen | None]], Callable[[], Seen | None]]


def cuda_graph(step: Callable[[], T]) -> Callable[[], T]:
    """Record what a step asks of the GPU, which does none of it yet; calling what comes back does it.

    It gives the tensors that the step gave, with new numbers in them.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        left = step()
    return partial(_replay, graph, left, step)


def _replay(graph: torch.cuda.CUDAGraph, left: T, step: object) -> T:
    """`step` is held for as long as this is: the graph reads and writes where it does, and keeps none of it alive."""
    graph.replay()
    return left


def warm_graph(step: Callable[[], T]) -> Callable[[], T]:
    """`cuda_graph` of a step that is taken a few times before."""
    for _ in range(STEADY):
        step()
    return cuda_graph(step)


def make_capturable(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Let optimizers keep all that a step changes on the device."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=device)
            group |= {"capturable": True} if "capturable" in group else {}


class NetworkStreams:
    """A stream for each network, so that small kernels of several run at once; their backward passes as well."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.streams = {node: torch.cuda.Stream() for node in nodes}
        self.used: set[str] = set()

    def branch(self, works: Mapping[str, Callable[..., T]]) -> dict[str, Callable[..., T]]:
        """The same functions, each in a stream that begins here. `join` before anything reads what they gave."""
        here = torch.cuda.Event()
        here.record()
        self.used = set()
        return {node: partial(self._work, here, node, work) for node, work in works.items()}

    def join(self) -> None:
        """Go on when all streams have got as far as they were told to."""
        for node in self.used:
            torch.cuda.current_stream().wait_stream(self.streams[node])

    def _work(self, since: torch.cuda.Event, node: str, work: Callable[..., T], *asked: object) -> T:
        stream = self.streams[node]
        if node not in self.used:
            stream.wait_event(since)
            self.used.add(node)
        with torch.cuda.stream(stream):
            return work(*asked)


class CapturedStep:
    """The recorded step of a run. From when it is made on, learning rates are tensors on the device."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer], device: torch.device,
                 record: Record = cuda_graph) -> None:
        self.record, self.replay = record, None
        self.key: object = None
        self.steady = 0
        self.off = ""
        self.held: dict[str, Tensor] = {}
        make_capturable(optimizers, device)

    def takes(self, weights: Mapping[str, float], images: Iterable[Tensor]) -> bool:
        """Whether a step with these weights of the edges and with such images is to be played."""
        key = (*weights.items(), *((tensor.shape, tensor.dtype) for tensor in images))
        if key != self.key:
            self.key, self.steady, self.replay, self.held = key, 0, None, {}
        self.steady += 1
        return not self.off and self.steady > STEADY

    def play(self, given: Mapping[str, Tensor], body: Body) -> tuple[bool, Seen | None]:
        """Whether the step was taken here, and what it left; `given` is all that the body reads and that changes."""
        if self.replay is None:
            self.held = {name: tensor.clone() for name, tensor in given.items()}
            try:
                self.replay = self.record(lambda: body(self.held))
            except Exception as error:  # whatever the driver or a kernel cannot record: the step is taken as usual
                self.refuse(f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}")
                return False, None
        for name, tensor in given.items():
            self.held[name].copy_(tensor, non_blocking=True)
        left = self.replay()
        return True, left and left.copied()

    def refuse(self, why: str) -> None:
        """Take all further steps as usual."""
        if not self.off:
            self.off = f"steps are not recorded: {why}"
            logger.warning("note: %s", self.off)
