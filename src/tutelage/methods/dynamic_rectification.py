"""Dynamic rectification: Amik, Tasin, Ahmed, Elahi & Mohammed, arXiv:2201.11319.

The teacher is a network like the student, trained before; where its first choice is wrong, its logits of that class and
of the true one are exchanged before the student hears them. With R for that exchange, on rows of logits [B, C],

    L = hard * CE(student, labels) + soft * T^2 * 1/(B C) sum_i KL(softmax(R(teacher) / T) || softmax(student / T))

so the target is always right and keeps its shape. The gradient reaches the student alone. As in the authors' code KL is
a mean over the classes too, and `soft` is their a m: the default is their ResNet-18, a = 0.95, m = 50, T = 6, and 1 - a
for the labels, whatever the number of classes. With the reduction "batchmean" KL is summed over the classes, and `soft`
is 0.475, which is the same for 100 classes, and a tenth of it for 10.
"""

from collections.abc import Mapping
from typing import Any

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import kl
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Labels, Logits, PerSample, hard_labels

SOFT = {"element_mean": 0.95 * 50, "batchmean": 0.95 * 50 / 100}
"""`soft`, by how KL is reduced."""
FOR = Task.has_choices
"""Which tasks the method is for."""
OLDER: Mapping[str, Any] = {"reduction": "batchmean"}
"""What an option meant before there was one: runs that do not name it were made so."""


def dynamic_rectification(teacher: str, student: str, *, temperature: float = 6.0, hard: float = 0.05,
                          soft: float | None = None, reduction: str = "element_mean",
                          task: Task = CLASSIFICATION) -> Graph:
    """The student learns from the labels and from a frozen teacher that is put right where it errs.

    `soft` is 47.5 where KL is a mean over rows and classes ("element_mean"), 0.475 where it is summed over the classes.
    """
    if reduction not in SOFT:
        raise unknown("reduction", reduction, SOFT, where="reduction")
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher,
                         fix="train one like it first, and name that one teacher")
    divergence = element_mean_rectified_kl if reduction == "element_mean" else rectified_kl
    soft = SOFT[reduction] if soft is None else soft
    return Graph(
        {teacher: Frozen(), student: Trained()},
        [
            *task.from_labels(student, weight=hard),
            task.soft_edge(teacher, student, divergence, weight=soft, temperature=temperature),
        ],
    )


def rectified_kl(student: Logits, teacher: Logits, labels: Labels) -> PerSample:
    """KL(rectified teacher || student), in nats."""
    return kl(student, rectified(teacher, labels), labels)


def element_mean_rectified_kl(student: Logits, teacher: Logits, labels: Labels) -> PerSample:
    """KL(rectified teacher || student) / C."""
    return rectified_kl(student, teacher, labels) / student.shape[-1]


def rectified(teacher: Logits, labels: Labels) -> Logits:
    """The logits with the largest and that of the label exchanged; a row without a label stays as it is.

    Of soft labels the largest counts. Where the label is among equal largest, nothing changes.

    >>> from torch import tensor
    >>> rectified(tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 1.0]]), tensor([2, 1])).tolist()
    [[0.0, 1.0, 3.0], [2.0, 2.0, 1.0]]
    """
    label = hard_labels(labels)[:, None]
    largest, chosen = teacher.max(-1, keepdim=True)
    true = label.where(label >= 0, chosen)
    return teacher.scatter(-1, true, largest).scatter(-1, chosen, teacher.gather(-1, true))
