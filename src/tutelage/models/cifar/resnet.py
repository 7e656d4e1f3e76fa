"""Residual networks for CIFAR: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

Depth 6n + 2: a convolution, three stages of n blocks of two convolutions, a global average, one linear layer.
A shortcut that changes shape is a 1x1 convolution (option B of the paper), as in the distillation literature;
`x4` are the four times wider ones of Tian et al., "Contrastive representation distillation", ICLR 2020;
`resnet_stages` has a number of blocks for each stage, for a search among architectures.

Taps at 32 px, for the narrow ones: `layer1` [B, 16, 32, 32], `layer2` [B, 32, 16, 16], `layer3` [B, 64, 8, 8],
`pool` [B, 64]. The stages end after the ReLU.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.models.cifar.common import global_average, start_convolutions

NARROW = (16, 16, 32, 64)
X4 = (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """Three stages of `blocks`; `widths` are those of the first convolution and of the three stages."""

    def __init__(self, blocks: tuple[int, int, int], widths: tuple[int, int, int, int], num_classes: int,
                 channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(blocks[0], widths[0], widths[1], stride=1)
        self.layer2 = _stage(blocks[1], widths[1], widths[2], stride=2)
        self.layer3 = _stage(blocks[2], widths[2], widths[3], stride=2)
        self.pool = global_average()
        self.fc = nn.Linear(widths[3], num_classes)
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x))


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def _of_depth(depth: int, widths: tuple[int, int, int, int], num_classes: int, channels: int) -> nn.Module:
    blocks = (depth - 2) // 6
    return ResNet((blocks, blocks, blocks), widths, num_classes, channels)


def resnet8(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 8: 83,892 parameters at 100 classes."""
    return _of_depth(8, NARROW, num_classes, channels)


def resnet14(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 14: 181,108 parameters at 100 classes."""
    return _of_depth(14, NARROW, num_classes, channels)


def resnet20(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 20: 278,324 parameters at 100 classes."""
    return _of_depth(20, NARROW, num_classes, channels)


def resnet32(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 32: 472,756 parameters at 100 classes."""
    return _of_depth(32, NARROW, num_classes, channels)


def resnet56(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 56: 861,620 parameters at 100 classes."""
    return _of_depth(56, NARROW, num_classes, channels)


def resnet110(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 110: 1,736,564 parameters at 100 classes."""
    return _of_depth(110, NARROW, num_classes, channels)


def resnet8x4(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 8, four times as wide: 1,233,540 parameters at 100 classes."""
    return _of_depth(8, X4, num_classes, channels)


def resnet32x4(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 32, four times as wide: 7,433,860 parameters at 100 classes."""
    return _of_depth(32, X4, num_classes, channels)


def resnet_stages(num_classes: int, channels: int = 3, first: int = 3, second: int = 3, third: int = 3,
                  width: int = 16) -> nn.Module:
    """`first`, `second` and `third` blocks in stages of `width`, twice and four times that; by default resnet20."""
    if min(first, second, third, width) < 1:
        raise UsageError("a stage needs a block and a width", where="resnet_stages, options",
                         found=f"first = {first}, second = {second}, third = {third}, width = {width}",
                         expected="whole numbers of 1 or more")
    return ResNet((first, second, third), (width, width, 2 * width, 4 * width), num_classes, channels)
