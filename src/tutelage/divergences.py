"""How far a student is from what it learns from, one number a row.

Every function takes (student, teacher, labels) and returns [B]: no mean, no temperature, no weight. Those are
`objective.edge_loss`'s, once for all. Logits come in float32 or wider; everything goes through `log_softmax`, so
logits of any finite size give finite numbers.

On an edge from `labels` the teacher *is* the labels, and only `cross_entropy` and functions made for it read them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import Labels, Logits, PerSample, Rows


def cross_entropy(student: Logits, teacher: Labels, labels: object = None, *, smoothing: float = 0.0) -> PerSample:
    """Cross-entropy of the student's prediction with hard or soft labels, in nats.

    `teacher` is class numbers [B] (-1: no label, the row gives 0) or soft labels [B, C] (what a row sums to is its
    share of labels; zeros give 0). `smoothing` in [0, 1) moves that share of every label to all classes evenly, the
    true one included (Szegedy et al., 2016, eq. 14: eps / C).

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, -1])).tolist() == [torch.tensor(4.0).log().item(), 0.0]
    True
    """
    if not teacher.is_floating_point():
        return F.cross_entropy(student, teacher, ignore_index=-1, label_smoothing=smoothing, reduction="none")
    log_student = student.log_softmax(-1)
    true = -(teacher * log_student).sum(-1)
    if smoothing == 0.0:
        return true
    return (1 - smoothing) * true - smoothing * teacher.sum(-1) * log_student.mean(-1)


def kl(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """KL(teacher || student) = sum_c p_teacher (log p_teacher - log p_student), in nats (Hinton et al., 2015).

    Its gradient for the student's logits is softmax(student) - softmax(teacher).

    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item()
    0.0
    """
    _same_shape(student, teacher)
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def reverse_kl(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """KL(student || teacher): prefers to be right where the student itself puts its mass. `kl` with ends exchanged."""
    _same_shape(student, teacher)
    return kl(teacher, student)


def js(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """Jensen-Shannon divergence, in nats, in [0, log 2] (Lin, 1991): symmetric, and bounded for any logits."""
    _same_shape(student, teacher)
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    log_middle = torch.logaddexp(log_student, log_teacher) - math.log(2)
    to_student = (log_student.exp() * (log_student - log_middle)).sum(-1)
    to_teacher = (log_teacher.exp() * (log_teacher - log_middle)).sum(-1)
    return (to_student + to_teacher) / 2


def mse(student: Rows, teacher: Rows, labels: object = None) -> PerSample:
    """Mean squared difference over everything but the batch, on what it is given: logits, features, one number a row.

    >>> mse(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])).tolist()
    [1.0, 3.0]
    """
    _same_shape(student, teacher)
    return (student - teacher).square().reshape(len(student), -1).mean(-1)


def value(student: PerSample, teacher: object = None, labels: object = None) -> PerSample:
    """The student end itself, one number a row: for a loss of more than two ends that a `Computed` node works out."""
    return student


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    # Shapes are known without waiting for a device, and broadcasting (4, 1) against (4, 10) would go unnoticed.
    if student.shape != teacher.shape:
        raise ModelError("two ends of an edge have different shapes",
                         found=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
                         expected="the same shape; nothing is broadcast",
                         fix="use networks with the same classes, or wrap the divergence: Projected(mse)")
