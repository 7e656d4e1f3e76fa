"""A rule that is more than a graph, and what it may see and use of the run that calls it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tutelage.graph.edge import Edge
from tutelage.system.distributed import World
from tutelage.types import Batch, Outputs


@runtime_checkable
class SplitView(Protocol):
    """The rows of one split: `data.source.Source` has what this asks for."""

    @property
    def ids(self) -> Tensor:
        """[N] int64."""
        ...

    @property
    def labels(self) -> Tensor:
        """[N] int64, -1 where there is none."""
        ...

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """One batch for each tensor of row numbers; without a draw, the plain images."""
        ...


@runtime_checkable
class DataView(Protocol):
    """The data that a run learns from and is judged on."""

    @property
    def train(self) -> SplitView:
        """What is learned from."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        ...

    @property
    def validation(self) -> SplitView:
        """What is held out."""
        ...


@runtime_checkable
class SettingsView(Protocol):
    """How a run trains, as far as a rule may ask."""

    @property
    def seed(self) -> int:
        """The seed of everything that is drawn."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows of a step, over all ranks and micro-batches."""
        ...

    @property
    def accumulate(self) -> int:
        """Micro-batches of a step."""
        ...


@runtime_checkable
class GraphView(Protocol):
    """The graph that a run trains."""

    @property
    def edges(self) -> Sequence[Edge]:
        """Its edges, in order."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """What learns or remembers, by the name of its node or edge."""
        ...


@runtime_checkable
class RunView(Protocol):
    """What a controller may use of a run: `engine.run.Run` has it all."""

    models: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    step: int
    micro: int
    steps_per_epoch: int

    @property
    def graph(self) -> GraphView:
        """The graph, with its parts."""
        ...

    @property
    def data(self) -> DataView:
        """The data of the run."""
        ...

    @property
    def settings(self) -> SettingsView:
        """How it trains."""
        ...

    @property
    def world(self) -> World:
        """This process among the ranks."""
        ...

    @property
    def runners(self) -> Mapping[str, nn.Module]:
        """Node -> what the loop calls for it."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        ...

    @property
    def draw(self) -> int:
        """The draw of the augmentation in the next step."""
        ...

    def logits(self, node: str, images: Tensor) -> Tensor:
        """What a network gives for this rank's own images, outside of the step's forward passes."""
        ...


class Controller(nn.Module):
    """A rule that is more than a graph. Its buffers are its state; the loop calls it twice in every step.

    With accumulation a step has several micro-batches, and each is a call. What happens every k epochs is a function
    of `run.step`, so that a resume at any step is exact.
    """

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """See this rank's own rows; return them, perhaps with more views in `inputs`."""
        return batch

    def before_losses(self, run: RunView, outputs: Outputs, weights: dict[str, float]) -> None:
        """See the outputs of all ranks; scale edges by changing `weights` in place."""

    def facts(self, run: RunView) -> dict[str, object]:
        """What is worth recording of it after an epoch, as JSON can hold it."""
        return {}
