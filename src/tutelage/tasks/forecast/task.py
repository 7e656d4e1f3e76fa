"""Forecasts: the next steps of a series as Gaussians; and regression: numbers of any sample, in the same form.

Targets are in standard deviations of the training targets, and so are all scores that have a unit. Beside the scores of
a network stand those of a naive forecast of the same samples: the last value, or, of regression, the training mean.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tutelage.data.source import Data
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError
from tutelage.graph.gaussians import gaussian_kl, gaussian_nll
from tutelage.tasks.forecast import metrics
from tutelage.tasks.forecast.rows import forecast_mixture, gaussians_of, sharpness, steps, target_of
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.types import BatchLabels

MAE = Score("mae", "MAE", "number", "lower")
NAIVE_MAE = Score("naive_mae", "MAE of the naive forecast", "number", "lower")
SPREAD = (
    Score("rmse", "RMSE", "number", "lower"),
    Score("naive_rmse", "RMSE of the naive forecast", "number", "lower", each_epoch=False),
    Score("crps", "CRPS", "number", "lower"),
    Score("naive_crps", "CRPS of the naive forecast", "number", "lower", each_epoch=False, main=False),
    Score("nll", "NLL", "number", "lower"),
    Score("coverage", "coverage of the 90 % interval"),
    Score("coverage_miss", "miss of 90 % coverage", "share", "lower", each_epoch=False, main=False),
    Score("r2", "R2", "number", each_epoch=False, main=False),
)
DIRECTION = (Score("direction", "direction"),
             Score("naive_direction", "commoner direction", each_epoch=False, main=False))
LOOKED_AT = 16
"""So many training samples are looked at before a run."""


def check_targets(data: Data) -> None:
    """Refuse data whose labels are no targets of their steps, by a few training samples."""
    if not data.classes:
        raise DataError("no steps: there is nothing to forecast", where="training data", expected="one or more")
    (batch,) = data.train.batches([first(data.train.ids, LOOKED_AT)], draw=None)
    try:
        target = target_of(batch.labels)
    except ModelError as error:
        raise DataError(error.what, where="training data", found=error.found, expected=error.expected,
                        fix="give the set numbers to forecast, or another task") from None
    if target.shape[1] != len(data.classes):
        raise DataError("targets that are not those of the data's steps", where="training data",
                        found=f"{target.shape[1]} numbers a sample", expected=f"{len(data.classes)}")
    if not bool(target.isfinite().all()):
        raise DataError("targets that are not finite", where="training data", expected="finite numbers")


def judge_of_steps(names: tuple[str, ...], scores: tuple[Score, ...]) -> Judge:
    """The judge of forecasts of these steps; its evidence is "forecast" [N, K, 2], "target" and "naive" [N, K]."""
    return Judge(partial(_measure, len(names)), partial(_summary, tuple(score.key for score in scores)), _agreement,
                 by_sample=_by_sample)


def _measure(count: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    said = taps[""]
    if said.shape[1:] not in ((count,), (count, 2)):
        return None
    target = target_of(labels)
    naive = torch.zeros_like(target) if isinstance(labels, Tensor) else labels.get("naive", torch.zeros_like(target))
    return {"forecast": gaussians_of(said, count), "target": target, "naive": naive}


def _summary(keys: tuple[str, ...], evidence: Evidence) -> dict[str, Any]:
    forecast, target, naive = (evidence[name] for name in ("forecast", "target", "naive"))
    if not len(target):
        raise DataError("there is nothing to evaluate on", found="no sample")
    mean, share = forecast[..., 0], metrics.coverage(forecast, target)
    naive_mae = metrics.mae(naive, target)
    found = {"mae": metrics.mae(mean, target), "naive_mae": naive_mae, "rmse": metrics.rmse(mean, target),
             "naive_rmse": metrics.rmse(naive, target), "naive_crps": naive_mae,
             "crps": metrics.gaussian_crps(forecast, target).mean().item(),
             "nll": metrics.gaussian_nll_of(forecast, target), "coverage": share,
             "coverage_miss": abs(share - 0.9), "r2": metrics.r2(mean, target),
             "direction": metrics.direction(mean, target, naive),
             "naive_direction": metrics.commoner_direction(target, naive)}
    by_step = (mean - target).abs().double().mean(0).tolist()
    return {**{key: found[key] for key in keys}, "per_class": {"mae": by_step}}


def _agreement(one: Evidence, other: Evidence) -> float:
    return metrics.affinity(one["forecast"], other["forecast"])


def _by_sample(evidence: Evidence) -> Tensor:
    return (evidence["forecast"][..., 0] - evidence["target"]).abs().mean(1)


FORECAST_SCORES = (MAE, NAIVE_MAE, *SPREAD, *DIRECTION)
REGRESSION_SCORES = (MAE, NAIVE_MAE, *SPREAD[:-1], replace(SPREAD[-1], each_epoch=True, main=True))
FORECAST = Task("forecast", FORECAST_SCORES, check_targets, lambda data: judge_of_steps(data.classes, FORECAST_SCORES),
                learn=(Term(gaussian_nll, label="target", rows=steps, soft=True),),
                imitate=(Term(gaussian_kl, rows=steps, soft=True),), mean=forecast_mixture, rows=(steps,),
                certainty=sharpness, exclusive=False, logits=False)
REGRESSION = replace(FORECAST, name="regression", scores=REGRESSION_SCORES,
                     judge=lambda data: judge_of_steps(data.classes, REGRESSION_SCORES))
