"""Wide residual networks: Zagoruyko & Komodakis, BMVC 2016 (arXiv:1605.07146), without dropout.

`wrn_D_K` has depth D = 6n + 4 and is K times as wide as the first stage's 16. Normalisation and ReLU come before
each convolution, so a stage ends in a sum that has not been rectified: what the literature calls pre-activation.

Taps at 32 px: `layer1` [B, 16 K, 32, 32], `layer2` [B, 32 K, 16, 16], `layer3` [B, 64 K, 8, 8], `pool` [B, 64 K].
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.models.cifar.common import global_average, start_convolutions


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].

    Where the shape changes, the shortcut reads the rectified input too, as in the paper's code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, not rectified."""
        ready = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(ready)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(ready))))


class WideResNet(nn.Module):
    """A network of depth 6n + 4, `widen` times as wide as the narrowest."""

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, 16 * widen, stride=1)
        self.layer2 = _stage(blocks, 16 * widen, 32 * widen, stride=2)
        self.layer3 = _stage(blocks, 32 * widen, 64 * widen, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.pool = global_average()
        self.fc = nn.Linear(64 * widen, num_classes)
        start_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.pool(F.relu(self.bn1(x))))


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [PreactivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(PreactivationBlock(inputs, outputs, stride), *rest)


def wrn_16_1(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 16, width 1: 180,916 parameters at 100 classes."""
    return WideResNet(16, 1, num_classes, channels)


def wrn_16_2(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 16, width 2: 703,284 parameters at 100 classes."""
    return WideResNet(16, 2, num_classes, channels)


def wrn_40_1(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 40, width 1: 569,780 parameters at 100 classes."""
    return WideResNet(40, 1, num_classes, channels)


def wrn_40_2(num_classes: int, channels: int = 3) -> nn.Module:
    """Depth 40, width 2: 2,255,156 parameters at 100 classes."""
    return WideResNet(40, 2, num_classes, channels)
