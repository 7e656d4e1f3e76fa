"""What the rows of an image are: its pixels, its channels, the whole mask, or the places of a feature map.

Logits are maps [B, K, h, w], labels masks [B, H, W] of class numbers with -1 where a pixel does not count. Networks may
give maps of unlike sizes: what is compared is resized to one grid first, by bilinear interpolation, and corners are not
aligned. `pixels`, `channels` and `masks` take the grid of the labels, so that a row means the same whatever networks
take part; `places` takes that of the first end that the edges read, which is a teacher's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import BatchLabels, Rows, RowsFn

Maps = Float[Tensor, "batch channels height width"]
Masks = Int[Tensor, "batch height width"]


@dataclass(frozen=True)
class DenseRows:
    """A function of rows with its name, and what tells from labels alone what its sums are divided by."""

    name: str
    rows: RowsFn
    total: Callable[[BatchLabels], Tensor]

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """The rows of these ends."""
        return self.rows(values, labels)


def resized(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch channels new_height new_width"]:
    """Maps on a grid of `size` (height, width): themselves where they have it already."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def mask_of(labels: BatchLabels) -> Masks:
    """The labels as masks [B, H, W]; ModelError if they are none."""
    if not isinstance(labels, Tensor) or labels.dim() != 3 or labels.is_floating_point():
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else f"several: {sorted(labels)}"
        raise ModelError("labels that are no masks", where="labels", found=found,
                         expected="class numbers [B, height, width], -1 where a pixel does not count")
    return labels.long()


def _pixels(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    masks = mask_of(labels)
    rows = {end: _by_pixel(resized(_maps(end, maps), _size(masks))) for end, maps in values.items()}
    of = torch.arange(len(masks), device=masks.device)[:, None].expand(-1, masks[0].numel()).reshape(-1)
    flat = masks.reshape(-1)
    return Rows(rows, flat, (flat >= 0).to(_dtype(values)), sample=of)


def _channels(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    masks = mask_of(labels)
    rows = {end: resized(_maps(end, maps), _size(masks)).flatten(2).flatten(0, 1) for end, maps in values.items()}
    count = len(next(iter(rows.values())))
    of = torch.arange(len(masks), device=masks.device)
    # A channel has no label of its own.
    return Rows(rows, masks.new_full((count,), -1), sample=of.repeat_interleave(count // len(masks)))


def _masks(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    masks = mask_of(labels)
    rows = {end: resized(_maps(end, maps), _size(masks)).movedim(1, -1) for end, maps in values.items()}
    return Rows(rows, masks, (masks >= 0).flatten(1).any(1).to(_dtype(values)))


def _places(values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    maps = {end: _maps(end, value) for end, value in values.items()}
    first = next(iter(maps.values()))
    size, batch = _size(first), len(first)
    rows = {end: _by_pixel(resized(value, size)) for end, value in maps.items()}
    of = torch.arange(batch, device=first.device)[:, None].expand(-1, size[0] * size[1]).reshape(-1)
    return Rows(rows, torch.full_like(of, -1), sample=of)


def _by_pixel(maps: Maps) -> Float[Tensor, "rows channels"]:
    # Neighbours in memory are those of one channel: sums over the channels of all rows then run along memory.
    return maps.transpose(0, 1).reshape(maps.shape[1], -1).t()


def _maps(end: str, value: Tensor) -> Maps:
    if value.dim() != 4:
        raise ModelError("an end that is no map", where=f"end {end!r}", found=f"shape {list(value.shape)}",
                         expected="[B, channels, height, width]",
                         fix="take a network that gives a map of logits, or name a layer that gives maps")
    return value


def _size(maps: Tensor) -> tuple[int, int]:
    height, width = maps.shape[-2:]
    return height, width


def _dtype(values: Mapping[str, Tensor]) -> torch.dtype:
    return next((value.dtype for value in values.values()), torch.float32)


def _counted_pixels(labels: BatchLabels) -> Tensor:
    return (mask_of(labels) >= 0).sum()


def _counted_images(labels: BatchLabels) -> Tensor:
    return (mask_of(labels) >= 0).flatten(1).any(1).sum()


def _images(labels: BatchLabels) -> Tensor:
    one = labels if isinstance(labels, Tensor) else next(iter(labels.values()))
    return torch.tensor(len(one), device=one.device)


pixels = DenseRows("pixels", _pixels, _counted_pixels)
"""A row is a pixel of the labels: its logits [R, K], R = B H W, and its class. Only pixels with a label count."""
channels = DenseRows("channels", _channels, _images)
"""A row is a channel of one image: its map as H W numbers, [B K, H W] (Shu et al., 2021, arXiv:2011.13256).

Labels have no part in it: pixels that do not count are compared too."""
masks = DenseRows("masks", _masks, _counted_images)
"""A row is an image: its map [B, H, W, K] and its mask [B, H, W]. Only images in which some pixel counts do."""
places = DenseRows("places", _places, _images)
"""A row is a place of a feature map: its features [B h w, D]; D may differ from end to end. All places count."""
