"""ABKD: Wang, Yang, Wang, Wang, Xu & Huang, ICML 2025, arXiv:2505.04560.

With p = softmax(teacher / T) and q = softmax(student / T), rows of [B, C],

    L = hard * CE(student, labels) + soft * 1/B sum_i D(p_i || q_i)
    D(p || q) = -1 / (alpha beta) sum_c [p^alpha q^beta - alpha / (alpha + beta) p^(alpha + beta)
                                         - beta / (alpha + beta) q^(alpha + beta)]

and the limits of D where alpha, beta or their sum is 0 (in the authors' code those where one of them is 0, or their
sum, are off by a factor; both 0 is right). There is no T^2: the temperature is the divergence's own, and `soft` is
large instead. The gradient reaches the student alone. The defaults are those of one pair of the authors' code on
CIFAR-100.
"""

from functools import partial

import torch

from tutelage.errors import UsageError
from tutelage.graph.divergences import alpha_beta
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task

FOR = Task.has_choices
"""Which tasks the method is for."""


def abkd(teacher: str, student: str, *, alpha: float = 0.8, beta: float = 0.3, temperature: float = 4.0,
         hard: float = 1.0, soft: float = 32.0, task: Task = CLASSIFICATION) -> Graph:
    """The student learns from the labels and, by an alpha-beta divergence, from a frozen teacher."""
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    divergence = partial(alpha_beta, alpha=alpha, beta=beta, temperature=temperature)
    divergence(torch.zeros(1, 2), torch.zeros(1, 2))  # refuses what cannot be, before any run
    return Graph(
        {teacher: Frozen(), student: Trained()},
        [
            *task.from_labels(student, weight=hard),
            task.soft_edge(teacher, student, divergence, weight=soft),
        ],
    )
