"""Feature maps compared in Haar sub-bands."""

import pytest
import torch
from torch import Tensor

from every import every
from toys import models, run
from tutelage.engine.loop import steps_of
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import mse
from tutelage.methods.distill import distill
from tutelage.methods.wavelet import haar, haar_mse, wavelet

LAYERS = {"t": "0", "a": "0"}
ALL = (1.0, 1.0, 1.0, 1.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_bands_of_one_square_by_hand():
    found = haar(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    assert found.flatten().tolist() == [6.0, -2.0, -3.0, 1.0]


def test_the_transform_is_the_orthonormal_matrix_of_the_textbook():
    low, high = [[1.0, 1.0]], [[1.0, -1.0]]
    maps = random(2, 3, 4, 6)
    for band, (rows, columns) in enumerate([(low, low), (low, high), (high, low), (high, high)]):
        down = torch.block_diag(*[torch.tensor(rows, dtype=torch.float64) / 2**0.5] * 2)
        across = torch.block_diag(*[torch.tensor(columns, dtype=torch.float64) / 2**0.5] * 3)
        torch.testing.assert_close(haar(maps)[band], down @ maps @ across.T)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 2, 6)])
def test_with_all_bands_alike_it_is_the_plain_mean_squared_difference(shape):
    student, teacher = random(*shape), random(*shape, seed=1)
    torch.testing.assert_close(haar_mse(student, teacher, bands=ALL), mse(student, teacher), rtol=0, atol=1e-12)
    torch.testing.assert_close(haar(student).square().sum(), student.square().sum(), rtol=1e-13, atol=0)


def test_the_weights_of_the_bands_add_up():
    student, teacher = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    each = [haar_mse(student, teacher, bands=[float(band == k) for k in range(4)]) for band in range(4)]
    weighted = haar_mse(student, teacher, bands=(2.0, 0.5, 0.0, 3.0))
    torch.testing.assert_close(weighted, 2 * each[0] + 0.5 * each[1] + 3 * each[3])


def test_the_low_band_sees_means_of_two_by_two_pixels_alone():
    teacher = random(1, 2, 4, 4)
    detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(2, 2)
    assert haar_mse(teacher + detail, teacher).item() == pytest.approx(0.0, abs=1e-30)
    assert haar_mse(teacher + detail, teacher, bands=(0.0, 0.0, 0.0, 1.0)).item() == pytest.approx(1.0)


def test_odd_sides_are_mirrored_and_divided_by_their_own_size():
    maps = random(1, 1, 3, 5)
    wide = torch.cat([maps, maps[..., 3:4]], -1)
    whole = torch.cat([wide, wide[..., 1:2, :]], -2)
    torch.testing.assert_close(haar(maps), haar(whole))
    torch.testing.assert_close(haar_mse(maps, torch.zeros_like(maps)),
                               haar(whole)[0].square().sum().reshape(1) / 15)


@pytest.mark.parametrize("shape", [(2, 3, 1, 4), (2, 3, 1, 1), (2, 3), (2, 3, 4)])
def test_features_without_sub_bands_are_refused(shape):
    with pytest.raises(ModelError, match="sub-bands"):
        haar_mse(torch.zeros(shape), torch.zeros(shape))


def test_the_largest_half_precision_numbers_give_finite_losses_and_gradients():
    student = torch.full((2, 3, 4, 4), 65504.0, requires_grad=True)
    rows = haar_mse(student, torch.full((2, 3, 4, 4), -65504.0), bands=ALL)
    rows.sum().backward()
    assert rows.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_without_features_it_is_distillation_and_a_projection_that_nobody_needs_stays(features):
    networks = [{node: net for node, net in models().items() if node != "b"} for _ in range(2)]
    job = run(wavelet("t", "a", LAYERS, features=features), networks[0], epochs=1, precision="exact")
    parent = run(distill("t", "a"), networks[1], epochs=1, precision="exact")
    (part,) = job.graph.parts().values()
    before = part.projection.weight.detach().clone()
    for made in (job, parent):
        for _ in steps_of(made):
            pass
    same = [torch.equal(x, parent.models["a"].state_dict()[name]) for name, x in job.models["a"].state_dict().items()]
    assert every(same) == torch.equal(part.projection.weight, before) == (features == 0.0)


@pytest.mark.parametrize(("options", "where"), [
    ({"bands": [1.0]}, "bands"), ({"bands": [1.0, 0.0, 0.0, -1.0]}, "bands"),
    ({"bands": [1.0, 0.0, 0.0, float("nan")]}, "bands"), ({"layers": {"t": "0"}}, "layers"),
    ({"student": "t"}, "teacher"), ({"features": -1.0}, "edge t.0 -> a.0"), ({"soft": -1.0}, "edge t -> a"),
    ({"temperature": 0.0}, "edge t -> a"), ({"hard": -1.0}, "edge labels -> a"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        wavelet("t", **{"student": "a", "layers": LAYERS, **options})
    assert caught.value.where == where
