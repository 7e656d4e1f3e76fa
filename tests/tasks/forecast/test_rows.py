"""Rows of forecasts, mixtures, and how sure one is of a forecast."""

import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import ModelError
from tutelage.tasks.forecast.rows import LEAST, forecast_mixture, gaussians_of, sharpness, steps, target_of

TARGET = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_a_row_is_a_sample_with_mean_and_spread_of_each_step():
    raw = torch.randn(3, 2, 2)
    seen = steps({"a": raw}, {"target": TARGET, "naive": TARGET})
    assert torch.equal(seen.values["a"][..., 0], raw[..., 0])
    assert torch.equal(seen.values["a"][..., 1], F.softplus(raw[..., 1]) + 1e-3)
    assert torch.equal(seen.labels["target"], TARGET)
    assert seen.counts is None
    assert int(steps.total(TARGET)) == 3


def test_however_small_the_raw_scale_the_spread_stays_above_the_least():
    seen = gaussians_of(torch.full((1, 1, 2), -1e4), 1)
    assert seen[0, 0, 1].item() == pytest.approx(LEAST)


def test_means_alone_have_the_spread_of_the_targets():
    assert gaussians_of(torch.tensor([[7.0, 8.0]]), 2).tolist() == [[[7.0, 1.0], [8.0, 1.0]]]


@pytest.mark.parametrize("shape", [(3, 3), (3, 2, 3), (3, 2, 2, 2), (3,)])
def test_what_is_no_forecast_of_these_steps_is_refused(shape):
    with pytest.raises(ModelError, match="no forecast of these steps"):
        steps({"a": torch.zeros(shape)}, TARGET)


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.int64), torch.zeros(3), {"classes": TARGET}])
def test_labels_that_are_no_numbers_are_refused(labels):
    with pytest.raises(ModelError, match="no numbers to forecast"):
        target_of(labels)


def test_a_mixture_has_the_mean_and_variance_of_draws_from_it():
    torch.manual_seed(0)
    parts = [torch.randn(4, 3, 2) for _ in range(3)]
    known = [gaussians_of(part, 3) for part in parts]
    draws = torch.cat([mean + spread * torch.randn(200_000, 4, 3) for mean, spread in (p.unbind(-1) for p in known)])
    found = gaussians_of(forecast_mixture(*parts), 3)
    assert torch.allclose(found[..., 0], draws.mean(0), atol=0.02)
    assert torch.allclose(found[..., 1], draws.std(0), atol=0.02)


def test_a_mixture_of_one_is_what_it_says_and_of_means_their_mean():
    part = torch.tensor([[[0.3, -9.0], [2.0, 30.0]]]).double()
    assert torch.allclose(forecast_mixture(part, part), part, atol=1e-5)
    assert forecast_mixture(torch.tensor([[1.0]]), torch.tensor([[4.0]])).tolist() == [[2.5]]
    with pytest.raises(ModelError, match="not forecasts of the same steps"):
        forecast_mixture(torch.zeros(1, 2, 2), torch.zeros(1, 3, 2))


def test_who_spreads_less_is_surer_and_a_warm_look_is_less_sure():
    rows = torch.tensor([[[0.0, 0.1]], [[0.0, 1.0]], [[0.0, 10.0]]])
    weight = sharpness(None, rows)
    assert weight.tolist() == pytest.approx([1 / 1.01, 0.5, 1 / 101])
    assert bool((sharpness(None, rows, temperature=2) < weight).all())
    assert sharpness(None, rows, power=2).tolist() == pytest.approx(weight.square().tolist())
