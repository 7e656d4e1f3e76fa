"""Images that are few enough to stay on the device: a batch is an index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.augment import Augmentation, Mixture, crop_and_flip, mix_images, mix_labels, mixture, unit_range
from tutelage.types import Batch, Inputs

TOGETHER = 16
"""Batches that are made at once on an accelerator, where each of some hundred small operations costs a launch."""


def moved_to(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A GPU is not waited for: from pageable memory a copy would wait for all its work."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def together_on(device: torch.device) -> int:
    """How many batches are made at once."""
    return 1 if device.type == "cpu" else TOGETHER


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A split held as one tensor; made by `in_memory`.

    `padded` [N, C, H + 2 padding, W + 2 padding], uint8, or float32 in [0, 1], lies on the device, already with
    the border from which random crops are taken. `classes` is how many there are.
    """

    ids: Tensor
    labels: Tensor
    padded: Tensor
    classes: int
    how: Augmentation

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        together = together_on(self.padded.device)
        for first in range(0, len(plan), together):
            entries = plan[first : first + together]
            rows, sizes = torch.cat(list(entries)).cpu(), [len(entry) for entry in entries]
            mix = self.mixture(rows, draw) if draw is not None and self.how.mixes else None
            images = {view: self.images(rows, draw, view, mix).split(sizes) for view in views}
            labels, ids = self._labels(rows, mix).split(sizes), moved_to(self.ids[rows],
                                                                         self.padded.device).split(sizes)
            for place in range(len(entries)):
                inputs: Inputs = (images[""][place] if tuple(views) == ("",)
                                  else {view: parts[place] for view, parts in images.items()})
                yield Batch(inputs, labels[place], ids[place])

    def images(self, rows: Tensor, draw: int | None, view: str, mix: Mixture | None) -> Tensor:
        """The images of these rows in one view: [B, C, H, W] float32 in [0, 1]."""
        own = self._plain(rows, draw, view)
        return own if mix is None else mix_images(own, self._plain(mix.partner, draw, view), self._moved(mix))

    def mixture(self, rows: Tensor, draw: int) -> Mixture:
        """With whom these rows are mixed in this draw."""
        height, width = (side - 2 * self.how.padding for side in self.padded.shape[2:])
        return mixture(self.ids[rows], self.how, draw=draw, rows=len(self.ids), size=(height, width))

    def _plain(self, rows: Tensor, draw: int | None, view: str) -> Tensor:
        device = self.padded.device
        ids = moved_to(self.ids[rows], device)
        return unit_range(crop_and_flip(self.padded, moved_to(rows, device), ids, self.how, draw=draw, view=view))

    def _moved(self, mix: Mixture) -> Mixture:
        return Mixture(*(moved_to(part, self.padded.device) for part in mix))

    def _labels(self, rows: Tensor, mix: Mixture | None) -> Tensor:
        labels = self.labels[rows]
        if mix is not None:
            labels = mix_labels(labels, self.labels[mix.partner], mix.share, self.classes)
        return moved_to(labels, self.padded.device)


def in_memory(ids: Tensor, labels: Tensor, images: Tensor, classes: int, how: Augmentation,
              device: torch.device) -> MemorySource:
    """A source of these images [N, C, H, W], kept on the device with the border that random crops need."""
    padded = torch.nn.functional.pad(images, [how.padding] * 4).to(device)
    return MemorySource(ids, labels, padded, classes, how)
