"""Switchable online distillation: Qian et al., "Switchable online knowledge distillation", ECCV 2022, arXiv:2209.04996.

Teacher and student start together and learn from labels and from each other. A teacher that runs too far ahead is
paused until the student has caught up. With logits z [B, C], p = softmax(z), y one-hot, means over the batch:

    G = mean ||p_S - p_T||_1      d_S = mean ||p_S - y||_1      d_T = mean ||p_T - y||_1
    delta = d_S - exp(-d_T / (d_S + d_T)) * d_T
    the teacher is paused where G > delta and d_T < d_S
    L_S = CE(z_S, y) + soft * T^2 KL(p_T^T || p_S^T)
    L_T = CE(z_T, y) + soft * T^2 KL(p_S^T || p_T^T), or nothing while it is paused

Each gradient reaches its own network. With several students a teacher hears those for whom it is not paused, labels and
other teachers unless it is paused for all; a student hears everybody, always. The formulas and defaults are those of
the authors' README and code; the README lacks d_T < d_S, and where the code takes the other pair's distances, each
pair has its own here. The paper has one teacher with one or two students, and two teachers with one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.types import Batch, Labels, Logits, Outputs


def switokd(teachers: Sequence[str], students: Sequence[str], *, soft: float = 1.0, temperature: float = 1.0,
            gap_temperature: float = 1.0, only_if_better: bool = True, freeze_statistics: bool = False) -> Graph:
    """Teachers and students learn together, and a teacher that is too far ahead of a student waits for it.

    `gap_temperature` is that of the probabilities in G, d_S and d_T. `only_if_better` pauses a teacher only where
    d_T < d_S. A paused teacher's weights do not change; with `freeze_statistics` its batch statistics do not either.
    """
    for where, names in (("teachers", teachers), ("students", students)):
        if isinstance(names, str) or not names or len({*teachers, *students}) != len(teachers) + len(students):
            raise UsageError("one teacher and one student or more are needed, each named once", where=where,
                             found=repr(names))
    if not 0 < gap_temperature < float("inf"):
        raise UsageError("a temperature that cannot be", where="gap_temperature", found=gap_temperature,
                         expected="a number above 0")
    networks = [*teachers, *students]
    edges = [Edge("labels", network, cross_entropy) for network in networks]
    edges += [Edge(other, network, kl, soft, temperature)
              for network in networks for other in networks if other != network]
    switch = Switch(teachers, students, gap_temperature, only_if_better, freeze_statistics)
    return Graph({network: Trained() for network in networks}, edges, {"switch": switch})


class Switch(Controller):
    """Takes the edges into a teacher out of a step where it is too far ahead.

    `paused` [teachers, students] counts the batches in which a teacher did not hear a student, of `batches` in all.
    With accumulation each micro-batch is decided by itself.
    """

    paused: Tensor
    batches: Tensor

    def __init__(self, teachers: Sequence[str], students: Sequence[str], temperature: float = 1.0,
                 only_if_better: bool = True, freeze_statistics: bool = False) -> None:
        super().__init__()
        self.teachers, self.students, self.temperature = tuple(teachers), tuple(students), temperature
        self.only_if_better, self.freeze_statistics = only_if_better, freeze_statistics
        self.before: dict[str, list[Tensor]] = {}
        self.register_buffer("paused", torch.zeros(len(teachers), len(students), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """Remember the batch statistics that a paused teacher gets back."""
        if self.freeze_statistics:
            self.before = {name: [buffer.clone() for buffer in run.models[name].buffers()] for name in self.teachers}
        return batch

    def before_losses(self, run: RunView, outputs: Outputs, weights: dict[str, float]) -> None:
        """Decide for each teacher and student, and set the weights of what the teacher does not hear to 0."""
        ahead = torch.stack([torch.stack([
            too_far_ahead(distances(outputs[student], outputs[teacher], outputs["labels"], self.temperature),
                          self.only_if_better) for student in self.students]) for teacher in self.teachers])
        self.paused += ahead
        self.batches += 1
        for teacher, waits in zip(self.teachers, ahead.tolist(), strict=True):
            deaf = {name for name, wait in zip(self.students, waits, strict=True) if wait}
            for edge in run.graph.edges:
                if edge.student == teacher and (edge.teacher in deaf or all(waits)):
                    weights[edge.name] = 0.0
            if all(waits) and self.freeze_statistics:
                for buffer, before in zip(run.models[teacher].buffers(), self.before[teacher], strict=True):
                    buffer.copy_(before)


class Distances(NamedTuple):
    """G, d_S, d_T and delta of the equations above, scalars."""

    gap: Tensor
    student: Tensor
    teacher: Tensor
    threshold: Tensor


@torch.no_grad()
def distances(student: Logits, teacher: Logits, labels: Labels, temperature: float = 1.0) -> Distances:
    """How far student, teacher and labels are from each other, over the rows that have a label: each in [0, 2]."""
    soft = labels if labels.is_floating_point() else F.one_hot(labels.clamp(min=0), student.shape[-1])
    known = (labels.sum(-1) > 0) if labels.is_floating_point() else labels >= 0
    p_student, p_teacher = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)

    def mean(difference: Tensor) -> Tensor:
        return (difference.abs().sum(-1) * known).sum() / known.sum().clamp(min=1)

    gap, d_student, d_teacher = mean(p_student - p_teacher), mean(p_student - soft), mean(p_teacher - soft)
    tiny = torch.finfo(gap.dtype).tiny  # two networks that are right throughout: exp(0) = 1
    share = d_teacher / (d_student + d_teacher).clamp(min=tiny)
    return Distances(gap, d_student, d_teacher, d_student - (-share).exp() * d_teacher)


def too_far_ahead(of: Distances, only_if_better: bool = True) -> Tensor:
    """Whether the teacher waits, one bool on the device."""
    ahead = of.gap > of.threshold
    return ahead & (of.teacher < of.student) if only_if_better else ahead
