"""Reliability against torchmetrics and naive loops; a temperature against the root of a slope written by hand."""

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from every import every
from toys import predictions
from tutelage.tasks.classification import metrics
from tutelage.tasks.classification.calibration import (
    adaptive_ece,
    classwise_ece,
    diversity,
    ece,
    fit_temperature,
    identified_temperature,
    reliability,
    scaled,
)
from tutelage.tasks.classification.metrics import nll

N, C = 500, 12


@pytest.mark.filterwarnings("ignore")
def test_the_class_wise_error_is_the_mean_of_torchmetrics_binary_ones():
    from torchmetrics.functional.classification import binary_calibration_error  # slow
    logits, labels = predictions()
    p = logits.double().softmax(-1)
    for bins in (5, 15):
        each = [binary_calibration_error(p[:, c], (labels == c).long(), n_bins=bins).item() for c in range(C)]
        assert classwise_ece(logits, labels, bins=bins) == pytest.approx(sum(each) / C, abs=1e-7)


def test_the_class_wise_error_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], dtype=torch.float64).log()
    # of class 0 and, in the mirror, of class 1: the bins of 0.3, 0.8 and 0.9 (15 of them) hold one row each
    assert classwise_ece(p, torch.tensor([0, 1, 1])) == pytest.approx((0.1 + 0.8 + 0.3) / 3)


def test_the_adaptive_error_is_a_loop_over_equal_parts():
    logits, labels = predictions()
    rows = sorted((max(p), p.index(max(p)) == label) for p, label in
                  zip(logits.double().softmax(-1).tolist(), labels.tolist(), strict=True))
    sizes = [N // 15 + (k < N % 15) for k in range(15)]
    total, at = 0.0, 0
    for size in sizes:
        part, at = rows[at : at + size], at + size
        total += abs(sum(sure for sure, _ in part) - sum(hit for _, hit in part))
    assert adaptive_ece(logits, labels) == pytest.approx(total / N, rel=1e-9)


def test_equally_sure_rows_share_their_gap():
    logits = torch.tensor([[0.7, 0.3]] * 10, dtype=torch.float64).log()
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert adaptive_ece(logits, labels, bins=5) == pytest.approx(0, abs=1e-12)
    assert adaptive_ece(logits, torch.zeros(10, dtype=torch.int64), bins=5) == pytest.approx(0.3)
    assert adaptive_ece(logits[:2], torch.tensor([0, 0])) == pytest.approx(0.3), "fewer rows than bins"


def test_reliability_is_what_ece_sums():
    logits, labels = predictions()
    found = reliability(logits, labels)
    assert [len(column) for column in found.values()] == [15, 15, 15]
    assert sum(found["count"]) == N
    gaps = [n * abs(a - s) for s, a, n in zip(found["confidence"], found["accuracy"], found["count"], strict=True) if n]
    assert sum(gaps) / N == pytest.approx(ece(logits, labels), rel=1e-12)


def test_reliability_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.91, 0.09], [0.6, 0.4], [1.0, 0.0]], dtype=torch.float64).clamp(1e-300).log()
    found = reliability(p, torch.tensor([0, 1, 1, 0]), bins=10)
    assert found["count"] == [0, 0, 0, 0, 0, 1, 0, 0, 1, 2]
    assert found["confidence"][:8] == [*[None] * 5, pytest.approx(0.6), None, None]
    assert found["confidence"][8:] == pytest.approx([0.9, 0.955])
    assert found["accuracy"] == [*[None] * 5, 0, None, None, 1, 0.5]


def test_the_temperature_is_where_the_slope_of_the_nll_is_zero():
    logits, labels = predictions()

    def slope(b: float) -> float:  # d NLL / d (1 / T) = mean(E_p z - z_label), by hand
        z = logits.double()
        own = z.gather(1, labels[:, None])[:, 0]
        return ((b * z).softmax(-1) * z).sum(-1).sub(own).mean().item()

    assert fit_temperature(logits, labels) == pytest.approx(1 / brentq(slope, 0.01, 100), rel=1e-4)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_network_made_too_sure_is_cooled_by_as_much(factor):
    logits, labels = predictions()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-3)


