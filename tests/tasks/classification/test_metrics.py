"""Metrics against torchmetrics, scikit-learn and hand computation."""

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import entropy as relative_entropy
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, recall_score, roc_auc_score

from toys import predictions
from tutelage.errors import DataError, NumericError
from tutelage.tasks.classification import metrics
from tutelage.tasks.classification.calibration import ece
from tutelage.tasks.classification.metrics import (
    agreement,
    aurc,
    auroc,
    brier,
    check_finite,
    confusion,
    macro_f1,
    mean_kl,
    nll,
    per_class_accuracy,
    require_labels,
    right_together,
    top1,
    top5,
)

N, C = 500, 12


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


def test_brier_is_scikit_learns_and_by_hand():
    logits, labels = predictions()
    p = logits.double().softmax(-1)
    expected = sum(brier_score_loss(labels == c, p[:, c]) for c in range(C))
    assert brier(logits, labels) == pytest.approx(expected, rel=1e-12)
    two = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64).log()
    assert brier(two, torch.tensor([0, 0])) == pytest.approx((2 * 0.2**2 + 2 * 0.7**2) / 2)
    sure = torch.tensor([[1e4, 0.0]])
    assert (brier(sure, torch.tensor([0])), brier(sure, torch.tensor([1]))) == (0.0, 2.0)


@pytest.mark.parametrize("missing", [[], [3], [0, 11]])
def test_confusion_f1_and_class_accuracies_are_scikit_learns(missing):
    """Also if some classes have no row, or are never chosen."""
    logits, labels = predictions()
    kept = ~torch.isin(labels, torch.tensor(missing))
    logits, labels = logits[kept], labels[kept]
    logits[:, [5, *missing[:1]]] = -1e3  # chosen for no row
    choice, every = logits.argmax(-1), list(range(C))
    assert confusion(logits, labels).tolist() == confusion_matrix(labels, choice, labels=every).tolist()
    assert macro_f1(logits, labels) == pytest.approx(f1_score(labels, choice, average="macro"), rel=1e-12)
    recalls = recall_score(labels, choice, labels=every, average=None, zero_division=0)
    expected = [None if c in missing else pytest.approx(recalls[c]) for c in every]
    assert per_class_accuracy(logits, labels) == expected


def test_f1_by_hand():
    logits = torch.eye(4)[[0, 0, 1, 1]]  # choices 0 0 1 1 for labels 0 1 1 2; nothing is of class 3
    assert macro_f1(logits, torch.tensor([0, 1, 1, 2])) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def risk_by_hand(sure: list[float], wrong: list[bool]) -> float:
    errors = [hit for _, hit in sorted(zip(sure, wrong, strict=True), key=lambda row: -row[0])]
    return sum(sum(errors[:k]) / k for k in range(1, len(errors) + 1)) / len(errors)


def test_aurc_is_the_mean_risk_over_all_coverages():
    logits, labels = predictions()
    sure = logits.double().softmax(-1).amax(-1).tolist()
    assert aurc(logits, labels) == pytest.approx(risk_by_hand(sure, (logits.argmax(-1) != labels).tolist()), rel=1e-9)
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], dtype=torch.float64).log()
    assert aurc(p, torch.tensor([0, 1, 0, 1])) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_aurc_of_equally_sure_rows_is_the_mean_over_their_orders():
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    labels = torch.tensor([0, 1, 0, 1, 0])
    orders = [risk_by_hand([5, 4, 3, 2, 1], [False, *middle, False]) for middle in permutations([True, False, True])]
    assert aurc(logits, labels) == pytest.approx(sum(orders) / len(orders))


def test_auroc_is_scikit_learns_ties_too():
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(N, generator=generator) < 0.3
    for scores in (torch.randn(N, generator=generator) + positive, torch.randint(0, 5, (N,), generator=generator) / 4):
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), rel=1e-12)
    assert auroc(torch.zeros(4), torch.tensor([True, False, False, True])) == 0.5


@pytest.mark.parametrize("positive", [True, False])
def test_auroc_of_rows_of_one_kind_is_not_defined(positive):
    assert auroc(torch.rand(5), torch.full((5,), positive)) is None


def test_kl_is_scipys_and_has_a_direction():
    first, second = predictions()[0], predictions(1)[0]
    p, q = first.double().softmax(-1), second.double().softmax(-1)
    assert mean_kl(first, second) == pytest.approx(relative_entropy(p, q, axis=1).mean(), rel=1e-9)
    assert mean_kl(second, first) == pytest.approx(relative_entropy(q, p, axis=1).mean(), rel=1e-9)
    assert mean_kl(first, first) == 0.0
    assert mean_kl(first, first + 3) == pytest.approx(0.0, abs=1e-12)
    assert mean_kl(torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]])) == 1e4


def test_who_is_right_together_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1])
    first, second = torch.eye(2)[[0, 0, 1, 1, 0]], torch.eye(2)[[0, 1, 0, 1, 1]]
    expected = {"both_right": 0.2, "one_right": 0.6, "both_wrong": 0.2}
    assert right_together(first, second, labels) == right_together(second, first, labels) == expected


def test_one_class_is_always_right():
    logits, labels = torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)
    assert [metric(logits, labels) for metric in (top1, top5, nll, brier, ece, aurc, macro_f1)] == [1, 1, 0, 0, 0, 0, 1]


def test_what_has_no_metrics_is_refused():
    with pytest.raises(DataError, match="nothing to evaluate on"):
        require_labels(torch.empty(0, dtype=torch.int64), 3)
    for label in (-1, 3):
        with pytest.raises(DataError, match="a label that is no class"):
            require_labels(torch.tensor([0, label]), 3)
    require_labels(torch.tensor([0, 2]), 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_refused_with_its_image(value):
    logits, ids = torch.zeros(4, 3), torch.tensor([10, 11, 12, 13])
    check_finite(logits, ids, "a")
    logits[2, 1] = value
    with pytest.raises(NumericError, match=r"node 'a'\n.*1 of 4 images, with the ids 12\n"):
        check_finite(logits, ids, "a")


@pytest.mark.parametrize("metric", [nll, brier, ece, aurc])
def test_rows_taken_part_by_part_give_the_same(metric, monkeypatch):
    logits, labels = predictions()
    whole = metric(logits, labels)
    monkeypatch.setattr(metrics, "PART", 7 * C)
    assert metric(logits, labels) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("metric", [top1, top5, nll, ece, brier, macro_f1, aurc])
def test_the_order_of_the_rows_does_not_matter(metric):
    logits, labels = predictions()
    assert metric(logits.flip(0), labels.flip(0)) == pytest.approx(metric(logits, labels), rel=1e-12)
