"""What a fleet of devices spends: bytes and seconds on the air, joules, and which messages are lost."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tutelage.errors import UsageError
from tutelage.system.random import derive, uniform


@dataclass(frozen=True)
class Device:
    """A processor of so many floating-point operations a second, and a joule; and what its radio draws, in watts."""

    flops_per_second: float = 1e9
    flops_per_joule: float = 1e9
    transmit_watts: float = 0.5

    def __post_init__(self) -> None:
        for name, x in vars(self).items():
            if not 0 < x < math.inf:
                raise UsageError("a device that cannot be", where=name, found=x, expected="a number above 0")


@dataclass(frozen=True)
class RadioLink:
    """A way of so many bits a second to the others, the seconds before the first bit, and the share that is lost."""

    bits_per_second: float = 2e6
    latency: float = 0.02
    drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.bits_per_second < math.inf:
            raise UsageError("a link that cannot be", where="bits_per_second", found=self.bits_per_second,
                             expected="a number above 0")
        if not 0 <= self.latency < math.inf:
            raise UsageError("a link that cannot be", where="latency", found=self.latency, expected="0 s or more")
        if not 0 <= self.drop <= 1:
            raise UsageError("a share that cannot be", where="drop", found=self.drop, expected="0 .. 1")

    def seconds(self, size: int) -> float:
        """How long a message of so many bytes is on the air.

        >>> RadioLink(2e6, 0.02).seconds(5000)
        0.04
        """
        return self.latency + 8 * size / self.bits_per_second


class Costs(NamedTuple):
    """Of one device, so far: messages it sent and those lost, bytes, seconds and joules of sending and of computing."""

    sent: int
    lost: int
    bytes: int
    sending_seconds: float
    sending_joules: float
    computing_seconds: float
    computing_joules: float


def arrivals(seed: int, device: int, exchanges: int, drop: float) -> Tensor:
    """[exchanges] bool: which messages of a device arrive, a function of (seed, device, exchange) and `drop` alone.

    What arrives with one `drop` arrives with every smaller one.
    """
    numbers = uniform(derive(seed, "link", device), torch.arange(exchanges), 1)[:, 0]
    return numbers >= drop


def costs_of(device: Device, link: RadioLink, flops: int, size: int, arrived: Tensor) -> Costs:
    """What a device spent that computed so much and sent messages of `size` bytes, lost ones too.

    >>> costs_of(Device(transmit_watts=0.5), RadioLink(2e6, 0.02), 0, 5000, torch.tensor([True])).sending_joules
    0.02
    """
    sent = len(arrived)
    seconds = sent * link.seconds(size)
    return Costs(sent, sent - int(arrived.sum()), sent * size, seconds, seconds * device.transmit_watts,
                 flops / device.flops_per_second, flops / device.flops_per_joule)


@torch.no_grad()
def flops_of_row(network: nn.Module, images: Tensor) -> int:
    """Floating-point operations of one forward pass of one image [1, ...], as torch's counter has them."""
    was = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(images)
    network.train(was)
    return counter.get_total_flops()