def test_a_calibrated_network_is_left_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)


def test_temperatures_have_bounds_and_no_temperature_matters_to_one_class():
    z, right = torch.randn(50, 3), torch.zeros(50, dtype=torch.int64)
    always = z.scatter(1, right[:, None], 10.0)
    assert identified_temperature(always, right) is None
    assert fit_temperature(always, right) == 1.0
    assert nll(always, right) > 0 == nll(always / 0.05, right), "colder is no better"
    never = z.scatter(1, right[:, None], -10.0)
    assert identified_temperature(never, right) is None
    assert identified_temperature(torch.zeros(50, 3), right) is None, "no temperature matters where all are alike"
    assert scaled(None, never, right) == {**scaled(1.0, never, right), "identified": False}
    assert fit_temperature(torch.randn(5, 1), right[:5]) == 1.0


def test_no_temperature_is_worse_than_none(monkeypatch):
    for seed in range(5):
        logits, labels = predictions(seed)
        monkeypatch.setattr(metrics, "PART", 11 * C)
        found = scaled(fit_temperature(logits, labels), logits, labels)
        assert found["nll_after"] <= found["nll_before"]


def test_what_a_temperature_does_is_told_of_other_rows():
    fit, (logits, labels) = predictions(1), predictions(2)
    found = scaled(fit_temperature(*fit), logits, labels)

    def by_hand(z: Tensor) -> float:
        return -z.double().log_softmax(-1)[torch.arange(N), labels].mean().item()

    assert found["nll_before"] == pytest.approx(by_hand(logits))
    assert found["nll_after"] == pytest.approx(by_hand(logits.double() / found["value"]), rel=1e-6)
    assert found["ece_before"] == ece(logits, labels)
    assert found["ece_after"] == pytest.approx(ece(logits.double() / found["value"], labels), abs=1e-6)


@pytest.mark.parametrize("metric", [adaptive_ece, classwise_ece])
def test_the_order_and_the_parts_of_the_rows_do_not_matter(metric, monkeypatch):
    logits, labels = predictions()
    whole = metric(logits, labels)
    monkeypatch.setattr(metrics, "PART", 7 * C)
    assert metric(logits.flip(0), labels.flip(0)) == pytest.approx(whole, rel=1e-12)


def test_one_class_and_two_classes_have_numbers():
    for classes in (1, 2):
        logits, labels = predictions(classes=classes)
        for number in (adaptive_ece(logits, labels), classwise_ece(logits, labels), fit_temperature(logits, labels)):
            assert math.isfinite(number)


def test_diversity_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    found = diversity(p.log(), torch.tensor([0, 0, 0]))
    assert found["sd"] == pytest.approx(math.sqrt(((0.9 - 2 / 3) ** 2 + (0.8 - 2 / 3) ** 2 + (0.3 - 2 / 3) ** 2) / 2))
    # psi(3) - psi(1) = 1 + 1/2; the nearest neighbours are 0.1, 0.1 and 0.5 away
    assert found["entropy"] == pytest.approx(1.5 + (2 * math.log(0.2) + math.log(1.0)) / 3)
    assert found["predictive_entropy"] == pytest.approx(-(p * p.log()).sum().item() / 3)


def test_the_spread_of_even_probabilities_is_the_entropy_of_an_even_density():
    generator = torch.Generator().manual_seed(0)
    p = 0.25 + 0.5 * torch.rand(4000, 1, generator=generator, dtype=torch.float64)
    found = diversity(torch.cat([p, 1 - p], 1).log(), torch.zeros(4000, dtype=torch.long))
    assert found["entropy"] == pytest.approx(math.log(0.5), abs=0.05)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_that_are_all_alike_have_a_finite_diversity(rows):
    found = diversity(torch.tensor([[200.0, 0.0]]).expand(rows, 2), torch.ones(rows, dtype=torch.long))
    assert every(map(math.isfinite, found.values()))
    assert found["sd"] == 0
