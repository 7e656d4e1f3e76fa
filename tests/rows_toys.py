"""Toy tasks whose rows are no samples: pixels of a map, and a forecast of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.data import Data
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.types import Batch, BatchLabels, Rows


@dataclass(frozen=True)
class Pixels:
    """Every pixel of the maps [B, K, h, w] is a row; those labelled -1 count nothing."""

    def __call__(self, ends: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        assert isinstance(labels, Tensor)
        flat = labels.flatten()
        values = {end: maps.movedim(1, -1).flatten(0, -2) for end, maps in ends.items()}
        first = next(iter(values.values()))
        sample = torch.arange(len(labels)).repeat_interleave(labels[0].numel())
        return Rows(values, flat, (flat >= 0).to(first.dtype), sample=sample)

    def total(self, labels: BatchLabels) -> Tensor:
        """How many pixels count."""
        assert isinstance(labels, Tensor)
        return (labels >= 0).sum()


pixels = Pixels()


@dataclass(frozen=True, eq=False)
class Maps:
    """Images and their labels, a mask or several, as a source without augmentation."""

    images: Tensor
    masks: BatchLabels
    first: int = 0

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.images)) + self.first

    @property
    def labels(self) -> Tensor:
        return torch.zeros(len(self.images), dtype=torch.int64)

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        assert tuple(views) == ("",)
        for rows in plan:
            masks = self.masks
            labels = masks[rows] if isinstance(masks, Tensor) else {name: x[rows] for name, x in masks.items()}
            yield Batch(self.images[rows], labels, self.ids[rows])


def share_right(evidence: Evidence) -> dict[str, float]:
    return {"right": (evidence["right"].sum() / evidence["pixels"].sum()).item()}


def pixels_right(taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    maps = taps[""]
    assert isinstance(labels, Tensor)
    if maps.dim() != 4:
        return None
    return {"right": (maps.argmax(1) == labels).flatten(1).sum(1), "pixels": (labels >= 0).flatten(1).sum(1)}


MAPS = Task("maps", (Score("right", "pixels right"),), lambda data: None,
            lambda data: Judge(pixels_right, share_right), learn=(Term(cross_entropy, rows=pixels, soft=True),),
            imitate=(Term(kl, rows=pixels, soft=True),), rows=(pixels,))


def squared(student: Tensor, teacher: Tensor, labels: object) -> Tensor:
    return (student - teacher).square().flatten(1).mean(1)


def error_of(taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence:
    assert not isinstance(labels, Tensor)
    return {"error": (taps[""] - labels["next"]).abs().flatten(1).mean(1)}


FORECAST = Task("forecast", (Score("mae", "mean error", "number", "lower"),), lambda data: None,
                lambda data: Judge(error_of, lambda evidence: {"mae": evidence["error"].mean().item()}),
                learn=(Term(squared, label="next"),), imitate=(Term(squared),))


def map_data(rows: int = 24, *, uneven: bool = False, size: int = 4) -> Data:
    """Images whose mask is where they are bright. If `uneven`, few pixels of the first half of them are labelled."""
    images = torch.rand(rows, 1, size, size, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).long()
    if uneven:
        few = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1)) > 0.02
        few[0, 0, 0] = False
        masks[: rows // 2] = masks[: rows // 2].masked_fill(few[: rows // 2], -1)
    held = Maps(images[:8], masks[:8].clamp(min=0), 1000)
    return Data("maps", ("dark", "bright"), (1, size, size), Maps(images, masks), held, held, {}, "maps", "none",
                task=MAPS)


def forecast_data(rows: int = 24) -> Data:
    """Images, and the numbers that their rows add up to."""
    images = torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = {"next": images[:, 0].sum(1)}
    held = Maps(images[:8], {"next": labels["next"][:8]}, 1000)
    return Data("numbers", (), (1, 4, 4), Maps(images, labels), held, held, {}, "numbers", "none", task=FORECAST)


def map_network(seed: int, width: int = 3) -> nn.Module:
    """[B, 1, h, w] -> [B, 2, h, w]."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, 2, 1))


class Slices(nn.Module):
    """A network of two outputs that are slices of one tensor: strides that no fresh tensor would have."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.both = nn.Conv2d(1, 5, 3, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        whole = self.both(images)
        return {"logits": whole[:, :2], "sides": whole[:, 2:, :, ::2]}


class Line(nn.Module):
    """[B, 1, 4, 4] -> [B, 4], one number a row of the image, times a scale."""

    def __init__(self, seed: int, scale: Sequence[float] = (1.0,) * 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(4, 1)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images[:, 0])[..., 0] * self.scale
