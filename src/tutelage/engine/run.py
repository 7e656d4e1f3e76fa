"""The state of a run: what the loop moves from step to step, and what an epoch brought."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tutelage.data.source import Data
from tutelage.engine.cuda_graph import CapturedStep
from tutelage.engine.monitor import Guard, Means
from tutelage.engine.precision import Execution, run_network
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.store import TeacherCache
from tutelage.graph import objective
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.system.distributed import World
from tutelage.tasks.classification.skill import Mark
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.named import task_of
from tutelage.tasks.task import Evidence, Score, Task
from tutelage.types import BatchLabels, Outputs, Reader, Scores, View

Losses = Callable[[Graph, Outputs, BatchLabels, Mapping[str, float]], dict[str, Tensor]]


SHOWN = 8
"""Losses of so many edges are told one by one after an epoch; those of more, by the nodes that they are between."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch brought: mean loss by edge, and on validation data the first score of the task by node.

    Of classification that is the accuracy, in [0, 1]. `samples` is what rows are called.
    """

    number: int
    step: int
    losses: Mapping[str, float]
    accuracy: Mapping[str, float]
    seconds: float
    images_per_second: float
    score: Score = CLASSIFICATION.scores[0]
    samples: str = "images"

    def __str__(self) -> str:
        accuracy = "  ".join(f"{node} {self.score.text(share)}" for node, share in self.accuracy.items())
        losses = self.losses if len(self.losses) <= SHOWN else _by_nodes(self.losses)
        loss = "  ".join(f"{edge} {value:.4f}" for edge, value in losses.items())
        return f"epoch {self.number}  {accuracy}  |  {loss}  |  {self.images_per_second:.0f} {self.samples}/s"


def _by_nodes(losses: Mapping[str, float]) -> dict[str, float]:
    """The losses of all edges between two nodes together."""
    sums: dict[str, float] = {}
    for name, value in losses.items():
        teacher, _, student = name.partition(":")[0].partition("->")
        pair = f"{parse_end(teacher).node}->{parse_end(student).node}"
        sums[pair] = sums.get(pair, 0.0) + value
    return sums


@dataclass
class Run:
    """The state of a run, as a controller sees it."""

    graph: Graph
    models: dict[str, nn.Module]
    data: Data
    settings: Settings
    world: World
    optimizers: dict[str, torch.optim.Optimizer]
    steps_per_epoch: int
    step: int = 0
    micro: int = 0
    choices: dict[str, Execution] = field(default_factory=dict)
    runners: dict[str, nn.Module] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    losses: Losses = objective.losses
    cache: TeacherCache | None = None
    recording: CapturedStep | None = None
    predicted: dict[str, Evidence] | None = None
    frozen: dict[str, str] = field(default_factory=dict)
    best: dict[str, dict] = field(default_factory=dict)
    scores: Scores = field(default_factory=lambda: Scores(nodes={}, pairs={}))
    marks: dict[str, Mark] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)
    means: Means = field(default_factory=Means)
    healthy: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.bool))

    @property
    def steps(self) -> int:
        """How many steps the whole run has."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def draw(self) -> int:
        """The draw of the augmentation in the next step."""
        return self.epoch % self.settings.draws

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1)."""
        return self.step / self.steps

    @property
    def task(self) -> Task:
        """What the networks are to say of a row."""
        return task_of(self.data)

    @property
    def first_scores(self) -> dict[str, float]:
        """Node -> the first score of the task, as of the last epoch."""
        key = self.task.scores[0].key
        return {node: scores[key] for node, scores in self.scores["nodes"].items()}

    @property
    def learners(self) -> dict[str, nn.Module]:
        """What has an optimizer: trained networks and parts, by name."""
        return {name: self.models[name] for name in self.graph.named(Trained)} | self.graph.parts()

    def logits(self, node: str, images: View) -> Tensor:
        """What a network says of this rank's own images outside of the step's forward passes, in the mode it is in."""
        return run_network(self.models[node], self.choices[node], images, [""])[""]
