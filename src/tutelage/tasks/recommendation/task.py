"""Recommendation: a sample is a user, a network gives a score of each item, and the best are shown."""

import torch
from torch import Tensor

from tutelage.data.source import Data
from tutelage.data.user_source import UserSource
from tutelage.errors import DataError, ModelError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.recommendation.judge import SCORES, judge_of_users
from tutelage.tasks.recommendation.rows import lists, observed, ranked
from tutelage.tasks.task import Judge, Task, Term
from tutelage.types import Features, PerSample


def pair_margin(student: object, teacher: Features, labels: object = None, *, temperature: float = 1.0) -> PerSample:
    """How sure the teacher is of its first item before its second, in [0, 1]: 2 sigmoid(their difference) - 1.

    Of rows of two scores it is the difference of the two probabilities. This form is our choice.

    >>> pair_margin(None, torch.tensor([[1.0, 1.0], [200.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    first, second = teacher.topk(2).values.unbind(-1)
    return 2 * ((first - second) / temperature).sigmoid() - 1


def check_users(data: Data) -> None:
    """Refuse data that are no users with items."""
    users_of(data)
    if len(data.classes) < 2:
        raise DataError("too few items: there is nothing to choose", where="training data",
                        found=f"{len(data.classes)} items", expected="two or more")


def users_of(data: Data) -> UserSource:
    """The training users of some data; DataError where they are none."""
    if not isinstance(data.train, UserSource):
        raise DataError("not interactions of users with items", where="training data", found=data.name,
                        expected='name = "interactions" or "shop" in [data]')
    return data.train


def judge_of_data(data: Data) -> Judge:
    """The judge for users of these data."""
    train = users_of(data)
    return judge_of_users(train.groups, train.popularity)


def mean_score(*scores: Tensor) -> Tensor:
    """The mean of several networks' scores [B, I], each put to mean 0 and deviation 1 over a user's items first."""
    if any(one.dim() != 2 or one.shape != scores[0].shape for one in scores):
        raise ModelError("a mean of what is not scores of the same items", found=str([list(x.shape) for x in scores]),
                         expected="[B, items] of each")
    return torch.stack([(one - one.mean(1, keepdim=True)) / one.std(1, keepdim=True).clamp(min=1e-12)
                        for one in scores]).mean(0)


RECOMMENDATION = Task("recommendation", SCORES, check_users, judge_of_data,
                      learn=(Term(cross_entropy, rows=observed),), imitate=(Term(kl, rows=lists, soft=True),),
                      mean=mean_score, rows=(observed, ranked, lists), certainty=pair_margin, exclusive=False,
                      samples="users", labels="items")
