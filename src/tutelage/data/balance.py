"""Classes of unequal size: what is said of them, and how often each comes in an epoch."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from tutelage.data.splits import by_class, places_in_class
from tutelage.system.random import derive, permutation, uniform

Balance = Literal["none", "sqrt", "uniform"]
TOLD_FROM = 3.0
"""From so many times the images of the smallest class in the largest on, their sizes are told."""
NAMED = 10
"""Of more classes only so many are named."""
_POWERS = {"sqrt": 0.5, "uniform": 0.0}


def rows_of_epoch(labels: Int[Tensor, " rows"], balance: Balance, seed: int, epoch: int) -> Int[Tensor, " rows"]:
    """The rows of an epoch in their order, as many as there are, as a function of (seed, epoch).

    "none": each once. "sqrt" and "uniform": each class (label 0 or more) has draws in proportion to the square root of
    its rows, or as many as any other, to within one draw and exact in the mean over epochs; within a class the rows
    come equally often, to within one. A row without a label (-1) comes once.

    >>> labels = torch.tensor([0] * 8 + [1] * 2)
    >>> labels[rows_of_epoch(labels, "uniform", 0, 0)].bincount().tolist()
    [5, 5]
    """
    if balance == "none":
        return permutation(derive(seed, "order", epoch), len(labels))
    order = by_class(permutation(derive(seed, "rows of an epoch", epoch), len(labels)), labels)
    classes, sizes = labels.unique(return_counts=True)
    draws, wanted = sizes.clone(), rows_of_classes(labels, balance, int(classes.max()) + 1)
    draws[classes >= 0] = _draws(wanted[classes[classes >= 0]], derive(seed, "draws of classes", epoch))
    times = (draws // sizes).repeat_interleave(sizes) + (places_in_class(sizes)
                                                         < (draws % sizes).repeat_interleave(sizes)).long()
    return order.repeat_interleave(times)[permutation(derive(seed, "order", epoch), len(labels))]


def rows_of_classes(labels: Int[Tensor, " rows"], balance: Balance, classes: int) -> Float64[Tensor, " classes"]:
    """How many rows of each class an epoch has, in the mean: those with a label, shared out as `rows_of_epoch` does.

    >>> rows_of_classes(torch.tensor([0] * 8 + [1] * 2), "uniform", 2).tolist()
    [5.0, 5.0]
    """
    sizes = labels[labels >= 0].bincount(minlength=classes).double()
    if balance == "none" or not bool(sizes.any()):
        return sizes
    shares = torch.where(sizes > 0, sizes ** _POWERS[balance], 0)
    return sizes.sum() * shares / shares.sum()


def notes_on_classes(classes: Sequence[str], labels: Mapping[str, Tensor],
                     row: tuple[str, str] = ("image", "images")) -> tuple[str, ...]:
    """What of the classes cannot be learned or judged, and how unequal they are, from the labels [N] of each split.

    `row` says what a person calls one row, and several.
    """
    one, several = row
    counts = {split: own[own >= 0].bincount(minlength=len(classes)).tolist() for split, own in labels.items()}
    training, notes = counts["train"], []
    untaught = [number for number, count in enumerate(training) if count == 0]
    if not any(training):
        notes.append(f"no training {one} has a label")
    elif untaught:
        notes.append(f"no training {one} teaches {len(untaught)} of {len(classes)} classes: {named(untaught, classes)}")
    for split, there in counts.items():
        lacking = [number for number, count in enumerate(there) if count == 0]
        if split != "train" and lacking and any(there):
            few = [f"{classes[number]} ({training[number]} to train on)" for number in lacking]
            notes.append(f"no {split} {one} judges {len(lacking)} of {len(classes)} classes: "
                         f"{named(range(len(few)), few)}")
    taught = [number for number, count in enumerate(training) if count]
    if taught:
        largest, smallest = (choose(taught, key=training.__getitem__) for choose in (max, min))
        if training[largest] >= TOLD_FROM * training[smallest]:
            notes.append(f"classes of unequal size: {training[largest]} training {several} of {classes[largest]}, "
                         f"{training[smallest]} of {classes[smallest]}; docs/recipes.md has what can be done")
    return tuple(notes)


def named(numbers: Sequence[int], classes: Sequence[str]) -> str:
    """The names of some classes for a person to read: a few of them, and how many more there are."""
    more = len(numbers) - NAMED
    return ", ".join(classes[number] for number in numbers[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _draws(wanted: Tensor, key: int) -> Tensor:
    """Whole numbers of draws, each within one of what is wanted and so in the mean over keys: systematic sampling."""
    total = wanted.sum().round()
    ends = wanted.cumsum(0).clamp(max=total)
    ends[-1:] = total
    start = uniform(key, torch.zeros(1, dtype=torch.int64), 1).double()[0, 0]
    return (ends + start).floor().long().diff(prepend=torch.zeros(1, dtype=torch.int64))
