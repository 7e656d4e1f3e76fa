"""How good a fused image is, without a true one: by what it holds itself, and by what it has of its sources.

Images are [B, 1, H, W] and sources [B, 2, H, W], in [0, 1]; a number is of one image, [B]. Where a number is of an
image and one source, that of both is the sum, as tables of the field have it. Levels are 0 .. 255.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.graph.image_maps import structural_similarity
from tutelage.types import PerSample

LEVELS = 256
LEAST_FOR_VIF = 41
"""Pixels of a side: VIF halves an image three times."""
_EDGE = (0.9994, -15.0, 0.5)
_ANGLE = (0.9879, -22.0, 0.8)
"""Of Qabf: the height, slope and middle of the two sigmoids, as published."""


def levels_of(images: Tensor) -> Tensor:
    """Images as levels 0 .. 255, int64."""
    return (images * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()


def level_entropy(levels: Tensor) -> PerSample:
    """EN: the entropy of the levels of each image, in bits, 8 at most (Roberts et al., 2008).

    >>> level_entropy(torch.tensor([[[[0, 0, 255, 255]]]])).tolist()
    [1.0]
    """
    return _bits(_histogram(levels.flatten(1), LEVELS))


def level_deviation(levels: Tensor) -> PerSample:
    """SD: the standard deviation of the levels of each image, which tells its contrast; 127.5 at most.

    >>> level_deviation(torch.tensor([[[[0, 255]]]])).tolist()
    [127.5]
    """
    return levels.flatten(1).double().std(1, correction=0).float()


def shared_information(levels: Tensor, sources: Tensor) -> PerSample:
    """MI: the mutual information of the levels of an image and of each source, in bits, the sum over sources
    (Qu et al., 2002).

    >>> both = torch.tensor([[[[0, 0, 255, 255]]]])
    >>> shared_information(both, both.expand(1, 2, 1, 4)).tolist()
    [2.0]
    """
    own = levels.flatten(1)
    found = torch.zeros(len(own), device=own.device)
    for source in sources.unbind(1):
        theirs = source.flatten(1)
        together = _histogram(own * LEVELS + theirs, LEVELS**2)
        found += _bits(_histogram(own, LEVELS)) + _bits(_histogram(theirs, LEVELS)) - _bits(together)
    return found


def edges_kept(images: Tensor, sources: Tensor) -> PerSample:
    """Qabf: how much of the edges of the sources an image has, in strength and direction; in [0, 1).

    Sobel's g and angle of each place give, of source A and image F, Q = Q_g Q_a with sigmoids of
    min(g_A, g_F) / max(g_A, g_F) and of 1 - |a_A - a_F| / (pi / 2); the mean over places and sources is weighted by
    the strength of the edge in the source (Xydeas & Petrovic, 2000). NaN where no source has an edge.
    """
    strength, angle = _edges(images)
    kept, whole = torch.zeros(len(images), device=images.device), torch.zeros(len(images), device=images.device)
    for source in sources.split(1, 1):
        theirs, its_angle = _edges(source)
        ratio = torch.minimum(strength, theirs) / torch.maximum(strength, theirs).clamp(min=1e-12)
        aligned = 1 - (angle - its_angle).abs() / (torch.pi / 2)
        quality = _sigmoid(ratio, *_EDGE) * _sigmoid(aligned, *_ANGLE)
        kept += (quality * theirs).flatten(1).sum(1)
        whole += theirs.flatten(1).sum(1)
    return kept / whole


def similarity_to_sources(images: Tensor, sources: Tensor) -> PerSample:
    """SSIM of an image and each source, the sum over sources; at most as many as there are."""
    return torch.stack([structural_similarity(images, source) for source in sources.split(1, 1)]).sum(0)


def fidelity_to_sources(images: Tensor, sources: Tensor) -> PerSample:
    """VIF: visual information fidelity of an image to each source, by torchmetrics, the sum over sources.

    NaN for images below 41 pixels a side. ModelError where torchmetrics is not installed.
    """
    if min(images.shape[2:]) < LEAST_FOR_VIF:
        return torch.full((len(images),), torch.nan, device=images.device)
    try:
        from torchmetrics.functional.image import visual_information_fidelity
    except ModuleNotFoundError:
        raise ModelError("visual information fidelity needs torchmetrics: pip install 'tutelage[fusion]'") from None
    scale = LEVELS - 1
    return torch.stack([torch.stack([visual_information_fidelity(scale * image[None], scale * source[None, None])
                                     for source in of]).sum() for image, of in zip(images, sources, strict=True)])


def psnr_of(images: Tensor, others: Tensor) -> float:
    """Peak signal to noise ratio of images to others, both [N, 1, H, W] in levels, in dB: the mean over images.

    Of the same images 100, for there is no noise.

    >>> round(psnr_of(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 25.5)), 3)
    20.0
    """
    error = (images.double() - others.double()).square().flatten(1).mean(1)
    return (20 * torch.log10(torch.tensor(LEVELS - 1.0)) - 10 * torch.log10(error)).clamp(max=100).mean().item()


def _edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Strength and angle, in (-pi / 2, pi / 2], of the edge at each place."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device, dtype=images.dtype)
    both = F.conv2d(F.pad(images, [1] * 4, mode="replicate"), torch.stack([kernel, kernel.T])[:, None])
    across, down = both.split(1, 1)
    upright = across == 0
    angle = torch.where(upright, torch.pi / 2, (down / torch.where(upright, 1, across)).atan())
    return (across.square() + down.square()).sqrt(), angle


def _sigmoid(value: Tensor, height: float, slope: float, middle: float) -> Tensor:
    return height / (1 + (slope * (value - middle)).exp())


def _histogram(numbers: Tensor, count: int) -> Tensor:
    """Of each row, how many of its numbers are 0, 1 .. count - 1: [B, count]."""
    found = torch.zeros(len(numbers), count, device=numbers.device)
    return found.scatter_add_(1, numbers, torch.ones_like(numbers, dtype=found.dtype))


def _bits(counts: Tensor) -> PerSample:
    share = counts / counts.sum(1, keepdim=True)
    return -torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(2.0, device=counts.device))
