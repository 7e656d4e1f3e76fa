"""VGG for CIFAR: Simonyan & Zisserman, ICLR 2015 (arXiv:1409.1556), with batch normalisation and one linear layer.

Five stages of 3x3 convolutions with a 2x2 max-pool after the first three; the distillation literature leaves the
other pools out at 32 px and ends in a global average.

Taps at 32 px: `layer1` [B, 64, 32, 32], `layer2` [B, 128, 16, 16], `layer3` [B, 256, 8, 8], `layer4` and `layer5`
[B, 512, 4, 4], `pool` [B, 512]. A stage ends after its ReLU and before the max-pool.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.models.cifar.common import global_average, start_convolutions

WIDTHS = (64, 128, 256, 512, 512)


class Vgg(nn.Module):
    """Five stages of `depths` convolutions each."""

    def __init__(self, depths: tuple[int, int, int, int, int], num_classes: int, channels: int) -> None:
        super().__init__()
        self.layer1 = _stage(depths[0], channels, WIDTHS[0])
        self.layer2 = _stage(depths[1], WIDTHS[0], WIDTHS[1])
        self.layer3 = _stage(depths[2], WIDTHS[1], WIDTHS[2])
        self.layer4 = _stage(depths[3], WIDTHS[2], WIDTHS[3])
        self.layer5 = _stage(depths[4], WIDTHS[3], WIDTHS[4])
        self.pool = global_average()
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        start_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes]."""
        for stage in (self.layer1, self.layer2, self.layer3):
            x = F.max_pool2d(stage(x), 2)
        return self.classifier(self.pool(self.layer5(self.layer4(x))))


def _stage(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg8(num_classes: int, channels: int = 3) -> nn.Module:
    """One convolution a stage: 3,965,028 parameters at 100 classes."""
    return Vgg((1, 1, 1, 1, 1), num_classes, channels)


def vgg13(num_classes: int, channels: int = 3) -> nn.Module:
    """Two convolutions a stage: 9,462,180 parameters at 100 classes."""
    return Vgg((2, 2, 2, 2, 2), num_classes, channels)
