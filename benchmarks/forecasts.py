"""`python benchmarks/forecasts.py`: a step of dckd on forecasts, beside a loop written by hand with the same losses.

As `pixels.py`, with recurrent networks on the made set waves_forecast. Relations are worked out for all steps at once.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from pixels import Networks
from torch import Tensor

from tutelage.data.settings import DataSettings
from tutelage.methods.dckd import dckd
from tutelage.models.forecast import forecast_gru
from tutelage.tasks.forecast.task import FORECAST
from tutelage.tasks.named import data_for
from tutelage.types import Batch, one_tensor

SIZES = {"small": (8, 1, 32), "middle": (48, 1, 128), "large": (96, 2, 256)}
"""Name -> width and depth of the student, and windows of a step; the teacher is twice as wide."""


def networks(width: int, depth: int) -> Networks:
    torch.manual_seed(0)
    return {"t": forecast_gru(3, 2, width=2 * width, depth=depth), "s": forecast_gru(3, 2, width=width, depth=depth)}


def by_hand(nets: Networks, optimizers: Mapping[str, torch.optim.Optimizer], batch: Batch) -> float:
    """One step as one would write it."""
    assert not isinstance(batch.labels, Tensor)
    values, target = one_tensor(batch.inputs), batch.labels["target"]
    with torch.no_grad():
        m, s = _gaussian(nets["t"](values))
    mean, spread = _gaussian(nets["s"](values))
    nll = (spread.log() + ((target - mean) / spread).square() / 2).mean() + 0.9189385332
    ratio = s / spread
    soft = ((ratio.square() - 1) / 2 - ratio.log() + ((mean - m) / spread).square() / 2).mean()
    far, near = _related(mean, spread)
    wanted, alike = _related(m, s)
    loss = nll + soft + 0.5 * F.smooth_l1_loss(far, wanted) + 0.5 * F.smooth_l1_loss(near, alike)
    optimizers["s"].zero_grad(set_to_none=True)
    loss.backward()
    optimizers["s"].step()
    return float(loss.detach())


def _gaussian(said: Tensor) -> tuple[Tensor, Tensor]:
    return said[..., 0], F.softplus(said[..., 1]) + 1e-3


def _related(mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    m, s = mean.t(), spread.t()
    apart, sharp, square = (m[:, :, None] - m[:, None]).square(), s.square().reciprocal(), s.square()
    far = (sharp[:, :, None] + sharp[:, None]) / 2 * ((s[:, :, None] - s[:, None]).square() + apart)
    there = far > 0
    far = far / ((far * there).sum((1, 2), keepdim=True) / there.sum((1, 2), keepdim=True).clamp(min=1))
    both = square[:, :, None] + square[:, None]
    return far, (2 * s[:, :, None] * s[:, None] / both).sqrt() * (-apart / (2 * both)).exp()


