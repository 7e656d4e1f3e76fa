"""What predictions say of the network behind them: another class order, no skill at all, one class for everything.

Statistics of first choices and labels alone, each with the sample that it needs. Thresholds were set so that honest
networks pass: on networks that were trained on the same data, `class_order` was wrong once in 4680 times, and not for
one that was above chance. `FEWEST` images are needed; with fewer nothing is said.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtrc, betaincinv, ndtr, pdtrc
from torch import Tensor
from typing_extensions import TypedDict

FEWEST, ENOUGH = 256, 512
"""Labelled images without which skill is not judged, and so many as are looked at."""
FOLDS = 5
ORDER_LEVEL, ORDER_GAIN = 1e-4, 0.10
MANY_CLASSES = 50
"""From so many classes on an order that is twice as good is suspicious too, however small the gain."""
CHANCE_LEVEL = 0.01
OTHER_ANSWERS, SURE = 0.05, 0.99
FEWEST_OF_A_PAIR = 4

Numbers = Int[np.ndarray, " rows"]
Given = Int[np.ndarray, " given"]


class ClassOrder(NamedTuple):
    """Balanced accuracies, in [0, 1], in the network's own order of classes and in the best one; and the verdict."""

    own: float
    other: float
    p: float
    suspicious: bool


class Chance(NamedTuple):
    """Hits, those expected of a network that ignores the image, and how likely it is to have so many by chance."""

    hits: int
    expected: float
    p: float

    @property
    def ignores_the_image(self) -> bool:
        """Whether the network cannot be told from one that ignores the image."""
        return self.p >= CHANCE_LEVEL


class Mark(TypedDict):
    """What is wrong with a network's answers: "kind" is "one class" or "chance", "text" says it to a person."""

    kind: str
    text: str


def class_order(choices: Numbers, labels: Numbers, classes: int) -> ClassOrder:
    """Whether the outputs fit the classes clearly better in another order; choices and labels [N] in 0 .. C - 1.

    The best order is fitted on four fifths of the rows of each class and judged on the last, in turn: an honest network
    gains nothing by it. Accuracies are means over the classes. p is that of a one-sided McNemar test.
    """
    seen, row, count = np.unique(labels, return_inverse=True, return_counts=True)
    outputs = np.union1d(seen, choices)
    column, own = np.searchsorted(outputs, choices), np.searchsorted(outputs, seen)
    fold = np.empty(len(labels), dtype=int)
    fold[np.argsort(row, kind="stable")] = np.arange(len(labels)) % FOLDS
    weight = 1 / count[row] / len(seen)
    table = np.zeros((len(seen), len(outputs)))
    np.add.at(table, (row, column), weight)
    reordered = np.zeros(len(labels), dtype=bool)
    for number in range(FOLDS):
        judged = fold == number
        rest = table.copy()
        np.subtract.at(rest, (row[judged], column[judged]), weight[judged])
        rest[np.arange(len(seen)), own] += 1e-9  # ties keep the own order
        rows, columns = linear_sum_assignment(rest, maximize=True)
        best = np.full(len(seen), -1)
        best[rows] = columns
        reordered[judged] = best[row[judged]] == column[judged]
    right = choices == labels
    mine, others = float(weight[right].sum()), float(weight[reordered].sum())
    up, down = int((reordered & ~right).sum()), int((right & ~reordered).sum())
    p = float(bdtrc(up - 1, up + down, 0.5)) if up else 1.0
    better = others - mine > ORDER_GAIN or (classes >= MANY_CLASSES and others > 2 * mine)
    return ClassOrder(mine, others, p, bool(p < ORDER_LEVEL and better))


def swapped_pairs(choices: Numbers, labels: Numbers, classes: int) -> list[tuple[int, int]]:
    """The pairs of classes most images of which are each taken for the other; of both there are 4 images or more.

    >>> labels = np.repeat([0, 1, 2], 4)
    >>> swapped_pairs(np.array([1, 0, 2])[labels], labels, 3)
    [(0, 1)]
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, choices), 1)
    images = table.sum(1)
    mostly = (table > images[:, None] / 2) & (images >= FEWEST_OF_A_PAIR)[:, None]
    return [(int(a), int(b)) for a, b in np.argwhere(mostly & mostly.T) if a < b]


def chance(choices: Numbers, labels: Numbers, classes: int) -> Chance:
    """How the hits compare with those of answers that are dealt out to the images at random, each as often as it was.

    Mean and variance of the hits are exact; the tail is normal, or Poisson's where few are expected.
    """
    n = len(labels)
    said, true = (np.bincount(values, minlength=classes).astype(float) for values in (choices, labels))
    pairs = float((said * true).sum())
    mean, hits = pairs / n, int((choices == labels).sum())
    together = float((said * (said - 1) * true * (true - 1)).sum()) + pairs**2 - float((said**2 * true**2).sum())
    variance = mean + together / max(1, n * (n - 1)) - mean**2
    if variance <= 1e-9:
        return Chance(hits, mean, 1.0)
    if mean < 10:
        return Chance(hits, mean, float(pdtrc(hits - 1, mean)) if hits else 1.0)
    return Chance(hits, mean, float(ndtr(-(hits - 0.5 - mean) / variance**0.5)))


def collapsed(choices: Numbers, labels: Numbers, classes: int) -> int | None:
    """The class that the network says for nearly all images, or None.

    Of the images of other classes, surely (99 %, Clopper and Pearson) fewer than 5 % get another answer: at least 90
    such images are needed. A network that has learned a rare class apart is none, however often it says the other.
    """
    favourite = int(np.bincount(choices, minlength=classes).argmax())
    others = labels != favourite
    n, otherwise = int(others.sum()), int((choices[others] != favourite).sum())
    if otherwise >= n:
        return None
    return favourite if float(betaincinv(otherwise + 1, n - otherwise, SURE)) < OTHER_ANSWERS else None


def mark_of(logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], names: Sequence[str]) -> Mark | None:
    """What is wrong with a network that says one class for nearly all images, or that is at chance; else None.

    Rows whose label is -1 are left out. With fewer than `FEWEST` rows chance is not judged.
    """
    choices, truth = first_choices(logits, labels)
    if not len(truth):
        return None
    favourite = collapsed(choices, truth, len(names))
    if favourite is not None:
        said, are = float((choices == favourite).mean()), float((truth == favourite).mean())
        name = names[favourite]
        return Mark(kind="one class", text=f"says {name!r} for {_percent(said)} of images, "
                                           f"of which {_percent(are)} are {name!r}")
    found = chance(choices, truth, len(names))
    if len(truth) >= FEWEST and found.ignores_the_image:
        return Mark(kind="chance", text=chance_text(found, len(truth)))
    return None


def chance_text(found: Chance, rows: int) -> str:
    """What is said of a network at chance."""
    return (f"cannot be told from a network that ignores the image (n = {rows}: {found.hits} hits, "
            f"{found.expected:.0f} by chance)")


def first_choices(logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"]) -> tuple[Given, Given]:
    """First choices and labels of the rows that have a label, as numpy has them."""
    given = labels >= 0
    return logits[given].argmax(-1).cpu().numpy(), labels[given].cpu().numpy()


def _percent(share: float) -> str:
    """A share in percent, near all and none with one digit more."""
    shown = f"{share:.0%}" if not (0.99 < share < 1 or 0 < share < 0.01) else f"{share:.1%}"
    return shown.replace("%", " %")
