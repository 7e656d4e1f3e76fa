"""Recall@k and NDCG@k, of which items a user was shown and took; users who took none are left out of the mean."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Hits = Bool[Tensor, "users k"]
"""Whether each of the k items that a user is shown, the best first, is one that it took."""
Counts = Int[Tensor, " users"]
"""How many items each user took, shown or not."""


def recall(hits: Hits, relevant: Counts) -> float:
    """The mean over users of the share of their items that they are shown, in [0, 1]; NaN where nobody took any.

    >>> recall(torch.tensor([[True, False], [False, False]]), torch.tensor([2, 0]))
    0.5
    """
    there = relevant > 0
    return (hits[there].sum(1).double() / relevant[there]).mean().item()


def ndcg(hits: Hits, relevant: Counts) -> float:
    """The mean over users of the gain of their items over the best possible one, in [0, 1]: 1 / log2(1 + place).

    >>> ndcg(torch.tensor([[True, False]]), torch.tensor([1]))
    1.0
    """
    there = relevant > 0
    gains = 1 / torch.arange(2, hits.shape[1] + 2, dtype=torch.float64).log2()
    best = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
    return ((hits[there].double() @ gains) / best[relevant[there].clamp(max=hits.shape[1])]).mean().item()
