"""Divergences of Gaussians: hand computations, torch's own distributions, and invariants."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from every import every
from tutelage.errors import ModelError, UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.gaussians import (
    RELATIONAL,
    gaussian_kl,
    gaussian_nll,
    point_mse,
    relation_cosine,
    relation_distance,
)

TEACHER = torch.tensor([[0.0, 1.0], [1.0, 0.5], [2.0, 2.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.2, 1.2], [0.8, 0.7], [1.5, 1.5]], dtype=torch.float64)
ONES = torch.ones(3, dtype=torch.float64)


def two(count: int, *steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return tuple(torch.stack([torch.randn(count, *steps), torch.rand(count, *steps) + 0.2], -1).double()
                 for _ in range(2))


@pytest.mark.parametrize(("divergence", "options", "golden"), [
    (gaussian_kl, {}, 0.1108618813), (relation_distance, {}, 0.0145385917),
    (relation_distance, {"kind": "jeffreys"}, 0.0096571355), (relation_cosine, {}, 0.0148504909)])
def test_the_golden_values_of_three_gaussians(divergence, options, golden):
    assert divergence(STUDENT, TEACHER, **options).mean().item() == pytest.approx(golden, abs=1e-8)


def test_the_golden_likelihood_is_that_of_a_target_of_one():
    assert gaussian_nll(STUDENT, ONES).mean().item() == pytest.approx(1.1021738083, abs=1e-8)


def test_likelihood_and_kl_are_those_of_torch():
    student, teacher = two(5, 3)
    ours, theirs = (Normal(rows[..., 0], rows[..., 1]) for rows in (student, teacher))
    target = torch.randn(5, 3).double()
    assert torch.allclose(gaussian_nll(student, target), -ours.log_prob(target).mean(1))
    assert torch.allclose(gaussian_kl(student, teacher), kl_divergence(theirs, ours).mean(1))


@pytest.mark.parametrize("divergence", [gaussian_kl, point_mse, *RELATIONAL])
def test_a_student_that_says_what_its_teacher_says_is_at_no_distance(divergence):
    rows, _ = two(6, 2)
    assert divergence(rows, rows).abs().max().item() < 1e-12


@pytest.mark.parametrize("divergence", RELATIONAL)
@pytest.mark.parametrize("steps", [(), (3,)])
def test_relations_do_not_see_where_all_means_lie(divergence, steps):
    student, teacher = two(6, *steps)
    moved = student.clone()
    moved[..., 0] += 7
    assert torch.allclose(divergence(student, teacher), divergence(moved, teacher), atol=1e-10)


@pytest.mark.parametrize("kind", ["released", "jeffreys"])
def test_the_distance_is_that_of_a_loop_over_pairs(kind):
    student, teacher = two(4)

    def distances(rows):
        found = torch.zeros(4, 4).double()
        for i, (m, s) in enumerate(rows.tolist()):
            for j, (n, t) in enumerate(rows.tolist()):
                one, other = Normal(m, s), Normal(n, t)
                found[i, j] = (0.5 * (s**-2 + t**-2) * ((s - t) ** 2 + (m - n) ** 2) if kind == "released"
                               else kl_divergence(one, other) + kl_divergence(other, one))
        return found / found[found > 0].mean()

    gap = (distances(student) - distances(teacher)).abs()
    wanted = torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean(1)
    assert torch.allclose(relation_distance(student, teacher, kind=kind), wanted, atol=1e-6)


def test_the_cosine_is_that_of_the_densities_as_functions():
    student, teacher = two(3)
    place = torch.linspace(-30, 30, 60001).double()

    def cosines(rows):
        densities = torch.stack([Normal(m, s).log_prob(place).exp() for m, s in rows])
        densities = densities / densities.norm(dim=1, keepdim=True)
        return densities @ densities.T

    wanted = (cosines(student) - cosines(teacher)).square().mean(1) / 2
    assert torch.allclose(relation_cosine(student, teacher), wanted, atol=1e-8)


@pytest.mark.parametrize("divergence", RELATIONAL)
def test_relations_of_several_steps_are_the_mean_of_those_of_each(divergence):
    student, teacher = two(5, 3)
    each = torch.stack([divergence(student[:, step], teacher[:, step]) for step in range(3)])
    assert torch.allclose(divergence(student, teacher), each.mean(0))


@pytest.mark.parametrize("divergence", RELATIONAL)
def test_one_row_and_equal_rows_have_no_relation(divergence):
    student, teacher = two(1)
    assert divergence(student, teacher).abs().max() < 1e-9
    same = student.expand(4, -1).clone().requires_grad_()
    divergence(same, same.detach()).mean().backward()
    assert same.grad.isfinite().all()


def test_equal_spreads_make_kl_a_squared_error():
    student, teacher = two(6)
    student[:, 1] = teacher[:, 1] = 0.7
    assert torch.allclose(gaussian_kl(student, teacher), point_mse(student, teacher) / (2 * 0.7**2))


def test_a_spread_near_nothing_leaves_finite_relations():
    student, teacher = two(4)
    student[0, 1] = 1e-12
    assert every(divergence(student, teacher).isfinite().all() for divergence in RELATIONAL)


def test_what_is_no_gaussian_is_refused():
    with pytest.raises(ModelError, match="no Gaussians"):
        gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(ModelError, match="different shapes"):
        gaussian_kl(STUDENT, TEACHER[:2])
    with pytest.raises(ModelError, match="unlike shapes"):
        gaussian_nll(STUDENT, torch.zeros(3, 1))


def test_targets_are_learned_by_likelihood_and_forecasts_by_the_others():
    with pytest.raises(UsageError, match="reads labels"):
        Edge("teacher", "student", gaussian_nll)
    with pytest.raises(UsageError, match="not logits"):
        Edge("labels.target", "student", gaussian_kl)
    assert Edge("labels.target", "student", gaussian_nll).from_labels


def test_the_gradient_of_kl_for_a_mean_is_its_error_over_the_variance():
    student = STUDENT.clone().requires_grad_()
    gaussian_kl(student, TEACHER).sum().backward()
    assert torch.allclose(student.grad[:, 0], (STUDENT[:, 0] - TEACHER[:, 0]) / STUDENT[:, 1] ** 2)
    assert math.isfinite(student.grad.sum().item())
