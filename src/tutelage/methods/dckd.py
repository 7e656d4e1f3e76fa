"""DCKD: Ding, Chen, Zhao, Bao, Harimoto & Sun, "Distributional correlation-aware knowledge distillation for stock
trading volume prediction", ECML-PKDD 2022, arXiv:2208.07232.

Both networks forecast Gaussians. Beside the labels the student learns what a frozen teacher says of each sample, and
how what it says of the samples of a batch is related:

    L = nll(student, labels) + soft * KL(teacher || student) + distance * L_dis + cosine * L_cos

with L_dis, L_cos of `graph.gaussians`. The released weights are 1, 5, 5 (`preset = "released"`). The defaults
1, 0.5, 0.5 are this project's choice: with the released ones the distance wrecked students of daily stock volumes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

from tutelage.errors import UsageError, unknown
from tutelage.graph.edge import Edge
from tutelage.graph.gaussians import relation_cosine, relation_distance
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task

PRESETS: Mapping[str, Mapping[str, float]] = {"careful": {"soft": 1.0, "distance": 0.5, "cosine": 0.5},
                                              "released": {"soft": 1.0, "distance": 5.0, "cosine": 5.0}}


def _forecasts(task: Task) -> bool:
    return task.soft_term is not None and not task.logits


FOR = _forecasts
"""Which tasks the method is for: those whose networks give Gaussians."""


def dckd(teacher: str, student: str, *, preset: str = "careful", soft: float | None = None,
         distance: float | None = None, cosine: float | None = None,
         kind: Literal["released", "jeffreys"] = "released", task: Task = CLASSIFICATION) -> Graph:
    """The student learns from targets, from a frozen teacher's Gaussians, and from how these are related in a batch.

    `preset` says what `soft`, `distance` and `cosine` are where they are not given. `kind` is the distance of two
    Gaussians. The relations see the whole batch, so that it cannot be accumulated.
    """
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS, where="preset")
    term = task.soft_term
    if term is None or not _forecasts(task):
        raise UsageError("dckd is for networks that give Gaussians", where="task", found=f"task {task.name}",
                         expected="forecast or regression")
    usual = PRESETS[preset]
    weights = {name: usual[name] if given is None else given
               for name, given in (("soft", soft), ("distance", distance), ("cosine", cosine))}
    relation = relation_distance if kind == "released" else partial(relation_distance, kind=kind)
    ends = term.end(teacher), term.end(student)
    return Graph({teacher: Frozen(), student: Trained()}, [
        *task.from_labels(student),
        *task.from_network(teacher, student, weight=weights["soft"]),
        *(Edge(*ends, divergence, weights[name], rows=term.rows)
          for name, divergence in (("distance", relation), ("cosine", relation_cosine)) if weights[name])])
