"""What is exported: one network, its preparation and its class names, as one module from images to logits."""

import json
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.decoding import Preparation
from tutelage.errors import ModelError
from tutelage.graph.taps import logits_of
from tutelage.types import Logits

Format = Literal["safetensors", "pt2", "onnx", "pte"]
VERSION = "tutelage-export-1"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
ROOM = 2 * 2**20
"""Bytes that a graph and its words may take beside the weights."""


@dataclass(frozen=True)
class Student:
    """A trained network in eval mode, and what one must know to use it.

    `node` is its name in its run; `prepared` how an image file becomes its input.
    """

    network: nn.Module
    classes: tuple[str, ...]
    prepared: Preparation
    node: str

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True)
class Choice:
    """Which file is wanted: its format, with 8-bit numbers, with the resize inside."""

    format: Format
    int8: bool = False
    resize: bool = False


def about(student: Student, choice: Choice) -> dict[str, object]:
    """What the file says of itself, as JSON: all that is needed to get from an image file to a label."""
    channels, height, width = student.prepared.shape
    sides = ["any", "any"] if choice.resize else [height, width]
    return {"format": VERSION, "node": student.node, "classes": list(student.classes),
            "preprocessing": student.prepared.as_json(), "resize": choice.resize, "int8": choice.int8,
            "parameters": student.parameters,
            "input": {"name": "images", "shape": ["batch", channels, *sides], "type": "float32", "range": [0.0, 1.0]},
            "output": {"name": "logits", "shape": ["batch", len(student.classes)], "type": "float32"}}


def about_text(student: Student, choice: Choice) -> str:
    """`about` as it is written into the file."""
    return json.dumps(about(student, choice))


class Prepare(nn.Module):
    """Images [B, C, H, W] in [0, 1] of any size -> what `decoding.pixels` makes of each.

    Pillow's bilinear scaling as two products with matrices of triangle weights, each rounded to whole levels as
    Pillow does it; every size is read from the images, by operations that all formats know. Levels differ from
    Pillow's by 1 of 255 at most: in a few pixels of a hundred, where a sum falls on a half, and in up to a quarter of
    them where Pillow (from 13 on) scales a tall image along its height first.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, how: Preparation) -> None:
        super().__init__()
        self.how = how
        for name, side in zip(("rows", "columns"), how.size, strict=True):
            self.register_buffer(name, torch.arange(side) + 0.5, persistent=False)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The central parts: [B, C, height + 2 pad, width + 2 pad] of the crop, in [0, 1]."""
        (tall, wide), (high, broad) = self.how.size, self.how.covers
        down, across = (torch.ones_like(line).cumsum(0) for line in (images[0, 0, :, 0], images[0, 0, 0, :]))
        height = torch.minimum(down[-1], across[-1] * (high / broad)) * (tall / high)
        width = torch.minimum(down[-1] * (broad / high), across[-1]) * (wide / broad)
        levels = (images * 255).round()
        levels = _rounded(torch.matmul(levels, _weights(across, width, self.columns).T))
        levels = _rounded(torch.matmul(_weights(down, height, self.rows), levels))
        return nn.functional.pad(levels / 255, [self.how.pad] * 4)


class Shipped(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> logits [B, classes], and nothing beside."""

    def __init__(self, student: Student, resize: bool) -> None:
        super().__init__()
        self.prepare = Prepare(student.prepared) if resize else nn.Identity()
        self.network = student.network

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Logits:
        """Logits alone, whatever else the network returns."""
        return logits_of(self.network(self.prepare(images)))


def require_alive(student: Student) -> None:
    """Refuse a network with a norm that lets nothing through: an exporter folds its branch away, and every test agrees.

    Networks that were never trained begin so (`zero_init_last`).
    """
    dead = [name for name, module in student.network.named_modules()
            if isinstance(module, NORMS) and module.weight is not None and not bool(module.weight.any())]
    if dead:
        more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
        raise ModelError("whole branches of this network do nothing: the gamma of a norm is all zero",
                         where=f"network {student.node!r}", found=", ".join(dead[:8]) + more,
                         expected="trained weights", fix="train it before it is exported")
    assert not any(module.training for module in student.network.modules()), "an export is of a network in eval mode"


def require_whole(student: Student, choice: Choice, size: int) -> None:
    """Refuse a file that is too small, or far too large, for so many parameters."""
    width = 1 if choice.int8 else 4
    buffers = sum(buffer.numel() for buffer in student.network.buffers())
    written = student.parameters
    if choice.format == "safetensors":  # under each of its names, for whoever loads it knows the network's names alone
        written = sum(p.numel() for _, p in student.network.named_parameters(remove_duplicate=False))
    least = int(0.9 * width * student.parameters)
    most = int(1.25 * width * written) + 4 * buffers + ROOM
    if not least <= size <= most:
        raise ModelError("the exported file has not the size of this network", where=f"network {student.node!r}",
                         found=f"{size} bytes for {student.parameters} parameters", expected=f"{least} .. {most} bytes",
                         fix="another --format; please report it with the network's name")


def _weights(numbers: Tensor, side: Tensor, places: Tensor) -> Tensor:
    """[new, old]: how much each old pixel counts in each new one; `numbers` are 1 .. old, `places` the new centres."""
    scale = side / len(places)
    centres = (numbers[-1] - side) / 2 + places * scale
    gaps = (numbers - 0.5)[None] - centres[:, None]
    weights = (1 - gaps.abs() / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _rounded(levels: Tensor) -> Tensor:
    # A little over the half: sums that fall on it go up, as Pillow's do, whatever order a runtime adds them in.
    return (levels + (0.5 + 2**-10)).floor().clamp(0, 255)
