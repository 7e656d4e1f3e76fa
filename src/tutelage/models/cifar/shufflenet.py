"""ShuffleNet for CIFAR: V1 of Zhang et al., CVPR 2018 (1707.01083), V2 of Ma et al., ECCV 2018 (1807.11164).

As in the distillation literature, a 1x1 convolution without stride takes the place of the paper's first convolution
and max-pool, so that a 32 px picture enters the first stage whole.

Taps at 32 px: V1 `layer1` [B, 240, 16, 16], `layer2` [B, 480, 8, 8], `layer3` [B, 960, 4, 4], `pool` [B, 960];
V2 `layer1` [B, 116, 16, 16], `layer2` [B, 232, 8, 8], `layer3` [B, 464, 4, 4], `pool` [B, 1024].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.models.cifar.common import global_average

FIRST = 24
V1_GROUPS, V1_WIDTHS, V1_BLOCKS = 3, (240, 480, 960), (4, 8, 4)
V2_WIDTHS, V2_BLOCKS, V2_LAST = (116, 232, 464), (4, 8, 4), 1024


class GroupUnit(nn.Module):
    """V1's unit: grouped 1x1, shuffle, 3x3 of each channel, grouped 1x1; -> [B, outputs, H / stride, W / stride].

    With stride 2 the shortcut is an average pool that is put beside the unit's own channels instead of added.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        middle = own // 4
        # The first unit reads too few channels to group them (section 3.2 of the paper).
        self.groups = 1 if inputs == FIRST else groups
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, own, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output, after its last ReLU."""
        y = _shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        # A ReLU here is not in the paper, but it is in the network that the literature's numbers come from.
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.stride == 2:
            return F.relu(torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))
        return F.relu(y + x)


class SplitUnit(nn.Module):
    """V2's unit: half of the channels pass, the other half is convolved, then both are shuffled; shape kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = _branch(width // 2, width // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        passed, rest = x.chunk(2, dim=1)
        return _shuffle(torch.cat([passed, self.branch(rest)], dim=1), 2)


class HalvingUnit(nn.Module):
    """V2's unit with stride 2: two branches, each half of the outputs: -> [B, outputs, H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.short = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, 2, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs // 2, 1, bias=False), nn.BatchNorm2d(outputs // 2), nn.ReLU())
        self.branch = _branch(inputs, outputs // 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        return _shuffle(torch.cat([self.short(x), self.branch(x)], dim=1), 2)


class ShuffleNet(nn.Module):
    """A 1x1 convolution, three stages, for V2 one more 1x1 convolution (`last`), a global average, a linear layer."""

    def __init__(self, stages: list[nn.Sequential], last: nn.Module, width: int, num_classes: int,
                 channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, FIRST, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(FIRST)
        self.layer1, self.layer2, self.layer3 = stages
        self.last = last
        self.pool = global_average()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(self.last(x)))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    # Deal the channels of the groups out in turn: channel (group, k) goes to place (k, group).
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, stride, padding=1, groups=outputs, bias=False), nn.BatchNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _group_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    rest = [GroupUnit(outputs, outputs, 1, V1_GROUPS) for _ in range(blocks - 1)]
    return nn.Sequential(GroupUnit(inputs, outputs, 2, V1_GROUPS), *rest)


def _split_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(HalvingUnit(inputs, outputs), *[SplitUnit(outputs) for _ in range(blocks - 1)])


def shufflenetv1(num_classes: int, channels: int = 3) -> nn.Module:
    """ShuffleNetV1 with 3 groups: 949,258 parameters at 100 classes."""
    stages = [_group_stage(*rule) for rule in zip((FIRST, *V1_WIDTHS), V1_WIDTHS, V1_BLOCKS, strict=False)]
    return ShuffleNet(stages, nn.Identity(), V1_WIDTHS[-1], num_classes, channels)


def shufflenetv2(num_classes: int, channels: int = 3) -> nn.Module:
    """ShuffleNetV2 x 1: 1,355,528 parameters at 100 classes."""
    stages = [_split_stage(*rule) for rule in zip((FIRST, *V2_WIDTHS), V2_WIDTHS, V2_BLOCKS, strict=False)]
    last = nn.Sequential(nn.Conv2d(V2_WIDTHS[-1], V2_LAST, 1, bias=False), nn.BatchNorm2d(V2_LAST), nn.ReLU())
    return ShuffleNet(stages, last, V2_LAST, num_classes, channels)
