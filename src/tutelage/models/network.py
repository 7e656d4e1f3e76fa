"""A network together with its normalisation, so that every network of a run takes the same images in [0, 1].

What is no image is scaled by its data, and goes to the network as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.graph.taps import logits_of
from tutelage.models.architecture import KNOWN, Architecture
from tutelage.models.dense_boxes import ABSENT, LEAD
from tutelage.models.wrappers import read_wrapped
from tutelage.types import View


@runtime_checkable
class TakesRegions(Protocol):
    """A network that says something of the regions of a view, besides its images."""

    takes_regions: bool


@runtime_checkable
class TakesFused(Protocol):
    """A network that gives the fused images of a view."""

    takes_fused: bool


class Network(nn.Module):
    """Images [B, channels, H, W] in [0, 1] -> what `body` gives on (images - mean) / std.

    Of a view of several tensors the one called `images` is normalised too. Other tensors, such as series
    [B, channels, L] alone or with their mask, reach `body` as they are. What it gives is logits [B, classes], a map of
    them [B, classes, h, w], boxes with their logits [B, places, 9 + classes] as `dense_boxes` has them, or a mapping
    with the key "logits". `mean` and `std` are buffers [1, C, 1, 1] that are not saved with the weights. Where C is 3
    and the data are grey, the grey channel is repeated. `columns`, if any, are the outputs of `body` that are the
    data's classes, in the data's order: the logits are cut to them. -1 stands for a class that `body` does not know,
    which boxes may have: its logits are `dense_boxes.ABSENT`. `body_classes` are the names of all outputs of `body`.
    """

    mean: Tensor
    std: Tensor
    columns: Tensor | None

    def __init__(self, body: nn.Module, architecture: Architecture, *, mean: tuple[float, ...],
                 std: tuple[float, ...], channels: int, body_classes: tuple[str, ...],
                 columns: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.body = body
        self.architecture = architecture
        self.channels = channels
        self.body_classes = body_classes
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        cut = None if columns is None else torch.tensor(columns)
        self.register_buffer("columns", cut, persistent=False)
        self.takes_regions = isinstance(body, TakesRegions)
        self.takes_fused = isinstance(body, TakesFused)
        self.knows_some = columns is not None and -1 in columns

    def forward(self, plain: Tensor | None = None, /, **view: Tensor) -> Tensor | Mapping[str, Any]:
        """Logits [B, classes], or the body's mapping with such logits, of a tensor, or of a view's tensors by name."""
        if "images" in view:
            view["images"] = self._normalised(view["images"])
            if not self.takes_regions:  # what only teachers of two stages are asked about
                view.pop("regions", None)
            if not self.takes_fused:  # what a folder of fused images in the place of a teacher has
                view.pop("fused", None)
            if len(view) == 1:
                output = self.body(view["images"])
                return output if self.columns is None else _cut(output, self.columns, self.knows_some)
        output = self.body(**view) if plain is None else self.body(self._normalised(plain))
        return output if self.columns is None else _cut(output, self.columns, self.knows_some)

    def _normalised(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            image = images.dim() == 4
            raise ModelError(f"the {'images' if image else 'data'} have another number of channels than the network",
                             where=self.architecture.arch, found=f"{images.shape[1]} channels",
                             expected=f"{self.channels} channels",
                             fix="let the data set convert them: grey is 1 channel, colour is 3" if image else None)
        return (images - self.mean) / self.std if images.dim() == 4 else images

    def read_taps(self, inputs: View, taps: Sequence[str]) -> dict[str, Tensor]:
        """Tap -> tensor, in one pass: layers by their names in `body`, and what `wrappers` add."""
        return read_wrapped(self, self.body, inputs, taps)


def body_of(network: nn.Module) -> nn.Module:
    """The plain network, without normalisation; a user's own module is that itself."""
    return network.body if isinstance(network, Network) else network


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """What is saved of a network: the state of the plain network, under the names that timm's own users know."""
    return body_of(network).state_dict()


def preprocessing_of(network: nn.Module) -> dict[str, Any]:
    """Mean, std and channels as plain numbers; of a user's own module nothing is known, so it is empty."""
    if not isinstance(network, Network):
        return {}
    return {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist(),
            "channels": network.channels}


def _cut(output: object, columns: Tensor, knows_some: bool) -> Tensor | dict[str, Any]:
    logits = logits_of(output)
    if logits.dim() == 3:  # boxes: the classes are the last columns
        classes = logits[..., LEAD:].index_select(-1, columns.clamp(min=0))
        classes = torch.where(columns >= 0, classes, ABSENT) if knows_some else classes
        cut = torch.cat([logits[..., :LEAD], classes], -1)
    elif knows_some:
        raise ModelError("only a detector may know some of the data's classes", found=f'classes = "{KNOWN}"',
                         expected='classes = "by-name", and a network that knows them all')
    else:
        cut = logits.index_select(1, columns)
    return {**output, "logits": cut} if isinstance(output, Mapping) else cut
