"""Methods over several data sets: in which place each comes, on average (Demsar, 2006).

Scores on unlike data cannot be averaged, but places can: under each condition the methods are ordered by the mean of
the task's first score over their seeds, the best is in place 1, equal ones share the mean of their places. Friedman's
test says whether any method differs; if so, two differ whose mean ranks are more than Nemenyi's critical difference
apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tutelage.studies.statistics import LEVEL
from tutelage.tasks.scores import scores_in


def mean_ranks(conditions: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each network that several methods train under two or more conditions, from the results of each.

    A method is ranked if it has a number under every condition; those that are held against no baseline, such as
    teachers, are not. Tables are as in results.json: "title", "columns", "rows" of text, "note".
    """
    found = []
    nodes = dict.fromkeys(node for results in conditions.values() for node in results["nodes"])
    for node in nodes if len(conditions) > 1 else ():
        by_method = _means(conditions, node)
        if len(by_method) > 1:
            ranks = ranks_of(list(by_method.values()), [_lower(results) for results in conditions.values()])
            rows = [[method, f"{own.mean():.2f}", *(f"{rank:g}" for rank in own)]
                    for method, own in zip(by_method, ranks, strict=True)]
            found.append({"title": f"Mean rank of {node} over {len(conditions)} conditions",
                          "columns": ["method", "mean rank", *conditions], "rows": rows, "note": _note(ranks)})
    return found


def ranks_of(means: Sequence[Sequence[float]], lower: Sequence[bool]) -> np.ndarray:
    """The place [methods, conditions] of each method under each condition, from its mean there; 1 is the best.

    >>> ranks_of([[0.9, 3.0], [0.8, 1.0], [0.8, 2.0]], [False, True]).tolist()
    [[1.0, 3.0], [2.5, 1.0], [2.5, 2.0]]
    """
    signs = np.where(lower, 1.0, -1.0)
    return stats.rankdata(np.asarray(means, float) * signs, axis=0)


def critical_difference(methods: int, conditions: int) -> float:
    """How far two mean ranks are apart at least, if Nemenyi's test at 5 % tells them apart.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    q = float(stats.studentized_range.ppf(1 - LEVEL, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * conditions))


def _means(conditions: Mapping[str, Mapping[str, Any]], node: str) -> dict[str, list[float]]:
    """Method -> its mean under each condition; only of methods that have one everywhere."""
    tables = []
    for results in conditions.values():
        key = scores_in(results)[0].key
        tables.append({row["method"]: row["mean"] for row in results["rows"]
                       if (row["node"], row["metric"]) == (node, key) and row["mean"] is not None
                       and (row["difference"] is not None or row["method"] == results["baseline"])})
    return {method: [table[method] for table in tables] for method in tables[0]
            if all(method in table for table in tables)}


def _lower(results: Mapping[str, Any]) -> bool:
    return scores_in(results)[0].better == "lower"


def _note(ranks: np.ndarray) -> str:
    methods, conditions = ranks.shape
    told = "Under each condition the best is in place 1, by the mean of the first score over seeds."
    if methods < 3:
        return told
    if (ranks == ranks[0]).all():
        return f"{told} No method differs from another."
    p = float(np.asarray(stats.friedmanchisquare(*ranks))[1])
    return (f"{told} Friedman's test over all methods: p = {p:.3g}. By Nemenyi's test at 5 % two methods differ whose "
            f"mean ranks are more than {critical_difference(methods, conditions):.2f} apart.")
