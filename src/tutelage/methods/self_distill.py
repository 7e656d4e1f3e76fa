"""Self-distillation as instance-specific label smoothing: Zhang & Sabuncu, NeurIPS 2020, arXiv:2006.05065.

A network is trained from labels; the next, of the same kind and started afresh, learns from labels and from what the
one before it says, and so on. The teacher's logits z_t [B, C] are softened, the student's z_s are not, and there is no
factor T^2, so that the two temperatures differ:

    L = (1 - soft) CE(z_s, y) + soft * 1/B sum_i KL(softmax(z_t,i / T) || softmax(z_s,i))

(which has the gradient of the soft cross-entropy of the authors' code). With `scale_student` both are softened, and the
factor T^2 is there: plain distillation.

Beta smoothing needs no teacher: a moving average of the student ranks the rows of a batch by the probability q_i of
their label. Of B numbers drawn from Beta(a, 1) the r-th smallest, b, goes to the row with the r-th smallest q: its
target is b on the label and (1 - b) / (C - 1) on every other class. The second term is then KL(target || softmax(z_s)).

The gradient reaches the student alone. Defaults are those of the authors' code.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Ema, Frozen, Trained
from tutelage.graph.sample_weights import labelled, true_class
from tutelage.system.random import derive, uniform
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task, for_classes_alone
from tutelage.types import Labels, Logits, PerSample

TEACHER, SLOW, TARGET = "teacher", "slow", "target"


def self_distill(student: str, *, generations: int = 2, smoothing: Literal["teacher", "beta"] = "teacher",
                 soft: float | None = None, temperature: float = 4.0, scale_student: bool = False, shape: float = 3.0,
                 decay: float = 0.999, lowest: float = 0.0, task: Task = CLASSIFICATION) -> list[Graph]:
    """A network learns from labels and from the one trained before it: a graph for each of `generations` runs.

    With `smoothing` "beta" there is one run, in which `shape` is a of Beta(a, 1), `decay` that of the moving average,
    the node `slow`, and `lowest` bounds b from below. `soft` is the share of the smooth targets: 0.4, of "beta" 0.6.
    """
    if student in (TEACHER, SLOW, TARGET):
        raise UsageError("this name is taken by a node of the method's own", where="student", found=repr(student))
    soft = {"teacher": 0.4, "beta": 0.6}[smoothing] if soft is None else soft
    for name, value, low, high in (("soft", soft, 0, 1), ("generations", generations, 1, 1000),
                                   ("lowest", lowest, 0, 1), ("shape", shape, 1e-3, math.inf)):
        if not low <= value <= high or value == math.inf:
            raise UsageError("an option out of range", where=name, found=value, expected=f"{low} .. {high}")
    if not 0 < temperature < math.inf:
        raise UsageError("a temperature that cannot be", where="temperature", found=temperature,
                         expected="a number above 0")
    first = Graph({student: Trained()}, task.from_labels(student))
    edges = task.from_labels(student, weight=1 - soft)
    if smoothing == "beta":
        if not task.classifies:
            raise for_classes_alone('smoothing = "beta"', task, "smoothing")
        nodes = {student: Trained(), SLOW: Ema(student, decay),
                 TARGET: Computed((SLOW, "labels"), BetaTargets(shape, lowest))}
        return [Graph(nodes, [*edges, Edge(TARGET, student, kl, soft, sample_weight=labelled)])]
    told = task.from_network(TEACHER, student, weight=soft, temperature=temperature if scale_student else 1.0)
    softened = partial(softened_kl, teacher_temperature=temperature)
    edges += [replace(edge, divergence=softened) if term.soft and task.has_choices() and not scale_student else edge
              for term, edge in zip(task.imitate, told, strict=True)]
    return [first, *[Graph({TEACHER: Frozen(before=student), student: Trained()}, edges)] * (generations - 1)]


def softened_kl(student: Logits, teacher: Logits, labels: object = None, *, teacher_temperature: float) -> PerSample:
    """KL(softmax(teacher / teacher_temperature) || softmax(student)), in nats: the student is not softened."""
    return kl(student, teacher / teacher_temperature)


class BetaTargets(nn.Module):
    """Targets by Beta smoothing: logits of the ranking network and labels -> log-probabilities [B, C].

    Which numbers are drawn depends on a key, made at the start of the run, and on how often there were some: both are
    kept with the run. A row without a label has a target of no meaning.
    """

    key: Tensor
    drawn: Tensor

    def __init__(self, shape: float = 3.0, lowest: float = 0.0) -> None:
        super().__init__()
        self.shape, self.lowest = shape, lowest
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        self._started = False

    def forward(self, logits: Logits, labels: Labels) -> Logits:
        """[B, C], labels [B] or soft labels [B, C] -> [B, C]."""
        if logits.shape[1] < 2:
            raise ModelError("with one class there is no other to give probability to", found=f"{list(logits.shape)}",
                             expected="logits of two classes or more")
        if not self._started:  # the trainer seeds this moment, and what it loads later counts more
            self._started = True
            self.key.copy_(torch.randint(2**31, ()))
        ids = self.key + self.drawn * 2**20 + torch.arange(len(logits), device=logits.device)
        draws = uniform(derive("beta smoothing"), ids, 1)[:, 0] ** (1 / self.shape)
        if self.training:
            self.drawn += 1
        return smoothed(true_class(None, logits.detach(), labels), draws.to(logits.dtype), labels, logits.shape[1],
                        self.lowest).log()


def smoothed(ranking: PerSample, draws: PerSample, labels: Labels, classes: int, lowest: float = 0.0) -> Tensor:
    """Targets [B, classes]: the r-th smallest of `draws` on the label of the row whose `ranking` is r-th smallest.

    >>> targets = smoothed(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([0.7, 0.95, 0.85]), torch.tensor([0, 1, 3]), 4)
    >>> [[round(p, 4) for p in row] for row in targets.tolist()]
    [[0.95, 0.0167, 0.0167, 0.0167], [0.1, 0.7, 0.1, 0.1], [0.05, 0.05, 0.05, 0.85]]
    """
    b = torch.empty_like(draws)
    b[ranking.argsort(stable=True)] = draws.sort().values
    b = b.clamp(lowest, 1 - 2.0**-20)[:, None]  # at 1 the other classes would have the logarithm of 0
    where = labels if labels.is_floating_point() else torch.nn.functional.one_hot(labels.clamp(min=0), classes)
    return b * where + (1 - b) / (classes - 1) * (1 - where.to(b.dtype))
