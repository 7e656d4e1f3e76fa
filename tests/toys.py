"""Tiny networks, data and parts for tests of the engine: a whole run takes a fraction of a second."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage import Computed, Controller, Edge, Ema, Frozen, Graph, Trained
from tutelage.data import Data, from_tensors
from tutelage.engine.loop import start
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.engine.state import capture
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.modules import Projected
from tutelage.graph.schedules import ramp_up
from tutelage.system.distributed import World
from tutelage.system.files import pack, unpack
from tutelage.types import Batch

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)


def data(rows: int = 48, **options) -> Data:
    """Images whose class shows in their brightness, 4 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 4
    images = (torch.rand(rows, 1, 8, 8, generator=generator) * 100 + labels[:, None, None, None] * 35).to(torch.uint8)
    return from_tensors((images, labels), validation=0.25, augment="crop-flip", **options)


def network(seed: int, *, width: int = 4, norm: bool = True, classes: int = 4) -> nn.Sequential:
    """Convolution, norm, ReLU, dropout, linear: everything that has state or draws."""
    torch.manual_seed(seed)
    norms = [nn.BatchNorm2d(width)] if norm else []
    return nn.Sequential(nn.Conv2d(1, width, 3, stride=2), *norms, nn.ReLU(), nn.Dropout(0.2 if norm else 0.0),
                         nn.Flatten(), nn.Linear(width * 9, classes))


class RowByRow(nn.Linear):
    """A linear layer that computes every row alike. In a matrix product the last bits may depend on a row's place."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear has for it
        """[B, inputs] -> [B, outputs]."""
        return (input[:, None] * self.weight).sum(-1) + self.bias


class Memory(nn.Module):
    """A divergence that learns a scale and remembers a running mean, in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        rows = self.scale.square() * kl(student, teacher)
        if self.training:
            self.mean.lerp_(rows.detach().mean(), 0.1)
            self.calls += 1
        return rows * (1 + self.mean)


class Gate(nn.Module):
    """A computed node that learns: a mixture of two networks' logits, and how sure it is of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(1)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        share = self.linear(torch.cat([first, second], -1)).sigmoid()
        return {"logits": share * first + (1 - share) * second, "w": share[:, 0]}


class Switch(Controller):
    """Counts the confident batches; while few were, the edges into `node` wait."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node
        self.register_buffer("confident", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def before_forward(self, run: Run, batch: Batch) -> Batch:
        self.seen += len(batch.ids)
        return batch

    def before_losses(self, run: Run, outputs: dict[str, Tensor], weights: dict[str, float]) -> None:
        self.confident += int(outputs["a"].softmax(-1).amax(-1).mean() > 0.3)
        if self.confident < 3:
            for edge in run.graph.edges:
                if edge.student == self.node:
                    weights[edge.name] = 0.0


def everything() -> Graph:
    """A graph with every kind of node, a part that learns and remembers, a schedule, a tap, and a controller."""
    nodes = {"t": Frozen(), "a": Trained(), "b": Trained(), "slow": Ema("a", 0.9), "stale": Ema("b", 0.0, every=3),
             "gate": Computed(("a", "b"), Gate())}
    edges = [
        Edge("labels", "a", cross_entropy), Edge("labels", "b", partial(cross_entropy, smoothing=0.1)),
        Edge("labels", "gate", cross_entropy, weight=0.5),
        Edge("t", "a", kl, weight=0.5, temperature=4.0, sample_weight="gate.w"),
        Edge("t", "b", Memory(), weight=partial(ramp_up, to=0.5, until=0.5)),
        Edge("slow", "a", mse, weight=0.1), Edge("stale", "a", kl, weight=0.2, temperature=2.0),
        Edge("t.0", "b.0", Projected(mse), weight=0.1),
    ]
    return Graph(nodes, edges, {"switch": Switch("b")})


def models(norm: bool = True) -> dict[str, nn.Module]:
    return {"t": network(1, width=6, norm=norm), "a": network(2, norm=norm), "b": network(3, width=5, norm=norm)}


def settings(epochs: int = 3, **options) -> Settings:
    options = {"batch_size": 12, "warmup_epochs": int(epochs > 1), **options}
    return Settings(epochs, options.pop("optimizer", SGD), **options)


def run(graph: Graph | None = None, networks: dict[str, nn.Module] | None = None, **options) -> Run:
    return start(graph or everything(), networks or models(), options.pop("data", None) or data(), settings(**options),
                 World(torch.device("cpu")))


@dataclass
class Rows:
    """Plain rows as a source, which notes what it was asked for."""

    inputs: Tensor
    labels: Tensor
    asked: list[Tensor] = field(default_factory=list)

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.labels)) + 1000

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        assert draw is None, "evaluation wants the plain images"
        assert tuple(views) == ("",)
        for rows in plan:
            self.asked.append(rows)
            yield Batch(self.inputs[rows], self.labels[rows], self.ids[rows])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torch_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> float:
    """What the textbooks write: batchmean, T squared."""
    return temperature**2 * F.kl_div((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1),
                                     reduction="batchmean").item()


def saved(run: Run) -> dict[str, dict[str, Tensor]]:
    """The state of a run, gone through bytes."""
    return {name: unpack(pack(tensors), name)[0] for name, tensors in capture(run).items()}


def predictions(seed: int = 0, rows: int = 500, classes: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), labels] += 1.5
    return logits, labels
