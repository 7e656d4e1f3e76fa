"""What a kind of work is: what its labels must be, by which edges a network learns it, and how it is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor

from tutelage.data.source import Data
from tutelage.errors import UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.modules import mean_probability
from tutelage.graph.nodes import Computed
from tutelage.graph.sample_weights import entropy
from tutelage.types import BatchLabels, PerSample, PerSampleFn, RowsFn, Schedule, View

Evidence = dict[str, Tensor]
"""Name -> [B, ...]: what a judge keeps of each sample. The engine puts batches and ranks together, in order."""


@dataclass(frozen=True)
class Score:
    """One number of a node. The first of a task is what `best` and the line of progress go by.

    A "share" lies in [0, 1] and is shown as per cent; a "number" may be anything. `each_epoch` says whether it is told
    after every epoch too, or in an evaluation alone; `main`, whether short tables and studies show it.
    """

    key: str
    title: str
    kind: Literal["share", "number"] = "share"
    better: Literal["higher", "lower"] = "higher"
    each_epoch: bool = True
    main: bool = True

    def beats(self, new: float, old: float | None) -> bool:
        """Whether `new` is better. What is not a number never is, and anything else is better than nothing.

        >>> loss = Score("mae", "MAE", "number", "lower")
        >>> loss.beats(0.1, 0.2), loss.beats(float("nan"), None), loss.beats(0.3, None)
        (True, False, True)
        """
        if new != new:
            return False
        return old is None or old != old or (new > old if self.better == "higher" else new < old)

    def text(self, value: float) -> str:
        """The number for a person.

        >>> Score("top1", "top-1").text(0.5), Score("nll", "NLL", "number").text(0.5)
        ('50.00%', '0.5')
        """
        return f"{value:.2%}" if self.kind == "share" else f"{value:.4g}"


Pictures = Callable[[View, BatchLabels, Mapping[str, Tensor]], Sequence[bytes]]
"""(plain view, labels, a node's taps) of a batch, on the CPU -> a PNG file of each sample: what it is, and was said."""


Strips = Callable[[BatchLabels, Mapping[str, Tensor]], Sequence[Mapping[str, bytes]]]
"""(labels, node -> what it says untapped) of a batch, on the CPU -> of each sample what is shown -> a PNG file."""


class Judge(NamedTuple):
    """How nodes are judged: evidence of each sample, then numbers from the evidence of all of them.

    `measure` gets the taps of one node ("" is what it gives untapped), labels and ids of a batch, and gives None where
    it cannot judge such a node. `summary` gives key -> number, and `agreement` how alike two nodes are, in [0, 1].
    `taps` are those that it reads. `outputs` names the evidence that is a tap itself: nothing runs again for that.
    `by_sample` gives the first score of each sample [N], NaN where it has none. Besides numbers, `summary` may give
    "per_class": key of a score -> one number for each class, and "curves": of each class its precisions at recalls of
    equal steps from 0 to 1, or None. `pictures` are those of the task that know the names of the classes, and `strips`
    show side by side what all nodes say of a sample. `baseline` gives the scores of who knows nothing, such as a naive
    forecast, of any node's evidence, and its "name". `to_teacher` gives scores of a node by its evidence and a frozen
    node's. The evidence `passing` is not kept with an evaluation.
    """

    measure: Callable[[Mapping[str, Tensor], BatchLabels, Tensor], Evidence | None]
    summary: Callable[[Evidence], dict[str, Any]]
    agreement: Callable[[Evidence, Evidence], float] | None = None
    taps: tuple[str, ...] = ("",)
    outputs: Mapping[str, str] | None = None
    by_sample: Callable[[Evidence], Tensor] | None = None
    pictures: Pictures | None = None
    baseline: Callable[[Evidence], dict[str, Any]] | None = None
    to_teacher: Callable[[Evidence, Evidence], dict[str, float]] | None = None
    passing: tuple[str, ...] = ()
    strips: Strips | None = None


class Term(NamedTuple):
    """One thing that a network learns: from which tap it is read, by what divergence, of which rows, and how much.

    `label` names one of several labels. `soft` says that the tap gives logits of one choice among several: temperature
    and sample weights are for such terms alone.
    """

    divergence: PerSampleFn
    tap: str = ""
    label: str = ""
    rows: RowsFn | None = None
    weight: float = 1.0
    soft: bool = False

    def end(self, node: str) -> str:
        """The end of a node, or of a view of it ("node@view"), that the term reads."""
        name, at, view = node.partition("@")
        return f"{name}.{self.tap}{at}{view}" if self.tap else node

    @property
    def labels(self) -> str:
        """The end of the labels that the term learns from."""
        return f"labels.{self.label}" if self.label else "labels"


@dataclass(frozen=True)
class Task:
    """A kind of work.

    `learn` are the terms of learning from labels, `imitate` those of learning from another network. `check` refuses
    data that cannot be learned from. `judge` says how nodes are judged on such data, in the numbers `scores`; `mean`,
    what an ensemble of nodes says. `rows` are the functions of rows that a recipe can name; `places` is that by which
    feature maps are compared: None compares them whole. `classifies`: a sample is of one class, and a network gives its
    logits [B, C]; then there are calibration, certainty and checks of teachers. `pictures` draws samples, for the worst
    of them to be shown. `certainty` is how sure a network is by its soft term; `exclusive`, whether that is one choice
    among several, or a yes or no of each class. `fusions` are other ways to put what several networks say together,
    by name. `logits` says that what a network gives are such; where it gives numbers there is no temperature.
    `samples` is what rows are called, for a person, and `labels` what `Data.classes` are; `unit`, of what scores are.
    `assess` is the judge of an evaluation, where that asks for more than is told after an epoch.
    """

    name: str
    scores: tuple[Score, ...]
    check: Callable[[Data], None]
    judge: Callable[[Data], Judge]
    learn: tuple[Term, ...]
    imitate: tuple[Term, ...]
    mean: Callable[..., Tensor] = mean_probability
    rows: tuple[RowsFn, ...] = ()
    classifies: bool = False
    places: RowsFn | None = None
    pictures: Pictures | None = None
    certainty: Callable[..., PerSample] = entropy
    exclusive: bool = True
    logits: bool = True
    fusions: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    samples: str = "samples"
    labels: str = "classes"
    unit: str = ""
    assess: Callable[[Data], Judge] | None = None

    @property
    def epoch_scores(self) -> tuple[Score, ...]:
        """The scores that are told after every epoch, the first first."""
        return tuple(score for score in self.scores if score.each_epoch)

    def from_labels(self, student: str, *, weight: float = 1.0,
                    sample_weight: PerSampleFn | str | None = None, rest: float | None = None) -> list[Edge]:
        """The edges by which a network learns from labels; soft terms take the sample weight.

        `rest`, if any, is what the weight of the other terms is instead, where there is a sample weight. Raises
        UsageError for a sample weight that no term takes.
        """
        self._check_taken(self.learn, sample_weight)
        rest = weight if rest is None or sample_weight is None else rest
        return [Edge(term.labels, term.end(student), term.divergence, (weight if term.soft else rest) * term.weight,
                     sample_weight=sample_weight if term.soft else None, rows=term.rows)
                for term in self.learn]

    def from_network(self, teacher: str, student: str, *, weight: float | Schedule = 1.0, temperature: float = 1.0,
                     sample_weight: PerSampleFn | str | None = None, rest: float | None = None) -> list[Edge]:
        """The edges by which it learns from another; soft terms take the sample weight and, of logits, the temperature.

        `rest`, if any, is what the weight of the other terms is instead, where there is a sample weight. Raises
        UsageError for a sample weight that no term takes.
        """
        self._check_taken(self.imitate, sample_weight)
        others = weight if rest is None or sample_weight is None else rest
        return [Edge(term.end(teacher), term.end(student), term.divergence,
                     _times(weight if term.soft else others, term.weight),
                     temperature if term.soft and self.logits else 1.0, sample_weight if term.soft else None, term.rows)
                for term in self.imitate]

    @property
    def soft_term(self) -> Term | None:
        """The term by which a network's certainty is known; None where nothing that it says is a choice."""
        return next((term for term in self.imitate if term.soft), None)

    @property
    def label_end(self) -> str:
        """The labels that a choice is learned from."""
        return next((term.labels for term in self.learn if term.soft), "labels")

    def has_choices(self) -> bool:
        """Whether something that a network says is a choice among several, which exclude each other."""
        return self.soft_term is not None and self.exclusive

    def has_certainty(self) -> bool:
        """Whether something that a network says tells how sure it is."""
        return self.soft_term is not None

    def has_parts(self) -> bool:
        """Whether networks are compared part by part of a sample, such as pixels.

        A part without a label does not count, while a sample without one is heard from a teacher all the same.
        """
        return any(term.rows is not None for term in self.imitate)

    def soft(self, node: str) -> tuple[str, RowsFn | None] | None:
        """The end and the rows by which a node's certainty is known; None where nothing it says is a choice."""
        term = self.soft_term
        return None if term is None else (term.end(node), term.rows)

    def soft_edge(self, teacher: str, student: str, divergence: PerSampleFn, *, weight: float = 1.0,
                  temperature: float = 1.0, sample_weight: PerSampleFn | str | None = None) -> Edge:
        """An edge between the choices of two networks, by another divergence than the term's own.

        Raises UsageError where nothing that they say is a choice.
        """
        term = self._needed_term()
        return Edge(term.end(teacher), term.end(student), self.of_label(divergence), weight * term.weight, temperature,
                    sample_weight, term.rows)

    def computed(self, by: Callable[..., Tensor | dict[str, Tensor]], *nodes: str, labels: bool = False) -> Computed:
        """A node of the choices of these nodes and, if asked, of the labels, on the rows of the term.

        Raises UsageError where nothing that they say is a choice.
        """
        term = self._needed_term()
        ends = [*map(term.end, nodes), *([self.label_end] if labels else [])]
        return Computed(tuple(ends), by, term.rows)

    def of_label(self, function: PerSampleFn) -> PerSampleFn:
        """A function (student, teacher, labels) that gets, of several labels, the one that a choice is learned from."""
        name = next((term.label for term in self.learn if term.soft), "")
        return cast("PerSampleFn", partial(of_one_label, function, name)) if name else function

    def _needed_term(self) -> Term:
        if self.soft_term is None:
            raise UsageError("nothing that a network says is a choice among several", where=f"task {self.name}",
                             expected="a task with logits")
        return self.soft_term

    def _check_taken(self, terms: Sequence[Term], sample_weight: PerSampleFn | str | None) -> None:
        if sample_weight is not None and not any(term.soft for term in terms):
            raise UsageError("a sample weight that no term of this task takes", where=f"task {self.name}",
                             expected="no sample weight")


def _times(weight: float | Schedule, factor: float) -> float | Schedule:
    if factor == 1:
        return weight
    return partial(_scaled, weight, factor) if callable(weight) else weight * factor


def _scaled(weight: Schedule, factor: float, progress: float) -> float:
    return factor * weight(progress)


def of_one_label(function: PerSampleFn, name: str, student: Tensor, teacher: Tensor,
                 labels: Mapping[str, Tensor]) -> Tensor:
    """What a function says of one of several labels."""
    return function(student, teacher, labels[name])


def for_classes_alone(what: str, task: Task, where: str) -> UsageError:
    """The error for what only samples of one class each have."""
    return UsageError(f"{what} is for classification alone", where=where, found=f"task {task.name}")
