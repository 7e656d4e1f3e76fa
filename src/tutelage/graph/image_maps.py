"""Maps of images that losses and scores of fused images share: structural similarity, and the strength of edges."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import PerSample

WINDOW, SIGMA = 11, 1.5
"""Pixels of the Gaussian window of SSIM, and its standard deviation (Wang et al., 2004)."""
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(one: Tensor, other: Tensor) -> PerSample:
    """SSIM of two images [B, C, H, W] in [0, 1], the mean over places and channels, a Gaussian
    window of 11 pixels, k = 0.01 and 0.03, borders mirrored (Wang et al., 2004, eq. 13); [B]."""
    require_same_images(one, other)
    if min(one.shape[2:]) < WINDOW:
        raise ModelError("images smaller than the window of SSIM", found=f"{one.shape[3]} x {one.shape[2]} pixels",
                         expected=f"{WINDOW} x {WINDOW} at least", fix="larger crops: [data] crop")
    batch, channels = one.shape[:2]
    maps = torch.cat([one, other, one * one, other * other, one * other], 1).flatten(0, 1)[:, None]
    line = _gaussian(one.device, one.dtype)
    smooth = F.pad(maps, [WINDOW // 2] * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(smooth, line[None, None, None]), line[None, None, :, None])
    mean, its, square, its_square, both = smooth.reshape(batch, 5, channels, *one.shape[2:]).unbind(1)
    variance, its_variance, shared = square - mean**2, its_square - its**2, both - mean * its
    found = ((2 * mean * its + _C1) * (2 * shared + _C2)
             / ((mean**2 + its**2 + _C1) * (variance + its_variance + _C2)))
    return found.flatten(1).mean(1)


def sobel_strength(images: Tensor) -> Tensor:
    """|S_x| + |S_y| of each channel by Sobel's operators, zeros around the image."""
    flat = F.pad(images, [1] * 4)
    across = flat[..., 2:] - flat[..., :-2]
    down = flat[..., 2:, :] - flat[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return across.abs() + down.abs()


@lru_cache(maxsize=8)
def _gaussian(device: torch.device, dtype: torch.dtype) -> Tensor:
    places = torch.arange(WINDOW, device=device, dtype=torch.float64) - WINDOW // 2
    line = (-places.square() / (2 * SIGMA**2)).exp()
    return (line / line.sum()).to(dtype)


def require_same_images(student: Tensor, teacher: Tensor) -> None:
    """ModelError for what is not images of one size."""
    if student.shape != teacher.shape or student.dim() != 4:
        raise ModelError("two ends that are not images of one size", found=f"student {list(student.shape)}, teacher "
                         f"{list(teacher.shape)}", expected="[B, channels, height, width], the same of both")
