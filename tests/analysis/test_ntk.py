"""Supervision complexity and the tangent kernel: the specification's values, the laws of a norm, a loop of backward."""

import pytest
import torch
from torch import Tensor, nn

from every import every
from tutelage.analysis import ntk as complexity
from tutelage.analysis.ntk import (
    complexities,
    fill_batch_norms,
    hard_targets,
    ntk,
    soft_targets,
    supervision_complexity,
)
from tutelage.errors import ModelError, NumericError, ResourceError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

SPEC = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
ROWS, CLASSES = 5, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(size: int = ROWS, seed: int = 7) -> Tensor:
    factor = random(size, size + 3, seed=seed)
    return factor @ factor.T


def value(targets: Tensor, of: Tensor) -> float:
    return supervision_complexity(targets, of, jitter=0).value


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Dropout(), nn.Flatten(),
                         nn.Linear(8, CLASSES))


def images(rows: int = ROWS) -> Tensor:
    return random(rows, 1, 4, 4).sigmoid()


def derivatives(of: nn.Module, inputs: Tensor) -> Tensor:
    """[n, C, P], one backward pass for each number."""
    of = of.double().eval()
    rows = []
    for image in inputs:
        for logit in of(image[None])[0]:
            of.zero_grad()
            logit.backward(retain_graph=True)
            rows.append(torch.cat([p.grad.flatten() for p in of.parameters()]))
    return torch.stack(rows).view(len(inputs), CLASSES, -1)


@pytest.mark.parametrize(("targets", "expected"), [([1, 1], 0.8164965809), ([1, -1], 1.4142135624),
                                                   ([0.5, 0.5], 0.4082482905)])
def test_the_values_of_the_specification(targets, expected):
    found = supervision_complexity(torch.tensor(targets, dtype=torch.float64)[:, None], SPEC, jitter=0)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.adjusted == pytest.approx(expected, abs=1e-9)
    assert found.jitter == 0
    assert found.smallest == pytest.approx(0.5, abs=1e-12)


def test_it_is_the_formula_with_an_inverse():
    targets, exact = random(ROWS, CLASSES), kernel(ROWS * CLASSES)
    square = targets.flatten() @ torch.linalg.inv(exact) @ targets.flatten()
    found = supervision_complexity(targets, exact, jitter=0)
    assert found.value == pytest.approx(float(square.sqrt()), rel=1e-9)
    assert found.adjusted == pytest.approx(float((square * exact.trace()).sqrt()) / ROWS, rel=1e-9)


def test_a_shared_kernel_stands_for_one_block_for_each_output():
    targets, shared = random(ROWS, CLASSES), kernel()
    whole = torch.kron(shared, torch.eye(CLASSES, dtype=torch.float64))
    for jitter in (0.0, 1e-3):
        one, other = (supervision_complexity(targets, of, jitter=jitter) for of in (shared, whole))
        assert (one.value, one.adjusted, one.jitter) == pytest.approx((other.value, other.adjusted, other.jitter))


def test_the_laws_of_a_norm():
    targets, of = random(ROWS, CLASSES), kernel()
    assert value(-2.5 * targets, of) == pytest.approx(2.5 * value(targets, of))
    assert value(targets, torch.eye(ROWS)) == pytest.approx(float(targets.norm()))
    assert value(targets, 9 * of) == pytest.approx(value(targets, of) / 3)
    assert value(targets, of + kernel(seed=8)) < value(targets, of)
    assert value(torch.zeros_like(targets), of) == 0


def test_the_adjusted_complexity_does_not_see_the_scale_of_the_kernel():
    targets, of = random(ROWS, CLASSES), kernel()
    one, other = (supervision_complexity(targets, scale * of, jitter=0.1) for scale in (1, 1e6))
    assert one.adjusted == pytest.approx(other.adjusted)


