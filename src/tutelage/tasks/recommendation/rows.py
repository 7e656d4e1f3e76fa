"""What the rows of a recommender are: pairs of items of a user, or its list of all items.

A network gives scores [B, I] or, of candidates, [B, L]; labels are columns of these. A row of a pair holds the two
scores, the better item's first, and its label is 0: cross-entropy on it is BPR, -log sigmoid(better - worse).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import BatchLabels, Rows


@dataclass(frozen=True)
class PairRows:
    """A function of rows that are pairs: `better` and `worse` name labels [B, n] of columns, -1 where there is none.

    Only pairs that are there count.
    """

    name: str
    better: str
    worse: str
    choices: int = 2

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """Rows [B n, 2] of these ends."""
        better, worse = (named_label(labels, name) for name in (self.better, self.worse))
        there = (better >= 0) & (worse >= 0)
        columns = torch.stack([better, worse], -1).clamp(min=0).flatten(1)
        pairs = {end: scores_at(end, value).gather(1, columns).view(-1, 2) for end, value in values.items()}
        counts = there.flatten().to(next(iter(pairs.values())).dtype)
        sample = torch.arange(len(better), device=better.device).repeat_interleave(better.shape[1])
        return Rows(pairs, torch.zeros_like(better.flatten()), counts, counts.sum(), sample)

    def total(self, labels: BatchLabels) -> Tensor:
        """How many pairs count."""
        better, worse = (named_label(labels, name) for name in (self.better, self.worse))
        return ((better >= 0) & (worse >= 0)).sum()


_preferred = PairRows("ranked", "preferred", "other")


@dataclass(frozen=True)
class RankedPairs:
    """Pairs as a frozen teacher ranks them: `pairs` of each user, of ranks r drawn by exp(-r / `rank_scale`).

    With `blind` all items are one group.
    """

    pairs: int = 30
    rank_scale: float = 20.0
    blind: bool = False
    choices: int = 2

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return _preferred.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """Rows [B pairs, 2] of these ends, the item that the teacher prefers first."""
        return _preferred(values, labels)

    def total(self, labels: BatchLabels) -> Tensor:
        """How many pairs count."""
        return _preferred.total(labels)


@dataclass(frozen=True)
class ListRows:
    """A function of rows that are users: a row is the whole list of scores."""

    name: str

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """Rows [B, I] or [B, L] of these ends."""
        lists = {end: scores_at(end, value) for end, value in values.items()}
        first = next(iter(lists.values()))
        return Rows(lists, torch.zeros(len(first), dtype=torch.int64, device=first.device), first.new_ones(len(first)))

    def total(self, labels: BatchLabels) -> Tensor:
        """How many users there are."""
        better = named_label(labels, "better")
        return torch.tensor(len(better), device=better.device)


def prefer_first(student: Tensor, teacher: object = None, labels: object = None) -> Tensor:
    """-log sigmoid(a - b) of rows of two scores (a, b): the teacher speaks through the choice of the pairs alone.

    >>> prefer_first(torch.zeros(1, 2), torch.zeros(1, 2)).exp().tolist()
    [2.0]
    """
    return -F.logsigmoid(student[:, 0] - student[:, 1])


def named_label(labels: BatchLabels, name: str) -> Tensor:
    """One of the labels of users; ModelError where they have none of that name."""
    if isinstance(labels, Tensor) or name not in labels:
        raise ModelError(f"labels without {name!r}", where="labels",
                         found="one tensor" if isinstance(labels, Tensor) else ", ".join(sorted(labels)),
                         expected="those of users and the items that they took",
                         fix="pairs of a teacher need a frozen teacher: see unkd" if name == "preferred" else None)
    return labels[name]


def scores_at(end: str, value: Tensor) -> Tensor:
    """What an end says, as scores [B, I]; ModelError where it is none."""
    if value.dim() != 2:
        raise ModelError("an end that gives no scores", where=f"end {end!r}", found=f"shape {list(value.shape)}",
                         expected="[B, items]", fix="take a recommender, such as mf or lightgcn")
    return value


observed = PairRows("observed", "better", "worse")
"""A row is an item that a user took, and one that it did not."""
ranked = RankedPairs()
"""A row is an item that a frozen teacher prefers to another of its group; the user took neither."""
lists = ListRows("lists")
"""A row is a user with the scores of all items, or of the candidates."""
