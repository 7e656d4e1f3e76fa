"""How far an image that a student gives is from another, or from the images it was made of: divergences of fusion.

Images are [B, 1, H, W] in [0, 1]. Where several are given as channels [B, C, H, W], such as infrared and visible, they
are the sources that an image is fused from, and each place is compared with the source that has most there.
"""

from torch import Tensor

from tutelage.errors import ModelError
from tutelage.graph.image_maps import require_same_images, sobel_strength, structural_similarity
from tutelage.types import PerSample


def l1(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """The mean absolute difference of two images.

    >>> import torch
    >>> l1(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).tolist()
    [0.5]
    """
    require_same_images(student, teacher)
    return (student - teacher).abs().flatten(1).mean(1)


def ssim_loss(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """1 - SSIM of two images in [0, 1] (Wang et al., 2004, eq. 13): 0 where they are the same, below 2.

    A Gaussian window of 11 pixels, k = 0.01 and 0.03, borders mirrored, the mean over all places: what torchmetrics
    gives. (Without mirrored borders other numbers come out.)

    >>> import torch
    >>> ssim_loss(torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12)).tolist()
    [0.0]
    """
    return 1 - structural_similarity(student, teacher)


def brightest(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """The mean absolute difference of an image [B, 1, H, W] from the brightest of its sources [B, C, H, W].

    The intensity loss of Tang, Yuan & Ma, "Image fusion in the loop of high-level vision tasks" (SeAFusion), 2022.

    >>> import torch
    >>> brightest(torch.ones(1, 1, 1, 1), torch.tensor([[[[0.25]], [[0.75]]]])).tolist()
    [0.25]
    """
    _of_sources(student, teacher)
    return (student - teacher.amax(1, keepdim=True)).abs().flatten(1).mean(1)


def sharpest(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """The mean absolute difference of an image's gradient from the largest gradient of its sources at each place.

    The gradient is |S_x| + |S_y| by Sobel's operators, zeros around the image: the texture loss of SeAFusion (2022).

    >>> import torch
    >>> sharpest(torch.ones(1, 1, 4, 4), torch.ones(1, 2, 4, 4)).tolist()
    [0.0]
    """
    _of_sources(student, teacher)
    return (sobel_strength(student) - sobel_strength(teacher).amax(1, keepdim=True)).abs().flatten(1).mean(1)


def _of_sources(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[1] != 1 or student.shape[2:] != teacher.shape[2:]:
        raise ModelError("an image and sources that are not of one size", found=f"student {list(student.shape)}, "
                         f"sources {list(teacher.shape)}", expected="[B, 1, height, width] and [B, sources, height, "
                         "width]")
