"""`tutelage analyse complexity`: how hard what each supervisor in a run says is for a student's kernel.

One `Supervision` is one student with one set of targets, `Analysis` all of a run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.analysis.ntk import (
    JITTER,
    KERNELS,
    Complexity,
    complexities,
    fill_batch_norms,
    hard_targets,
    ntk,
    soft_targets,
)
from tutelage.errors import DataError, UsageError, unknown
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.graph.taps import logits_of
from tutelage.models.build import build
from tutelage.recipes.trained_run import FinishedRun, finished_run
from tutelage.system.distributed import World
from tutelage.system.random import derive, permutation
from tutelage.types import one_tensor

SHUFFLES = 10
"""How many random orders of the labels "labels, shuffled" is the mean of."""
WEIGHTS = ("start", "end")


@dataclass(frozen=True)
class AnalysisSettings:
    """Which kernel is analysed, and on what.

    kernel: one of `ntk.KERNELS`.
    weights: the student's at the "start" of the run, or at its "end".
    images, on: so many labelled images of this split, chosen by `seed`, as they are.
    temperatures: that divide what the supervisors say, which they do with the weights of the end.
    """

    kernel: str = "shared"
    weights: str = "start"
    images: int = 128
    on: str = "train"
    temperatures: tuple[float, ...] = (1.0, 4.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for option, kind, value, known in (("--kernel", "kernel", self.kernel, KERNELS),
                                           ("--weights", "weights", self.weights, WEIGHTS),
                                           ("--on", "split", self.on, ("train", "validation", "test"))):
            if value not in known:
                raise unknown(kind, value, known, where=option)
        if self.images < 1:
            raise UsageError("too few images", where="--images", found=self.images, expected="1 or more")
        if not self.temperatures or not all(0 < one < float("inf") for one in self.temperatures):
            raise UsageError("a temperature must be a number above 0", where="--temperatures",
                             found=", ".join(map(str, self.temperatures)) or "none")


@dataclass(frozen=True)
class Supervision:
    """A student with one set of targets: "labels", "labels, shuffled", or what a node says at a temperature.

    `right` is the share of images whose target's largest entry is the label. `smallest` is of the student's kernel, see
    `ntk.Complexity`.
    """

    student: str
    targets: str
    temperature: float | None
    right: float
    complexity: float
    adjusted: float
    smallest: float


@dataclass(frozen=True)
class Analysis:
    """The supervisions of a run, student by student."""

    run: str
    settings: AnalysisSettings
    rows: tuple[Supervision, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def analyse(run: Path, settings: AnalysisSettings, student: str | None = None, plugins: Sequence[str] = (),
            ) -> tuple[Analysis, tuple[str, ...]]:
    """The analysis of a finished run, of this student or of all that learn, and what is worth knowing of it."""
    opened = finished_run(run, World(torch.device("cpu")), plugins)
    trained = opened.graph.named(Trained)
    if student is not None and student not in trained:
        raise unknown("trained network", student, trained, where="--node")
    images, labels = _images(opened, settings)
    rows = [row for name in ([student] if student else trained)
            for row in _supervisions(opened, name, images, labels, settings)]
    poor = sorted({row.student for row in rows if row.smallest < JITTER})
    notes = [f"the kernel of {name} is singular or nearly so: {JITTER:g} of its mean eigenvalue, added to its "
             "diagonal, bounds what is found" for name in poor]
    return Analysis(str(run), settings, tuple(rows)), (*opened.notes, *notes)


def supervisors(graph: Graph, student: str) -> list[str]:
    """The other networks that a student learns from, also through computed nodes, in the order of the edges."""
    found = [name for edge in graph.edges if student in _networks(graph, edge.student)
             for name in _networks(graph, edge.teacher)]
    return [name for name in dict.fromkeys(found) if name != student]


def _networks(graph: Graph, end: str) -> list[str]:
    nodes = [parse_end(one).node for one in graph.order([end])]
    return [name for name in nodes if isinstance(graph.nodes.get(name), Trained | Frozen | Ema)]


def _images(opened: FinishedRun, settings: AnalysisSettings) -> tuple[Tensor, Tensor]:
    source = opened.split(settings.on)
    labelled = (source.labels >= 0).nonzero()[:, 0]
    if len(labelled) < settings.images:
        raise DataError(f"fewer labelled images of {settings.on} than asked for", found=len(labelled),
                        expected=settings.images, fix=f"--images {len(labelled)}")
    rows = labelled[permutation(derive(settings.seed, "complexity"), len(labelled))[: settings.images]]
    batch = next(iter(source.batches([rows], draw=None)))
    return one_tensor(batch.inputs), one_tensor(batch.labels)


def _supervisions(opened: FinishedRun, student: str, images: Tensor, labels: Tensor,
                  settings: AnalysisSettings) -> list[Supervision]:
    classes = len(opened.data.classes)
    kernel = ntk(_weights(opened, student, images, settings.weights), images, settings.kernel)
    asked: list[tuple[str, float | None, Tensor]] = [("labels", None, hard_targets(labels, classes))]
    for name in supervisors(opened.graph, student):
        logits = _logits(opened.models[name], images)
        if logits.shape == (len(images), classes):
            asked += [(name, one, soft_targets(logits, one)) for one in settings.temperatures]
    orders = [permutation(derive(settings.seed, "shuffle", number), len(labels)) for number in range(SHUFFLES)]
    shuffled = [hard_targets(labels[order], classes) for order in orders]
    found = complexities([*(targets for _, _, targets in asked), *shuffled], kernel)
    rows = [_row(student, name, temperature, [targets], labels, [one])
            for (name, temperature, targets), one in zip(asked, found, strict=False)]
    return [*rows, _row(student, "labels, shuffled", None, shuffled, labels, found[len(asked):])]


def _row(student: str, name: str, temperature: float | None, targets: Sequence[Tensor], labels: Tensor,
         found: Sequence[Complexity]) -> Supervision:
    right = fmean(float((one.argmax(1) == labels).double().mean()) for one in targets)
    return Supervision(student, name, temperature, right, fmean(one.value for one in found),
                       fmean(one.adjusted for one in found), found[0].smallest)


def _weights(opened: FinishedRun, student: str, images: Tensor, weights: str) -> nn.Module:
    if weights == "end":
        return opened.models[student]
    recipe = opened.recipe
    first = build(recipe.models[student], class_names=opened.data.classes, channels=opened.data.shape[0], name=student,
                  seed=recipe.train.seed, plugins=recipe.plugins)
    return fill_batch_norms(first, images)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return logits_of(network(images))
