"""A split of images with masks: pairs that are kept on the device where they are few enough, else read when wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tutelage.data.augment import Augmentation
from tutelage.data.mask_augment import lit, moved_pairs
from tutelage.data.memory import moved_to
from tutelage.data.stream import StreamSource
from tutelage.types import Batch


@dataclass(frozen=True, eq=False)
class MaskSource:
    """A split whose labels are masks [B, H, W]: `labels` [N] are 0, and -1 where an image has no mask.

    `stream` reads pairs: images [C, H, W] and, as one channel more, their masks (255: does not count). They are
    `kept` from the first batch on, or read for each. What a sample looks like depends on (seed, draw, view, id) alone.
    """

    stream: StreamSource
    how: Augmentation
    kept: bool

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
        """See `Source.batches`; the labels of all views are the same, int64 with -1 for a pixel that does not count."""
        plan = [rows.cpu() for rows in plan]
        for rows, pairs in zip(plan, self._pairs_of(plan), strict=True):
            ids = moved_to(self.ids[rows], self.stream.device)
            images, labels = moved_pairs(pairs, ids, self.how, draw)
            seen = {view: lit(images, ids, self.how, draw, view) for view in views}
            yield Batch(seen[""] if tuple(views) == ("",) else seen, labels, ids)

    @cached_property
    def pairs(self) -> Tensor:
        """All pairs of the split, [N, C + 1, H, W] uint8 on the device."""
        return torch.cat([*self.stream.as_read(torch.arange(len(self.ids)).split(64))])

    def _pairs_of(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        if not self.kept:
            yield from self.stream.as_read(plan)
            return
        for rows in plan:
            yield self.pairs.index_select(0, moved_to(rows, self.stream.device))
