"""How a weight (or a learning rate) changes over a run: progress in [0, 1] -> number.

Options are bound with `functools.partial`; `start` and `until` are shares of the run. Progress is the number of the
step over the number of steps, so the first step has 0 and no step has 1.
"""

import math
from collections.abc import Sequence


def constant(progress: float, *, value: float = 1.0) -> float:
    """The same throughout."""
    return value


def linear(progress: float, *, first: float = 1.0, last: float = 0.0) -> float:
    """In a straight line from `first` to `last`.

    >>> linear(0.25, first=1.0, last=3.0)
    1.5
    """
    return first + (last - first) * progress


def cosine(progress: float, *, first: float = 1.0, last: float = 0.0) -> float:
    """From `first` to `last` along half a cosine wave (Loshchilov & Hutter, 2017, eq. 5).

    >>> cosine(0.0), round(cosine(0.5), 12), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def step(progress: float, *, at: Sequence[float] = (0.3, 0.6, 0.9), factor: float = 0.1, value: float = 1.0) -> float:
    """`value`, multiplied by `factor` once progress has reached each of the shares `at`.

    >>> [step(p, at=(0.5, 0.75), factor=0.5) for p in (0.0, 0.5, 0.8)]
    [1.0, 0.5, 0.25]
    """
    return value * factor ** sum(progress >= share for share in at)


def ramp_up(progress: float, *, to: float = 1.0, until: float = 1.0) -> float:
    """In a straight line from 0 to `to`, which is reached at `until` and kept.

    >>> [ramp_up(p, to=0.5, until=0.2) for p in (0.0, 0.1, 0.2, 1.0)]
    [0.0, 0.25, 0.5, 0.5]
    """
    return to * _risen(progress, until)


def ramp_up_exp(progress: float, *, to: float = 1.0, until: float = 1.0) -> float:
    """to * exp(-5 (1 - p)^2), p rising from 0 to 1 by `until` (Laine & Aila, 2017; Tarvainen & Valpola, 2017).

    >>> round(ramp_up_exp(0.2), 10), ramp_up_exp(0.5, until=0.5)
    (0.040762204, 1.0)
    """
    return to * math.exp(-5 * (1 - _risen(progress, until)) ** 2)


def ramp_down(progress: float, *, value: float = 1.0, start: float = 0.0) -> float:
    """`value` until `start`, then in a straight line to 0 at the end of the run.

    >>> [ramp_down(p, start=0.5) for p in (0.2, 0.75, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return value if progress <= start else value * (1 - progress) / (1 - start)


def ramp_down_exp(progress: float, *, value: float = 1.0, start: float = 0.0) -> float:
    """`value` until `start`, then value * exp(-12.5 p^2), p rising to 1 at the end (Tarvainen & Valpola, 2017, code).

    >>> [round(ramp_down_exp(p, start=0.5), 6) for p in (0.5, 0.75, 1.0)]
    [1.0, 0.043937, 4e-06]
    """
    return value if progress <= start else value * math.exp(-12.5 * ((progress - start) / (1 - start)) ** 2)


def window(progress: float, *, value: float = 1.0, start: float = 0.0, until: float = 1.0) -> float:
    """`value` while start <= progress < until, else 0; a window until 1 includes the very end.

    >>> [window(p, start=0.25, until=0.5) for p in (0.0, 0.25, 0.5)]
    [0.0, 1.0, 0.0]
    """
    return value if start <= progress < until or (progress >= 1.0 and until >= 1.0) else 0.0


def _risen(progress: float, until: float) -> float:
    return 1.0 if progress >= until else progress / until
