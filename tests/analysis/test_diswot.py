"""DisWOT's similarities against plain loops over their definition, autograd, and the values of the specification."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import every
from tutelage.analysis.search.diswot import (
    Reading,
    map_similarity,
    read_batch,
    relation_similarity,
    semantic_similarity,
    similarities,
)
from tutelage.errors import ModelError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

CLASSES = list("abcde")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(rows: int = 6, size: int = 8) -> tuple[Tensor, Tensor]:
    return random(rows, 3, size, size).sigmoid().float(), torch.arange(rows) % len(CLASSES)


def reading(arch: str, seed: int = 0, **options) -> Reading:
    network = build(Architecture(arch, options=options), class_names=CLASSES, seed=seed).train()
    return read_batch(network, *batch())


def unit(rows: Tensor) -> Tensor:
    """Each row by its norm, a row of zeros left alone: the definition, one row after another."""
    return torch.stack([row / row.norm() if row.norm() > 0 else row for row in rows])


def naive_relation(teacher: Tensor, student: Tensor) -> float:
    one, other = (unit(f.flatten(1) @ f.flatten(1).T) for f in (teacher, student))
    return -float(((one - other) ** 2).sum()) / len(teacher) ** 2


def naive_outer(teacher: Tensor, student: Tensor) -> float:
    total = sum(float(((unit(torch.outer(t, t)) - unit(torch.outer(s, s))) ** 2).sum())
                for t, s in zip(teacher, student, strict=True))
    return -total / (teacher.shape[0] * teacher.shape[1])


def test_the_relation_of_the_specification():
    one, other = torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert relation_similarity(one, other) == pytest.approx(-0.1992330139, abs=1e-10)


def test_relation_is_the_loop_over_its_definition():
    one, other = random(6, 4, 3, 3), random(6, 7, 2, 2, seed=1)
    assert relation_similarity(one, other) == pytest.approx(naive_relation(one, other), abs=1e-12)
    assert relation_similarity(one, other) < -0.01


def test_an_image_that_moves_nothing_is_related_to_none():
    one, other = random(6, 4), random(6, 4, seed=1)
    one[2] = 0
    assert relation_similarity(one, other) == pytest.approx(naive_relation(one, other), abs=1e-12)


def test_relation_sees_neither_scale_nor_order():
    one, other, order = random(6, 4, 3, 3), random(6, 7, 2, 2, seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    assert relation_similarity(one, 3 * one) == pytest.approx(0, abs=1e-14)
    assert relation_similarity(one, 1e-4 * one) == pytest.approx(0, abs=1e-14)
    assert relation_similarity(one[order], other[order]) == pytest.approx(relation_similarity(one, other), abs=1e-14)


@pytest.mark.parametrize("kind", ["grad_outer", "channel_gram"])
def test_the_semantic_term_of_identical_networks_is_zero(kind):
    assert semantic_similarity(random(5, 7), random(5, 7), kind) == pytest.approx(0, abs=1e-12)
    assert semantic_similarity(random(5, 7), random(5, 7, seed=1), kind) < -0.1


def test_the_outer_products_need_not_be_made():
    one, other = random(5, 7), random(5, 7, seed=1)
    one[2], other[:, 3] = 0, 0  # a class without a gradient, a channel that is dead
    assert semantic_similarity(one, other) == pytest.approx(naive_outer(one, other), abs=1e-12)


def test_gradients_too_small_to_normalise_count_as_torch_counts_them():
    one, other = random(2, 3) * 1e-6, random(2, 3, seed=1)
    gap = [F.normalize(torch.outer(t, t), eps=1e-12) - F.normalize(torch.outer(s, s), eps=1e-12)
           for t, s in zip(one, other, strict=True)]
    assert semantic_similarity(one, other) == pytest.approx(-float(torch.stack(gap).square().sum()) / 6, abs=1e-12)


def test_the_channel_gram_is_its_definition():
    one, other = random(5, 7), random(5, 7, seed=1)
    gap = unit(one.T @ one) - unit(other.T @ other)
    assert semantic_similarity(one, other, "channel_gram") == pytest.approx(-float((gap**2).sum()) / 7, abs=1e-12)


def test_cam_is_the_loop_over_its_definition_and_takes_unlike_networks():
    teacher, student = reading("resnet8x4"), reading("resnet8")

    def correlated(one: Reading) -> Tensor:
        maps = [sum(w * channel for w, channel in zip(one.classifier[y], image, strict=True))
                for image, y in zip(one.maps, one.labels, strict=True)]
        flat = unit(torch.stack([torch.as_tensor(m).relu().flatten() for m in maps]))
        return flat @ flat.T

    expected = -float(((correlated(teacher) - correlated(student)) ** 2).mean())
    assert map_similarity(teacher, student) == pytest.approx(expected, abs=1e-12)
    assert similarities(teacher, student, "cam") == (relation_similarity(teacher.maps, student.maps),
                                                     map_similarity(teacher, student))
    assert map_similarity(teacher, teacher) == 0


def test_all_terms_are_zero_or_less_and_do_not_see_the_order_of_images():
    network = build(Architecture("resnet8"), class_names=CLASSES).train()
    other = build(Architecture("resnet14"), class_names=CLASSES, seed=1).train()
    images, labels = batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = read_batch(network, images, labels), read_batch(other, images, labels)
    mixed = read_batch(network, images[order], labels[order]), read_batch(other, images[order], labels[order])
    for kind in ("grad_outer", "channel_gram", "cam"):
        found = similarities(*plain, kind)
        assert max(found) < 0, kind
        assert found == pytest.approx(similarities(*mixed, kind), abs=1e-4), kind


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv2", "timm:resnet18",
                                  "torchvision:mobilenet_v2"])
def test_a_reading_is_the_backward_pass_and_the_map_that_is_pooled(arch):
    network = build(Architecture(arch), class_names=CLASSES).eval()
    images, labels = batch(size=64)
    found = read_batch(network, images, labels)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    F.cross_entropy(network(images), labels).backward()
    assert last.weight.grad is not None
    assert torch.allclose(found.gradient, last.weight.grad.double(), atol=1e-7)
    assert torch.equal(found.classifier, last.weight.detach().double())
    with torch.no_grad():  # in eval mode there is no dropout between the two
        assert torch.allclose(F.linear(found.maps.mean((2, 3)), last.weight.double(), last.bias.double()),
                              network(images).double(), atol=1e-5)
    assert bool((found.maps >= 0).all()), "taken after the last activation"


def test_a_reading_leaves_no_hook_behind_and_needs_no_gradient():
    network = build(Architecture("resnet8"), class_names=CLASSES).train()
    found = read_batch(network, *batch())
    assert every(not (module._forward_hooks or module._forward_pre_hooks) for module in network.modules())
    assert not found.gradient.requires_grad
    assert every(parameter.grad is None for parameter in network.parameters())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="256 of the teacher, 64 of the student"):
        similarities(reading("resnet8x4"), reading("resnet8"))
    one = reading("resnet8")
    with pytest.raises(ModelError, match="no class activation map"):
        map_similarity(Reading(one.maps[:, :8], one.gradient, one.classifier, one.labels), one)


@pytest.mark.parametrize(("network", "says"), [
    (nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), "do not come from a linear layer"),
    (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "no map before its classifier"),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Flatten(), nn.Linear(144, 5)), "no map before its classifier"),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5), nn.ReLU()), "do not come from a linear layer"),
])
def test_networks_that_do_not_end_in_pooling_and_a_linear_layer_are_refused(network, says):
    with pytest.raises(ModelError, match=says):
        read_batch(network, *batch(), where="x")


def test_random_weights_that_overflow_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    nn.init.constant_(network[-1].weight, float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        read_batch(network, *batch())
