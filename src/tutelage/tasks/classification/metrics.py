"""How good predictions are, from logits [N, C] and class numbers [N] (every row has one), as numbers of the whole set.

Written out because importing torchmetrics costs three seconds at every start; the tests compare with it. Numbers are
float64, and only a part of the rows is widened at a time, so that thousands of classes fit in memory. `check_labels`
and `check_finite` are the door: behind it there is a row, and every logit is finite. docs/evaluation.md lists it all.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.errors import DataError, NumericError
from tutelage.types import Logits, PerSample

ClassNumbers = Int[Tensor, " batch"]
PART = 2**22
"""Logits that are widened to float64 at a time."""


def require_labels(labels: ClassNumbers, classes: int) -> None:
    """Refuse no rows at all (DataError), and labels that are no class."""
    if not len(labels):
        raise DataError("there is nothing to evaluate on", found="no row with a label")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError("a label that is no class", found=f"{int(labels.min())} .. {int(labels.max())}",
                        expected=f"0 .. {classes - 1}")


def check_finite(logits: Logits, ids: ClassNumbers, node: str) -> None:
    """Refuse logits that are not finite (NumericError): their metrics would be no numbers either."""
    bad = ids[~by_parts(lambda z: z.isfinite().all(-1), logits)].tolist()
    if bad:
        raise NumericError("a network's logits are not finite", where=f"node {node!r}",
                           found=f"{len(bad)} of {len(ids)} images, with the ids {', '.join(map(str, bad[:5]))}"
                                 + (", ..." if len(bad) > 5 else ""),
                           fix="look at these images; or train again with clip_norm or a smaller learning rate")


def by_parts(function: Callable[..., Tensor], logits: Logits, *others: Tensor) -> Tensor:
    """What `function` gives for each row, from a part of the rows at a time."""
    size = max(1, PART // max(1, logits.shape[-1]))
    return torch.cat([function(*part) for part in zip(*(x.split(size) for x in (logits, *others)), strict=True)])


def top1(logits: Logits, labels: ClassNumbers) -> float:
    """The share of rows whose largest logit is the label's."""
    return right(logits, labels).double().mean().item()


def right(logits: Logits, labels: ClassNumbers) -> Bool[Tensor, " batch"]:
    """Whether the largest logit is the label's, row by row."""
    return logits.argmax(-1) == labels


def top5(logits: Logits, labels: ClassNumbers) -> float:
    """The share of rows whose label is among the five largest logits (all, with fewer classes)."""
    first = logits.topk(min(5, logits.shape[-1]), -1).indices
    return (first == labels[:, None]).any(-1).double().mean().item()


def nll(logits: Logits, labels: ClassNumbers) -> float:
    """Negative log-likelihood of the labels, in nats: the mean cross-entropy."""
    return by_parts(lambda z, y: F.cross_entropy(z.double(), y, reduction="none"), logits, labels).mean().item()


def brier(logits: Logits, labels: ClassNumbers) -> float:
    """The mean squared distance from probabilities to one-hot labels, summed over classes: in [0, 2] (Brier, 1950)."""
    def rows(z: Tensor, y: Tensor) -> Tensor:
        p = z.double().softmax(-1)
        return (p.square().sum(-1) - 2 * p.gather(-1, y[:, None])[:, 0] + 1).clamp(min=0)  # 0 but for rounding

    return by_parts(rows, logits, labels).mean().item()


def top_probability(logits: Logits) -> Float[Tensor, " batch"]:
    """The probability of the first choice, in [1 / C, 1]."""
    return by_parts(lambda z: z.double().softmax(-1).amax(-1), logits)


def confusion(logits: Logits, labels: ClassNumbers) -> Int[Tensor, "classes classes"]:
    """How many rows of each label (row) were given each class (column)."""
    classes = logits.shape[-1]
    return torch.bincount(labels * classes + logits.argmax(-1), minlength=classes**2).view(classes, classes)


