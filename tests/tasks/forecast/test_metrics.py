"""Scores of forecasts against hand computations, scipy and draws."""

import pytest
import torch
from scipy import integrate, stats

from tutelage.tasks.forecast import metrics

STUDENTS = torch.tensor([[0.2, 1.2], [0.8, 0.7], [1.5, 1.5]], dtype=torch.float64)
NAMES = ("mean", "target", "last")


def test_the_golden_crps_of_three_gaussians_at_one():
    found = metrics.gaussian_crps(STUDENTS, torch.ones(3).double()).tolist()
    assert found == pytest.approx([0.4856596529, 0.1862293630, 0.4164239676], abs=1e-8)


def test_crps_is_the_integral_of_the_squared_distance_of_distributions():
    for (mean, spread), target in zip(STUDENTS.tolist(), (0.0, 3.0, 1.0), strict=True):
        below, _ = integrate.quad(lambda x, m=mean, s=spread: stats.norm.cdf(x, m, s) ** 2, -30, target)
        above, _ = integrate.quad(lambda x, m=mean, s=spread: stats.norm.sf(x, m, s) ** 2, target, 30)
        found = metrics.gaussian_crps(torch.tensor([mean, spread]), torch.tensor(target)).item()
        assert found == pytest.approx(below + above, abs=1e-6)


def test_ninety_per_cent_of_targets_that_are_drawn_from_the_forecast_are_covered():
    torch.manual_seed(0)
    forecast = torch.stack([torch.randn(200, 100), torch.rand(200, 100) + 0.1], -1)
    target = torch.normal(forecast[..., 0], forecast[..., 1])
    assert metrics.coverage(forecast, target) == pytest.approx(0.9, abs=0.01)
    assert metrics.coverage(forecast, forecast[..., 0] + 1.7 * forecast[..., 1]) == 0


def test_errors_and_directions_by_hand():
    mean, target, last = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    assert metrics.mae(mean, target) == 2
    assert metrics.rmse(mean, target) == pytest.approx(5**0.5)
    assert metrics.direction(mean, target, last) == 0.5
    assert metrics.commoner_direction(target, last) == 0.5
    assert metrics.direction(mean, torch.tensor([[2.0, 3.0]]), last) == 1, "what does not move is left out"


def test_r2_of_the_mean_is_nothing_and_of_the_truth_is_one():
    target = torch.randn(50, 2)
    assert metrics.r2(target, target) == 1
    assert metrics.r2(target.mean(0).expand(50, 2), target) == pytest.approx(0, abs=1e-6)


def test_nll_is_that_of_scipy_and_the_same_forecasts_agree():
    target = torch.tensor([1.0, 1.0, 1.0])
    wanted = -stats.norm.logpdf(1.0, STUDENTS[:, 0].numpy(), STUDENTS[:, 1].numpy()).mean()
    assert metrics.gaussian_nll_of(STUDENTS, target) == pytest.approx(wanted)
    assert metrics.affinity(STUDENTS, STUDENTS) == pytest.approx(1)
    assert metrics.affinity(STUDENTS, STUDENTS + 1) < 1
