"""Numbers of forecasts: (mean, standard deviation) [N, K, 2] against targets [N, K], over all samples and steps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NINETY = 1.6448536269514722
"""So many standard deviations to both sides of the mean hold 90 % of a Gaussian."""


def mae(mean: Tensor, target: Tensor) -> float:
    """Mean absolute error, in the unit of the targets."""
    return (mean - target).abs().double().mean().item()


def rmse(mean: Tensor, target: Tensor) -> float:
    """Root of the mean squared error."""
    return (mean - target).double().square().mean().sqrt().item()


def r2(mean: Tensor, target: Tensor) -> float:
    """1 - squared error / squared distance of the targets from their mean, step by step, then the mean; at most 1.

    A step whose targets are all alike has none and is left out; NaN where no step is left.
    """
    error = (mean - target).double().square().sum(0)
    spread = (target.double() - target.double().mean(0)).square().sum(0)
    return (1 - error / spread)[spread > 0].mean().item()


def gaussian_crps(forecast: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of Gaussians [..., 2] at targets [...], in their unit: lower is better.

    sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = (target - mean) / sigma (Gneiting & Raftery, 2007). Of
    a forecast without spread it would be the absolute error.

    >>> round(gaussian_crps(torch.tensor([0.2, 1.2], dtype=torch.float64), torch.tensor(1.0)).item(), 10)
    0.4856596529
    """
    mean, spread = forecast.double().unbind(-1)
    z = (target.double() - mean) / spread
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return spread * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def gaussian_nll_of(forecast: Tensor, target: Tensor) -> float:
    """Mean of -log N(target; mean, sigma), in nats."""
    mean, spread = forecast.double().unbind(-1)
    z = (target.double() - mean) / spread
    return (spread.log() + z.square() / 2 + math.log(2 * math.pi) / 2).mean().item()


def coverage(forecast: Tensor, target: Tensor, reach: float = NINETY) -> float:
    """The share of targets within so many standard deviations of the mean: of the 90 % interval it should be 0.9."""
    mean, spread = forecast.double().unbind(-1)
    return ((target.double() - mean).abs() <= reach * spread).double().mean().item()


def coverage_curve(forecast: Tensor, target: Tensor, intervals: Sequence[float]) -> list[float]:
    """Of central intervals of these probabilities, the share of targets that each holds: best is the same number."""
    mean, spread = forecast.double().unbind(-1)
    off = ((target.double() - mean).abs() / spread).flatten()
    reach = torch.erfinv(torch.tensor(intervals, dtype=torch.float64)) * math.sqrt(2)
    return (torch.searchsorted(off.sort().values, reach, right=True) / len(off)).tolist()


def direction(mean: Tensor, target: Tensor, last: Tensor) -> float:
    """The share of steps in which forecast and target lie on the same side of the last value.

    Steps whose target is the last value itself are left out; NaN where there are no others.
    """
    moved = target != last
    return ((mean - last).sign() == (target - last).sign())[moved].double().mean().item()


def commoner_direction(target: Tensor, last: Tensor) -> float:
    """What somebody reaches in `direction` who always says the commoner one, for the last value itself says none."""
    up = (target > last)[target != last].double().mean().item()
    return max(up, 1 - up)


def affinity(one: Tensor, other: Tensor) -> float:
    """How alike two forecasts [N, K, 2] are: the mean cosine of their densities, in [0, 1]."""
    (m, s), (n, t) = (rows.double().unbind(-1) for rows in (one, other))
    both = s.square() + t.square()
    return ((2 * s * t / both).sqrt() * (-(m - n).square() / (2 * both)).exp()).mean().item()
