"""A small U-Net: Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015.

An encoder halves the image `depth` times and doubles its channels each time, from `width` on; a decoder goes back up,
and at every level sees what the encoder saw there. Other than in the paper, convolutions are padded and normed, the way
up is a nearest-neighbour enlargement, and images of any size will do: they are padded at their lower and right edge to
a multiple of 2^depth, and the logits are cut to the image again.

Taps, for an image of H x W pixels whose sides are such multiples: `encoder.I` [B, width 2^I, H / 2^I, W / 2^I], of
which the last is the bottom, `decoder.J` from below, so that the last is [B, width, H, W], and `head`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.models.cifar.common import start_convolutions


class UNet(nn.Module):
    """Encoder and decoder of `depth` halvings: `width` channels at full size, twice as many after each halving."""

    def __init__(self, width: int, depth: int, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(_block(inputs, outputs)
                                     for inputs, outputs in zip([channels, *widths[:-1]], widths, strict=True))
        self.decoder = nn.ModuleList(_block(below + own, own) for below, own in zip(widths[:0:-1], widths[-2::-1],
                                                                                    strict=True))
        self.head = nn.Conv2d(width, num_classes, 1)
        self.multiple = 2**depth
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes, H, W]."""
        height, width = x.shape[2:]
        down, right = -height % self.multiple, -width % self.multiple
        x = F.pad(x, (0, right, 0, down), mode="replicate") if down or right else x
        seen = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            seen.append(x)
        for block, beside in zip(self.decoder, seen[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), beside], 1))
        logits = self.head(x)
        return logits[:, :, :height, :width] if down or right else logits


def unet(num_classes: int, channels: int = 3, *, width: int = 16, depth: int = 3) -> UNet:
    """A U-Net of `depth` halvings, with `width` channels at full size: half a million weights with the defaults."""
    for name, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise UsageError("an option of the network that cannot be", where=f"options, {name}", found=value,
                             expected="1 or more")
    return UNet(width, depth, num_classes, channels)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*(layer for size in (inputs, outputs) for layer in (
        nn.Conv2d(size, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())))
