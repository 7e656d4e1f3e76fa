"""A split of images with boxes: images that are kept on the device where they are few enough, else read when wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from tutelage.data.augment import Augmentation
from tutelage.data.box_augment import PADDING, UNKNOWN, boxes_in, moved_boxes, window_of
from tutelage.data.mask_augment import lit
from tutelage.data.memory import moved_to
from tutelage.data.stream import StreamSource
from tutelage.types import Batch, View, one_tensor


@dataclass(frozen=True, eq=False)
class PackedBoxes:
    """The boxes of the rows of a split, one after another.

    `boxes` [T, 4] are left, top, right and lower edge in pixels of what a network receives, `classes` [T] from 0.
    `starts` [N + 1] says where those of each row begin; `extents` [N, 2] are height and width of the part of each
    picture that is image.
    """

    boxes: Float32[Tensor, "all 4"]
    classes: Int[Tensor, " all"]
    starts: Int[Tensor, " starts"]
    extents: Float32[Tensor, "rows 2"]

    @property
    def most(self) -> int:
        """How many boxes every row of a batch has: as many as the fullest image of the split, one at least."""
        return max(1, int((self.starts[1:] - self.starts[:-1]).max())) if len(self.starts) > 1 else 1

    def of(self, rows: Tensor, most: int, known: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, most, 4] and classes [B, most] of rows; -1 where there is none, -2 where a row is not `known`."""
        first, count = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        places = torch.arange(most)
        there = places < count[:, None]
        if not len(self.classes):
            boxes, classes = torch.zeros(len(rows), most, 4), torch.full((len(rows), most), PADDING)
        else:
            where = (first[:, None] + places).clamp(max=len(self.classes) - 1)
            boxes = torch.where(there[..., None], self.boxes[where], 0)
            classes = torch.where(there, self.classes[where], PADDING)
        return boxes, torch.where(known[:, None], classes, UNKNOWN)


@dataclass(frozen=True, eq=False)
class BoxSource:
    """A split whose labels are "boxes" [B, M, 4] and "classes" [B, M]; `labels` [N] are 0, or -1 of what is unknown.

    M is the same for the whole split; where an image has fewer boxes, they are 0 and the class is -1. Of an image of
    which nothing is known all classes are -2. `stream` reads images [C, H, W], which are `kept` from the first batch
    on, or read for each. What a sample looks like depends on (seed, draw, view, id) alone.

    With `regions` a view is two tensors, "images" and "regions" [B, G, 4], padded with 0, which move with the images.
    """

    stream: StreamSource
    packed: PackedBoxes
    how: Augmentation
    kept: bool
    regions: PackedBoxes | None = None

    @property
    def ids(self) -> Tensor:
        """See `Source`."""
        return self.stream.ids

    @property
    def labels(self) -> Tensor:
        """See `Source`."""
        return self.stream.labels

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`; the labels of all views are the same."""
        plan, device, most = [rows.cpu() for rows in plan], self.stream.device, self.packed.most
        for rows, images in zip(plan, self._images_of(plan), strict=True):
            ids, extents = (moved_to(part[rows], device) for part in (self.ids, self.packed.extents))
            boxes, classes = (moved_to(part, device) for part in self.packed.of(rows, most, self.labels[rows] >= 0))
            pictures, boxes, classes = moved_boxes(images, boxes, classes, extents, ids, self.how, draw)
            seen: dict[str, View] = {view: lit(pictures, ids, self.how, draw, view) for view in views}
            if self.regions is not None:
                regions = self._moved_regions(self.regions, rows, images, extents, ids, draw)
                seen = {view: {"images": one_tensor(shown), "regions": regions} for view, shown in seen.items()}
            plain, alone = seen.get(""), tuple(views) == ("",)
            inputs = plain if alone and isinstance(plain, Tensor) else seen
            yield Batch(inputs, {"boxes": boxes, "classes": classes}, ids)

    def _moved_regions(self, regions: PackedBoxes, rows: Tensor, images: Tensor, extents: Tensor, ids: Tensor,
                       draw: int | None) -> Tensor:
        known = torch.ones(len(rows), dtype=torch.bool)
        boxes, classes = (moved_to(part, images.device) for part in regions.of(rows, regions.most, known))
        window = window_of(images, extents, ids, self.how, draw)
        return boxes if window is None else boxes_in(window, boxes, classes, images.shape[2:])[0]

    @cached_property
    def images(self) -> Tensor:
        """All images of the split, [N, C, H, W] uint8 on the device."""
        return torch.cat([*self.stream.as_read(torch.arange(len(self.ids)).split(64))])

    def _images_of(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        if not self.kept:
            yield from self.stream.as_read(plan)
            return
        for rows in plan:
            yield self.images.index_select(0, moved_to(rows, self.stream.device))
