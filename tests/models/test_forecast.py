"""Networks that forecast: shapes, sizes, options, and that the past alone and all of it counts."""

import pytest
import torch

from tutelage.errors import ModelError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.forecast import forecast_gru, forecast_linear, forecast_transformer

FORMS = [(forecast_gru, {}), (forecast_gru, {"width": 5, "depth": 2, "dropout": 0.2}), (forecast_transformer, {}),
         (forecast_transformer, {"width": 8, "depth": 1, "heads": 2}), (forecast_linear, {}),
         (forecast_linear, {"width": 4})]
each_form = pytest.mark.parametrize(("make", "options"), FORMS)


@each_form
def test_each_step_gets_a_mean_and_a_raw_scale_that_all_of_the_window_reaches(make, options):
    torch.manual_seed(0)
    network = make(3, 2, **options).eval()
    values = torch.randn(4, 2, 6, requires_grad=True)
    found = network(values)
    assert found.shape == (4, 3, 2)
    found.square().sum().backward()
    assert bool((values.grad.abs().sum((0, 1)) > 0).all())


@each_form
def test_a_row_stands_for_itself(make, options):
    network = make(3, 2, **options).eval()
    values = torch.randn(4, 2, 6)
    assert torch.allclose(network(values)[:1], network(values[:1]), atol=1e-6)


def test_a_transformer_knows_the_order_of_steps():
    network = forecast_transformer(1, 1).eval()
    values = torch.randn(1, 1, 8)
    turned = torch.cat([values[..., :-1].flip(2), values[..., -1:]], 2)
    assert not torch.allclose(network(values), network(turned), atol=1e-4)


def test_sizes_are_as_the_page_says():
    sizes = [sum(p.numel() for p in make(1).parameters()) for make in (forecast_gru, forecast_transformer)]
    assert sizes[0] == pytest.approx(3_400, rel=0.1)
    assert sizes[1] == pytest.approx(17_000, rel=0.1)


@pytest.mark.parametrize(("arch", "options", "key"), [
    ("forecast_gru", {"depth": 0}, "depth"), ("forecast_gru", {"dropout": 1.0}, "dropout"),
    ("forecast_transformer", {"width": 7}, "width"), ("forecast_transformer", {"heads": 5}, "heads"),
    ("forecast_linear", {"width": 0}, "width")])
def test_options_that_cannot_be_are_named(arch, options, key):
    with pytest.raises(UsageError, match="option") as caught:
        build(Architecture(arch, options=options), class_names=["a"], channels=2)
    assert key in caught.value.where


def test_what_is_no_series_is_refused():
    with pytest.raises(ModelError, match="not series"):
        forecast_gru(1)(torch.zeros(2, 4))
