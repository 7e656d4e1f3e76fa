"""Statistics over seeds: against scipy and sums by hand, and what they refuse to claim."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.errors import ModelError, UsageError
from tutelage.studies.statistics import (
    comparison_of,
    difference,
    holm,
    mcnemar,
    mean_and_spread,
    rows,
)


def drawn(n: int, seed: int, shift: float = 0.0) -> dict[int, float]:
    return dict(enumerate((np.random.default_rng(seed).normal(size=n) * 0.02 + 0.8 + shift).tolist()))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_a_paired_difference_is_scipys(n):
    a, b = drawn(n, 1, 0.01), drawn(n, 2)
    made = difference(a, b)
    expected = stats.ttest_rel(list(a.values()), list(b.values()))
    interval = expected.confidence_interval(0.95)
    assert made["n"] == n
    assert made["mean"] == pytest.approx(np.mean(list(a.values())) - np.mean(list(b.values())))
    assert (made["low"], made["high"], made["p"]) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_only_seeds_that_both_have_are_paired():
    made = difference({0: 0.9, 1: 0.8, 5: 0.1}, {0: 0.8, 1: 0.6, 2: 0.9})
    assert made["n"] == 2
    assert made["mean"] == pytest.approx(0.15)


def test_an_interval_covers_the_truth_in_about_95_of_100_studies():
    draws = np.random.default_rng(0).normal(0.01, 0.02, size=(1000, 5))
    inside = 0
    for draw in draws:
        made = difference(dict(enumerate(draw.tolist())), dict.fromkeys(range(5), 0.0))
        inside += made["low"] <= 0.01 <= made["high"]
    assert 930 <= inside <= 970


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_claim_nothing(n):
    first, _ = rows("s", "top1", {"m": drawn(n, 1, 0.5), "b": drawn(n, 2)}, "b")
    made = first["difference"]
    assert [made[key] for key in ("low", "high", "p", "p_holm", "wilcoxon_p")] == [None] * 5
    assert made["says"] == f"n = {n}: too few seeds to claim anything"


def test_with_five_seeds_wilcoxon_is_not_taken_because_it_could_not_reach_five_percent():
    a, b = drawn(5, 1, 0.2), drawn(5, 2)
    assert stats.wilcoxon(np.array(list(a.values())) - np.array(list(b.values()))).pvalue == 0.0625  # at its best
    (made, _) = (row["difference"] for row in rows("s", "top1", {"m": a, "b": b}, "b"))
    assert made["wilcoxon_p"] is None
    assert made["says"] == "better; n = 5: Wilcoxon's test, at best p = 0.0625, is not taken"


def test_with_six_seeds_wilcoxon_counts_signs_and_ranks():
    a = {seed: 0.8 + 0.01 * (seed + 1) for seed in range(6)}
    assert difference(a, dict.fromkeys(range(6), 0.8))["wilcoxon_p"] == pytest.approx(2 / 2**6)  # by hand: all positive


def test_six_seeds_with_ties_still_have_a_wilcoxon():
    a = dict(enumerate([0.81, 0.81, 0.79, 0.80, 0.82, 0.81]))
    made = difference(a, dict.fromkeys(range(6), 0.8))
    assert 0 < made["wilcoxon_p"] <= 1


@pytest.mark.parametrize(("step", "says"), [(0.0, "no difference in any seed"),
                                            (0.1, "all differences are the same: no test")])
def test_differences_without_spread_are_not_tested(step, says):
    b = drawn(6, 1)
    (row, _) = rows("s", "top1", {"m": {seed: value + step for seed, value in b.items()}, "b": b}, "b")
    assert row["difference"]["p"] is None
    assert row["difference"]["low"] == pytest.approx(step)
    assert row["difference"]["says"] == says


def test_holm_is_the_textbooks_example():
    """Holm (1979), the procedure by hand: 4 * 0.01, 3 * 0.02, 2 * 0.03 and 0.04, each at least the one before."""
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_goes_over_the_methods_held_against_the_baseline_and_no_others():
    values = {"base": drawn(5, 0), "a": drawn(5, 1, 0.02), "b": drawn(5, 2, 0.03), "teacher": drawn(5, 3, 0.5)}
    found = {row["method"]: row["difference"] for row in rows("s", "top1", values, "base", apart=["teacher"])}
    assert found["base"] is None
    assert found["teacher"] is None
    plain = {name: found[name]["p"] for name in ("a", "b")}
    least, most = sorted(plain, key=lambda name: plain[name])
    assert found[least]["p_holm"] == pytest.approx(2 * plain[least])
    assert found[most]["p_holm"] == pytest.approx(max(plain[most], 2 * plain[least]))


@pytest.mark.parametrize(("better", "shift", "says"), [("higher", 0.3, "better"), ("lower", 0.3, "worse"),
                                                       ("higher", -0.3, "worse"), ("lower", -0.3, "better")])
def test_larger_is_better_only_where_it_is(better, shift, says):
    (row, _) = rows("s", "any", {"m": drawn(6, 1, shift), "b": drawn(6, 2)}, "b", better=better)
    assert row["difference"]["says"] == says


def test_a_row_has_mean_sd_and_its_values():
    (row,) = rows("s", "top1", {"b": {0: 0.7, 1: 0.8, 2: 0.9}}, "b")
    assert row["n"] == 3
    assert row["values"] == [0.7, 0.8, 0.9]
    assert row["mean"] == pytest.approx(0.8)
    assert row["sd"] == pytest.approx(0.1)  # n - 1 in the denominator
    assert row["difference"] is None


def test_a_number_that_is_none_is_left_out():
    (row, _) = rows("s", "nll", {"m": {0: math.nan, 1: 1.0, 2: math.inf}, "b": drawn(3, 1)}, "b")
    assert (row["n"], row["values"], row["sd"], row["difference"]["n"]) == (1, [1.0], None, 1)


def test_a_node_that_the_baseline_does_not_have_has_no_difference():
    (row,) = rows("s", "top1", {"m": drawn(5, 1)}, "b")
    assert row["difference"] is None
    (row, _) = rows("s", "top1", {"m": {}, "b": drawn(5, 1)}, "b")
    assert (row["n"], row["mean"], row["sd"], row["difference"]) == (0, None, None, None)


def test_mcnemar_is_a_coin_thrown_for_each_row_that_only_one_gets():
    right = torch.tensor([True] * 8 + [False] * 2 + [True] * 5 + [False] * 3)
    baseline = torch.tensor([False] * 8 + [True] * 2 + [True] * 5 + [False] * 3)
    made = mcnemar(right, baseline)
    by_hand = 2 * sum(math.comb(10, k) for k in range(3)) / 2**10
    assert made == {"only_method": 8, "only_baseline": 2, "p": pytest.approx(by_hand)}
    assert mcnemar(right, right) == {"only_method": 0, "only_baseline": 0, "p": 1.0}


def test_a_table_shows_mean_spread_and_number():
    assert mean_and_spread([0.5]) == "50.00 (1)"
    assert mean_and_spread([]) == "-"
    assert mean_and_spread([1.0, 2.0], scale=1, digits=1) == "1.5 ± 0.7 (2)"


@pytest.fixture
def results(tmp_path):
    made = {"on": "test", "seeds": [0, 1], "baseline": "b", "machine": "m", "versions": {}, "command": "c",
            "methods": ["m", "b"], "nodes": ["s"], "mcnemar": [], "cells": [], "tables": {},
            "rows": rows("s", "top1", {"m": drawn(2, 1), "b": drawn(2, 2)}, "b")}
    (tmp_path / "results.json").write_text(json.dumps(made))
    return tmp_path / "results.json", made


def test_results_are_read_as_they_were_written(results):
    path, made = results
    assert comparison_of(path.parent) == made


def test_results_that_are_not_there_say_so(tmp_path):
    with pytest.raises(UsageError, match="holds no comparison"):
        comparison_of(tmp_path)


@pytest.mark.parametrize("damage", [
    lambda made: made["rows"][0]["values"].__setitem__(0, 0.123), lambda made: made["rows"][0].update(n=3),
    lambda made: made.pop("on"), lambda made: made.update(seeds="0, 1"), lambda made: made["rows"][0].pop("mean"),
    lambda made: made["methods"].remove("m"), lambda made: made["rows"].append(7),
])
def test_damaged_results_are_refused(results, damage):
    path, made = results
    damage(made)
    path.write_text(json.dumps(made))
    with pytest.raises(ModelError, match="damaged results"):
        comparison_of(path.parent)


def test_half_a_file_of_results_is_refused(results):
    path, _ = results
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged results"):
        comparison_of(path.parent)
