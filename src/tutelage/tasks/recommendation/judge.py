"""How recommenders are judged: by the ten items that they show to each user, beside the ten most popular ones."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import DataError
from tutelage.tasks.recommendation.metrics import ndcg, recall
from tutelage.tasks.recommendation.rows import named_label
from tutelage.tasks.task import Evidence, Judge, Score
from tutelage.types import BatchLabels

SHOWN = 10
SCORES = (
    Score("recall", "Recall@10"),
    Score("ndcg", "NDCG@10"),
    Score("recall_rarest", "Recall@10, rarest", each_epoch=False),
    Score("recall_most_popular", "Recall@10, popular", each_epoch=False, main=False),
    Score("coverage", "coverage", each_epoch=False),
    Score("popular_share", "popular items in top-10", better="lower", each_epoch=False),
)
MOST_POPULAR = '"most popular"'
"""Who shows the same items to everybody: those that were taken most often, without those that a user has."""


def judge_of_users(groups: Tensor, popularity: Tensor) -> Judge:
    """The judge of scores [B, I] of items in these groups, which were taken so often in train.

    Its evidence is "top" [N, 10], the items that are shown, the best first, and "hits" [N, 10], whether the user took
    them; "popular_top" and "popular_hits", the same of the most popular items; "relevant" [N, G], how many items the
    user took of each group.
    """
    return Judge(partial(_measure, groups, popularity), partial(_summary, groups), _agreement, by_sample=_by_user,
                 baseline=partial(_most_popular, groups))


def top_items(scores: Tensor, seen: Tensor, count: int = SHOWN) -> Tensor:
    """The best `count` items of each user [B, count] by scores [B, I], without those `seen` [B, m], padded with -1.

    Among equal scores the smaller number comes first; -1 where no item is left.
    """
    wide = torch.cat([scores.float(), scores.new_zeros(len(scores), 1).float()], 1)
    left = wide.scatter(1, torch.where(seen >= 0, seen, scores.shape[1]), -torch.inf)[:, :-1]
    count = min(count, scores.shape[1])
    best = left.argsort(dim=1, descending=True, stable=True)[:, :count] if scores.shape[1] <= 4 * count else _topk(
        left, count)
    return torch.where(left.gather(1, best) > -torch.inf, best, -1)


def _topk(scores: Tensor, count: int) -> Tensor:
    """`topk` by falling score and then rising number; at the edge of equal scores any of them may be in."""
    best = scores.topk(count).indices.sort(1).values
    order = scores.gather(1, best).argsort(dim=1, descending=True, stable=True)
    return best.gather(1, order)


def _measure(groups: Tensor, popularity: Tensor, taps: Mapping[str, Tensor], labels: BatchLabels,
             ids: Tensor) -> Evidence | None:
    scores = taps[""]
    if scores.dim() != 2 or scores.shape[1] != len(groups):
        return None
    relevant, seen = named_label(labels, "relevant"), named_label(labels, "seen")
    there, groups = relevant >= 0, groups.to(scores.device)
    top = top_items(scores, seen)
    popular = top_items(popularity.to(scores).expand_as(scores), seen)
    of_groups = torch.zeros(len(scores), int(groups.max()) + 1, dtype=torch.int64, device=scores.device)
    of_groups.scatter_add_(1, groups[relevant.clamp(min=0)], there.long())
    return {"top": top, "hits": _are_in(top, relevant), "popular_top": popular,
            "popular_hits": _are_in(popular, relevant), "relevant": of_groups}


def _are_in(items: Tensor, relevant: Tensor) -> Tensor:
    return ((items[:, :, None] == relevant[:, None]) & (items >= 0)[:, :, None]).any(-1)


def _summary(groups: Tensor, evidence: Evidence) -> dict[str, Any]:
    relevant, top, hits = evidence["relevant"], evidence["top"], evidence["hits"]
    whole = relevant.sum(1)
    if not bool((whole > 0).any()):
        raise DataError("there is nothing to evaluate on", found="no user with an item")
    shown = torch.where(top >= 0, groups[top.clamp(min=0)], -1)
    by_group = [recall(hits & (shown == group), relevant[:, group]) for group in range(relevant.shape[1])]
    known = top[top >= 0]
    return {"recall": recall(hits, whole), "ndcg": ndcg(hits, whole), "recall_rarest": by_group[-1],
            "recall_most_popular": by_group[0], "coverage": len(known.unique()) / len(groups),
            "popular_share": (shown[top >= 0] == 0).double().mean().item(),
            "by_group": {"items": groups.bincount().tolist(), "recall": _defined(by_group),
                         "ndcg": _defined([ndcg(hits & (shown == group), relevant[:, group])
                                           for group in range(relevant.shape[1])]),
                         "share": [(shown[top >= 0] == group).double().mean().item()
                                   for group in range(relevant.shape[1])]}}


def _most_popular(groups: Tensor, evidence: Evidence) -> dict[str, Any]:
    """The same numbers of who shows everybody the most popular items."""
    shown = {**evidence, "top": evidence["popular_top"], "hits": evidence["popular_hits"]}
    return {"name": MOST_POPULAR, **_summary(groups, shown)}


def _defined(numbers: list[float]) -> list[float | None]:
    """None for a group of which nobody took an item."""
    return [None if number != number else number for number in numbers]


def _agreement(one: Evidence, other: Evidence) -> float:
    """The share of the items that one shows which the other shows too."""
    return _are_in(one["top"], other["top"]).double().mean().item()


def _by_user(evidence: Evidence) -> Tensor:
    whole = evidence["relevant"].sum(1)
    found = evidence["hits"].sum(1).double() / whole.clamp(min=1)
    return torch.where(whole > 0, found, torch.nan)
