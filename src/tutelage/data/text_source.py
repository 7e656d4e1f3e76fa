"""A split of sentences in memory, as numbers of pieces; what is hidden of them, and how pools of them are mixed.

A view is {"tokens": [B, L]} int64, -1 in the padding; where words are asked about it also has "places" [B, P], the
pieces that a network says something of, 0 where there are fewer. For networks with a tokenizer of their own there are
"tokens_NAME" and "places_NAME" beside them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tutelage.data.memory import moved_to
from tutelage.system.random import derive, permutation, uniform
from tutelage.types import Batch, View

KEPT_AS_IT_IS, OTHER = 0.1, 0.1
"""Of the pieces that are to be guessed: so many are shown as they are, or as another piece (Devlin et al., 2019)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sentences as pieces of one tokenizer: [N, L] with -1 in the padding; the first piece of each word [N, W].

    `free` [N, L] are the pieces that may be hidden: those of words. `size` is how many pieces the tokenizer has, and
    `longest` says where the longest sentence stands.
    """

    pieces: Int[Tensor, "rows length"]
    first: Int[Tensor, "rows words"]
    free: Bool[Tensor, "rows length"]
    size: int = 0
    longest: str = ""


@dataclass(frozen=True)
class Hiding:
    """A `share` of the pieces of each sentence, one at least and `most` at most, is to be guessed.

    `hidden` is the number of the mark for what is hidden, `size` how many pieces there are, the first `marks` of which
    are none of words.
    """

    share: float
    most: int
    hidden: int
    size: int
    marks: int
    seed: int


@dataclass(frozen=True)
class Pools:
    """Rows of a source by the pool that they are of [N], and of each pool the share of every batch."""

    names: tuple[str, ...]
    of: Tensor
    shares: tuple[float, ...]

    def counts(self, batch: int) -> list[int]:
        """How many rows of each pool a batch of so many has."""
        return counts_of_batch(self.shares, batch)


@dataclass(frozen=True, eq=False)
class TextSource:
    """The sentences of a split; `tokens` are those of each tokenizer, "" the main one.

    Labels are class numbers [B]; with `tags` [N, W] "tags" [B, W], -1 where there is none, and "there" [B, W], 1 where
    there is a word; with `hiding` the pieces to guess [B, P], -1 where there are fewer. A plain row is hidden as in
    draw 0. With `pools` each batch of an epoch has its exact share of each.
    """

    ids: Tensor
    labels: Tensor
    tokens: Mapping[str, Tokens]
    tags: Tensor | None = None
    hiding: Hiding | None = None
    pools: Pools | None = None

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        device = self.tokens[""].pieces.device
        for entry in plan:
            rows = entry.cpu()
            ids, there = moved_to(self.ids[rows], device), moved_to(rows, device)
            if self.hiding is not None:
                tokens, places, labels = hide(self.tokens[""], there, ids, self.hiding, draw or 0)
                made: View = {"tokens": tokens, "places": places}
                yield Batch(dict.fromkeys(views, made), labels, ids)
                continue
            view = {f"tokens{_after(name)}": own.pieces[there] for name, own in self.tokens.items()}
            if self.tags is not None:
                view |= {f"places{_after(name)}": own.first[there].clamp(min=0) for name, own in self.tokens.items()}
                told = {"tags": self.tags[there], "there": (self.tokens[""].first[there] >= 0).long()}
                yield Batch(dict.fromkeys(views, view), told, ids)
                continue
            yield Batch(dict.fromkeys(views, view), moved_to(self.labels[rows], device), ids)

    def rows_of_epoch(self, seed: int, epoch: int, batch: int) -> Tensor | None:
        """See `OwnOrder`; None where nothing is mixed."""
        return None if self.pools is None else mixed_rows(self.pools, seed, epoch, batch)


def _after(name: str) -> str:
    return f"_{name}" if name else ""


def hide(tokens: Tokens, rows: Tensor, ids: Tensor, how: Hiding, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences with pieces hidden [B, L], the places of these [B, P] and the pieces themselves [B, P], -1 for none.

    Which, and what stands there instead, depends on (seed, draw, id) alone: 8 of 10 are the mark for what is hidden.
    """
    whole, free = tokens.pieces[rows], tokens.free[rows]
    length, count = whole.shape[1], free.sum(1, keepdim=True)
    odds = uniform(derive(how.seed, "hidden words", draw), ids, 3 * length)
    order, kind, other = odds.split(length, 1)
    wanted = torch.minimum((how.share * count).round().long().clamp(min=1, max=how.most), count)
    places = order.masked_fill(~free, 2.0).argsort(dim=1, stable=True)[:, :how.most]
    there = torch.arange(places.shape[1], device=whole.device) < wanted
    said = torch.where(there, whole.gather(1, places), -1)
    instead = torch.full_like(places, how.hidden)
    pick = kind.gather(1, places)
    drawn = how.marks + (other.gather(1, places).double() * (how.size - how.marks)).long()
    instead = torch.where(pick < OTHER + KEPT_AS_IT_IS, drawn, instead)
    instead = torch.where(pick < KEPT_AS_IT_IS, said, instead)
    shown = whole.scatter(1, places, torch.where(there, instead, whole.gather(1, places)))
    return shown, torch.where(there, places, 0), said


def most_hidden(tokens: Tokens, share: float) -> int:
    """As many places as the longest of these sentences has to guess."""
    return max(1, round(share * int(tokens.free.sum(1).max())))


def counts_of_batch(shares: Sequence[float], batch: int) -> list[int]:
    """How many rows of each pool a batch has: the nearest whole numbers that sum to it, by largest remainders.

    >>> counts_of_batch([0.7, 0.3], 64), counts_of_batch([1.0, 0.0], 64)
    ([45, 19], [64, 0])
    """
    exact = [share * batch for share in shares]
    counts = [int(one + 1e-9) for one in exact]
    left = sorted(range(len(shares)), key=lambda pool: (counts[pool] - exact[pool], pool))
    for pool in left[:batch - sum(counts)]:
        counts[pool] += 1
    return counts


def mixed_rows(pools: Pools, seed: int, epoch: int, batch: int) -> Tensor:
    """Rows of an epoch, as many whole batches as all pools have together, each with the exact count of each pool.

    A pool is gone through in an order of its own, anew when it is through, from epoch to epoch: its rows come equally
    often, to within one. A pool without a share is never touched. Everything depends on (seed, epoch) alone.
    """
    total, counts = len(pools.of), pools.counts(batch)
    steps = total // batch
    parts = []
    for pool, count in enumerate(counts):
        own = (pools.of == pool).nonzero()[:, 0]
        parts.append(_in_turn(own, derive(seed, "order of a pool", pools.names[pool]), epoch * steps * count,
                              steps * count).view(steps, count))
    rows = torch.cat(parts, 1)
    for step in range(steps):
        rows[step] = rows[step, permutation(derive(seed, "places in a batch", epoch, step), batch)]
    return rows.flatten()


def _in_turn(own: Tensor, key: int, begin: int, count: int) -> Tensor:
    """`count` rows of an endless row of permutations of `own`, from place `begin` on."""
    if not count:
        return own[:0]
    first, last = begin // len(own), (begin + count - 1) // len(own)
    whole = torch.cat([own[permutation(derive(key, turn), len(own))] for turn in range(first, last + 1)])
    start = begin - first * len(own)
    return whole[start:start + count]
