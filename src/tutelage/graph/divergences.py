"""How far a student is from what it learns from, one number a row.

Every function takes (student, teacher, labels) and returns [B]: no mean, no temperature, no weight. Those are
`objective.edge_loss`'s, once for all. Logits come in float32 or wider; everything goes through `log_softmax`, so
logits of any finite size give finite numbers.

On an edge from `labels` the teacher *is* the labels, and only `cross_entropy` and functions made for it read them.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.types import Features, Labels, Logits, PerSample, hard_labels

LEAST_LOG_PROBABILITY = -30.0
"""Where a probability stands under a negative exponent, it is taken to be this at least."""


def cross_entropy(student: Logits, teacher: Labels, labels: object = None, *, smoothing: float = 0.0,
                  class_weights: Literal["none", "balanced"] = "none", logit_adjustment: float = 0.0,
                  class_counts: Sequence[int | float] | None = None) -> PerSample:
    """Cross-entropy of the student's prediction with hard or soft labels, in nats.

    `teacher` is class numbers [B] (-1: no label, the row gives 0) or soft labels [B, C] (what a row sums to is its
    share of labels; zeros give 0). `smoothing` in [0, 1) moves that share of every label to all classes evenly, the
    true one included (Szegedy et al., 2016, eq. 14: eps / C).

    For classes of unequal size: `class_weights` "balanced" multiplies the term of class c by N / (C n_c), where n_c of
    N training rows are of class c and C classes have any: all classes count alike, and the mean weight is 1.
    `logit_adjustment` tau adds tau log(n_c / N) to the student's logits; with tau = 1 those without it then aim at the
    mean accuracy of the classes (Menon et al., 2021, arXiv:2007.07314, eq. 10). `class_counts` are the n_c. Training
    takes them from its data where they are not given. A class without rows counts there as one with one.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, -1])).tolist() == [torch.tensor(4.0).log().item(), 0.0]
    True
    """
    weight = None
    if class_weights != "none" or logit_adjustment:
        weight, prior = _of_classes(class_counts and tuple(class_counts), student.device, student.dtype)
        weight = None if class_weights == "none" else weight
        student = student + logit_adjustment * prior
    if not teacher.is_floating_point():
        return F.cross_entropy(student, teacher, weight, ignore_index=-1, label_smoothing=smoothing, reduction="none")
    if weight is not None:
        return -(((1 - smoothing) * teacher + smoothing * teacher.mean(-1, keepdim=True)) * weight
                 * student.log_softmax(-1)).sum(-1)
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


def alpha_beta(student: Logits, teacher: Logits, labels: object = None, *, alpha: float, beta: float,
               temperature: float = 1.0) -> PerSample:
    """The alpha-beta divergence of p = softmax(teacher / temperature) and q = softmax(student / temperature).

    -1 / (alpha beta) sum_c [p^alpha q^beta - alpha / (alpha + beta) p^(alpha + beta)
    - beta / (alpha + beta) q^(alpha + beta)], and its limits where alpha, beta or their sum is 0 (Wang et al., 2025,
    arXiv:2505.04560). (1, 0) is `kl`, (0, 1) `reverse_kl`, (1, 1) half the squared distance of the probabilities. 0 or
    more, and 0 only where p = q. alpha and beta are -1 or more; the smaller alpha, the more large errors count, the
    larger beta, the more what the student is sure of.

    The temperature is one of the divergence itself: no T^2 goes with it, as it does with an edge's.

    >>> alpha_beta(torch.zeros(1, 2), torch.zeros(1, 2), alpha=0.8, beta=0.3).item()
    0.0
    """
    _same_shape(student, teacher)
    _check_temperature(temperature)
    if not (-1 <= alpha < math.inf and -1 <= beta < math.inf):
        raise UsageError("an alpha-beta divergence that cannot be", where="alpha, beta",
                         found=f"alpha = {alpha}, beta = {beta}", expected="two numbers, each -1 or more")
    log_p, log_q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    if min(alpha, beta, alpha + beta) < 0:
        log_p, log_q = log_p.clamp(min=LEAST_LOG_PROBABILITY), log_q.clamp(min=LEAST_LOG_PROBABILITY)
    return _alpha_beta(log_p, log_q, alpha, beta).sum(-1)


def _alpha_beta(log_p: Logits, log_q: Logits, alpha: float, beta: float) -> Logits:
    """The divergence class by class. A limit serves its neighbourhood too: there the general form would cancel."""
    near = 1e-3 if log_p.dtype == torch.float32 else 1e-6
    apart, both = log_p - log_q, alpha + beta
    if abs(alpha) < near and abs(beta) < near:
        return apart.square() / 2
    if abs(beta) < near:
        return ((alpha * log_p).exp() * (alpha * apart - 1) + (alpha * log_q).exp()) / alpha**2
    if abs(alpha) < near:
        return ((beta * log_q).exp() * (-beta * apart - 1) + (beta * log_p).exp()) / beta**2
    if abs(both) < near:
        return ((alpha * apart).expm1() - alpha * apart) / alpha**2
    mixed = (both * log_p - beta * apart).exp()  # p^alpha q^beta, so that where p = q the bits are those of p^both
    of_p, of_q = (both * log_p).exp() - mixed, (both * log_q).exp() - mixed
    return (alpha * of_p + beta * of_q) / (alpha * beta * both)


def plackett_luce(student: Logits, teacher: Logits, labels: Labels, *, temperature: float = 1.0) -> PerSample:
    """How unlikely the student finds the teacher's ranking of the classes, with the label in front of it, in nats.

    pi is the label, then the other classes by falling teacher logit (the first among equals); with
    a_k = softmax(teacher / temperature) of class pi_k the loss is
    sum_k a_k [log sum_(l >= k) exp(student_(pi_l)) - student_(pi_k)] (Bassam et al., 2025, arXiv:2506.12542). The
    temperature is the teacher's alone. The first term is cross-entropy, weighted by `true_class`: the labels are in
    it. Of soft labels the largest is the label; a row without one gives 0.

    >>> round(plackett_luce(torch.zeros(1, 2), torch.tensor([[200.0, 0.0]]), torch.tensor([0])).item(), 6)
    0.693147
    """
    _same_shape(student, teacher)
    _check_temperature(temperature)
    label = hard_labels(labels)
    first = teacher.detach().scatter(-1, label.clamp(min=0)[:, None], math.inf)
    ranking = first.argsort(dim=-1, descending=True, stable=True)
    ranked = student.log_softmax(-1).gather(-1, ranking)
    left = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    share = (teacher / temperature).softmax(-1).gather(-1, ranking)
    return (share * (left - ranked)).sum(-1) * (label >= 0)


def mse(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """Mean squared difference over everything but the batch, on what it is given: logits, features, one number a row.

    >>> mse(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])).tolist()
    [1.0, 3.0]
    """
    _same_shape(student, teacher)
    return (student - teacher).square().reshape(len(student), -1).mean(-1)


def value(student: PerSample, teacher: object = None, labels: object = None) -> PerSample:
    """The student end itself, one number a row: for a loss of more than two ends that a `Computed` node works out."""
    return student


def dice(student: Tensor, teacher: Tensor, labels: object = None, *, smooth: float = 1.0,
         background: bool = False) -> PerSample:
    """1 - soft Dice of an image's logits [B, H, W, K] with its mask [B, H, W], the mean over classes; in [0, 1).

    Of a class, with p = softmax(student) and y 1 where the mask says it: 1 - (2 sum p y + smooth) / (sum p + sum y +
    smooth), summed over the pixels whose label is not -1. The first class is taken for the background and left out,
    unless `background`. An image in which nothing counts gives 0. Rows `masks` give maps in this form.

    >>> dice(torch.tensor([[[[-200.0, 200.0], [200.0, -200.0]]]]), torch.tensor([[[1, 0]]])).tolist()
    [0.0]
    """
    if student.dim() != 4 or student.shape[:-1] != teacher.shape:
        raise ModelError("Dice is of maps and masks of one size", found=f"logits {list(student.shape)}, labels "
                         f"{list(teacher.shape)}", expected="[B, H, W, K] and [B, H, W]", fix='write rows = "masks"')
    first, known = 0 if background else 1, (teacher >= 0)[..., None]
    share = student.softmax(-1)[..., first:] * known
    wanted = torch.arange(first, student.shape[-1], device=teacher.device) == teacher[..., None]
    both, either = (share * wanted).sum((1, 2)), share.sum((1, 2)) + wanted.sum((1, 2))
    return (1 - (2 * both + smooth) / (either + smooth)).mean(1)


def unit_distance(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """Squared distance of two rows of features [B, D] at norm 1, in [0, 4]: 2 - 2 cos. How large they are is left out.

    >>> unit_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])).tolist()
    [2.0]
    """
    _same_shape(student, teacher)
    return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1)

def focal(student: Features, teacher: Labels, labels: object = None, *, alpha: float = 0.25,
          gamma: float = 2.0) -> PerSample:
    """Focal loss of rows of logits [R, K] with class numbers [R], the sum over classes; K stands for no object.

    Of each class, with p = sigmoid(student) and y whether it is the label: a (1 - p_y)^gamma times the cross-entropy of
    p and y, p_y = p if y else 1 - p, a = alpha if y else 1 - alpha (Lin et al., 2017, arXiv:1708.02002, eq. 5). A label
    -1 gives 0.

    >>> [round(value, 6) for value in focal(torch.tensor([[0.5], [-1.0]]), torch.tensor([0, 1])).tolist()]
    [0.016893, 0.016994]
    """
    wanted = (torch.arange(student.shape[-1], device=student.device) == teacher[:, None]).to(student.dtype)
    likely, entropy = student.sigmoid(), F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    wrong = likely + wanted - 2 * likely * wanted
    share = 1 - alpha + (2 * alpha - 1) * wanted
    return (share * wrong**gamma * entropy).sum(-1) * (teacher >= 0)


def focal_kd(student: Features, teacher: Features, labels: object = None, *, gamma: float = 2.0) -> PerSample:
    """|q - p|^gamma times the cross-entropy of p with q, summed over a row; p, q the sigmoids of student and teacher.

    0 where both say the same: places on which they agree, nearly all of an image, do not drown the others (the form of
    the quality focal loss, Li et al., 2020, arXiv:2006.04388, eq. 3, with the teacher in place of the quality).

    >>> focal_kd(torch.tensor([[2.0]]), torch.tensor([[2.0]])).tolist()
    [0.0]
    """
    _same_shape(student, teacher)
    likely = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, likely, reduction="none")
    return _sum_of_row((likely - student.sigmoid()).abs() ** gamma * entropy)


def binary_kl(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """KL(sigmoid(teacher) || sigmoid(student)) of yes and no, in nats, summed over a row of logits [R, K] or [R].

    >>> binary_kl(torch.tensor([[2.0]]), torch.tensor([[2.0]])).tolist()
    [0.0]
    """
    _same_shape(student, teacher)
    likely = teacher.sigmoid()
    return _sum_of_row(likely * (F.logsigmoid(teacher) - F.logsigmoid(student))
                       + (1 - likely) * (F.logsigmoid(-teacher) - F.logsigmoid(-student)))


def binary_cross_entropy(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """Cross-entropy of sigmoid(student) with shares in [0, 1], in nats, summed over a row of logits [R, K] or [R].

    >>> binary_cross_entropy(torch.zeros(1), torch.ones(1)).tolist() == [torch.tensor(2.0).log().item()]
    True
    """
    _same_shape(student, teacher)
    return _sum_of_row(F.binary_cross_entropy_with_logits(student, teacher, reduction="none"))


def giou(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """1 - generalised intersection over union of two boxes [R, 4], in [0, 2] (Rezatofighi et al., 2019).

    A box is its distances from one point to its left, top, right and lower side, in any unit: both boxes of a row are
    seen from the same point. The unit of the first must be that of the second.

    >>> round(giou(torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 1, 1]])).item(), 6)
    0.0
    """
    _same_shape(student, teacher)
    tiny = 1e-7  # as torchvision has it
    smaller, larger = torch.minimum(student, teacher), torch.maximum(student, teacher)
    shared = (smaller[:, :2] + smaller[:, 2:]).clamp(min=0).prod(-1)
    around = (larger[:, :2] + larger[:, 2:]).prod(-1)
    union = sum((box[:, :2] + box[:, 2:]).prod(-1) for box in (student, teacher)) - shared
    return 1 - (shared / (union + tiny) - (around - union) / (around + tiny))


def absolute(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """The sum of the absolute differences of two rows.

    >>> absolute(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).tolist()
    [3.0]
    """
    _same_shape(student, teacher)
    return _sum_of_row((student - teacher).abs())


FROM_LABELS = (cross_entropy, dice, focal, binary_cross_entropy)
"""What reads labels at its teacher end."""
NEEDS_LOGITS = (kl, reverse_kl, js, mse, alpha_beta, plackett_luce, unit_distance, focal_kd, binary_kl)
"""What reads the teacher end as logits or features: not for an edge from `labels`."""
THROUGH_SOFTMAX = (kl, reverse_kl, js)
"""What sees both ends through a softmax alone, so that a row's level does not matter."""


@lru_cache(maxsize=64)
def _of_classes(counts: tuple[int | float, ...] | None, device: torch.device,
                dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The balanced weight and the logarithm of the prior of each class."""
    if counts is None:
        raise UsageError("how many rows each class has is not known", where="class_counts",
                         fix="give class_counts = (rows of class 0, ...), or let `train` take them from its data")
    rows, there = torch.tensor(counts, dtype=torch.float64), max(1, sum(count > 0 for count in counts))
    weight = rows.sum() / (there * rows.clamp(min=1))
    prior = (rows.clamp(min=1) / rows.sum().clamp(min=1)).log()
    return weight.to(device, dtype), prior.to(device, dtype)


def _sum_of_row(rows: Tensor) -> PerSample:
    return rows if rows.dim() == 1 else rows.flatten(1).sum(1)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise UsageError("a temperature that cannot be", where="temperature", found=temperature,
                         expected="a number above 0")


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    # Shapes are known without waiting for a device, and broadcasting (4, 1) against (4, 10) would go unnoticed.
    if student.shape != teacher.shape:
        raise ModelError("two ends of an edge have different shapes",
                         found=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
                         expected="the same shape; nothing is broadcast",
                         fix="use networks with the same classes, or wrap the divergence: Projected(mse)")
