"""Images and masks, moved together: each number a function of (seed, draw, id), and of the view where it is light.

A pair is one tensor, the mask being its last channel (bytes; 255 does not count), so that nothing can move one alone.
The places are those of the plain view in every view: labels are of places, and what two networks say of a pixel can
only be compared if it is the same pixel. Views differ in light.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, UInt8
from torch import Tensor

from tutelage.data.augment import Augmentation, crop_and_flip, unit_range
from tutelage.data.mask_values import NO_CLASS
from tutelage.system.random import derive, uniform

LEAST_AREA = 0.25
"""Of an image, that a resized crop keeps: in the 8 % that classes are learned from there is seldom a whole thing."""
_LONGEST = 4 / 3
_LIGHT = 0.2

Pairs = UInt8[Tensor, "batch channels_and_mask height width"]
Pictures = Float32[Tensor, "batch channels height width"]


def moved_pairs(pairs: Pairs, ids: Int[Tensor, " batch"], how: Augmentation,
                draw: int | None) -> tuple[Pictures, Int[Tensor, "batch height width"]]:
    """The images of pairs, in [0, 1], and their labels, cropped and flipped alike; with `draw=None` as they are.

    What lies outside of an image is black, and its label -1. A resized crop is bilinear, its label that of the nearest
    pixel.
    """
    if draw is not None and how.resized_crop:
        return _resized_crops(pairs, ids, how, draw)
    if draw is not None and how.padding:
        pairs = _bordered(pairs, how.padding)
    elif draw is None:
        how = Augmentation(how.seed)
    pairs = crop_and_flip(pairs, torch.arange(len(ids), device=ids.device), ids, how, draw=draw, view="")
    return unit_range(pairs[:, :-1]), labels_of_pairs(pairs[:, -1])


def lit(images: Pictures, ids: Int[Tensor, " batch"], how: Augmentation, draw: int | None, view: str) -> Pictures:
    """Images in the light of a view: brighter or darker by up to a fifth, where crops are resized too."""
    if draw is None or not how.resized_crop:
        return images
    light = 1 - _LIGHT + 2 * _LIGHT * uniform(derive(how.seed, "light", draw, view), ids, 1)
    return (images * light[:, :, None, None]).clamp_(max=1)


def labels_of_pairs(masks: UInt8[Tensor, "batch height width"]) -> Int[Tensor, "batch height width"]:
    """Masks of bytes as labels: int64, -1 where a pixel does not count."""
    return masks.long().masked_fill_(masks == NO_CLASS, -1)


def _bordered(pairs: Tensor, border: int) -> Tensor:
    """The pairs with pixels around them that are black and do not count."""
    bordered = F.pad(pairs, [border] * 4)
    mask = bordered[:, -1]
    mask.fill_(NO_CLASS)
    mask[:, border:-border, border:-border] = pairs[:, -1]
    return bordered


def _resized_crops(pairs: Tensor, ids: Tensor, how: Augmentation, draw: int) -> tuple[Tensor, Tensor]:
    """A random box of each, a quarter of its area at least and at most 4/3 as long as wide, scaled to the whole."""
    height, width = pairs.shape[2:]
    odds = uniform(derive(how.seed, "crop", draw, ""), ids, 5)
    area = LEAST_AREA + (1 - LEAST_AREA) * odds[:, 0]
    longer = ((2 * odds[:, 1] - 1) * math.log(_LONGEST)).exp()
    mirrored = odds[:, 4] < 0.5 if how.flip else torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    down = _places((area / longer).sqrt(), odds[:, 2], height)
    across = _places((area * longer).sqrt(), odds[:, 3], width)
    across = torch.where(mirrored[:, None], across.flip(1), across)
    grid = torch.stack(torch.broadcast_tensors(2 * across[:, None, :] - 1, 2 * down[:, :, None] - 1), -1)
    images = F.grid_sample(unit_range(pairs[:, :-1]), grid, "bilinear", "border", align_corners=False)
    rows, columns = (down * height).long(), (across * width).long()
    rows, columns = rows.clamp(max=height - 1), columns.clamp(max=width - 1)
    batch = torch.arange(len(ids), device=ids.device)
    masks = pairs[batch[:, None, None], -1, rows[:, :, None], columns[:, None, :]]
    return images, labels_of_pairs(masks)


def _places(share: Tensor, odds: Tensor, count: int) -> Tensor:
    """Of a box that takes this share of a side, where its `count` places lie, as shares of the side: [B, count]."""
    share = share.clamp(max=1)
    steps = (torch.arange(count, device=share.device) + 0.5) / count
    return (odds * (1 - share))[:, None] + share[:, None] * steps
