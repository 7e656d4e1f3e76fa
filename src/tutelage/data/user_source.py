"""A split of users: each sample is a user, with items that it took, and others to compare them with.

The input is {"users": [B]}, for which a network gives a score of each item [B, I]. With more items than
`SCORED_AT_ONCE` a draw for training brings candidates too, {"users": [B], "items": [B, L]}, and the scores are
[B, L]. All labels are columns of these scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.memory import moved_to
from tutelage.system.random import derive, uniform
from tutelage.types import Batch, View

SCORED_AT_ONCE = 5000
"""Of so many items all are scored in training; of more, only those that a draw names."""
PER_USER = 16
"""Items that are drawn of each user, each beside one that it did not take."""


@dataclass(frozen=True, eq=False)
class ItemLists:
    """Items of each user, one user after another: those of user u are items[starts[u] : starts[u + 1]], rising."""

    items: Tensor
    starts: Tensor

    @property
    def counts(self) -> Tensor:
        """How many items each user has [U]."""
        return self.starts[1:] - self.starts[:-1]

    @property
    def most(self) -> int:
        """The most that a user has, one at least."""
        return max(1, int(self.counts.max()))

    def of(self, users: Tensor) -> Tensor:
        """The items of users [B, most], -1 where a user has fewer."""
        first, count = self.starts[users], self.counts[users]
        places = torch.arange(self.most)
        if not len(self.items):
            return torch.full((len(users), self.most), -1)
        found = self.items[(first[:, None] + places).clamp(max=len(self.items) - 1)]
        return torch.where(places < count[:, None], found, -1)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a frozen teacher prefers among the items that a user did not take, group by group.

    `items` [U, G, M] int32 are the best M of each group, the best first, -1 where there are fewer; `counts` [U, G].
    `pairs` are drawn of each user, the same number of each group as far as that goes. Rank r, from 1 on, is drawn with
    a probability in proportion to exp(-r / rank_scale).
    """

    items: Tensor
    counts: Tensor
    pairs: int
    rank_scale: float

    @property
    def group_of_pair(self) -> Tensor:
        """Which group each pair is of: [pairs], rising."""
        return (torch.arange(self.pairs) * self.items.shape[1]) // self.pairs


@dataclass(frozen=True, eq=False)
class UserSource:
    """The users of a split, by their numbers `ids`.

    `relevant` are the items of this split, `seen` those of earlier splits, which are not recommended again; in train
    there are none. `groups` [I] are the groups of the items, 0 the most popular, `popularity` [I] how often each was
    taken in train; `names` are those of all users. With a `ranking` a draw also has pairs of a teacher's.

    Labels of a draw, which depend on (seed, draw, id) alone: "better" and "worse" [B, 16], an item that the user took
    and one that it did not; with a ranking "preferred" and "other" [B, pairs], -1 where a group has no two. Without a
    draw: "relevant" [B, m] and "seen" [B, n], padded with -1, and those of draw 0.
    """

    ids: Tensor
    relevant: ItemLists
    seen: ItemLists
    groups: Tensor
    popularity: Tensor
    seed: int
    device: torch.device
    names: tuple[str, ...] = ()
    ranking: Ranking | None = None

    @property
    def labels(self) -> Tensor:
        """0 for each user: there is something to recommend."""
        return torch.zeros_like(self.ids)

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        for rows in plan:
            users = self.ids[rows.cpu()]
            labels = self._drawn(users, draw or 0)
            view: dict[str, Tensor] = {"users": users}
            if draw is None:
                labels |= {"relevant": self.relevant.of(users), "seen": self.seen.of(users)}
            elif len(self.groups) > SCORED_AT_ONCE:
                view["items"], labels = as_columns(labels)
            made: View = {name: moved_to(value, self.device) for name, value in view.items()}
            yield Batch(dict.fromkeys(views, made), {name: moved_to(x, self.device) for name, x in labels.items()},
                        moved_to(users, self.device))

    def _drawn(self, users: Tensor, draw: int) -> dict[str, Tensor]:
        odds = uniform(derive(self.seed, "items of a user", draw), users, 2 * PER_USER).double()
        first, count = self.relevant.starts[users][:, None], self.relevant.counts[users][:, None]
        taken = self.relevant.items[first + (odds[:, :PER_USER] * count).long()]
        labels = {"better": taken, "worse": others_than(self.relevant.of(users), odds[:, PER_USER:], len(self.groups))}
        if self.ranking is not None:
            labels["preferred"], labels["other"] = ranked_pairs(self.ranking, users, self.seed, draw)
        return labels


