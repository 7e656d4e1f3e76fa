"""An edge: one end learns from another, by what divergence, at what temperature, how much, and which samples."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from tutelage.errors import UsageError
from tutelage.graph import divergences, gaussians, sample_weights
from tutelage.graph.ends import is_of_batch
from tutelage.graph.naming import describe, name_of, unbound
from tutelage.types import PerSampleFn, RowsFn, Schedule

NEEDS_LOGITS = (*divergences.NEEDS_LOGITS, *gaussians.NEEDS_FORECASTS, *sample_weights.NEEDS_LOGITS)
"""What reads the teacher end as logits; an edge from `labels` has none."""


@dataclass(frozen=True)
class Edge:
    """`student` learns from `teacher`: weight * mean(sample_weight * T^2 * divergence(student / T, teacher / T)).

    The gradient flows into the student end alone. `weight` may be a schedule; `sample_weight` a function, or the
    name of an end that holds [B]. `rows` says what is compared: without it the ends as they are, one row a sample;
    with it the rows that it makes of them, such as pixels. The mean is over rows, each as much as it counts.
    """

    teacher: str
    student: str
    divergence: PerSampleFn
    weight: float | Schedule = 1.0
    temperature: float = 1.0
    sample_weight: PerSampleFn | str | None = None
    rows: RowsFn | None = None

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf):
            raise self._error("a temperature that cannot be", f"temperature = {self.temperature}", "a number above 0")
        if not callable(self.weight) and not 0 <= self.weight < math.inf:
            raise self._error("a weight that cannot be", f"weight = {self.weight}", "0 or more, or a schedule")
        if isinstance(unbound(self.sample_weight), nn.Module):
            raise self._error("a sample weight that learns", describe(self.sample_weight), "a function or an end",
                              "make it a Computed node and name its end: sample_weight='gate'")
        if self.from_labels:
            self._check_from_labels()
        elif unbound(self.divergence) in (*divergences.FROM_LABELS, *gaussians.OF_TARGETS):
            name = name_of(self.divergence)
            raise self._error(f"{name} reads labels, but a network gives logits", name,
                              "an edge from 'labels'", "use kl to learn from a network")

    def _check_from_labels(self) -> None:
        if self.temperature != 1:
            raise self._error("labels have no temperature", f"temperature = {self.temperature}", "1")
        for role, function in (("divergence", self.divergence), ("sample_weight", self.sample_weight)):
            if unbound(function) in NEEDS_LOGITS:
                raise self._error("labels are not logits", f"{role} = {describe(function)}",
                                  "cross_entropy, or a function made for labels", "learn from labels by cross_entropy")

    def _error(self, what: str, found: str, expected: str, fix: str | None = None) -> UsageError:
        return UsageError(what, where=f"edge {self.teacher} -> {self.student}", found=found, expected=expected,
                          fix=fix)

    @cached_property
    def from_labels(self) -> bool:
        """Whether the teacher is the labels, or one of several labels."""
        return is_of_batch(self.teacher) and self.teacher != "ids"

    @cached_property
    def name(self) -> str:
        """What the edge is called in losses and records: ends, divergence, a temperature that is not 1, and rows."""
        warm = "" if self.temperature == 1 else f"/{self.temperature:g}"
        rows = "" if self.rows is None else f"[{name_of(self.rows)}]"
        return f"{self.teacher}->{self.student}:{name_of(self.divergence)}{warm}{rows}"

    def weight_at(self, progress: float | None = None) -> float:
        """The weight now; `progress` in [0, 1], without which a schedule is an error."""
        if not callable(self.weight):
            return float(self.weight)
        if progress is None:
            raise UsageError("a weight that changes over the run", where=f"edge {self.name}",
                             fix="pass weights: losses(graph, outputs, labels, graph.weights(progress))")
        return float(self.weight(progress))

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The ends that the edge reads."""
        named = (self.sample_weight,) if isinstance(self.sample_weight, str) else ()
        return (self.teacher, self.student, *named)
