"""Mean ranks over data sets: against counts by hand, and the critical differences that Demsar (2006) prints."""

import numpy as np
import pytest
from scipy import stats

from tutelage.studies.ranks import critical_difference, mean_ranks

METHODS = ("plain", "pruned", "smoothed", "both")
TABLE = np.random.default_rng(0).integers(60, 66, size=(4, 14)) / 100
"""The mean of each method on 14 sets, some of them alike."""
TABLE[:, 9] = 1.0


def results(means: dict[str, float | None], *, lower: bool = False, node: str = "s", **scores: object) -> dict:
    """A study's results as far as ranks read them; the first method is the baseline."""
    baseline = next(iter(means))
    rows = [{"method": method, "node": node, "metric": "auc", "mean": mean,
             "difference": None if method in (baseline, "teacher") else {}} for method, mean in means.items()]
    score = {"key": "auc", "title": "AUC", "better": "lower" if lower else "higher"}
    return {"nodes": [node], "baseline": baseline, "rows": rows, "scores": [score], **scores}


def studies(*, lower: bool = False) -> dict[str, dict]:
    return {f"set {i}": results(dict(zip(METHODS, (-column if lower else column).tolist(), strict=True)), lower=lower)
            for i, column in enumerate(TABLE.T)}


def places(column: np.ndarray) -> list[float]:
    """One more than how many are better, and half for each other that is alike."""
    return [1 + (column > own).sum() + ((column == own).sum() - 1) / 2 for own in column]


@pytest.mark.parametrize("lower", [False, True])
def test_mean_ranks_are_counted_and_tested_by_friedman_and_nemenyi(lower):
    (table,) = mean_ranks(studies(lower=lower))
    expected = np.array([places(column) for column in TABLE.T]).T
    assert table["columns"] == ["method", "mean rank", *(f"set {i}" for i in range(14))]
    assert table["rows"] == [[method, f"{own.mean():.2f}", *(f"{rank:g}" for rank in own)]
                             for method, own in zip(METHODS, expected, strict=True)]
    assert [row[11] for row in table["rows"]] == ["2.5"] * 4, "all alike share the mean of their places"
    assert "more than 1.25 apart" in table["note"], "of 4 methods on 14 sets, as in the paper"
    p = stats.friedmanchisquare(*expected).pvalue
    assert f"p = {p:.3g}" in table["note"]


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_the_papers_table_5(methods, q):
    assert critical_difference(methods, 30) == pytest.approx(q * np.sqrt(methods * (methods + 1) / 180), abs=5e-4)


def test_only_methods_with_a_number_under_every_condition_are_ranked_and_no_teacher():
    found = {"a": results({"base": 0.5, "new": 0.6, "torn": None, "teacher": 0.9}),
             "b": results({"base": 0.5, "new": 0.4, "torn": 0.7, "teacher": 0.9})}
    (table,) = mean_ranks(found)
    assert table["rows"] == [["base", "1.50", "2", "1"], ["new", "1.50", "1", "2"]]
    assert "Friedman" not in table["note"], "two methods are no case for it"


def test_one_condition_or_one_method_has_no_ranks():
    one = results({"base": 0.5, "new": 0.6})
    assert mean_ranks({"": one}) == []
    assert mean_ranks({"a": results({"base": 0.5}), "b": results({"base": 0.5})}) == []
    assert mean_ranks({"a": one, "b": results({"base": 0.5, "new": 0.6}, node="other")}) == []


def test_methods_that_are_alike_everywhere_do_not_differ():
    alike = results(dict.fromkeys(METHODS, 0.5))
    (table,) = mean_ranks({"a": alike, "b": alike})
    assert table["note"].endswith("No method differs from another.")
