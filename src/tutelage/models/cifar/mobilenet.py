"""MobileNetV2 at half width for CIFAR: Sandler et al., CVPR 2018 (arXiv:1801.04381).

The strides are those of the distillation literature at 32 px: the first convolution and two stages halve the map
and one stage that halves it in the paper does not, so that the last map is 2 x 2.

Taps at 32 px: `layer1` [B, 8, 16, 16], `layer2` [B, 12, 16, 16], `layer3` [B, 16, 8, 8], `layer4` [B, 32, 4, 4],
`layer5` [B, 48, 4, 4], `layer6` [B, 80, 2, 2], `layer7` [B, 160, 2, 2], `last` [B, 1280, 2, 2], `pool` [B, 1280].
"""

from torch import Tensor, nn

from tutelage.models.cifar.common import global_average, start_convolutions

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, width before halving, number of blocks, stride of the first) of each stage."""
LAST = 1280


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1: [B, inputs, H, W] -> [B, outputs, H / stride, ...].

    Unlike the paper, a stage of expansion 1 keeps its widening convolution, as the literature's network does.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.keeps_shape = stride == 1 and inputs == outputs
        self.widen = _convolution(inputs, wide, 1)
        self.filter = _convolution(wide, wide, 3, stride, groups=wide)
        self.narrow = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output: linear, no ReLU."""
        y = self.narrow(self.filter(self.widen(x)))
        return x + y if self.keeps_shape else y


class MobileNetV2(nn.Module):
    """Seven stages of inverted residuals, every width but the last halved."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = [16] + [width // 2 for _, width, _, _ in STAGES]
        stages = [_stage(widths[i], widths[i + 1], STAGES[i]) for i in range(len(STAGES))]
        self.first = _convolution(channels, widths[0], 3, stride=2)
        self.layer1, self.layer2, self.layer3, self.layer4, self.layer5, self.layer6, self.layer7 = stages
        self.last = _convolution(widths[-1], LAST, 1)
        self.pool = global_average()
        self.classifier = nn.Linear(LAST, num_classes)
        start_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, channels, H, W] -> logits [B, num_classes]."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.first(x)))))
        x = self.last(self.layer7(self.layer6(self.layer5(x))))
        return self.classifier(self.pool(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _stage(inputs: int, outputs: int, rule: tuple[int, int, int, int]) -> nn.Sequential:
    expansion, _, blocks, stride = rule
    rest = [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1)]
    return nn.Sequential(InvertedResidual(inputs, outputs, stride, expansion), *rest)


def mobilenetv2(num_classes: int, channels: int = 3) -> nn.Module:
    """MobileNetV2 x 0.5 for 32 px: 812,836 parameters at 100 classes."""
    return MobileNetV2(num_classes, channels)
