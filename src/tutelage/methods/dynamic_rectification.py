"""Dynamic rectification: Amik, Tasin, Ahmed, Elahi & Mohammed, arXiv:2201.11319.

The teacher is a network like the student, trained before; where its first choice is wrong, its logits of that class and
of the true one are exchanged before the student hears them. With R for that exchange, on rows of logits [B, C],

    L = hard * CE(student, labels) + soft * T^2 * 1/B sum_i KL(softmax(R(teacher) / T) || softmax(student / T))

so the target is always right and keeps its shape. The gradient reaches the student alone. The authors' code averages
the KL over classes too and makes up for it by a factor m: `soft` here is their a m / C. The default is their ResNet-18
on 100 classes, a = 0.95, m = 50, T = 6, and 1 - a for the labels.
"""

from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.types import Labels, Logits, PerSample, hard_labels


def dynamic_rectification(teacher: str, student: str, *, temperature: float = 6.0, hard: float = 0.05,
                          soft: float = 0.475) -> Graph:
    """The student learns from the labels and from a frozen teacher that is put right where it errs."""
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher,
                         fix="train one like it first, and name that one teacher")
    return Graph(
        {teacher: Frozen(), student: Trained()},
        [
            Edge("labels", student, cross_entropy, weight=hard),
            Edge(teacher, student, rectified_kl, weight=soft, temperature=temperature),
        ],
    )


def rectified_kl(student: Logits, teacher: Logits, labels: Labels) -> PerSample:
    """KL(rectified teacher || student), in nats."""
    return kl(student, rectified(teacher, labels), labels)


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
