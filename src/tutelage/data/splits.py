"""Which rows are held out: a function of their names, the same for every seed, machine and number of ranks.

The name of an image in a folder is its path there, that of an image from Python what its pixels are, that of a row of a
published set its number. There are two rules, `Cut.rule`. By rule 2 an image more, or one less, moves at most one other
for each purpose. Rule 1 is that of runs made before there was another: every 1/share-th of an order, by numbers alone,
so that one more moves many.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tutelage.errors import DataError, UsageError
from tutelage.system.random import derive, hashed, permutation, uniform

TEST_SHARE = 0.2
"""Of a data set that comes without a test split."""
SplitRule = Literal[1, 2]
SPLIT_RULES = get_args(SplitRule)
GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples modulo 1 are spread evenly, however many there are (Weyl's sequence)."""


@dataclass(frozen=True, eq=False)
class Cut:
    """By which rule rows are cut, and what they are called there.

    `names` [N] int64 has the name of each id, as `names_of_paths` gives them; `None`: an id is its own name.
    """

    rule: int = 2
    names: Int[Tensor, " names"] | None = None

    def __post_init__(self) -> None:
        if self.rule not in SPLIT_RULES:
            raise UsageError("unknown rule of splits", where="split_rule", found=self.rule,
                             expected=" or ".join(map(str, SPLIT_RULES)))

    def held(self, ids: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], share: float,
             purpose: str) -> Bool[Tensor, " rows"]:
        """The rows to hold out, all of which have a label."""
        if self.rule == 1:
            return hold_out(ids, labels, share, purpose)
        return hold(self._names(ids), labels, share, purpose)

    def first(self, ids: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], own: Int[Tensor, " rows"],
              limit: int | None) -> Int[Tensor, " kept"]:
        """The numbers of the `limit` rows that come first, in rising order; `None`: all. -1 is no label.

        By rule 2 they have of each class its share, as the set's `own` labels say it, and at least one row of each
        class of the `labels` to learn from. So other labels choose other rows only where a class would have none.
        """
        if self.rule == 1 or limit is None:
            return first(ids, limit)
        return one_of_each_first(spread_over_classes(self._names(ids), own), labels)[:limit].sort().values

    def _names(self, ids: Tensor) -> Tensor:
        return ids if self.names is None else self.names[ids]


def names_of_paths(paths: Sequence[PurePath]) -> Int[Tensor, " paths"]:
    """A name, 64 bits as int64, for each path within a folder."""
    digests = (hashlib.blake2b(os.fsencode(path.as_posix()), digest_size=8).digest() for path in paths)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def names_of_hashes(hashes: Sequence[str]) -> Int[Tensor, " hashes"]:
    """A name for each hash, which is hexadecimal: its first 64 bits as int64."""
    return torch.tensor([int.from_bytes(bytes.fromhex(text[:16]), "big", signed=True) for text in hashes],
                        dtype=torch.int64)


def hold(names: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], share: float,
         purpose: str) -> Bool[Tensor, " rows"]:
    """The rows to hold out: of each class floor(share * its rows + its turn), never the last one.

    They are those with the smallest hashes of (purpose, name). The turn, in [0, 1), is the class number's: classes too
    small for the share take turns, so that together they give it. An image more can move one other, of its own class,
    and so can one less; a larger share holds out all that a smaller one does. No seed enters: a teacher that was
    trained with one seed has then not seen what its students are validated on with another.

    >>> names, labels = torch.arange(100), torch.arange(100) % 2
    >>> held = hold(names, labels, 0.1, "validation")
    >>> int(held.sum()), int(labels[held].sum())
    (10, 5)
    """
    classes, sizes = labels.unique(return_counts=True)
    wanted = (share * sizes.double() + turn(classes)).floor().long().minimum(sizes - 1)
    order = by_class(hashed(derive("split", purpose), names), labels)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = places_in_class(sizes) < wanted.repeat_interleave(sizes)
    if not bool(held.any()):
        raise _too_few(len(labels), share, purpose)
    return held


