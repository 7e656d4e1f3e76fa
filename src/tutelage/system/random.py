"""Random numbers as pure functions of what they are for.

Nothing here remembers anything: a number is a hash of (seed, purpose, sample id ...), so that the number of
workers, the number of ranks, a restart or the presence of another network cannot move it (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011, is the idea; the mixer is splitmix64 of Steele et al., OOPSLA 2014).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def derive(*words: int | str) -> int:
    """A seed in [0, 2^63) from any words: the same words, the same seed, on every machine.

    >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
    True
    """
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniform(key: int, ids: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each id: [B] int64 -> [B, count] float32, on the device of `ids`.

    A number depends on (key, id, its column) alone.

    >>> ids = torch.tensor([7, 3])
    >>> bool((uniform(1, ids, 4)[0, :2] == uniform(1, ids.flip(0), 2)[1]).all())
    True
    """
    columns = torch.arange(1, count + 1, device=ids.device)
    bits = _mix(_mix(ids[:, None] ^ _signed(key)) + columns * _signed(_GOLDEN))
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def hashed(key: int, ids: Tensor) -> Tensor:
    """A whole number in [0, 2^63) for each id: [B] int64 -> [B] int64. Two ids have the same one once in 2^63 pairs.

    >>> ids = torch.tensor([7, 3])
    >>> bool((hashed(1, ids) == hashed(1, ids.flip(0)).flip(0)).all())
    True
    """
    return _mix(_mix(ids ^ _signed(key)) + _signed(_GOLDEN)) & ((1 << 63) - 1)


def normal(key: int, ids: Tensor, count: int) -> Tensor:
    """`count` standard normal numbers for each id, as `uniform` gives uniform ones: [B, count], within 5.5 of 0."""
    return torch.special.ndtri(uniform(key, ids, count).clamp(min=2.0**-25))


def permutation(key: int, count: int) -> Tensor:
    """The numbers 0 .. count - 1 in an order that depends on the key alone: [count] int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key))


@contextmanager
def seeded(*words: int | str) -> Iterator[None]:
    """Inside, torch's global generators start from `words`; outside, they are as if nothing had happened."""
    generators = [torch.default_generator]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(derive(*words))
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def reseed(device: torch.device, *words: int | str) -> None:
    """Start the global generators of the CPU and of `device` from `words`: cheap enough for every forward pass.

    Not while a CUDA graph is recorded: its random numbers are those of its replay.
    """
    torch.default_generator.manual_seed(derive(*words))
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.default_generators[device.index or 0].manual_seed(derive(*words))


def drawn(device: torch.device) -> bool:
    """Whether the generator of a GPU has given a number since `reseed`; False where it cannot be asked."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return False
    return torch.cuda.default_generators[device.index or 0].get_offset() > 0


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MIX1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MIX2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))
