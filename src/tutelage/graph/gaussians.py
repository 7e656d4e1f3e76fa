"""How far a student is from what it learns from where both are Gaussians, or numbers: one number a row, as divergences.

A row is pairs (mean, standard deviation) [R, ..., 2], the standard deviation above 0; what there is of several steps
is the mean over them. `relation_distance` and `relation_cosine` compare a row with all others of its batch, step by
step: their value depends on the batch. They are of Ding et al., 2022 (arXiv:2208.07232).
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import PerSample

LEAST_SPREAD = 1e-3
"""A standard deviation is taken to be this at least where it is divided by."""


def gaussian_nll(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """-log N(y; mean, sigma) of targets y [R, ...], in nats: log sigma + (y - mean)^2 / (2 sigma^2) + log(2 pi) / 2.

    >>> import torch
    >>> round(gaussian_nll(torch.tensor([[0.0, 1.0]]), torch.tensor([0.0])).item(), 6)
    0.918939
    """
    mean, spread = _parts(student)
    if teacher.shape != mean.shape:
        raise ModelError("forecasts and targets of unlike shapes", found=f"{list(mean.shape)} means, "
                         f"{list(teacher.shape)} targets", expected="a target for each mean")
    return _of_row(spread.log() + ((teacher - mean) / spread).square() / 2 + math.log(2 * math.pi) / 2)


def gaussian_kl(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """KL(teacher || student) of two Gaussians, in nats.

    log(s / t) + (t^2 + (mean difference)^2) / (2 s^2) - 1 / 2, with the standard deviations s of the student and t of
    the teacher. Where both are the same it is the squared error of the means over 2 s^2.

    >>> import torch
    >>> gaussian_kl(torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
    0.5
    """
    _same(student, teacher)
    (mean, spread), (wanted, known) = _parts(student), _parts(teacher)
    ratio = known / spread
    return _of_row((ratio.square() - 1) / 2 - ratio.log() + ((mean - wanted) / spread).square() / 2)


def point_mse(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """The squared error of the means alone: what either says of its spread has no part in it.

    >>> import torch
    >>> point_mse(torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 0.5]])).item()
    4.0
    """
    _same(student, teacher)
    return _of_row((student[..., 0] - teacher[..., 0]).square())


def relation_distance(student: Tensor, teacher: Tensor, labels: object = None, *,
                      kind: Literal["released", "jeffreys"] = "released") -> PerSample:
    """How unlike the distances among a batch's Gaussians are: the mean over j of smooth L1 of D_ij, one number a row i.

    D_ij is 1/2 (1/s_i^2 + 1/s_j^2) ((s_i - s_j)^2 + (m_i - m_j)^2) as in the authors' code, or, "jeffreys", the
    symmetric KL of Gaussians i and j; of student and teacher each it is divided by the mean of its positive entries,
    the student's with its gradient. With no positive entry, as with one row, it is 0. The value depends on the batch.
    """
    _same(student, teacher)
    return _of_pairs(_in_units_of_mean(_distances(student, kind)), _in_units_of_mean(_distances(teacher, kind)))


def relation_cosine(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """How unlike the likenesses among a batch's Gaussians are: the mean over j of smooth L1 of C_ij, a number a row i.

    C_ij is the cosine of the densities i and j as functions: sqrt(2 s_i s_j / (s_i^2 + s_j^2))
    exp(-(m_i - m_j)^2 / (2 (s_i^2 + s_j^2))), in (0, 1]. The value depends on the batch.
    """
    _same(student, teacher)
    return _of_pairs(_cosines(student), _cosines(teacher))


RELATIONAL = (relation_distance, relation_cosine)
"""What compares rows of one batch with each other: another batch, another value."""
OF_TARGETS = (gaussian_nll,)
"""What reads targets at its teacher end."""
NEEDS_FORECASTS = (gaussian_kl, point_mse, *RELATIONAL)
"""What reads the teacher end as Gaussians: not for an edge from `labels`."""


def _parts(rows: Tensor) -> tuple[Tensor, Tensor]:
    if rows.dim() < 2 or rows.shape[-1] != 2:
        raise ModelError("rows that are no Gaussians", found=f"shape {list(rows.shape)}",
                         expected="[R, ..., 2]: mean and standard deviation", fix='write rows = "steps"')
    return rows[..., 0], rows[..., 1]


def _same(student: Tensor, teacher: Tensor) -> None:
    _parts(student)
    if student.shape != teacher.shape:
        raise ModelError("two ends of an edge have different shapes",
                         found=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
                         expected="the same shape; nothing is broadcast", fix="let both forecast the same steps")


def _of_row(values: Tensor) -> PerSample:
    return values if values.dim() == 1 else values.flatten(1).mean(1)


def _by_step(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations as [steps, R]."""
    mean, spread = _parts(rows)
    return mean.reshape(len(rows), -1).t(), spread.reshape(len(rows), -1).t().clamp(min=LEAST_SPREAD)


def _distances(rows: Tensor, kind: str) -> Tensor:
    """[steps, R, R]."""
    mean, spread = _by_step(rows)
    apart = (mean[:, :, None] - mean[:, None]).square()
    sharpness = spread.square().reciprocal()
    either = (sharpness[:, :, None] + sharpness[:, None]) / 2
    if kind == "released":
        return either * ((spread[:, :, None] - spread[:, None]).square() + apart)
    ratio = (spread[:, :, None] / spread[:, None]).square()
    return (ratio + ratio.transpose(1, 2) - 2) / 2 + either * apart


def _cosines(rows: Tensor) -> Tensor:
    mean, spread = _by_step(rows)
    both = spread.square()[:, :, None] + spread.square()[:, None]
    apart = (mean[:, :, None] - mean[:, None]).square()
    return (2 * spread[:, :, None] * spread[:, None] / both).sqrt() * (-apart / (2 * both)).exp()


def _in_units_of_mean(distances: Tensor) -> Tensor:
    there = distances > 0
    total, count = (distances * there).sum((1, 2), keepdim=True), there.sum((1, 2), keepdim=True)
    mean = total / count.clamp(min=1)
    return distances / mean.where(count > 0, 1)


def _of_pairs(student: Tensor, teacher: Tensor) -> PerSample:
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(2).mean(0)
