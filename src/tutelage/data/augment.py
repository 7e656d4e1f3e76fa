"""Crops, flips and mixtures of whole batches, each number a function of (seed, draw, view, id).

So the image of a sample in a draw is the same bit for bit whatever batch it is in, on however many ranks or
workers, before and after a restart.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from tutelage.system.random import derive, uniform

Images = UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"]


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image.

    In this order: `randaugment` (two operations of magnitude 9, Cubuk et al. 2020), `resized_crop` (a random 8 to
    100 % of the area, Szegedy et al. 2015), `padding` (black pixels on each side, then a random crop of the old
    size; 0 is off), `flip` (left-right, every second time), `mixup` and `cutmix` (the alpha of Beta(alpha, alpha);
    0 is off; with both on, every row is mixed by one or the other with equal odds).
    """

    seed: int = 0
    padding: int = 0
    flip: bool = False
    resized_crop: bool = False
    randaugment: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether labels become soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def per_sample(self) -> bool:
        """Whether an operation needs the image by itself, before it is in a batch."""
        return self.resized_crop or self.randaugment


class Mixture(NamedTuple):
    """For each row of a batch: its partner's row number in the split, its own share, and the box of a cutmix.

    `partner` [B] int64; `share` [B] float32 in [0, 1]; `box` [B, 4] int64 (top, bottom, left, right; the partner
    shows inside), empty for a row of mixup. The same in all views.
    """

    partner: Int[Tensor, " batch"]
    share: Float32[Tensor, " batch"]
    box: Int[Tensor, "batch 4"]


def crop_and_flip(padded: Images, rows: Int[Tensor, " out"], ids: Int[Tensor, " out"], how: Augmentation, *,
                  draw: int | None, view: str) -> Tensor:
    """The rows of padded images [N, C, H + 2 padding, W + 2 padding], augmented: [out, C, H, W], same dtype.

    With `draw=None` the centre of each, as it is.
    """
    border = how.padding
    height, width = (side - 2 * border for side in padded.shape[2:])
    if draw is None or not (border or how.flip):
        return padded.index_select(0, rows)[:, :, border:border + height, border:border + width]
    top, left, mirrored = movements(ids, how, draw, view)
    images = _windows(padded, rows, top, left, height, width) if border else padded.index_select(0, rows)
    if how.flip:
        # Both, and of the two the right one: copies of whole images, much cheaper than a choice for each number.
        places = torch.arange(len(ids), device=ids.device) + len(ids) * mirrored
        images = torch.cat((images, images.flip(-1))).index_select(0, places)
    return images


def _windows(padded: Tensor, rows: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """padded[rows[i], :, top[i] : top[i] + height, left[i] : left[i] + width], for all i: [out, C, height, width].

    A crop is copied in one piece from its first number to its last, then seen with the row length of its source.
    """
    channels, rows_below, line = padded.shape[1:]
    flat, length = padded.reshape(-1), (height - 1) * line + width
    planes = rows[:, None] * channels + torch.arange(channels, device=rows.device)
    starts = planes * (rows_below * line) + (top * line + left)[:, None]
    pieces = flat.as_strided((flat.numel() - length + 1, length), (1, 1)).index_select(0, starts.reshape(-1))
    return pieces.as_strided((len(rows), channels, height, width), (channels * length, length, line, 1))


def movements(ids: Int[Tensor, " batch"], how: Augmentation, draw: int,
              view: str) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Of each row's crop the top and left edge in its padded image, 0 .. 2 padding; and whether it is mirrored."""
    odds = uniform(derive(how.seed, "crop", draw, view), ids, 3)
    top, left = (odds[:, :2] * (2 * how.padding + 1)).long().unbind(1)
    return top, left, odds[:, 2] < 0.5


def mixture(ids: Int[Tensor, " batch"], how: Augmentation, *, draw: int, rows: int, size: tuple[int, int]) -> Mixture:
    """With whom and how much each row is mixed, among the `rows` rows of the split; `size` is (height, width).

    `ids` lie on the CPU, where the inverse of the Beta distribution is known.
    """
    odds = uniform(derive(how.seed, "mix", draw), ids, 5).double()
    by_cutmix = odds[:, 1] < 0.5 if how.mixup and how.cutmix else torch.full([len(ids)], how.cutmix > 0)
    share = torch.where(by_cutmix, _beta(odds[:, 2], how.cutmix), _beta(odds[:, 2], how.mixup))
    box = _box(share, odds[:, 3:], size) * by_cutmix[:, None]
    inside = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
    share = torch.where(by_cutmix, 1 - inside / (size[0] * size[1]), share)
    return Mixture((odds[:, 0] * rows).long(), share.float(), box)


def mix_images(images: Float32[Tensor, "batch channels height width"],
               partners: Float32[Tensor, "batch channels height width"],
               mix: Mixture) -> Float32[Tensor, "batch channels height width"]:
    """Mixup: share * image + (1 - share) * partner (Zhang et al. 2018); cutmix: the partner in a box (Yun 2019)."""
    height, width = images.shape[2:]
    top, bottom, left, right = (edge[:, None, None] for edge in mix.box.unbind(1))
    down = torch.arange(height, device=images.device)[:, None]
    across = torch.arange(width, device=images.device)
    inside = (top <= down) & (down < bottom) & (left <= across) & (across < right)
    boxed = mix.box[:, 1] > mix.box[:, 0]
    # A cutmix whose box fell empty has share 1, so that the same two lines serve it.
    own = torch.where(boxed[:, None, None], (~inside).float(), mix.share[:, None, None])[:, None]
    return own * images + (1 - own) * partners


def mix_labels(labels: Int[Tensor, " batch"], partners: Int[Tensor, " batch"], share: Float32[Tensor, " batch"],
               classes: int) -> Float32[Tensor, "batch classes"]:
    """The soft labels of a mixture; a side without a label (-1) adds nothing.

    >>> mix_labels(torch.tensor([0, -1]), torch.tensor([1, 1]), torch.tensor([0.75, 0.5]), 2)
    tensor([[0.7500, 0.2500],
            [0.0000, 0.5000]])
    """
    names = torch.arange(classes, device=labels.device)
    return (share[:, None] * (labels[:, None] == names)
            + (1 - share)[:, None] * (partners[:, None] == names))


def unit_range(images: Images) -> Float32[Tensor, "batch channels height width"]:
    """Bytes as numbers in [0, 1]; float images are there already."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def _beta(odds: Tensor, alpha: float) -> Tensor:
    from scipy.special import betaincinv  # 0.2 s to import, and only mixtures need it

    if alpha == 0:
        return torch.ones_like(odds)
    return torch.from_numpy(betaincinv(alpha, alpha, odds.numpy()))


def _box(share: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    """A box of 1 - share of the area around a random centre, cut off at the borders: top, bottom, left, right."""
    edges = []
    for axis, side in enumerate(size):
        length = (side * (1 - share).sqrt()).long()
        start = (centre[:, axis] * side).long() - length // 2
        edges += [start.clamp(0, side), (start + length).clamp(0, side)]
    return torch.stack(edges, 1)