def others_than(taken: Tensor, odds: Tensor, items: int) -> Tensor:
    """For numbers in [0, 1) [B, n] an item each that is not among `taken` [B, m], rising and padded with -1.

    All others are equally likely; -1 where a user took every item.

    >>> others_than(torch.tensor([[1, 2, -1]]), torch.tensor([[0.0, 0.5, 0.99]]), 4).tolist()
    [[0, 3, 3]]
    """
    there = taken >= 0
    free = items - there.sum(1, keepdim=True)
    number = (odds * free).long()
    # The number of free items before the j-th taken one is taken_j - j: those with no more than `number` come first.
    before = torch.where(there, taken - torch.arange(taken.shape[1]), items)
    found = number + torch.searchsorted(before, number, right=True)
    return torch.where(free > 0, found, -1)


def ranked_pairs(ranking: Ranking, users: Tensor, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Of each user `pairs` items that the teacher prefers, and as many that it puts behind: [B, pairs] each.

    The two ranks of a pair are drawn without replacement. Both are -1 where a group has no two items.
    """
    odds = uniform(derive(seed, "ranked pairs", draw), users, 2 * ranking.pairs).double()
    group = ranking.group_of_pair
    first, second = two_ranks(odds[:, : ranking.pairs], odds[:, ranking.pairs :], ranking.counts[users][:, group],
                              ranking.rank_scale)
    best, worst = torch.minimum(first, second), torch.maximum(first, second)
    user, there = users[:, None], best >= 0
    return tuple(torch.where(there, ranking.items[user, group, rank.clamp(min=0)].long(), -1)
                 for rank in (best, worst))  # pyright: ignore[reportReturnType]


def two_ranks(one: Tensor, two: Tensor, counts: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Two unlike ranks from 0 on for numbers in [0, 1), of `counts` each; -1 where there are fewer than two.

    The first is r with a probability in proportion to exp(-r / scale), the second likewise among those that are left.
    """
    counts = counts.double()
    whole = -torch.expm1(-counts / scale)

    def below(rank: Tensor) -> Tensor:
        return -torch.expm1(-rank / scale) / whole

    def rank_at(share: Tensor) -> Tensor:
        return (-scale * torch.log1p(-share * whole)).floor().clamp(min=0).minimum(counts - 1)

    first = rank_at(one)
    start, stop = below(first), below(first + 1)
    share = two * (1 - (stop - start))
    second = rank_at(torch.where(share >= start, share + (stop - start), share))
    # Rounding may put a share that lies at an edge back into the first rank.
    second = torch.where(second == first, torch.where(first + 1 < counts, first + 1, first - 1), second)
    there = counts >= 2
    return tuple(torch.where(there, rank, -1).long() for rank in (first, second))  # pyright: ignore


def as_columns(labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Items by name [B, n] -> all of them side by side [B, L], and the labels as columns of these.

    Where an item is -1 the candidate is item 0 and the column -1.
    """
    columns, begin = dict[str, Tensor](), 0
    for name, items in labels.items():
        place = torch.arange(begin, begin + items.shape[1])
        columns[name], begin = torch.where(items >= 0, place, -1), begin + items.shape[1]
    return torch.cat([*labels.values()], 1).clamp(min=0), columns


def rank_items(scores: Tensor, taken: Tensor, groups: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Scores [B, I] -> of each group the best `most` items that are not `taken` [B, m]: [B, G, most] and how many.

    Among equal scores the smaller number comes first.
    """
    count = int(groups.max()) + 1
    free = torch.ones_like(scores, dtype=torch.bool)
    free = torch.cat([free, free[:, :1]], 1).scatter(1, torch.where(taken >= 0, taken, scores.shape[1]), False)[:, :-1]
    found = torch.full((len(scores), count, most), -1, dtype=torch.int32)
    counts = torch.zeros(len(scores), count, dtype=torch.int64)
    for group in range(count):
        items = (groups == group).nonzero()[:, 0]
        own = free[:, items]
        order = scores[:, items].masked_fill(~own, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most]
        left = own.sum(1).clamp(max=most)
        there = torch.arange(order.shape[1], device=scores.device) < left[:, None]
        found[:, group, : order.shape[1]] = torch.where(there, items[order], -1).int().cpu()
        counts[:, group] = left.cpu()
    return found, counts
