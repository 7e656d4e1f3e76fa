"""Networks that fuse images: sources [B, channels, H, W] -> one image [B, num_classes, H, W] in [0, 1], of any size.

`fusion_dense` is small and has width and depth to choose, as the students of Zhao, Su, Wei, Tong & Gao, "Adaptive
DenseNet for infrared and visible image fusion with knowledge distillation", Electronics 2023, 12(13), 2773: each layer
sees all before it (Huang et al., 2017, arXiv:1608.06993). `fused_files` computes nothing: it gives the image that the
data bring, so that a folder of fused images is a teacher like any other.
"""

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError


class DenseFusion(nn.Module):
    """`depth` convolutions of `width` channels, each of all before it, and one that makes the image.

    Taps: `layers.I` [B, width, H, W] and `head` [B, num_classes, H, W], before the sigmoid.
    """

    def __init__(self, width: int, depth: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(
            nn.Conv2d(channels + width * level, width, 3, padding=1), nn.LeakyReLU(0.1)) for level in range(depth))
        self.head = nn.Conv2d(channels + width * depth, num_classes, 1)  # begins as torch has it: near grey everywhere

    def forward(self, x: Tensor) -> Tensor:
        """Normalised sources [B, channels, H, W] -> images [B, num_classes, H, W] in (0, 1)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x).sigmoid()


class FusedFiles(nn.Module):
    """Gives `fused`, which the data bring beside the sources; nothing in it learns."""

    takes_fused = True

    def forward(self, images: Tensor, fused: Tensor | None = None) -> Tensor:
        """Fused images [B, 1, H, W] in [0, 1] of these samples, as they were read."""
        if fused is None:
            raise ModelError("there are no fused images for this network to give", found="sources alone",
                             expected="a folder of fused images", fix='write fused = "FOLDER" in [data]')
        return fused


def fusion_dense(num_classes: int, channels: int = 2, *, width: int = 16, depth: int = 4) -> nn.Module:
    """A dense network of `depth` layers of `width` channels: 15,000 weights with the defaults, 60 KB."""
    for name, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise UsageError("an option of the network that cannot be", where=f"options, {name}", found=value,
                             expected="1 or more")
    return DenseFusion(width, depth, num_classes, channels)


def fused_files(num_classes: int, channels: int = 2) -> nn.Module:
    """The fused images of [data] `fused`, as a network without weights."""
    return FusedFiles()
