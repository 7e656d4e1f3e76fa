"""How far an image that a student gives is from another, or from the images it was made of: divergences of fusion.

Images are [B, 1, H, W] in [0, 1]. Where several are given as channels [B, C, H, W], such as infrared and visible, they
are the sources that an image is fused from, and each place is compared with the source that has most there.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import PerSample

WINDOW, SIGMA = 11, 1.5
"""Pixels of the Gaussian window of SSIM, and its standard deviation (Wang et al., 2004)."""
_C1, _C2 = 0.01**2, 0.03**2

Pictures = Float[Tensor, "batch channels height width"]


def l1(student: Pictures, teacher: Pictures, labels: object = None) -> PerSample:
    """The mean absolute difference of two images.

    >>> l1(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).tolist()
    [0.5]
    """
    _same_images(student, teacher)
    return (student - teacher).abs().flatten(1).mean(1)


def ssim_loss(student: Pictures, teacher: Pictures, labels: object = None) -> PerSample:
    """1 - SSIM of two images in [0, 1] (Wang et al., 2004, eq. 13): 0 where they are the same, below 2.

    A Gaussian window of 11 pixels, k = 0.01 and 0.03, borders mirrored, the mean over all places: what torchmetrics
    gives. (Without mirrored borders other numbers come out.)

    >>> ssim_loss(torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12)).tolist()
    [0.0]
    """
    return 1 - structural_similarity(student, teacher)


def brightest(student: Pictures, teacher: Pictures, labels: object = None) -> PerSample:
    """The mean absolute difference of an image [B, 1, H, W] from the brightest of its sources [B, C, H, W] at each place.

    The intensity loss of Tang, Yuan & Ma, "Image fusion in the loop of high-level vision tasks" (SeAFusion), 2022.

    >>> brightest(torch.ones(1, 1, 1, 1), torch.tensor([[[[0.25]], [[0.75]]]])).tolist()
    [0.25]
    """
    _of_sources(student, teacher)
    return (student - teacher.amax(1, keepdim=True)).abs().flatten(1).mean(1)


def sharpest(student: Pictures, teacher: Pictures, labels: object = None) -> PerSample:
    """The mean absolute difference of an image's gradient from the largest gradient of its sources at each place.

    The gradient is |S_x| + |S_y| by Sobel's operators, zeros around the image: the texture loss of SeAFusion (2022).

    >>> sharpest(torch.ones(1, 1, 4, 4), torch.ones(1, 2, 4, 4)).tolist()
    [0.0]
    """
    _of_sources(student, teacher)
    return (gradient(student) - gradient(teacher).amax(1, keepdim=True)).abs().flatten(1).mean(1)


def structural_similarity(one: Pictures, other: Pictures) -> PerSample:
    """SSIM of two images [B, C, H, W] in [0, 1], the mean over places and channels, as `ssim_loss` says; [B]."""
    _same_images(one, other)
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


def gradient(images: Pictures) -> Pictures:
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


def _same_images(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.dim() != 4:
        raise ModelError("two ends that are not images of one size", found=f"student {list(student.shape)}, teacher "
                         f"{list(teacher.shape)}", expected="[B, channels, height, width], the same of both")


def _of_sources(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[1] != 1 or student.shape[2:] != teacher.shape[2:]:
        raise ModelError("an image and sources that are not of one size", found=f"student {list(student.shape)}, "
                         f"sources {list(teacher.shape)}", expected="[B, 1, height, width] and [B, sources, height, "
                         "width]")


FOR_IMAGES = (l1, ssim_loss, brightest, sharpest)
"""What compares images: not logits."""
