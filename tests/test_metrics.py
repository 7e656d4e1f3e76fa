"""Metrics against torchmetrics, scikit-learn and hand computation."""

import math

import pytest
import torch
from torch import Tensor

from tutelage.metrics import agreement, ece, nll, top1, top5

N, C = 500, 12


def predictions(seed: int = 0, classes: int = C) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (N,), generator=generator)
    logits = 2 * torch.randn(N, classes, generator=generator)
    logits[torch.arange(N), labels] += 1.5
    return logits, labels


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_torchmetrics():
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error  # slow
    logits, labels = predictions()
    p = logits.double().softmax(-1)
    assert top1(logits, labels) == pytest.approx(
        multiclass_accuracy(logits, labels, C, average="micro").item(), abs=1e-6)
    assert top5(logits, labels) == pytest.approx(
        multiclass_accuracy(logits, labels, C, average="micro", top_k=5).item(), abs=1e-6)
    for bins in (5, 10, 15):
        assert ece(logits, labels, bins=bins) == pytest.approx(
            multiclass_calibration_error(p, labels, C, n_bins=bins).item(), abs=1e-6)


def test_agrees_with_a_loop():
    logits, labels = predictions()
    right = five = loss = 0.0
    bins = {k: [] for k in range(15)}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = [math.exp(z) for z in row]
        p = [x / sum(p) for x in p]
        right += row.index(max(row)) == label
        five += label in sorted(range(C), key=lambda c: -row[c])[:5]
        loss -= math.log(p[label])
        bins[math.ceil(max(p) * 15) - 1].append((max(p), row.index(max(row)) == label))
    gap = sum(abs(sum(hit for _, hit in rows) - sum(sure for sure, _ in rows)) for rows in bins.values())
    found = top1(logits, labels), top5(logits, labels), nll(logits, labels), ece(logits, labels)
    assert found == pytest.approx((right / N, five / N, loss / N, gap / N), rel=1e-9)


def test_top5_with_fewer_classes_is_always_right():
    assert top5(*predictions(classes=3)) == 1.0
    assert top5(*predictions(classes=5)) == 1.0


def test_ece_by_hand():
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.3, 0.7]], dtype=torch.float64).log()
    assert ece(logits, torch.tensor([0, 1, 0, 1]), bins=10) == pytest.approx((2 * 0.4 + 2 * 0.3) / 4)


def test_the_sure_and_right_are_calibrated_and_the_sure_and_wrong_are_not():
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert ece(sure, torch.tensor([0, 1])) == 0.0
    assert ece(sure, torch.tensor([1, 0])) == 1.0
    assert nll(sure, torch.tensor([0, 1])) == 0.0
    assert nll(sure, torch.tensor([1, 0])) == 1e4


def test_a_uniform_prediction_costs_log_c():
    assert nll(torch.zeros(4, C), torch.arange(4)) == pytest.approx(math.log(C))


def test_agreement_is_the_share_of_equal_choices():
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 5.0]])
    second = torch.tensor([[3.0, 2.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert agreement(first, second) == agreement(second, first) == 0.75
    assert agreement(first, first) == 1.0


@pytest.mark.parametrize("metric", [top1, top5, nll, ece])
def test_the_order_of_the_rows_does_not_matter(metric):
    logits, labels = predictions()
    assert metric(logits.flip(0), labels.flip(0)) == pytest.approx(metric(logits, labels), rel=1e-12)
