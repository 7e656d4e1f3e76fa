"""Device, rank and size: the same code with one process and with many.

Every rank computes its own rows; what comes after a network sees the rows of all ranks, in the order one process
would have. So losses, weights and whatever else stands on outputs are the same numbers on every rank.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.errors import PeerError, ResourceError, UsageError

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among the others: `rank` of `size`, computing on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """This rank's share of the rows of a batch: contiguous, all shares of one length."""
        return rows.tensor_split(self.size)[self.rank]


def connect(device: str = "auto") -> World:
    """The world that torchrun describes in the environment, or this process alone."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    return World(chosen, rank, size)


def disconnect() -> None:
    """Leave the group of ranks, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" is an accelerator where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("unknown device", where="device", found=repr(name),
                         expected="auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError("a device this version does not train on", where="device", found=repr(name),
                         expected="auto, cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ResourceError("there is no CUDA device here", where="device", found=name,
                                fix='write device = "cpu" or "auto"')
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, world: World) -> Tensor:
        ctx.world = world
        gathered = rows.new_empty(world.size * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every rank holds the same loss of all rows; DDP divides the sum over ranks by their number.
        return ctx.world.own(gradients[0]) * ctx.world.size, None


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """The rows of all ranks, in order; backward gives each rank its own rows' gradient, times the number of ranks."""
    return rows if world.size == 1 else _GatherRows.apply(rows, world)


def gather_uneven(rows: Tensor, count: int, world: World) -> Tensor:
    """All `count` rows when rank r holds rows r, r + size, ...: each exactly once, in order, without gradient."""
    if world.size == 1:
        return rows
    length = -(-count // world.size)
    padded = rows.new_zeros(length, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = padded.new_empty(world.size * length, *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, padded)
    return gathered.view(world.size, length, *rows.shape[1:]).transpose(0, 1).reshape(-1, *rows.shape[1:])[:count]


def average(tensors: Iterable[Tensor], world: World) -> None:
    """Replace floating tensors by their mean over the ranks, in place."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if world.size == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, (flat / world.size).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def largest(number: int, world: World) -> int:
    """The largest of the ranks' numbers: how they agree to stop."""
    if world.size == 1:
        return number
    tensor = torch.tensor(number)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def lead(world: World, work: Callable[[], None] | None) -> None:
    """Let rank 0 do `work` (None elsewhere) while the others wait; if it fails there, every rank stops."""
    failure: Exception | None = None
    try:
        if work is not None:
            work()
    except Exception as error:
        failure = error
    failed = largest(int(failure is not None), world)
    if failure is not None:
        raise failure
    if failed:
        raise PeerError("rank 0 could not go on; its message says why", where=f"rank {world.rank}")