def test_softer_targets_are_easier():
    logits, of = random(ROWS, CLASSES) * 3, kernel()
    found = [value(soft_targets(logits, temperature), of) for temperature in (1, 2, 4, 8, 1e9)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 1e-6


def test_random_labels_are_harder_for_a_kernel_that_knows_the_classes():
    labels = torch.arange(24) % CLASSES
    features = hard_targets(labels, CLASSES) * 3 + random(24, CLASSES)
    of = features @ features.T + 0.1 * torch.eye(24)
    shuffled = [value(hard_targets(labels[torch.randperm(24, generator=torch.Generator().manual_seed(seed))], CLASSES),
                      of) for seed in range(20)]
    assert value(hard_targets(labels, CLASSES), of) < min(shuffled)


def test_targets_are_centred():
    assert torch.equal(hard_targets(torch.tensor([2, 0]), 4),
                       torch.tensor([[-1, -1, 3, -1], [3, -1, -1, -1]], dtype=torch.float64) / 4)
    assert soft_targets(random(ROWS, CLASSES), 2.0).sum(1).abs().max() < 1e-15


def test_a_singular_kernel_is_helped_and_said_to_be():
    twice = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(NumericError, match="not positive definite"):
        supervision_complexity(torch.tensor([[1.0], [-1.0]]), twice, jitter=0)
    found = supervision_complexity(torch.tensor([[1.0], [-1.0]]), twice)
    assert found.jitter == pytest.approx(1e-6)
    assert found.smallest == pytest.approx(0, abs=1e-12)
    assert found.value == pytest.approx((2 / 1e-6) ** 0.5, rel=1e-6)


def test_one_image_is_enough():
    assert value(torch.tensor([[3.0]]), torch.tensor([[4.0]])) == pytest.approx(1.5)


def test_several_targets_are_each_as_if_alone():
    of, targets = kernel(), [random(ROWS, CLASSES, seed=seed) for seed in range(3)]
    assert complexities(targets, of) == [supervision_complexity(one, of) for one in targets]


@pytest.mark.parametrize(("of", "error"), [
    (torch.eye(ROWS + 1), UsageError), (torch.zeros(ROWS, ROWS), NumericError), (-torch.eye(ROWS), NumericError),
    (torch.full((ROWS, ROWS), float("nan")), NumericError)])
def test_kernels_that_are_none_are_refused(of, error):
    with pytest.raises(error):
        supervision_complexity(random(ROWS, CLASSES), of)


def test_the_exact_kernel_is_the_product_of_all_derivatives():
    flat = derivatives(network(), images()).flatten(0, 1)
    assert torch.allclose(ntk(network(), images(), "exact"), flat @ flat.T, rtol=1e-9, atol=1e-12)


def test_the_shared_kernel_is_the_mean_over_the_logits(monkeypatch):
    monkeypatch.setattr(complexity, "CHUNK", 2)  # images are taken in several goes, too
    each = derivatives(network(), images())
    mean = torch.stack([each[:, c] @ each[:, c].T for c in range(CLASSES)]).mean(0)
    assert torch.allclose(ntk(network(), images()), mean, rtol=1e-9, atol=1e-12)


def test_the_shared_kernel_is_the_nearest_to_the_exact_one():
    exact, shared = ntk(network(), images(), "exact"), ntk(network(), images())

    def distance(of: Tensor) -> float:
        return float((torch.kron(of, torch.eye(CLASSES, dtype=torch.float64)) - exact).norm())

    for seed in range(5):
        assert distance(shared) < distance(shared + 0.01 * kernel(seed=seed))
        assert distance(shared) < distance(shared - 0.01 * kernel(seed=seed))


def test_the_network_is_left_as_it_was():
    own = network().train()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    ntk(own, images())
    fill_batch_norms(own, images().float())
    assert own.training
    assert every(torch.equal(tensor, own.state_dict()[name]) for name, tensor in before.items())
    assert next(own.parameters()).dtype == torch.float32


def test_a_network_of_the_house_has_a_kernel():
    own = build(Architecture("resnet8"), class_names=list("abc"), channels=1)
    found = ntk(fill_batch_norms(own, torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8))
    assert found.shape == (4, 4)
    assert found.dtype == torch.float64
    assert torch.linalg.eigvalsh(found)[0] > 0


def test_filled_batch_norms_know_the_images():
    inputs = images().float()
    own = fill_batch_norms(network(), inputs)
    before = own[0](inputs)
    assert not own.training
    assert torch.allclose(own[1].running_mean, before.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(own[1].running_var, before.var((0, 2, 3)), atol=1e-6)


class Counts(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) * inputs.sum().item()


def test_what_cannot_be_done_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="unknown kernel"):
        ntk(network(), images(), "full")
    with pytest.raises(ModelError, match="image by image"):
        ntk(nn.Sequential(nn.Conv2d(1, 1, 3), Counts()), images())
    with pytest.raises(ModelError, match="no parameters"):
        ntk(nn.Flatten(), images())
    monkeypatch.setattr(complexity, "MOST_BYTES", 8 * 51 * ROWS)  # the network has 51 parameters
    assert ntk(network(), images()).shape == (ROWS, ROWS)
    with pytest.raises(ResourceError, match="--images 1, or --kernel shared"):
        ntk(network(), images(), "exact")
    with pytest.raises(ResourceError, match=r"--images 5$"):
        ntk(network(), images(ROWS + 1))
