"""How much a row counts on an edge: (student, teacher, labels) -> [B], the signature of a divergence.

A weight sees the raw outputs of both ends (no temperature), detached: it says how much is learned, and nothing is
learned through it.
"""

import math

import torch
import torch.nn.functional as F

from tutelage.errors import ModelError
from tutelage.types import Features, Labels, Logits, PerSample, PerSampleFn, hard_labels

ENTROPY_OPTIONS = {"temperature": 1.0, "power": 1.0}
"""The options of `entropy` where none are given."""
MOST = 4.0
"""How many times the mean weight of its batch a row may count in `mean_one`."""


def entropy(student: object, teacher: Logits, labels: object = None, *, temperature: float = 1.0,
            power: float = 1.0) -> PerSample:
    """How sure the teacher is: (1 - H(p) / log C) ** power in [0, 1], p = softmax(teacher / temperature).

    1 for a one-hot prediction, 0 for a uniform one (Gore et al., 2025, arXiv:2511.18826). The temperature is the
    entropy's own: at that of the divergence (4, say) nearly every weight would be nearly 0.

    >>> entropy(None, torch.tensor([[0.0, 0.0], [0.0, 200.0]])).tolist()
    [0.0, 1.0]
    """
    if teacher.shape[-1] < 2:
        raise ModelError("the certainty of a single output is not defined: log C is 0", found=f"{list(teacher.shape)}",
                         expected="logits of two classes or more", fix="for one logit z write the two logits (0, z)")
    log_p = (teacher / temperature).log_softmax(-1)
    uncertainty = -(log_p.exp() * log_p).sum(-1) / math.log(teacher.shape[-1])
    return (1 - uncertainty).clamp(0, 1) ** power  # rounding can lift H of a uniform row just above log C


def binary_entropy(student: object, teacher: Features, labels: object = None, *, temperature: float = 1.0,
                   power: float = 1.0) -> PerSample:
    """How sure the teacher is of yes or no: (1 - mean_k H(sigmoid(z_k / temperature)) / log 2) ** power in [0, 1].

    The form of `entropy` for logits z of classes that do not exclude each other, as those of a detector; one is enough.

    >>> binary_entropy(None, torch.tensor([[0.0], [200.0]])).tolist()
    [0.0, 1.0]
    """
    z = teacher / temperature
    uncertainty = (F.softplus(z) - z * z.sigmoid()).mean(-1) / math.log(2)
    return (1 - uncertainty).clamp(0, 1) ** power


def confidence(student: object, teacher: Logits, labels: object = None) -> PerSample:
    """The probability of the teacher's first choice, in [1 / C, 1]."""
    return teacher.softmax(-1).amax(-1)


def margin(student: object, teacher: Logits, labels: object = None) -> PerSample:
    """By how much the teacher prefers its first choice to its second, in probability: in [0, 1]."""
    first, second = teacher.softmax(-1).topk(2).values.unbind(-1)
    return first - second


def correct(student: object, teacher: Logits, labels: Labels, *, unlabelled: float = 0.0) -> PerSample:
    """1 where the teacher's first choice is the label (of soft labels, the largest), else 0.

    A row without a label, of which nobody knows whether the teacher is right, gets `unlabelled`.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> correct(None, logits, torch.tensor([0, 1, -1])).tolist()
    [1.0, 0.0, 0.0]
    """
    label = hard_labels(labels)
    return (teacher.argmax(-1) == label).to(teacher.dtype).masked_fill(label < 0, unlabelled)


def true_class(student: object, teacher: Logits, labels: Labels, *, temperature: float = 1.0) -> PerSample:
    """The teacher's probability of the label, in [0, 1]; without a label 0. Of soft labels, its mean over them.

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 200.0]])
    >>> true_class(None, logits, torch.tensor([0, -1, 1])).tolist()
    [0.5, 0.0, 1.0]
    """
    p = (teacher / temperature).softmax(-1)
    if labels.is_floating_point():
        return (labels * p).sum(-1)
    return p.gather(-1, labels.clamp(min=0)[:, None])[:, 0] * (labels >= 0)


def discrepancy(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """How far the two predictions are apart: half the sum of |p_teacher - p_student|, in [0, 1]; symmetric.

    0 where they are the same, 1 where they share no class (the total variation distance).

    >>> discrepancy(torch.tensor([[0.0, 200.0], [5.0, 5.0]]), torch.zeros(2, 2)).tolist()
    [0.5, 0.0]
    """
    apart = (teacher.softmax(-1) - student.softmax(-1)).abs().sum(-1) / 2
    return apart.clamp(max=1)  # rounding can lift it just above


def labelled(student: Features, teacher: object, labels: Labels) -> PerSample:
    """1 for a row with a label, 0 for one without; soft labels give the share that is labelled."""
    if labels.is_floating_point():
        return labels.sum(-1).to(student.dtype)
    return (labels >= 0).to(student.dtype)


def mean_one(student: Features, teacher: Features | Labels, labels: Labels, *, of: PerSampleFn,
             among_labelled: bool = False) -> PerSample:
    """Another weight, scaled so that its mean over the batch is 1: it says which rows count, not how much in all.

    A raw weight also shrinks the mean of its edge, which changes the balance between edges. `mean_one` of
    `labelled` divides a sum by the labelled rows instead of all rows. Weights that are all 0 stay 0. The batch is
    the one the losses see: all ranks together, but one micro-batch at a time.

    No row counts more than `MOST` times: where nearly all weights are nearly 0 the few others would be a loss of their
    own (of a warm entropy they destroyed the training in 6 of 6 seeds). The mean is below 1 there. Of `labelled`, which
    says nothing but yes or no, the mean is always 1.

    `among_labelled`: the mean is that over the rows with a label. It is for rows such as pixels, where one without a
    label does not count; among samples one without a label is heard from a teacher all the same.
    """
    weight = of(student, teacher, labels)
    tiny = torch.finfo(weight.dtype).tiny
    if among_labelled:
        share = labelled(student, teacher, labels).to(weight.dtype)
        scaled = weight / ((weight * share).sum() / share.sum().clamp(min=tiny)).clamp(min=tiny)
    else:
        scaled = weight / weight.mean().clamp(min=tiny)
    return scaled if of is labelled else scaled.clamp(max=MOST)


NEEDS_LOGITS = (entropy, binary_entropy, confidence, margin, correct, discrepancy, true_class)
"""What reads the teacher end as logits: not for an edge from `labels`."""
OF_TEACHER_ALONE = (entropy, binary_entropy, confidence, margin)
"""What the teacher's logits alone decide: one number a row, which can be kept in their place."""
FROM_TOP = (correct, labelled)
"""What needs no more of the teacher than its largest logits."""
