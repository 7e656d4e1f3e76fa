"""Which rows are held out: a function of the ids, the same for every seed, machine and number of ranks."""

import math
from functools import cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tutelage.errors import DataError
from tutelage.system.random import derive, permutation, uniform

TEST_SHARE = 0.2
"""Of a data set that comes without a test split."""


def hold_out(ids: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], share: float,
             purpose: str) -> Bool[Tensor, " rows"]:
    """The rows to hold out: round(share * rows) of them, each class in proportion (to within one row).

    The rows are put in the order (class, hash of the id) and every 1/share-th is taken. No seed enters: a teacher
    that was trained with one seed has then not seen what its students are validated on with another.

    >>> ids, labels = torch.arange(100), torch.arange(100) % 2
    >>> held = hold_out(ids, labels, 0.1, "validation")
    >>> int(held.sum()), int(labels[held].sum())
    (10, 5)
    """
    rows = len(ids)
    wanted = round(share * rows)
    if not 0 < wanted < rows:
        raise DataError(f"too few images to hold out some for {purpose}", found=f"{rows} images",
                        expected=f"at least one image in the {purpose} split and one left to train on, "
                                 f"at a share of {share:g}",
                        fix=f"add images, or give the {purpose} split a folder of its own")
    place = torch.arange(rows)
    taken = (place + 1) * wanted // rows > place * wanted // rows
    held = torch.zeros(rows, dtype=torch.bool)
    held[_order(ids, labels, purpose)[taken]] = True
    return held


def first(ids: Int[Tensor, " rows"], limit: int | None) -> Int[Tensor, " kept"]:
    """The numbers of the `limit` rows that come first by the hash of their ids, in rising order; `None`: all.

    A smaller limit keeps a part of what a larger one keeps.
    """
    order = uniform(derive("limit"), ids, 1)[:, 0].argsort(stable=True)
    return order[:limit].sort().values


@cache
def classes_of(classes: int, *, phase: int, phases: int, start: str, order: int) -> tuple[Tensor, Tensor]:
    """The classes seen before a phase (from 0) and those that are new in it, as class numbers [n] and [m - n].

    `start` is "even", all phases of about one size, or "half", where the first has half of the classes.

    >>> [len(new) for phase in range(3) for new in classes_of(10, phase=phase, phases=3, start="half", order=0)[1:]]
    [5, 3, 2]
    """
    first = math.ceil(classes / phases) if start == "even" else math.ceil(classes / 2)
    rest = classes - first
    sizes = [first, *(rest // (phases - 1) + (k < rest % (phases - 1)) for k in range(phases - 1))]
    if min(sizes) < 1:
        raise DataError("more phases than classes", where="phases", found=f"{phases} phases, {classes} classes",
                        fix="fewer phases")
    arranged = permutation(derive("class order", order), classes)
    begin = sum(sizes[:phase])
    return arranged[:begin], arranged[begin:begin + sizes[phase]]


def _order(ids: Tensor, labels: Tensor, purpose: str) -> Tensor:
    by_hash = uniform(derive("split", purpose), ids, 1)[:, 0].argsort(stable=True)
    return by_hash[labels[by_hash].argsort(stable=True)]
