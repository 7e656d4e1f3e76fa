"""A task that is not to tell classes apart: how far off the mean of what a network says is from a number."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tutelage.data.images import png
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.types import BatchLabels, Rows

SCORES = (Score("mae", "mean error", "number", "lower"), Score("near", "within one"),
          Score("largest", "largest error", "number", "lower", each_epoch=False, main=False))


def doubled(ends: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
    """Two rows of each sample."""
    assert isinstance(labels, Tensor)
    return Rows({end: x.repeat_interleave(2, 0) for end, x in ends.items()}, labels.repeat_interleave(2))


def expected(logits: Tensor) -> Tensor:
    """The mean class number [B]."""
    return logits.softmax(-1) @ torch.arange(logits.shape[-1], dtype=logits.dtype)


def mean_logits(*logits: Tensor) -> Tensor:
    """Not the mean of probabilities, so that a test can tell."""
    return torch.stack(logits).mean(0)


def measure(taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    assert isinstance(labels, Tensor)
    return {"said": expected(taps[""]).double(), "labels": labels} if taps[""].dim() == 2 else None


def errors(evidence: Evidence) -> Tensor:
    found = (evidence["said"] - evidence["labels"]).abs()
    return torch.where(evidence["labels"] < 0, torch.nan, found)


def summary(evidence: Evidence) -> dict:
    found, labels = errors(evidence), evidence["labels"]
    there = found[~found.isnan()]
    by_class = [found[labels == k] for k in range(10)]
    return {"mae": there.mean().item(), "near": (there <= 1).double().mean().item(), "largest": there.max().item(),
            "per_class": {"mae": [own.mean().item() if len(own) else None for own in by_class]}}


def agreement(first: Evidence, second: Evidence) -> float:
    return ((first["said"] - second["said"]).abs() <= 1).double().mean().item()


def pictures(images: Tensor, labels: Tensor, taps: Mapping[str, Tensor]) -> list[bytes]:
    assert len(images) == len(labels) == len(taps[""])
    return [png(image) for image in images]


TOY = Task("toy", SCORES, lambda data: None, lambda data: Judge(measure, summary, agreement, by_sample=errors),
           learn=(Term(cross_entropy, rows=doubled, soft=True),), imitate=(Term(kl, rows=doubled, soft=True),),
           mean=mean_logits, rows=(doubled,), pictures=pictures)
