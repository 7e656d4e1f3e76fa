"""A small FCOS: Tian, Shen, Chen & He, "FCOS: fully convolutional one-stage object detection", ICCV 2019.

A backbone halves the image again and again; a neck adds what deeper maps know to the larger ones; a head that all maps
share says of every cell which box it lies in, how central, and of which class. Other than in the paper there are few
and narrow layers, norms are BatchNorms, of each map its own, and distances are softplus(s x) with a learned s for each
map. Images of any size will do: they are padded at their lower and right edge to a multiple of the largest stride, and
cells that begin in the padding are left out.

Taps, for strides (8, 16, 32) and an image whose sides are multiples of 32: `neck.outputs.0` [B, 2 width, H / 8, W / 8],
`neck.outputs.1` [B, 2 width, H / 16, W / 16] and so on, and `backbone.stages.I` of the tiny one [B, ..., H / 2^(I + 1),
W / 2^(I + 1)].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.models.cifar.common import start_convolutions
from tutelage.models.classifier import name_classifier
from tutelage.models.dense_boxes import Packed, grid_places, pack_places

STRIDES = (8, 16, 32)
RARE = 0.01
"""The probability of each class at each place before training (Lin et al. 2017): else negatives drown everything."""


class FCOS(nn.Module):
    """A backbone that gives maps [B, D_i, H / stride_i, W / stride_i], a neck of `width` channels, and a head."""

    def __init__(self, backbone: nn.Module, planes: Sequence[int], strides: tuple[int, ...], width: int,
                 num_classes: int, corners: bool = False) -> None:
        super().__init__()
        self.corners = corners
        self.backbone = backbone
        self.neck = _Neck(planes, width)
        self.head = _Head(width, len(strides), num_classes)
        self.strides = strides
        start_convolutions(self.neck)
        self.head.start()
        name_classifier(self, ["head.classes"])

    def forward(self, x: Tensor) -> Packed:
        """Normalised images [B, channels, H, W] -> boxes and logits [B, places, 9 + num_classes]."""
        height, width = x.shape[2:]
        right, down = -width % self.strides[-1], -height % self.strides[-1]
        maps = self.neck(self.backbone(F.pad(x, (0, right, 0, down), mode="replicate") if right or down else x))
        cells = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        distances, centres, logits = self.head(maps, cells)
        places = grid_places((height, width), self.strides, x.device, corners=self.corners)
        return pack_places(places, distances, centres, logits)


def tiny_fcos(num_classes: int, channels: int = 3, *, width: int = 16, depth: int = 2,
              strides: Sequence[int] = STRIDES, corners: bool = False) -> FCOS:
    """An FCOS of 270 thousand weights with the defaults, 68 thousand with `width` 8.

    The first map has `width` channels, the second 2 `width`, all others 4 `width`, the neck 2 `width`; each map but the
    first is made by `depth` convolutions of 3 x 3. With `corners` and strides (8, 16, 32, 64, 128) the places are those
    of torchvision's FCOS, where the sides of images are multiples of 128: it can teach this network.
    """
    for name, value in (("width", width), ("depth", depth)):
        if not isinstance(value, int) or value < 1:
            raise _refused(name, value, "1 or more")
    backbone = _Backbone(channels, width, depth, rising(strides))
    start_convolutions(backbone)
    return FCOS(backbone, backbone.planes, tuple(strides), 2 * width, num_classes, corners)


def rising(strides: Sequence[int]) -> tuple[int, ...]:
    """Strides as a tuple; UsageError if they are no rising powers of two."""
    found = tuple(strides) if isinstance(strides, list | tuple) else ()
    powers = [isinstance(value, int) and value >= 2 and value & (value - 1) == 0 for value in found]
    if not powers or not all(powers) or list(found) != sorted(set(found)):
        raise _refused("strides", strides, "rising powers of two, such as [8, 16, 32]")
    return found


class _Backbone(nn.Module):
    def __init__(self, channels: int, width: int, depth: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        halvings = int(math.log2(strides[-1]))
        widths = [channels, *(width * min(2**level, 4) for level in range(halvings))]
        self.stages = nn.ModuleList(_stage(widths[level], widths[level + 1], depth if level else 1)
                                    for level in range(halvings))
        self.kept = [int(math.log2(stride)) - 1 for stride in strides]
        self.planes = [widths[level + 1] for level in self.kept]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[level] for level in self.kept]


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(layer for number in range(depth) for layer in (
        nn.Conv2d(outputs if number else inputs, outputs, 3, 1 if number else 2, padding=1, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU())))


class _Neck(nn.Module):
    """A feature pyramid (Lin et al. 2017) without convolutions after its sums."""

    def __init__(self, planes: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))
                                      for inputs in planes)
        self.outputs = nn.ModuleList(nn.ReLU() for _ in planes)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(len(sums) - 2, -1, -1):
            sums[level] = sums[level] + F.interpolate(sums[level + 1], size=sums[level].shape[2:], mode="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]


class _Tower(nn.Module):
    """Two convolutions that all levels share, with norms of each level's own."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2)) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = []
        for x, norms in zip(maps, self.norms, strict=True):
            for convolution, norm in zip(self.convolutions, norms, strict=True):  # pyright: ignore[reportArgumentType]
                x = F.relu(norm(convolution(x)))
            made.append(x)
        return made


class _Head(nn.Module):
    def __init__(self, width: int, levels: int, num_classes: int) -> None:
        super().__init__()
        self.class_tower, self.box_tower = _Tower(width, levels), _Tower(width, levels)
        self.classes = nn.Conv2d(width, num_classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 4, 3, padding=1)
        self.centre = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))

    def start(self) -> None:
        start_convolutions(self)
        for layer in (self.classes, self.sides, self.centre):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.classes.bias, -math.log((1 - RARE) / RARE))  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Sequence[Tensor], cells: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Distances [B, places, 4], centres [B, places] and logits [B, places, classes] of the first cells of maps."""
        sides, centres, logits = [], [], []
        for of_classes, of_boxes, scale, size in zip(self.class_tower(maps), self.box_tower(maps), self.scales, cells,
                                                     strict=True):
            sides.append(F.softplus(_rows(self.sides(of_boxes), size) * scale))
            centres.append(_rows(self.centre(of_boxes), size))
            logits.append(_rows(self.classes(of_classes), size))
        return torch.cat(sides, 1), torch.cat(centres, 1)[..., 0], torch.cat(logits, 1)


def _rows(made: Tensor, size: tuple[int, int]) -> Tensor:
    """The first rows and columns of a map [B, D, h, w] -> [B, h w, D], row by row."""
    return made[:, :, :size[0], :size[1]].flatten(2).transpose(1, 2)


def _refused(name: str, value: object, expected: str) -> UsageError:
    return UsageError("an option of the network that cannot be", where=f"options, {name}", found=value,
                      expected=expected)
