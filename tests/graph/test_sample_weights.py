"""Sample weights: their range, what they must not depend on, and values worked out by hand."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from tutelage.graph.sample_weights import (
    confidence,
    correct,
    discrepancy,
    entropy,
    labelled,
    margin,
    mean_one,
    true_class,
)
from tutelage.graph.weight_parts import with_parts

B, C = 7, 5
warm_entropy = partial(entropy, temperature=4.0)
squared_entropy = partial(entropy, power=2.0)
OF_THE_TEACHER = {"entropy": entropy, "warm_entropy": warm_entropy, "squared_entropy": squared_entropy,
                  "confidence": confidence, "margin": margin}
each_weight = pytest.mark.parametrize("weight", OF_THE_TEACHER.values(), ids=OF_THE_TEACHER.keys())


def logits(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def probabilities(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def by_hand(name: str, row: list[float]) -> float:
    p = probabilities(row, 4.0 if name == "warm_entropy" else 1.0)
    if name == "confidence":
        return max(p)
    if name == "margin":
        return sorted(p)[-1] - sorted(p)[-2]
    certainty = 1 + sum(x * math.log(x) for x in p) / math.log(len(p))
    return certainty**2 if name == "squared_entropy" else certainty


@pytest.mark.parametrize("name", OF_THE_TEACHER)
def test_is_what_a_loop_over_the_classes_says(name):
    expected = [by_hand(name, row) for row in logits().tolist()]
    assert OF_THE_TEACHER[name](None, logits(), None).tolist() == pytest.approx(expected, rel=1e-11)


@each_weight
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 100.0, 65504.0])
def test_is_one_number_in_0_to_1_for_every_row_whatever_the_logits(weight, size):
    rows = weight(None, size * logits(dtype=torch.float32).sign(), None)
    assert rows.shape == (B,)
    assert rows.isfinite().all()
    assert ((rows >= 0) & (rows <= 1)).all()


@each_weight
def test_ignores_a_constant_added_to_a_row_and_the_order_of_the_classes(weight):
    rows = weight(None, logits(), None)
    shift = 50 * torch.arange(B, dtype=torch.float64)[:, None] - 100
    torch.testing.assert_close(weight(None, logits() + shift, None), rows, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(weight(None, logits()[:, [3, 0, 4, 1, 2]], None), rows, rtol=1e-12, atol=1e-13)


ONE_HOT, UNIFORM, TWO_EQUAL = [1000.0] + [0.0] * 99, [3.0] * 100, [1000.0] * 2 + [0.0] * 98


@pytest.mark.parametrize(("weight", "row", "expected"), [
    (entropy, ONE_HOT, 1.0), (confidence, ONE_HOT, 1.0), (margin, ONE_HOT, 1.0),
    (entropy, UNIFORM, 0.0), (confidence, UNIFORM, 0.01), (margin, UNIFORM, 0.0),
    (entropy, TWO_EQUAL, 1 - math.log(2) / math.log(100)), (confidence, TWO_EQUAL, 0.5), (margin, TWO_EQUAL, 0.0),
])
def test_knows_the_sure_the_clueless_and_the_torn_teacher(weight, row, expected):
    teacher = torch.tensor([row], dtype=torch.float64)
    assert weight(None, teacher, None).item() == pytest.approx(expected, abs=1e-12)


def test_entropy_of_two_equal_classes_among_100_is_the_papers_number():
    assert entropy(None, torch.tensor([TWO_EQUAL])).item() == pytest.approx(0.8495, abs=5e-5)


def test_entropy_of_a_single_output_is_refused_and_not_nan():
    with pytest.raises(ValueError, match="single output"):
        entropy(None, torch.zeros(3, 1), None)


def test_entropy_at_the_temperature_of_the_divergence_would_be_nearly_nothing():
    assert (entropy(None, logits(), temperature=4.0) < 0.5 * entropy(None, logits())).all()


TEACHER = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 4.0], [9.0, 0.0, 0.0]])


@pytest.mark.parametrize("labels", [
    torch.tensor([0, 2, 2, -1]),
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5], [0.0, 0.0, 0.0]]),
], ids=["hard", "soft"])
def test_correct_is_1_where_the_teacher_is_right_and_0_without_a_label(labels):
    rows = correct(None, TEACHER, labels)
    assert rows.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert rows.dtype == TEACHER.dtype


HARD = torch.tensor([0, 4, -1, 2, 3, 1, -1])


def test_true_class_is_the_probability_of_the_label_and_0_without_one():
    for temperature in (1.0, 4.0):
        rows = true_class(None, logits(), HARD, temperature=temperature)
        expected = [probabilities(row, temperature)[label] if label >= 0 else 0.0
                    for row, label in zip(logits().tolist(), HARD.tolist(), strict=True)]
        assert rows.tolist() == pytest.approx(expected, rel=1e-12)


def test_true_class_of_soft_labels_is_the_mean_over_them():
    soft = torch.zeros(B, C, dtype=torch.float64)
    soft[0, 0], soft[0, 3], soft[1, 2] = 0.25, 0.75, 1.0
    p = [probabilities(row) for row in logits().tolist()]
    expected = [0.25 * p[0][0] + 0.75 * p[0][3], p[1][2], 0.0, 0.0, 0.0, 0.0, 0.0]
    assert true_class(None, logits(), soft).tolist() == pytest.approx(expected, rel=1e-12)


def test_discrepancy_is_half_the_difference_of_the_probabilities():
    expected = [sum(abs(p - q) for p, q in zip(probabilities(s), probabilities(t), strict=True)) / 2
                for s, t in zip(logits(1).tolist(), logits().tolist(), strict=True)]
    assert discrepancy(logits(1), logits()).tolist() == pytest.approx(expected, rel=1e-12)
    assert discrepancy(logits(), logits(1)).tolist() == pytest.approx(expected, rel=1e-12)
    assert discrepancy(logits(), logits() + 5).tolist() == pytest.approx([0.0] * B, abs=1e-15)


@pytest.mark.parametrize("weight", [discrepancy, true_class], ids=["discrepancy", "true_class"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 100.0, 65504.0])
@pytest.mark.parametrize("classes", [2, C])
def test_those_that_read_more_than_the_teacher_are_in_0_to_1_too(weight, size, classes):
    student, teacher = (size * logits(seed, torch.float32).sign()[:, :classes] for seed in (1, 0))
    rows = weight(student, teacher, HARD.clamp(max=classes - 1))
    assert rows.shape == (B,)
    assert rows.dtype == torch.float32
    assert ((rows >= 0) & (rows <= 1)).all()


@pytest.mark.parametrize(("labels", "expected"), [
    (torch.tensor([0, -1, 2, -1]), [1.0, 0.0, 1.0, 0.0]),
    (torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.5, 0.0, 0.0]]), [1.0, 0.0, 1.0, 0.5]),
], ids=["hard", "soft"])
def test_labelled_says_which_rows_have_a_label(labels, expected):
    rows = labelled(TEACHER, None, labels)
    assert rows.tolist() == expected
    assert rows.dtype == TEACHER.dtype


@each_weight
def test_mean_one_keeps_the_shares_and_makes_the_mean_1(weight):
    rows = mean_one(logits(1), logits(), torch.zeros(B, dtype=torch.long), of=weight)
    raw = weight(None, logits(), None)
    assert rows.mean().item() == pytest.approx(1.0, rel=1e-12)
    torch.testing.assert_close(rows / rows[0], raw / raw[0])


def test_mean_one_lets_no_row_count_more_than_four_times():
    sure = torch.tensor([[40.0, 0.0]] + [[0.0, 0.0]] * 19)
    for weight in (margin, partial(entropy, temperature=4.0)):
        rows = mean_one(sure, sure, torch.zeros(20, dtype=torch.long), of=weight)
        assert rows.tolist() == [4.0] + [0.0] * 19
    rare = torch.tensor([1] + [-1] * 19)
    assert mean_one(sure, sure, rare, of=labelled).tolist() == [20.0] + [0.0] * 19, "a sum divided by the labelled rows"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_one_of_nothing_is_nothing(dtype):
    uniform = torch.zeros(B, C, dtype=dtype)
    rows = mean_one(uniform, uniform, torch.zeros(B, dtype=torch.long), of=margin)
    assert rows.tolist() == [0.0] * B
    assert rows.dtype == dtype


def test_mean_one_among_the_labelled_does_not_see_the_other_rows():
    labels = torch.arange(B) % 3 - 1
    rows = mean_one(logits(1), logits(), labels, of=entropy, among_labelled=True)
    own = labels >= 0
    torch.testing.assert_close(rows[own], mean_one(logits(1)[own], logits()[own], labels[own], of=entropy))
    assert rows[own].mean().item() == pytest.approx(1.0)
    others = logits().masked_fill(~own[:, None], 0.0)
    torch.testing.assert_close(mean_one(logits(1), others, labels, of=entropy, among_labelled=True)[own], rows[own])
    nothing = mean_one(logits(1), logits(), torch.full((B,), -1), of=entropy, among_labelled=True)
    assert nothing.isfinite().all()


def test_a_part_of_a_mean_one_that_is_replaced_leaves_its_options():
    weight = partial(mean_one, of=entropy, among_labelled=True)
    assert with_parts(weight, lambda part: margin).keywords == {"of": margin, "among_labelled": True}


def test_mean_one_of_the_labelled_divides_a_sum_by_the_labelled_rows():
    labels, losses = torch.tensor([0, -1, 2, -1]), torch.tensor([3.0, 0.0, 5.0, 0.0])
    assert (mean_one(TEACHER, TEACHER, labels, of=labelled) * losses).mean().item() == 4.0
