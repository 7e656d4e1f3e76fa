"""Forecasts: the next steps of a series as Gaussians; and regression: numbers of any sample, in the same form.

Targets are in standard deviations of the training targets, and so are all scores that have a unit. Beside the scores of
a network stand those of a naive forecast of the same samples: the last value, or, of regression, the training mean.
What is known of the unit of a target gives its MAE in that too.
"""

from dataclasses import replace

from tutelage.data.source import Data
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError
from tutelage.graph.gaussians import gaussian_kl, gaussian_nll
from tutelage.tasks.forecast.judge import judge_of_steps
from tutelage.tasks.forecast.rows import forecast_mixture, sharpness, steps, target_of
from tutelage.tasks.task import Score, Task, Term

SPREAD = (
    Score("mae", "MAE", "number", "lower"),
    Score("relative_mae", "MAE / naive MAE", "number", "lower"),
    Score("rmse", "RMSE", "number", "lower"),
    Score("crps", "CRPS", "number", "lower"),
    Score("nll", "NLL", "number", "lower"),
    Score("coverage", "in 90 % interval"),
    Score("coverage_miss", "miss of 90 %", "share", "lower", each_epoch=False, main=False),
    Score("r2", "R2", "number", each_epoch=False, main=False),
)
DIRECTION = Score("direction", "direction")
OWN_UNIT = Score("unit_mae", "MAE in own unit", "number", "lower", each_epoch=False, main=False)
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


FORECAST_SCORES = (*SPREAD, DIRECTION, OWN_UNIT)
REGRESSION_SCORES = (*SPREAD[:-1], replace(SPREAD[-1], each_epoch=True, main=True), OWN_UNIT)
FORECAST = Task("forecast", FORECAST_SCORES, check_targets,
                lambda data: judge_of_steps(data, FORECAST_SCORES, "last value"),
                learn=(Term(gaussian_nll, label="target", rows=steps, soft=True),),
                imitate=(Term(gaussian_kl, rows=steps, soft=True),), mean=forecast_mixture, rows=(steps,),
                certainty=sharpness, exclusive=False, logits=False, samples="windows", labels="steps",
                unit="MAE, RMSE and CRPS are in standard deviations of the training targets of each series.")
REGRESSION = replace(FORECAST, name="regression", scores=REGRESSION_SCORES, samples="samples", labels="targets",
                     judge=lambda data: judge_of_steps(data, REGRESSION_SCORES, "training mean"),
                     unit="MAE, RMSE and CRPS are in standard deviations of each training target.")
