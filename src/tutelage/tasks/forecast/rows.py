"""What the rows of a forecast are: samples, each with the Gaussians of its K steps.

A network gives [B, K, 2], of each step the mean and a raw number whose softplus, and LEAST, is the standard deviation;
or means alone, [B, K], which are taken to have the standard deviation 1, that of the training targets. The raw form,
which is any number, is what a cache and an ensemble hold. Targets are numbers [B, K], or {"target": [B, K], "naive":
[B, K]} with what a naive forecast says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import BatchLabels, PerSample, Rows

LEAST = 1e-3
"""Standard deviations are larger than this."""
OF_ONE = math.log(math.expm1(1 - LEAST))
"""The raw number of a standard deviation of 1."""


@dataclass(frozen=True)
class StepRows:
    """A function of rows: a row is a sample, (mean, standard deviation) of each of its steps, [B, K, 2]."""

    name: str

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """The rows of these ends; their label is "target" [B, K]."""
        target = target_of(labels)
        return Rows({end: gaussians_of(value, target.shape[1], end) for end, value in values.items()},
                    {"target": target})

    def total(self, labels: BatchLabels) -> Tensor:
        """How many rows there are."""
        target = target_of(labels)
        return torch.tensor(len(target), device=target.device)


def target_of(labels: BatchLabels) -> Tensor:
    """The targets [B, K] of a batch; ModelError if there are none."""
    target = labels if isinstance(labels, Tensor) else labels.get("target")
    if target is None or target.dim() != 2 or not target.is_floating_point():
        found = sorted(labels) if target is None and not isinstance(labels, Tensor) else (
            f"{target.dtype} {list(target.shape)}" if target is not None else "none")
        raise ModelError("labels that are no numbers to forecast", where="labels", found=found,
                         expected='numbers [B, steps], or "target" with these')
    return target


def gaussians_of(value: Tensor, steps: int, end: str = "") -> Tensor:
    """What a network gives, [B, K, 2] or [B, K], as (mean, standard deviation) [B, K, 2].

    >>> gaussians_of(torch.zeros(1, 1), 1).tolist()
    [[[0.0, 1.0]]]
    """
    if value.shape[1:] == (steps,):
        return torch.stack([value, torch.ones_like(value)], -1)
    if value.shape[1:] != (steps, 2):
        raise ModelError("an end that is no forecast of these steps", where=f"end {end!r}",
                         found=f"shape {list(value.shape)}",
                         expected=f"[B, {steps}, 2]: mean and raw scale, or [B, {steps}]: means",
                         fix="take a network for forecasts, such as forecast_gru, with an output for each step")
    return torch.stack([value[..., 0], F.softplus(value[..., 1]) + LEAST], -1)


def forecast_mixture(*values: Tensor) -> Tensor:
    """The mean and variance of a mixture of what several networks say, each alike, in the form of a network.

    Its variance is the mean of theirs and the variance of their means. Means alone, [B, K] of each, give their mean.

    >>> up, down = torch.tensor([[[1.0, OF_ONE]]]), torch.tensor([[[-1.0, OF_ONE]]])
    >>> mean, raw = forecast_mixture(up, down).flatten().tolist()
    >>> mean, round(float(F.softplus(torch.tensor(raw)) + LEAST) ** 2, 4)
    (0.0, 2.0)
    """
    steps = [value.shape[1] for value in values if value.dim() in (2, 3)]
    if len(steps) < len(values) or len(set(steps)) > 1:
        raise ModelError("a mixture of what is not forecasts of the same steps",
                         found=str([list(value.shape) for value in values]), expected="[B, steps, 2] of each")
    if all(value.dim() == 2 for value in values):
        return torch.stack(values).mean(0)
    mean, spread = torch.stack([gaussians_of(value, steps[0]) for value in values]).unbind(-1)
    variance = spread.square().mean(0) + mean.var(0, correction=0)
    return torch.stack([mean.mean(0), _raw(variance.sqrt())], -1)


def sharpness(student: object, teacher: Tensor, labels: object = None, *, temperature: float = 1.0,
              power: float = 1.0) -> PerSample:
    """How sure a network is of its forecast [R, K, 2]: the mean over steps of 1 / (1 + sigma^2), to a power; in (0, 1].

    It is the share that a Gaussian of this standard deviation has beside one of 1, that of the training targets, when
    both are put together: 1 where nothing is open, 1 / 2 where no more is known than how targets are spread. The
    temperature multiplies sigma. The form is this project's choice.

    >>> sharpness(None, torch.tensor([[[0.0, 1.0]], [[5.0, 3.0]]])).tolist()
    [0.5, 0.10000000149011612]
    """
    sure = 1 / (1 + (temperature * teacher[..., 1]).square())
    return sure.flatten(1).mean(1) ** power


def _raw(spread: Tensor) -> Tensor:
    """The number whose softplus, and LEAST, is this standard deviation."""
    rest = (spread - LEAST).clamp(min=1e-12)
    return rest + torch.log(-torch.expm1(-rest))


steps = StepRows("steps")
"""A row is a sample: mean and standard deviation of each of its steps [B, K, 2], and its targets [B, K]."""
