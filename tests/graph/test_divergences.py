"""Divergences against naive loops in float64, torch's own cross-entropy and what mathematics promises."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.graph.divergences import alpha_beta, cross_entropy, js, kl, mse, plackett_luce, reverse_kl, value
from tutelage.graph.naming import describe, unbound
from tutelage.graph.sample_weights import true_class

ALPHA_BETA = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.0, 0.0), (0.7, -0.7), (-0.7, 0.7), (0.6, 0.0),
              (0.0, 0.6), (0.8, 0.3), (0.2, 0.7), (-0.3, 0.9), (-0.4, -0.2), (-0.5, 0.0), (0.0, -0.5)]
OF_PROBABILITIES = [kl, reverse_kl, js, *(partial(alpha_beta, alpha=a, beta=b) for a, b in ALPHA_BETA)]
BETWEEN_NETWORKS = [*OF_PROBABILITIES, mse]
B, C = 6, 5
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def name(divergence: object) -> str:
    return "-".join(describe(divergence).translate(str.maketrans("(),=", "    ")).split())


each_divergence = pytest.mark.parametrize("divergence", BETWEEN_NETWORKS, ids=name)
READING_LABELS = [plackett_luce, partial(plackett_luce, temperature=3.0)]
each = pytest.mark.parametrize("divergence", [*BETWEEN_NETWORKS, *READING_LABELS], ids=name)
each_of_probabilities = pytest.mark.parametrize("divergence", [*OF_PROBABILITIES, *READING_LABELS], ids=name)


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


def naive_alpha_beta(p: list[float], q: list[float], alpha: float, beta: float) -> float:
    """Of two rows of log-probabilities; each limit written out."""
    both, total = alpha + beta, 0.0
    for x, y in ((math.exp(a), math.exp(b)) for a, b in zip(p, q, strict=True)):
        if alpha == beta == 0:
            total += (math.log(x) - math.log(y)) ** 2 / 2
        elif beta == 0:
            total += (x**alpha * math.log(x**alpha / y**alpha) - x**alpha + y**alpha) / alpha**2
        elif alpha == 0:
            total += (y**beta * math.log(y**beta / x**beta) - y**beta + x**beta) / beta**2
        elif both == 0:
            total += (math.log(y**alpha / x**alpha) + x**alpha / y**alpha - 1) / alpha**2
        else:
            total -= (x**alpha * y**beta - alpha / both * x**both - beta / both * y**both) / (alpha * beta)
    return total


def naive_plackett_luce(student: list[float], teacher: list[float], label: int, temperature: float) -> float:
    """Classes are chosen one by one among those that are left."""
    share = [math.exp(z) for z in log_softmax([z / temperature for z in teacher])]
    left, total = set(range(len(student))), 0.0
    while left:
        chosen = label if label in left else max(left, key=lambda c: (teacher[c], -c))
        total += share[chosen] * (math.log(sum(math.exp(student[c]) for c in left)) - student[chosen])
        left.remove(chosen)
    return total


def naive(divergence: object, student: list[float], teacher: list[float], label: int) -> float:
    """The divergence of one row, from its definition in a book."""
    options = divergence.keywords if isinstance(divergence, partial) else {}
    if unbound(divergence) is alpha_beta:
        return naive_alpha_beta(log_softmax(teacher), log_softmax(student), **options)
    if unbound(divergence) is plackett_luce:
        return naive_plackett_luce(student, teacher, label, options.get("temperature", 1.0))
    if divergence is mse:
        return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)
    p, q = log_softmax(teacher), log_softmax(student)
    if divergence is kl:
        return naive_kl(p, q)
    if divergence is reverse_kl:
        return naive_kl(q, p)
    middle = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in zip(p, q, strict=True)]
    return (naive_kl(p, middle) + naive_kl(q, middle)) / 2


@each
def test_gives_the_same_as_a_loop_over_rows_and_classes(divergence):
    student, teacher = logits(0), logits(1)
    rows = zip(student.tolist(), teacher.tolist(), LABELS.tolist(), strict=True)
    expected = [naive(divergence, *row) for row in rows]
    torch.testing.assert_close(divergence(student, teacher, LABELS), torch.tensor(expected, dtype=torch.float64),
                               rtol=1e-12, atol=1e-13)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_one_number_a_row_and_keeps_the_precision(divergence, dtype):
    rows = divergence(logits(0, dtype=dtype), logits(1, dtype=dtype), LABELS)
    assert rows.shape == (B,)
    assert rows.dtype == dtype


@each_divergence
def test_is_zero_with_zero_gradient_where_the_student_equals_the_teacher(divergence):
    student, teacher = logits(0).requires_grad_(), logits(0)
    rows = divergence(student, teacher)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    torch.testing.assert_close(rows.detach(), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@each_divergence
def test_is_positive_where_they_differ(divergence):
    assert (divergence(logits(0), logits(1)) > 1e-3).all()


@each
@pytest.mark.parametrize("size", [1e4, 65504.0])
def test_is_finite_with_finite_gradients_for_any_size_of_logits(divergence, size):
    teacher = torch.tensor([[size, -size, 0.0], [-size, -size, size], [size, size, size], [0.0, 0.0, 0.0]])
    student = teacher.roll(1, dims=-1).requires_grad_()
    rows = divergence(student, teacher, torch.tensor([2, 1, 0, -1]))
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    assert rows.isfinite().all()
    assert gradient.isfinite().all()


@each_of_probabilities
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_ignores_a_constant_added_to_a_row(divergence, side):
    student, teacher = logits(0), logits(1)
    shift = 100 * torch.arange(B, dtype=torch.float64)[:, None] - 200
    shifted = (divergence(student + shift, teacher, LABELS) if side == "student" else
               divergence(student, teacher + shift, LABELS))
    torch.testing.assert_close(shifted, divergence(student, teacher, LABELS), rtol=1e-11, atol=1e-12)


def test_mse_sees_a_constant_added_to_a_row():
    torch.testing.assert_close(mse(logits(0) + 2, logits(0)), torch.full((B,), 4.0, dtype=torch.float64))


@each
def test_follows_its_rows_and_does_not_care_for_the_order_of_classes(divergence):
    student, teacher, swap = logits(0), logits(1), torch.tensor([3, 0, 4, 1, 2])
    rows = divergence(student, teacher, LABELS)
    swapped = divergence(student[:, swap], teacher[:, swap], swap.argsort()[LABELS])
    torch.testing.assert_close(swapped, rows, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(divergence(student.flip(0), teacher.flip(0), LABELS.flip(0)), rows.flip(0), rtol=1e-12,
                               atol=1e-13)


@each
def test_leaves_its_arguments_alone(divergence):
    student, teacher = logits(0), logits(1)
    divergence(student, teacher, LABELS)
    assert student.equal(logits(0))
    assert teacher.equal(logits(1))


@each
def test_gradient_is_what_a_finite_difference_says(divergence):
    assert torch.autograd.gradcheck(lambda student: divergence(student, logits(1, 2, 3), LABELS[2:4]),
                                    logits(0, 2, 3).requires_grad_())


GOLDEN_TEACHER = torch.tensor([[2, 1, 0, -1], [0.5, 2.5, 0, -0.5]], dtype=torch.float64)
GOLDEN_STUDENT = torch.tensor([[1, 0.5, 0.2, -0.3], [1.5, 1, -0.2, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "beta", "expected"), [
    (1, 0, [0.1274737345, 0.5403679668]), (0, 1, [0.1558130055, 0.6249605895]),
    (0.5, 0.5, [0.1391046876, 0.5634113636]), (1, 1, [0.0324814780, 0.1981863875]),
    (0, 0, [1.2410714465, 2.3255941064]), (0.7, -0.7, [0.9930316870, 1.9887026206]),
    (-0.7, 0.7, [1.6247342235, 2.9972540982]), (0.6, 0, [0.2866575216, 0.8910670346]),
    (0, 0.6, [0.3382787270, 1.0102890304]), (0.8, 0.3, [0.1113421047, 0.4887803297]),
    (0.2, 0.7, [0.1781845565, 0.6674568193])])
def test_golden_alpha_beta(alpha, beta, expected):
    rows = alpha_beta(GOLDEN_STUDENT, GOLDEN_TEACHER, alpha=alpha, beta=beta)
    assert rows.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), ALPHA_BETA)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_alpha_beta_pulls_by_its_closed_form(alpha, beta, temperature):
    student, teacher = logits(0).requires_grad_(), logits(1)
    rows = alpha_beta(student, teacher, alpha=alpha, beta=beta, temperature=temperature)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    p, q = (teacher / temperature).softmax(-1), (student.detach() / temperature).softmax(-1)
    g = -q ** (beta - 1) * ((p**alpha - q**alpha) / alpha if alpha else p.log() - q.log())
    expected = q * (g - (q * g).sum(-1, keepdim=True)) / temperature
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), ALPHA_BETA)
def test_alpha_beta_with_its_numbers_exchanged_is_that_with_its_ends_exchanged(alpha, beta):
    torch.testing.assert_close(alpha_beta(logits(0), logits(1), alpha=alpha, beta=beta),
                               alpha_beta(logits(1), logits(0), alpha=beta, beta=alpha), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.0), (0.0, 0.6), (0.7, -0.7), (-0.7, 0.7), (-0.5, 0.0), (0.0, -0.5),
                                             (0.0, 0.0)])
def test_alpha_beta_goes_over_into_its_limits_without_a_step(alpha, beta, dtype):
    """On both sides of where a limit takes over, what is found is the limit."""
    near, tolerance = (1e-3, 2e-2) if dtype == torch.float32 else (1e-6, 1e-4)
    student, teacher = (logits(seed, dtype=dtype) for seed in (0, 1))
    limit = alpha_beta(student, teacher, alpha=alpha, beta=beta)
    for step in (-2 * near, -0.5 * near, 0.5 * near, 2 * near):
        moved = {"alpha": alpha + step, "beta": beta + step / 3} if alpha + beta == 0 else (
            {"alpha": alpha, "beta": step} if beta == 0 else {"alpha": step, "beta": beta})
        torch.testing.assert_close(alpha_beta(student, teacher, **moved), limit, rtol=tolerance, atol=tolerance)


def test_alpha_beta_has_members_of_its_own_names():
    student, teacher = logits(0), logits(1)
    p, q = teacher.softmax(-1), student.softmax(-1)
    member = partial(alpha_beta, student, teacher)
    torch.testing.assert_close(member(alpha=1, beta=0), kl(student, teacher))
    torch.testing.assert_close(member(alpha=0, beta=1), reverse_kl(student, teacher))
    torch.testing.assert_close(member(alpha=0.5, beta=0.5), 4 * (1 - (p * q).sqrt().sum(-1)))
    torch.testing.assert_close(member(alpha=1, beta=1), (p - q).square().sum(-1) / 2)


@pytest.mark.parametrize("options", [
    {"alpha": math.nan, "beta": 0.5}, {"alpha": 0.5, "beta": math.inf}, {"alpha": -1.5, "beta": 2.0},
    {"alpha": 0.5, "beta": 0.5, "temperature": 0.0}, {"alpha": 0.5, "beta": 0.5, "temperature": math.nan}])
def test_an_alpha_beta_divergence_that_cannot_be_is_refused(options):
    with pytest.raises(UsageError, match="cannot be"):
        alpha_beta(logits(0), logits(1), **options)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, [0.7712437835, 0.5535981722]),
                                                       (4.0, [0.6100278457, 0.5445987230])])
def test_golden_plackett_luce(temperature, expected):
    rows = plackett_luce(GOLDEN_STUDENT, GOLDEN_TEACHER, torch.tensor([0, 0]), temperature=temperature)
    assert rows.tolist() == pytest.approx(expected, abs=1e-9)


def test_golden_plackett_luce_of_a_teacher_that_prefers_nothing():
    """All places count alike, and equal logits keep the order of the classes."""
    rows = plackett_luce(GOLDEN_STUDENT, torch.zeros_like(GOLDEN_TEACHER), torch.tensor([0, 0]))
    assert rows.tolist() == pytest.approx([0.5258058459, 0.5251086049], abs=1e-9)


def test_plackett_luce_pulls_by_its_closed_form():
    student, teacher = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(plackett_luce(student, teacher, LABELS).sum(), student)
    expected = torch.zeros(B, C, dtype=torch.float64)
    for row in range(B):
        others = sorted(set(range(C)) - {int(LABELS[row])}, key=lambda c, row=row: -teacher[row, c])
        ranking = [int(LABELS[row]), *others]
        for place, chosen in enumerate(ranking):
            left = ranking[place:]
            share = teacher[row].softmax(-1)[chosen]
            expected[row, left] += share * student.detach()[row, left].softmax(-1)
            expected[row, chosen] -= share
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert gradient.sum(-1).abs().max() < 1e-14


def test_plackett_luce_of_a_teacher_sure_of_the_label_is_cross_entropy():
    sure = 1e4 * F.one_hot(LABELS, C).double()
    torch.testing.assert_close(plackett_luce(logits(0), sure, LABELS), cross_entropy(logits(0), LABELS), rtol=1e-14,
                               atol=1e-15)


def test_plackett_luce_begins_with_cross_entropy_weighted_by_the_teachers_probability_of_the_label():
    """The rest does not hear of the student's logit of the label."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    weight = true_class(None, teacher, LABELS, temperature=3.0)
    rest = plackett_luce(student, teacher, LABELS, temperature=3.0) - weight * cross_entropy(student, LABELS)
    (gradient,) = torch.autograd.grad(rest.sum(), student)
    assert gradient.gather(-1, LABELS[:, None]).abs().max() < 1e-14


def test_plackett_luce_reads_soft_labels_by_their_largest_and_leaves_out_rows_without_one():
    student, teacher, hard = logits(0).requires_grad_(), logits(1), torch.tensor([0, 4, -1, 2, 2, -1])
    soft = (0.6 * F.one_hot(hard.clamp(min=0), C).double() + 0.4 / C) * (hard >= 0)[:, None]
    rows = plackett_luce(student, teacher, hard)
    torch.testing.assert_close(plackett_luce(student, teacher, soft), rows)
    assert rows[hard < 0].tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    assert not gradient[hard < 0].any()


@pytest.mark.parametrize("classes", [1, 2])
def test_plackett_luce_of_one_or_two_classes(classes):
    student, teacher, label = logits(0, B, classes), logits(1, B, classes), torch.zeros(B, dtype=torch.long)
    rows = plackett_luce(student, teacher, label)
    expected = teacher.softmax(-1)[:, 0] * cross_entropy(student, label)
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_of_plackett_luce_that_cannot_be_is_refused(temperature):
    with pytest.raises(UsageError, match="cannot be"):
        plackett_luce(logits(0), logits(1), LABELS, temperature=temperature)


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
