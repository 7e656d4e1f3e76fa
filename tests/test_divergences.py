"""Divergences against naive loops in float64, torch's own cross-entropy and what mathematics promises."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.divergences import cross_entropy, js, kl, mse, reverse_kl, value

BETWEEN_NETWORKS = [kl, reverse_kl, js, mse]
OF_PROBABILITIES = [kl, reverse_kl, js]
B, C = 6, 5

each_divergence = pytest.mark.parametrize("divergence", BETWEEN_NETWORKS)
each_of_probabilities = pytest.mark.parametrize("divergence", OF_PROBABILITIES)


def logits(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(shape or (B, C), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def soft_labels(seed: int) -> Tensor:
    return logits(seed).softmax(-1)


def log_softmax(row: list[float]) -> list[float]:
    highest = max(row)
    log_sum = highest + math.log(sum(math.exp(z - highest) for z in row))
    return [z - log_sum for z in row]


def naive_kl(p: list[float], q: list[float]) -> float:
    """KL(p || q) of two rows of log-probabilities."""
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def naive(divergence: object, student: list[float], teacher: list[float]) -> float:
    """The divergence of one row, from its definition in a book."""
    if divergence is mse:
        return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)
    p, q = log_softmax(teacher), log_softmax(student)
    if divergence is kl:
        return naive_kl(p, q)
    if divergence is reverse_kl:
        return naive_kl(q, p)
    middle = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in zip(p, q, strict=True)]
    return (naive_kl(p, middle) + naive_kl(q, middle)) / 2


@each_divergence
def test_gives_the_same_as_a_loop_over_rows_and_classes(divergence):
    student, teacher = logits(0), logits(1)
    expected = [naive(divergence, s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(divergence(student, teacher), torch.tensor(expected, dtype=torch.float64),
                               rtol=1e-12, atol=1e-13)


@each_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_one_number_a_row_and_keeps_the_precision(divergence, dtype):
    rows = divergence(logits(0, dtype=dtype), logits(1, dtype=dtype))
    assert rows.shape == (B,)
    assert rows.dtype == dtype


@each_divergence
def test_is_zero_with_zero_gradient_where_the_student_equals_the_teacher(divergence):
    student, teacher = logits(0).requires_grad_(), logits(0)
    rows = divergence(student, teacher)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    torch.testing.assert_close(rows.detach(), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


@each_divergence
def test_is_positive_where_they_differ(divergence):
    assert (divergence(logits(0), logits(1)) > 1e-3).all()


@each_divergence
@pytest.mark.parametrize("size", [1e4, 65504.0])
def test_is_finite_with_finite_gradients_for_any_size_of_logits(divergence, size):
    teacher = torch.tensor([[size, -size, 0.0], [-size, -size, size], [size, size, size], [0.0, 0.0, 0.0]])
    student = teacher.roll(1, dims=-1).requires_grad_()
    rows = divergence(student, teacher)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    assert rows.isfinite().all()
    assert gradient.isfinite().all()


@each_of_probabilities
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_ignores_a_constant_added_to_a_row(divergence, side):
    student, teacher = logits(0), logits(1)
    shift = 100 * torch.arange(B, dtype=torch.float64)[:, None] - 200
    shifted = divergence(student + shift, teacher) if side == "student" else divergence(student, teacher + shift)
    torch.testing.assert_close(shifted, divergence(student, teacher), rtol=1e-11, atol=1e-12)


def test_mse_sees_a_constant_added_to_a_row():
    torch.testing.assert_close(mse(logits(0) + 2, logits(0)), torch.full((B,), 4.0, dtype=torch.float64))


@each_divergence
def test_follows_its_rows_and_does_not_care_for_the_order_of_classes(divergence):
    student, teacher, swap = logits(0), logits(1), torch.tensor([3, 0, 4, 1, 2])
    rows = divergence(student, teacher)
    torch.testing.assert_close(divergence(student[:, swap], teacher[:, swap]), rows, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(divergence(student.flip(0), teacher.flip(0)), rows.flip(0), rtol=1e-12, atol=1e-13)


@each_divergence
def test_leaves_its_arguments_alone(divergence):
    student, teacher = logits(0), logits(1)
    divergence(student, teacher)
    assert student.equal(logits(0))
    assert teacher.equal(logits(1))


@each_divergence
def test_gradient_is_what_a_finite_difference_says(divergence):
    assert torch.autograd.gradcheck(lambda student: divergence(student, logits(1, 2, 3)),
                                    logits(0, 2, 3).requires_grad_())


def test_kl_pulls_by_the_difference_of_probabilities():
    student, teacher = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(kl(student, teacher).sum(), student)
    torch.testing.assert_close(gradient, student.detach().softmax(-1) - teacher.softmax(-1))


def test_reverse_kl_is_kl_with_the_ends_exchanged_and_pulls_the_other_end_alike():
    first, second = logits(0).requires_grad_(), logits(1).requires_grad_()
    forward = torch.autograd.grad(kl(first, second).sum(), second)
    mirrored = torch.autograd.grad(reverse_kl(second, first).sum(), second)
    torch.testing.assert_close(mirrored, forward)


def test_js_is_symmetric_and_never_more_than_log_two():
    torch.testing.assert_close(js(logits(0), logits(1)), js(logits(1), logits(0)))
    far = js(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    assert far.item() == pytest.approx(math.log(2), rel=1e-6)
    assert (js(100 * logits(0), 100 * logits(1)) <= math.log(2) + 1e-12).all()


def test_warm_kl_becomes_the_squared_distance_of_centred_logits():
    student = torch.tensor([[2, 0.5, 0, -0.5], [0, 1, 0, 0], [1, -1, 0.5, 0]], dtype=torch.float64)
    teacher = torch.tensor([[4, 1, 0, -1], [0.5, 0.4, 0.3, 0.2], [0, 0, 0, 0]], dtype=torch.float64)
    at_1e4 = 1e8 * kl(student / 1e4, teacher / 1e4)
    assert at_1e4.tolist() == pytest.approx([0.4375468725, 0.0875016699, 0.2734345861], abs=5e-8)
    limit = [sum((a - b - sum(t) / 4 + sum(s) / 4) ** 2 for a, b in zip(t, s, strict=True)) / 8
             for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert limit == pytest.approx([0.4375, 0.0875, 0.2734375])
    assert at_1e4.tolist() == pytest.approx(limit, rel=2e-4)


def test_mse_of_feature_maps_is_the_mean_over_everything_but_the_batch():
    student, teacher = logits(0, 2, 3, 4, 4), logits(1, 2, 3, 4, 4)
    expected = [sum((a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True)) / 48
                for s, t in zip(student, teacher, strict=True)]
    assert mse(student, teacher).tolist() == pytest.approx(expected, rel=1e-12)


def test_mse_of_one_number_a_row_is_its_squared_difference():
    assert mse(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0])).tolist() == [4.0, 0.0]


def test_value_is_the_student_end_itself():
    rows = torch.tensor([1.0, 2.0])
    assert value(rows, None, None) is rows


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_of_hard_labels_is_torchs_own_and_0_without_a_label(smoothing):
    student, labels = logits(0), torch.tensor([0, 4, -1, 2, 2, -1])
    rows = cross_entropy(student, labels, smoothing=smoothing)
    known = labels >= 0
    torch.testing.assert_close(
        rows[known], F.cross_entropy(student[known], labels[known], reduction="none", label_smoothing=smoothing))
    assert rows[~known].tolist() == [0.0, 0.0]


def test_cross_entropy_by_hand():
    student = torch.tensor([[2, 0.5, 0, -0.5]], dtype=torch.float64)
    assert cross_entropy(student, torch.tensor([0])).item() == pytest.approx(0.3650252919, abs=1e-10)
    smooth = partial(cross_entropy, smoothing=0.1)
    assert smooth(student, torch.tensor([0])).item() == pytest.approx(0.5150252919, abs=1e-10)
    assert smooth(student, torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)).item() == pytest.approx(
        0.5150252919, abs=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_of_soft_labels_is_torchs_own(smoothing):
    student, labels = logits(0), soft_labels(1)
    torch.testing.assert_close(cross_entropy(student, labels, smoothing=smoothing),
                               F.cross_entropy(student, labels, reduction="none", label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_labels_by_hand(smoothing):
    student, labels = logits(0), soft_labels(1)
    expected = []
    for row, label in zip(student.tolist(), labels.tolist(), strict=True):
        smooth = [(1 - smoothing) * share + smoothing / C for share in label]
        expected.append(-sum(y * z for y, z in zip(smooth, log_softmax(row), strict=True)))
    assert cross_entropy(student, labels, smoothing=smoothing).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_one_hot_labels_are_hard_labels_and_rows_of_zeros_are_no_label(smoothing):
    student, hard = logits(0), torch.tensor([0, 4, -1, 2, 2, -1])
    soft = F.one_hot(hard.clamp(min=0), C).double() * (hard >= 0)[:, None]
    torch.testing.assert_close(cross_entropy(student, soft, smoothing=smoothing),
                               cross_entropy(student, hard, smoothing=smoothing))


def test_half_a_label_counts_half():
    student, labels = logits(0), soft_labels(1)
    torch.testing.assert_close(cross_entropy(student, labels / 2, smoothing=0.1),
                               cross_entropy(student, labels, smoothing=0.1) / 2)


def test_soft_cross_entropy_is_kl_plus_the_entropy_of_the_labels():
    student, teacher = logits(0), logits(1)
    own = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(cross_entropy(student, teacher.softmax(-1)), kl(student, teacher) + own)


@pytest.mark.parametrize("size", [1e4, 65504.0])
@pytest.mark.parametrize("labels", [torch.tensor([1, -1]), torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.0, 0.0]])],
                         ids=["hard", "soft"])
def test_cross_entropy_is_finite_with_finite_gradients_for_any_size_of_logits(labels, size):
    student = torch.tensor([[size, -size, 0.0], [-size, size, size]], requires_grad=True)
    rows = cross_entropy(student, labels, smoothing=0.1)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    assert rows.isfinite().all()
    assert gradient.isfinite().all()
    assert rows[1] == 0
    assert not gradient[1].any()


def test_cross_entropy_pulls_by_the_difference_to_the_label():
    student, labels = logits(0).requires_grad_(), torch.tensor([0, 4, 1, 2, 2, 3])
    (gradient,) = torch.autograd.grad(cross_entropy(student, labels).sum(), student)
    torch.testing.assert_close(gradient, student.detach().softmax(-1) - F.one_hot(labels, C))