def hold_groups(names: Int[Tensor, " groups"], groups: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], share: float,
                purpose: str) -> Bool[Tensor, " rows"] | None:
    """The rows to hold out by whole groups, as near to the share of the rows as the groups let it be; None if none can.

    `names` has the name of each group, `groups` the group of each row. Groups are taken in the order of the hash of
    (purpose, name), each if it brings the held rows nearer to the share, and if every class (label 0 or more) keeps a
    row and one group stays. Where all are too large for the share, the smallest that may go is taken.

    >>> held = hold_groups(torch.arange(10), torch.arange(100) // 10, torch.arange(100) % 2, 0.2, "test")
    >>> int(held.sum()), len((torch.arange(100)[held] // 10).unique())
    (20, 2)
    """
    sizes, classes = groups.bincount(minlength=len(names)), labels[labels >= 0].unique()
    order = hashed(derive("groups", purpose), names).argsort(stable=True).tolist()
    wanted, held = share * len(groups), torch.zeros(len(groups), dtype=torch.bool)

    def may_go(group: int) -> bool:
        staying = ~(held | (groups == group))
        return bool(staying.any()) and bool(torch.isin(classes, labels[staying]).all())

    for group in order:
        size, there = int(sizes[group]), int(held.sum())
        if size and abs(there + size - wanted) < abs(there - wanted) and may_go(group):
            held |= groups == group
    if not bool(held.any()):
        smallest = next((group for group in sorted(order, key=sizes.tolist().__getitem__)
                         if int(sizes[group]) and may_go(group)), None)
        return None if smallest is None else groups == smallest
    return held


def spread_over_classes(names: Int[Tensor, " rows"], labels: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The numbers of all rows, in an order of which every beginning has of each label its share, to within a row or so.

    Within a class the hash of the name decides.
    """
    classes, sizes = labels.unique(return_counts=True)
    order = by_class(hashed(derive("limit"), names), labels)
    due = (places_in_class(sizes) + turn(classes).repeat_interleave(sizes)) / sizes.repeat_interleave(sizes)
    return order[due.argsort(stable=True)]


def one_of_each_first(order: Int[Tensor, " rows"], labels: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The same order, but for the first row of each class (label 0 or more), which goes before any second one."""
    own = labels[order]
    classes, sizes = own.unique(return_counts=True)
    grouped = own.argsort(stable=True)
    leads = torch.zeros(len(own), dtype=torch.bool)
    leads[grouped[(sizes.cumsum(0) - sizes)[classes >= 0]]] = True
    return torch.cat([order[leads], order[~leads]])


def turn(classes: Int[Tensor, " classes"]) -> Tensor:
    """Of each class number, how near it is to be rounded up, in [0, 1): float64, spread evenly over the numbers."""
    return (classes.double() + 0.5) * GOLDEN % 1


def by_class(keys: Tensor, labels: Tensor) -> Int[Tensor, " rows"]:
    """The numbers of the rows, class after class, within a class by their keys."""
    by_key = keys.argsort(stable=True)
    return by_key[labels[by_key].argsort(stable=True)]


def places_in_class(sizes: Int[Tensor, " classes"]) -> Int[Tensor, " rows"]:
    """0, 1, 2 ... of each class, one class after another."""
    return torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)


def _too_few(rows: int, share: float, purpose: str) -> DataError:
    return DataError(f"too few images to hold out some for {purpose}", found=f"{rows} images",
                     expected=f"at least one image in the {purpose} split and one left to train on, "
                              f"at a share of {share:g}",
                     fix=f"add images, or give the {purpose} split a folder of its own")


def hold_out(ids: Int[Tensor, " rows"], labels: Int[Tensor, " rows"], share: float,
             purpose: str) -> Bool[Tensor, " rows"]:
    """The rows to hold out by rule 1: round(share * rows) of them, each class in proportion (to within one row).

    The rows are put in the order (class, hash of the id) and every 1/share-th is taken.

    >>> ids, labels = torch.arange(100), torch.arange(100) % 2
    >>> held = hold_out(ids, labels, 0.1, "validation")
    >>> int(held.sum()), int(labels[held].sum())
    (10, 5)
    """
    rows = len(ids)
    wanted = round(share * rows)
    if not 0 < wanted < rows:
        raise _too_few(rows, share, purpose)
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
    return by_class(uniform(derive("split", purpose), ids, 1)[:, 0], labels)
