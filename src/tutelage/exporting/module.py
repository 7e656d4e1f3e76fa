"""What is exported: one network, its preparation and its class names, as one module from images or series to logits."""

import json
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tutelage.data.decoding import Preparation
from tutelage.data.series_scaling import SeriesScaling
from tutelage.data.table_scaling import PanelScaling, TableScaling
from tutelage.data.text_preparation import TextPreparation
from tutelage.errors import ModelError
from tutelage.exporting.boxes import about_outputs, best_placed
from tutelage.exporting.text import about_text_inputs, text_inputs
from tutelage.graph.taps import call, logits_of
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.detection.task import ANCHOR_DETECTION, DETECTION
from tutelage.tasks.forecast.rows import gaussians_of
from tutelage.tasks.fusion.task import FUSION
from tutelage.tasks.segmentation.rows import resized
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.types import View

Format = Literal["safetensors", "pt2", "onnx", "pte"]
VERSION = "tutelage-export-1"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FUSED = "fused"
"""What the output of a network that fuses is called."""
ROOM = 2 * 2**20
"""Bytes that a graph and its words may take beside the weights."""


@dataclass(frozen=True)
class Student:
    """A trained network in eval mode, and what one must know to use it.

    `node` is its name in its run; `prepared` how an image file, or a series, becomes its input; `task` the task's name.
    """

    network: nn.Module
    classes: tuple[str, ...]
    prepared: Preparation | SeriesScaling | PanelScaling | TableScaling | TextPreparation
    node: str
    task: str = CLASSIFICATION.name

    @property
    def images(self) -> Preparation:
        """How images are prepared, of a network for images."""
        found = self.prepared.image if isinstance(self.prepared, TableScaling) else self.prepared
        assert isinstance(found, Preparation), "a network for series, or for text"
        return found

    @property
    def forecasts(self) -> bool:
        """Whether it gives numbers with their spread."""
        return isinstance(self.prepared, PanelScaling | TableScaling)

    @property
    def takes_values(self) -> tuple[int, ...] | None:
        """The shape of the windows, or rows of a table, that it takes; None of images and of series of any length."""
        if isinstance(self.prepared, PanelScaling | TableScaling) and len(self.prepared.shape) == 2:
            return self.prepared.shape
        return None

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width of the map of logits, where it gives a map: those of what it sees."""
        return self.images.shape[1:] if self.task == SEGMENTATION.name else None

    @property
    def detects(self) -> bool:
        """Whether it gives boxes."""
        return self.task in (DETECTION.name, ANCHOR_DETECTION.name)

    @property
    def fuses(self) -> bool:
        """Whether it gives an image, of any size, of several."""
        return self.task == FUSION.name

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
    task = {} if student.task == CLASSIFICATION.name else {"task": student.task}
    places = ["places"] if isinstance(student.prepared, TextPreparation) and student.task != "sentences" else []
    output: dict[str, object] = {"output": {"name": "logits", "shape": ["batch", *places, len(student.classes),
                                                                        *(student.map_size or ())], "type": "float32"}}
    if student.forecasts:
        output = {"output": {"name": "forecast", "shape": ["batch", len(student.classes), 2], "type": "float32",
                             "holds": "mean, standard deviation; scaled as preprocessing says"}}
    if student.fuses:
        output = {"output": {"name": FUSED, "shape": ["batch", 1, "any", "any"], "type": "float32",
                             "range": [0.0, 1.0]}}
    return {"format": VERSION, "node": student.node, "classes": list(student.classes), **task,
            "preprocessing": student.prepared.as_json(), "resize": choice.resize, "int8": choice.int8,
            "parameters": student.parameters, **_inputs(student, choice),
            **(about_outputs(len(student.classes), choice.format == "onnx") if student.detects else output)}


def input_names(student: Student) -> list[str]:
    """What the inputs of the graph are called, in their order."""
    if student.takes_values is not None:
        return ["values"]
    if isinstance(student.prepared, TextPreparation):
        return text_inputs(student.prepared)
    if not isinstance(student.prepared, SeriesScaling):
        return ["images"]
    return ["values", "mask"] if student.prepared.masked else ["values"]


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


def said_of(network: nn.Module, view: View, size: tuple[int, int] | None) -> Tensor:
    """What it says of a view: logits [B, classes], packed boxes, or maps [B, classes, height, width] of a `size`."""
    logits = logits_of(call(network, view))
    return logits if size is None else resized(logits, size)


class Shipped(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> logits [B, classes], or a map of them, and nothing beside."""

    def __init__(self, student: Student, resize: bool) -> None:
        super().__init__()
        self.prepare = Prepare(student.images) if resize else nn.Identity()
        self.network = student.network
        self.size = student.map_size

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Logits alone, whatever else the network returns."""
        return said_of(self.network, self.prepare(images), self.size)


class ShippedBoxes(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> the box of each place [B, P, 4], and its scores [B, classes, P]."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.network = student.network
        self.size = student.images.size

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor]:
        """What suppression takes."""
        return best_placed(said_of(self.network, images, None), self.size)


class ShippedSeries(nn.Module):
    """Values [B, C, L] of series and, where the network has it, their mask [B, L] -> logits [B, classes]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: Float[Tensor, "batch channels steps"],
                mask: Bool[Tensor, "batch steps"] | None = None) -> Tensor:
        """Logits alone, whatever else the network returns."""
        return said_of(self.network, values if mask is None else {"values": values, "mask": mask}, None)


class ShippedNumbers(nn.Module):
    """Windows, rows or images -> mean and standard deviation of each step or target [B, K, 2]."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network = network
        self.count = count

    def forward(self, values: Float[Tensor, "batch *any"]) -> Tensor:
        """What the rows of the task are."""
        return gaussians_of(said_of(self.network, values, None), self.count)


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


def _inputs(student: Student, choice: Choice) -> dict[str, object]:
    """Each input of the graph as JSON: "input" and, of series of unlike lengths, "mask", of words "places"."""
    if isinstance(student.prepared, TextPreparation):
        return about_text_inputs(student.prepared)
    if isinstance(student.prepared, SeriesScaling):
        values = {"name": "values", "shape": ["batch", student.prepared.channels, "length"], "type": "float32"}
        mask = {"name": "mask", "shape": ["batch", "length"], "type": "bool"}
        return {"input": values, **({"mask": mask} if student.prepared.masked else {})}
    if student.takes_values is not None:
        return {"input": {"name": "values", "shape": ["batch", *student.takes_values], "type": "float32"}}
    channels, height, width = student.images.shape
    sides = ["any", "any"] if choice.resize or student.fuses else [height, width]
    return {"input": {"name": "images", "shape": ["batch", channels, *sides], "type": "float32", "range": [0.0, 1.0]}}


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
