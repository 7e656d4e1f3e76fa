"""Plackett-Luce distillation: Bassam, Zhu & Bian, NeurIPS 2025, arXiv:2506.12542.

The teacher ranks the classes, the label before all others: pi_1 = y, then by falling teacher logit. With the share
a_k = softmax(z_teacher / T)_(pi_k) of the class at place k,

    L = 1/B sum_i sum_(k=1..C) a_k [log sum_(l >= k) exp(z_student,(pi_l)) - z_student,(pi_k)]

over rows of logits [B, C]. T is the teacher's alone. The first term is CE(student, labels) times the teacher's
probability of the label, so there is no edge from the labels and nothing to balance. The gradient,
sum_k a_k (softmax over {pi_k .. pi_C} - e_(pi_k)) / B, reaches the student alone; a row without a label gives none.
"""

from functools import partial

import torch

from tutelage.errors import UsageError
from tutelage.graph.divergences import plackett_luce
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task

FOR = Task.has_choices
"""Which tasks the method is for."""


def pld(teacher: str, student: str, *, temperature: float = 1.0, task: Task = CLASSIFICATION) -> Graph:
    """The student learns to rank the classes as a frozen teacher does, the true one first."""
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    divergence = partial(plackett_luce, temperature=temperature)
    divergence(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))  # refuses what cannot be, before any run
    others = [edge for term, edge in zip(task.learn, task.from_labels(student), strict=True) if not term.soft]
    return Graph({teacher: Frozen(), student: Trained()}, [task.soft_edge(teacher, student, divergence), *others])
