"""How forecasts are judged: beside a naive one, series by series, by the share that falls into each interval."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutelage.data.source import Data
from tutelage.errors import DataError
from tutelage.tasks.forecast import metrics
from tutelage.tasks.forecast.rows import gaussians_of, target_of
from tutelage.tasks.task import Evidence, Judge, Score
from tutelage.types import BatchLabels

INTERVALS = (*(step / 20 for step in range(1, 20)), 0.99)
"""Of so wide intervals around the mean it is looked how many targets they hold."""


class Units(NamedTuple):
    """What makes of scaled targets those of a table: mean and std [S, K] float64, and of which log(1 + x) is taken."""

    mean: Tensor
    std: Tensor
    log: Tensor

    def back(self, values: Tensor, series: Tensor) -> Tensor:
        """Scaled values [N, K] of these series [N] in the units of the table."""
        wide = values.double() * self.std[series] + self.mean[series]
        return wide.expm1().where(self.log, wide)


def units_of(preprocessing: Mapping[str, Any], count: int) -> Units | None:
    """The units of `count` steps and targets, where the preprocessing of the data tells them."""
    if preprocessing.get("kind") == "panel":
        columns, targets = preprocessing["columns"], preprocessing["targets"]
        places = torch.tensor([columns.index(name) for name in targets]).repeat_interleave(count // len(targets))
        log = torch.tensor([columns[place] in preprocessing["log"] for place in places.tolist()])
        mean, std = (torch.tensor(preprocessing[key]).double()[:, places] for key in ("mean", "std"))
        return Units(mean, std, log)
    if preprocessing.get("kind") == "table":
        mean, std = (torch.tensor([preprocessing[key]]).double() for key in ("target_mean", "target_std"))
        return Units(mean, std, torch.zeros(count, dtype=torch.bool))
    return None


def judge_of_steps(data: Data, scores: Sequence[Score], naive: str) -> Judge:
    """The judge of forecasts of `data.classes`, beside a naive forecast of this name.

    Its evidence is "forecast" [N, K, 2], "target" and "naive" [N, K], and "series" [N] where the data have several.
    """
    count, units = len(data.classes), units_of(data.preprocessing, len(data.classes))
    names = tuple(map(str, data.preprocessing.get("series", ())))  # pyright: ignore[reportArgumentType]
    targets = data.preprocessing.get("targets", data.classes)
    one = len(targets) == 1  # pyright: ignore[reportArgumentType]
    keys = {score.key for score in scores}
    return Judge(partial(_measure, count), partial(_summary, keys, names, units, one), _agreement,
                 by_sample=_by_sample, baseline=partial(_baseline, keys, units, one, naive))


def _measure(count: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    said = taps[""]
    if said.shape[1:] not in ((count,), (count, 2)):
        return None
    target, own = target_of(labels), {} if isinstance(labels, Tensor) else labels
    series = {"series": own["series"]} if "series" in own else {}
    return {"forecast": gaussians_of(said, count), "target": target,
            "naive": own.get("naive", torch.zeros_like(target)), **series}


def _summary(keys: set[str], names: tuple[str, ...], units: Units | None, one: bool,
             evidence: Evidence) -> dict[str, Any]:
    forecast, target, naive = (evidence[name] for name in ("forecast", "target", "naive"))
    if not len(target):
        raise DataError("there is nothing to evaluate on", found="no sample")
    mean, share = forecast[..., 0], metrics.coverage(forecast, target)
    error = metrics.mae(mean, target)
    found: dict[str, Any] = {
        "mae": error, "relative_mae": _ratio(error, metrics.mae(naive, target)), "rmse": metrics.rmse(mean, target),
        "crps": metrics.gaussian_crps(forecast, target).mean().item(),
        "nll": metrics.gaussian_nll_of(forecast, target), "coverage": share, "coverage_miss": abs(share - 0.9),
        "r2": metrics.r2(mean, target), "direction": metrics.direction(mean, target, naive)}
    by_step = {"mae": (mean - target).abs().double().mean(0).tolist()}
    own = None if units is None else _own_errors(units, mean, evidence)
    if own is not None:
        by_step["unit_mae"] = own.mean(0).tolist()
        found |= {"unit_mae": own.mean().item()} if one else {}
    curve = {"interval": list(INTERVALS), "share": metrics.coverage_curve(forecast, target, INTERVALS)}
    several = len(names) > 1 and "series" in evidence
    return {**{key: value for key, value in found.items() if key in keys}, "per_class": by_step,
            "coverage_curve": curve, **({"by_series": _by_series(names, evidence, own if one else None)}
                                        if several else {})}


def _baseline(keys: set[str], units: Units | None, one: bool, name: str, evidence: Evidence) -> dict[str, Any]:
    """The scores of the naive forecast; it has no spread, so that its CRPS is its MAE, and no likelihood."""
    target, naive = evidence["target"], evidence["naive"]
    error = metrics.mae(naive, target)
    found = {"mae": error, "relative_mae": _ratio(error, error), "rmse": metrics.rmse(naive, target), "crps": error,
             "r2": metrics.r2(naive, target), "direction": metrics.commoner_direction(target, naive)}
    if units is not None and one:
        found["unit_mae"] = _own_errors(units, naive, evidence).mean().item()
    return {"name": name, **{key: value for key, value in found.items() if key in keys}}


def _own_errors(units: Units, mean: Tensor, evidence: Evidence) -> Tensor:
    """Absolute errors [N, K] in the units of the table."""
    series = evidence.get("series", torch.zeros(len(mean), dtype=torch.int64))
    return (units.back(mean, series) - units.back(evidence["target"], series)).abs()


def _by_series(names: tuple[str, ...], evidence: Evidence, own: Tensor | None) -> dict[str, Any]:
    """Of each series how many samples it has, and their scores; None where there are none."""
    forecast, target, naive, series = (evidence[name] for name in ("forecast", "target", "naive", "series"))
    mean = forecast[..., 0]
    inside = (mean - target).abs() <= metrics.NINETY * forecast[..., 1]
    columns = {"mae": (mean - target).abs(), "naive_mae": (naive - target).abs(), "coverage": inside}
    if own is not None:
        columns["unit_mae"] = own
    count = series.bincount(minlength=len(names))
    told: dict[str, Any] = {"series": list(names), "count": count.tolist()}
    for key, values in columns.items():
        sums = torch.zeros(len(names), dtype=torch.float64).index_add(0, series, values.double().mean(1))
        told[key] = [None if not n else total / n for total, n in zip(sums.tolist(), count.tolist(), strict=True)]
    return told


def _ratio(error: float, naive: float) -> float:
    return error / naive if naive else float("nan")


def _agreement(one: Evidence, other: Evidence) -> float:
    return metrics.affinity(one["forecast"], other["forecast"])


def _by_sample(evidence: Evidence) -> Tensor:
    return (evidence["forecast"][..., 0] - evidence["target"]).abs().mean(1)
