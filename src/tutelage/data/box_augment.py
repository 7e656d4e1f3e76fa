"""Images and boxes, moved together: each number a function of (seed, draw, id), and of the view where it is light.

A picture is seen through a window, which may be smaller than it (what is outside is cut) or larger (what is around it
is grey), and may be mirrored. Boxes go through the same window and are cut off at its edges; one of which less than
`KEPT_SHARE` is left is dropped. The places are those of the plain view in every view: views differ in light.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int, UInt8
from torch import Tensor

from tutelage.data.augment import Augmentation, crop_and_flip, movements, unit_range
from tutelage.data.decoding import GREY
from tutelage.system.random import derive, uniform

PADDING = -1
"""The class where there is no object, so that all images of a split have as many boxes."""
UNKNOWN = -2
"""The class in all places of an image of which nothing is known."""
KEPT_SHARE = 0.25
"""Of a box: where less of it is within the window it is dropped. Of its sides a pixel must be left."""
SMALLEST, LARGEST = 0.5, 1.25
"""The sides of a window, in sides of the picture; and as much longer or shorter than wide as LONGEST says."""
LONGEST = 1.1

Canvases = UInt8[Tensor, "batch channels height width"]
Pictures = Float32[Tensor, "batch channels height width"]
Boxes = Float32[Tensor, "batch boxes 4"]
Classes = Int[Tensor, "batch boxes"]


class Window(NamedTuple):
    """What is shown of each picture, in its pixels: upper left corner and size [B, 2] (y, x); and whether mirrored."""

    corner: Float32[Tensor, "batch 2"]
    size: Float32[Tensor, "batch 2"]
    mirrored: Bool[Tensor, " batch"]


def moved_boxes(images: Canvases, boxes: Boxes, classes: Classes, extents: Float32[Tensor, "batch 2"],
                ids: Int[Tensor, " batch"], how: Augmentation,
                draw: int | None) -> tuple[Pictures, Boxes, Classes]:
    """Images in [0, 1], and their boxes and classes, seen through the same window; with `draw=None` as they are.

    `extents` are height and width of the part of each picture that is image, the rest being grey. Boxes that are left
    come first, in their order; after them boxes are 0 and classes `PADDING`.
    """
    window = window_of(images, extents, ids, how, draw)
    if window is None or draw is None:
        return unit_range(images), boxes, classes
    if how.resized_crop:
        pictures = _seen(unit_range(images), window)
    else:
        bordered = F.pad(images, [how.padding] * 4, value=GREY)
        rows = torch.arange(len(ids), device=ids.device)
        pictures = unit_range(crop_and_flip(bordered, rows, ids, how, draw=draw, view=""))
    return pictures, *boxes_in(window, boxes, classes, images.shape[2:])


def window_of(images: Canvases, extents: Float32[Tensor, "batch 2"], ids: Int[Tensor, " batch"], how: Augmentation,
              draw: int | None) -> Window | None:
    """What is shown of each picture; None where all of it is, as it is."""
    if draw is None or not (how.resized_crop or how.padding or how.flip):
        return None
    if how.resized_crop:
        return _resized_windows(images, extents, ids, how, draw)
    return _shifted_windows(images, ids, how, draw)


def boxes_in(window: Window, boxes: Boxes, classes: Classes, size: tuple[int, int] | torch.Size) -> tuple[Boxes,
                                                                                                        Classes]:
    """Boxes and classes as they are seen through a window of `size` (height, width) pixels."""
    height, width = size
    sides = boxes.new_tensor([width, height])
    corner, scale = window.corner.flip(1)[:, None], (sides / window.size.flip(1))[:, None]
    least, most = (boxes[..., :2] - corner) * scale, (boxes[..., 2:] - corner) * scale
    turned = window.mirrored[:, None]
    left = torch.where(turned, width - most[..., 0], least[..., 0])
    right = torch.where(turned, width - least[..., 0], most[..., 0])
    whole = torch.stack([left, least[..., 1], right, most[..., 1]], -1)
    seen = torch.cat([whole[..., :2].clamp(min=0).minimum(sides), whole[..., 2:].clamp(min=0).minimum(sides)], -1)
    own, left_of_it = whole[..., 2:] - whole[..., :2], seen[..., 2:] - seen[..., :2]
    kept = (left_of_it.prod(-1) >= KEPT_SHARE * own.prod(-1)) & (left_of_it >= 1).all(-1) | (own == left_of_it).all(-1)
    kept &= classes >= 0
    order = kept.int().argsort(dim=1, descending=True, stable=True)
    seen = torch.where(kept[..., None], seen, 0).gather(1, order[..., None].expand_as(seen))
    gone = torch.where(classes == UNKNOWN, UNKNOWN, PADDING)
    return seen, torch.where(kept, classes, gone).gather(1, order)


def _shifted_windows(images: Tensor, ids: Tensor, how: Augmentation, draw: int) -> Window:
    """Those of `crop_and_flip`: moved by whole pixels, and of the size of the picture."""
    top, left, mirrored = movements(ids, how, draw, "")
    corner = torch.stack([top, left], 1).float() - how.padding
    size = corner.new_tensor([*images.shape[2:]]).expand(len(ids), 2)
    return Window(corner, size, mirrored & how.flip)


def _resized_windows(images: Tensor, extents: Tensor, ids: Tensor, how: Augmentation, draw: int) -> Window:
    """A window of SMALLEST to LARGEST of the picture's sides.

    It is within the image where it is smaller, and has all of it where it is larger.
    """
    odds = uniform(derive(how.seed, "crop", draw, ""), ids, 5)
    zoom = (math.log(SMALLEST) + (math.log(LARGEST) - math.log(SMALLEST)) * odds[:, 0]).exp()
    longer = ((2 * odds[:, 1] - 1) * math.log(LONGEST)).exp().sqrt()
    size = torch.stack([zoom / longer, zoom * longer], 1) * zoom.new_tensor([*images.shape[2:]])
    corner = odds[:, 2:4] * (extents - size)
    mirrored = odds[:, 4] < 0.5 if how.flip else torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    return Window(corner, size, mirrored)


def _seen(pictures: Tensor, window: Window) -> Tensor:
    """The pictures [B, C, H, W] through windows, bilinear; grey around them."""
    height, width = pictures.shape[2:]
    down = window.corner[:, :1] + window.size[:, :1] * _middles(height, pictures)
    across = window.corner[:, 1:] + window.size[:, 1:] * _middles(width, pictures)
    across = torch.where(window.mirrored[:, None], across.flip(1), across)
    x, y = (2 * across / width - 1)[:, None, :], (2 * down / height - 1)[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), -1)
    return F.grid_sample(pictures - GREY / 255, grid, "bilinear", "zeros", align_corners=False) + GREY / 255


def _middles(count: int, like: Tensor) -> Tensor:
    """The middles of so many pixels, as shares of them all: [1, count]."""
    return ((torch.arange(count, device=like.device) + 0.5) / count)[None]