def per_class_accuracy(logits: Logits, labels: ClassNumbers) -> list[float | None]:
    """The accuracy on the rows of each class; None for a class without rows."""
    return class_means(right(logits, labels).double(), labels, logits.shape[-1])


def balanced_accuracy(logits: Logits, labels: ClassNumbers) -> float:
    """The mean over the classes that have rows of the accuracy on the rows of each: all classes count alike.

    >>> balanced_accuracy(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    0.5
    """
    shares = [share for share in per_class_accuracy(logits, labels) if share is not None]
    return sum(shares) / len(shares)


def class_means(values: PerSample, labels: ClassNumbers, classes: int) -> list[float | None]:
    """The mean of a number over the rows of each class; None for a class without rows."""
    rows = torch.bincount(labels, minlength=classes)
    sums = torch.bincount(labels, weights=values.double(), minlength=classes)
    return [total / count if count else None for total, count in zip(sums.tolist(), rows.tolist(), strict=True)]


def macro_f1(logits: Logits, labels: ClassNumbers) -> float:
    """The mean F1 score over the classes that some label or some choice names: F1 = 2 hits / (labels + choices)."""
    classes, choice = logits.shape[-1], logits.argmax(-1)
    hits = torch.bincount(labels[choice == labels], minlength=classes)
    named = torch.bincount(labels, minlength=classes) + torch.bincount(choice, minlength=classes)
    return (2 * hits[named > 0].double() / named[named > 0]).mean().item()


def aurc(logits: Logits, labels: ClassNumbers) -> float:
    """Area under the risk-coverage curve, in [0, 1]: how well confidence sorts out errors (Geifman & El-Yaniv, 2017).

    The mean over k = 1 .. N of the error rate of the k most confident rows; rows of one confidence count as in the
    mean over all their orders.
    """
    wrong = sorted_with_ties_shared(-top_probability(logits), (~right(logits, labels)).double())
    return (wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, device=wrong.device)).mean().item()


def sorted_with_ties_shared(keys: Float[Tensor, " rows"], values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """`values` by ascending keys, with the mean of them where keys are equal: no order of the rows is preferred."""
    levels, level = keys.unique(return_inverse=True)
    means = torch.zeros_like(levels, dtype=values.dtype).index_add(0, level, values) / torch.bincount(level)
    return means[level.sort().values]


def auroc(scores: Float[Tensor, " rows"], positive: Bool[Tensor, " rows"]) -> float | None:
    """The probability that a positive row scores above another one, ties half; None if all rows are of one kind.

    >>> auroc(torch.tensor([0.1, 0.9, 0.4]), torch.tensor([False, True, False]))
    1.0
    """
    levels, level = scores.unique(return_inverse=True)
    ours = torch.bincount(level[positive], minlength=len(levels)).double()
    others = torch.bincount(level[~positive], minlength=len(levels)).double()
    pairs = ours.sum() * others.sum()
    below = others.cumsum(0) - others
    return (ours * (below + others / 2)).sum().div(pairs).item() if pairs else None


def agreement(first: Logits, second: Logits) -> float:
    """The share of rows on which two networks choose the same class."""
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()


def mean_kl(first: Logits, second: Logits) -> float:
    """The mean over rows of KL(p_first || p_second), in nats."""
    def rows(a: Tensor, b: Tensor) -> Tensor:
        log_a, log_b = a.double().log_softmax(-1), b.double().log_softmax(-1)
        return (log_a.exp() * (log_a - log_b)).sum(-1)

    return max(0.0, by_parts(rows, first, second).mean().item())  # rounding can fall just below 0


def right_together(first: Logits, second: Logits, labels: ClassNumbers) -> dict[str, float]:
    """The shares of rows on which both of two networks are right, one of them, and neither."""
    hits = right(first, labels).long() + right(second, labels).long()
    both_wrong, one_right, both_right = (torch.bincount(hits, minlength=3).double() / len(labels)).tolist()
    return {"both_right": both_right, "one_right": one_right, "both_wrong": both_wrong}
