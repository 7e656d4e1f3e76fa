"""A split of registered pairs: training crops at random places, whole or central images otherwise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import UInt8
from torch import Tensor

from tutelage.data.augment import unit_range
from tutelage.data.folder import in_threads
from tutelage.data.memory import moved_to
from tutelage.data.stream import CPU
from tutelage.errors import UserError
from tutelage.system.random import derive, uniform
from tutelage.types import Batch, View

SOURCES = 2
"""Infrared and visible: the channels of what a network is given."""
PairReader = Callable[[int], UInt8[Tensor, "channels height width"]]
"""Id -> infrared, visible and, if there is one, the fused image, as channels."""


@dataclass(frozen=True)
class CropPlan:
    """How pairs are cut: `whole` (height, width) of what is not augmented, `crop` of what is; and `flip`, at random.

    Without a `crop` nothing is drawn: training sees what evaluation sees.
    """

    seed: int
    whole: tuple[int, int]
    crop: tuple[int, int] | None
    flip: bool


@dataclass(frozen=True, eq=False)
class PairSource:
    """A split whose inputs are infrared and visible [B, 2, H, W], and whose labels are these too.

    Labels are {"sources": [B, 2, H, W], "group": [B]}; `group` [N] is the place of each row in `groups`, such as day
    and night. Where there are fused images the view is {"images": [B, 2, H, W], "fused": [B, 1, H, W]}. All are cut
    alike, in all views: the place is a function of (seed, draw, id). `keeps` images that were read.
    """

    ids: Tensor
    group: Tensor
    groups: tuple[str, ...]
    read: PairReader
    how: CropPlan
    keeps: bool = True
    device: torch.device = CPU
    kept: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def labels(self) -> Tensor:
        """Zeros: each sample has what it can be learned from."""
        return torch.zeros_like(self.ids)

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        for rows in (rows.cpu() for rows in plan):
            ids = self.ids[rows]
            cut = self._cut(self._images(ids.tolist()), ids, draw)
            images = unit_range(moved_to(cut, self.device))
            sources = images[:, :SOURCES]
            view: View = sources
            if images.shape[1] > SOURCES:
                view = {"images": sources, "fused": images[:, SOURCES:]}
            plain = isinstance(view, Tensor) and tuple(views) == ("",)
            yield Batch(sources if plain else dict.fromkeys(views, view),
                        {"sources": sources, "group": moved_to(self.group[rows], self.device)},
                        moved_to(ids, self.device))

    def _images(self, ids: Sequence[int]) -> list[Tensor]:
        missing = [one for one in dict.fromkeys(ids) if one not in self.kept]
        read = [*map(self.read, missing)] if len(missing) < 2 else in_threads(self._read_or_error, missing)
        found = dict(zip(missing, read, strict=True))
        for image in read:
            if isinstance(image, UserError):
                raise image
        if self.keeps:
            self.kept.update(found)
        return [self.kept[one] if one in self.kept else found[one] for one in ids]

    def _read_or_error(self, one: int) -> Tensor | UserError:
        try:
            return self.read(one)
        except UserError as error:
            return error

    def _cut(self, images: Sequence[Tensor], ids: Tensor, draw: int | None) -> Tensor:
        """The images as one tensor: central, or at the places that are drawn."""
        if not images:
            return torch.empty(0, SOURCES, *self.how.whole, dtype=torch.uint8)
        if draw is None or self.how.crop is None:
            return torch.stack([central(image, self.how.whole) for image in images])
        height, width = self.how.crop
        odds = uniform(derive(self.how.seed, "pairs", draw), ids, 3).tolist()
        cut = []
        for image, (down, right, turned) in zip(images, odds, strict=True):
            top = int(down * (image.shape[1] - height + 1))
            left = int(right * (image.shape[2] - width + 1))
            part = image[:, top:top + height, left:left + width]
            cut.append(part.flip(-1) if self.how.flip and turned < 0.5 else part)
        return torch.stack(cut)


def central(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of an image [C, H, W], of `size` (height, width).

    >>> central(torch.arange(4).view(1, 1, 4), (1, 2)).tolist()
    [[[1, 2]]]
    """
    top, left = ((old - new) // 2 for old, new in zip(image.shape[1:], size, strict=True))
    return image[:, top:top + size[0], left:left + size[1]]
