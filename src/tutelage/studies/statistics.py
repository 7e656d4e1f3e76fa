"""Several methods over the same seeds: means, paired differences, and how much may be claimed from them.

A seed gives every method the same order, augmentation and first weights, so a difference is taken within each seed and
its spread over seeds is what counts. Intervals and p are of the paired t-test; p is adjusted by Holm over the methods
that are held against one baseline (Holm, 1979). Nothing is claimed from fewer than three seeds.

The numbers go into a folder's results.json, which `comparison_of` reads back checked; docs/compare.md lists its keys.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from scipy import stats
from torch import Tensor

from tutelage.errors import ModelError, UsageError

RESULTS_FILE = "results.json"
LEVEL = 0.05
LEAST, LEAST_WILCOXON = 3, 6
"""Seeds below which there is no interval, and no Wilcoxon test: with 5 its two-sided p is 0.0625 at best."""
KEYS = {"on": str, "seeds": list, "baseline": str, "machine": str, "versions": dict, "command": str, "methods": list,
        "nodes": list, "rows": list, "mcnemar": list, "cells": list, "tables": dict}

Values = Mapping[int, float]
"""Seed -> number; one that is not finite is as good as missing."""


def rows(node: str, metric: str, values: Mapping[str, Values], baseline: str,
         apart: Collection[str] = (), better: Literal["higher", "lower"] = "higher") -> list[dict[str, Any]]:
    """A row for each method: its mean and spread, and its paired difference to the baseline.

    `better` says which numbers of this metric are the better ones. Methods in `apart` are not held against the
    baseline: a teacher, say. `values` are by method. "difference" is None for them, for the baseline, and where no seed
    has both numbers.
    """
    found = {method: {seed: value for seed, value in of.items() if math.isfinite(value)}
             for method, of in values.items()}
    differences = {method: difference(of, found[baseline]) for method, of in found.items()
                   if baseline in found and method != baseline and method not in apart and of.keys() & found[baseline]}
    adjusted = holm({method: d["p"] for method, d in differences.items() if d["p"] is not None})
    for method, made in differences.items():
        made["p_holm"] = adjusted.get(method)
        made["says"] = _says(made, better)
    return [{"method": method, "node": node, "metric": metric, "n": len(of), "values": list(of.values()),
             "mean": fmean(of.values()) if of else None, "sd": stdev(of.values()) if len(of) > 1 else None,
             "difference": differences.get(method)} for method, of in found.items()]


def difference(values: Values, baseline: Values) -> dict[str, Any]:
    """Mean of the differences over common seeds, its 95 % interval and p (paired t-test), and Wilcoxon's p.

    "low", "high" and "p" are None with fewer than 3 seeds, "p" also where all differences are the same, and
    "wilcoxon_p" with fewer than 6 seeds.

    >>> made = difference({0: 0.8, 1: 0.9, 2: 0.7}, {0: 0.7, 1: 0.7, 2: 0.6})
    >>> [round(made[key], 4) for key in ("mean", "low", "high", "p")]
    [0.1333, -0.0101, 0.2768, 0.0572]
    """
    pairs = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    count, mean = len(pairs), fmean(pairs)
    made: dict[str, Any] = {"mean": mean, "low": None, "high": None, "p": None, "p_holm": None, "wilcoxon_p": None,
                            "n": count, "says": ""}
    if count < LEAST:
        return made
    error = stdev(pairs) / math.sqrt(count)
    reach = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * error
    made |= {"low": mean - reach, "high": mean + reach}
    if error > 1e-12:  # else every seed says the same, up to rounding: no spread to test against
        made["p"] = float(2 * stats.t.sf(abs(mean) / error, count - 1))
        if count >= LEAST_WILCOXON:
            made["wilcoxon_p"] = float(np.asarray(stats.wilcoxon(np.round(pairs, 12)))[1])
    return made


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: valid whatever the tests have to do with each other.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return adjusted


def mcnemar(right: Bool[Tensor, " rows"], baseline: Bool[Tensor, " rows"]) -> dict[str, Any]:
    """On how many rows only one of two networks is right, and McNemar's exact p: a coin thrown for each of them.

    It speaks of two trained networks and these images, not of the methods: that is what the seeds are for.
    """
    only, other = int((right & ~baseline).sum()), int((baseline & ~right).sum())
    p = float(stats.binomtest(only, only + other).pvalue) if only + other else 1.0
    return {"only_method": only, "only_baseline": other, "p": p}


def comparison_of(folder: str | Path) -> dict[str, Any]:
    """The results.json of a study, checked: its keys, and that means and spreads are those of the values.

    UsageError if the study has none yet, ModelError if it is damaged.
    """
    path = Path(folder) / RESULTS_FILE
    if not path.exists():
        raise UsageError("this folder holds no comparison", where=folder, expected=RESULTS_FILE,
                         fix="tutelage compare STUDY --out DIR writes it when all is trained")
    try:
        results = json.loads(path.read_bytes())
        wrong = [key for key, kind in KEYS.items() if not isinstance(results[key], kind)]
        wrong += [f"{row['method']}, {row['node']}, {row['metric']}" for row in results["rows"] if not _sound(row)]
        wrong += [row["method"] for row in results["rows"] if row["method"] not in results["methods"]]
    except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
        results = {}
    if wrong:
        raise ModelError("damaged results", where=path, found="; ".join(map(str, wrong[:5])),
                         fix="run the same `tutelage compare` again: it writes them anew from the runs")
    return results


def _sound(row: Mapping[str, Any]) -> bool:
    values = row["values"]
    spread = stdev(values) if len(values) > 1 else None
    return (row["n"] == len(values) and _close(row["mean"], fmean(values) if values else None)
            and _close(row["sd"], spread) and (row["difference"] is None or "says" in row["difference"]))


def _close(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _says(made: Mapping[str, Any], better: str) -> str:
    """What may be claimed, in words."""
    count, p = made["n"], made["p_holm"]
    if count < LEAST:
        return f"n = {count}: too few seeds to claim anything"
    if p is None:
        claim = "all differences are the same: no test" if made["mean"] else "no difference in any seed"
    elif p < LEVEL:
        claim = "better" if (made["mean"] > 0) == (better == "higher") else "worse"
    else:
        claim = "no difference shown"
    if count >= LEAST_WILCOXON:
        return claim
    return f"{claim}; n = {count}: Wilcoxon's test, at best p = {2 / 2**count:g}, is not taken"


def mean_and_spread(values: Sequence[float], scale: float = 100.0, digits: int = 2) -> str:
    """Values as a table shows them: mean, spread over seeds, and how many.

    >>> mean_and_spread([0.7, 0.8, 0.9])
    '80.00 ± 10.00 (3)'
    """
    if not values:
        return "-"
    spread = f" ± {stdev(values) * scale:.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values) * scale:.{digits}f}{spread} ({len(values)})"
