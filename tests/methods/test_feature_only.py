"""Features for the trunk, labels for the head."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import every
from toys import data, network, run, settings
from tutelage.engine.loop import start, steps_of
from tutelage.engine.run import Run
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import mse
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import forward, losses
from tutelage.methods.feature_only import Matched, feature_only
from tutelage.models.wrappers import cut
from tutelage.system.distributed import World

LAYERS = {"t": ["0", "2"], "s": ["0", "cut"]}
TRUNK, HEAD = ("0.", "1."), ("5.",)


def student(seed: int = 2, width: int = 4) -> nn.Module:
    made = network(seed, width=width)
    cut(made, "2")
    return made


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(layers: dict = LAYERS, **options) -> Run:
    return run(feature_only("t", "s", layers, **options), {"t": network(1, width=6), "s": student()}, epochs=1)


def test_it_is_cross_entropy_and_the_mean_square_of_each_pair_of_layers():
    graph = feature_only("t", "s", LAYERS, features=3.0, hard=0.5)
    assert graph.nodes == {"t": Frozen(), "s": Trained()}
    maps = {"t.0": random(4, 3, 4, 4), "t.2": random(4, 5, 2, 2, seed=1),
            "s.0": random(4, 2, 8, 8, seed=2), "s.cut": random(4, 2, 1, 1, seed=3)}
    logits, labels = random(4, 5, seed=4), torch.tensor([0, 3, 1, 2])
    outputs = forward(graph, {}, torch.zeros(0), known={**maps, "s": logits, "labels": labels})
    found = losses(graph, outputs, labels)
    first, second = (edge.divergence.projected.projection.weight[:, :, 0, 0].double() for edge in graph.edges[1:])
    small = torch.stack([maps["s.0"][:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
                         for i in range(4) for j in range(4)], -1).view(4, 2, 4, 4)
    near = torch.einsum("oc,bchw->bohw", first, small) - maps["t.0"]
    deep = torch.einsum("oc,bchw->bohw", second, maps["s.cut"]) - maps["t.2"].mean((2, 3), keepdim=True)
    expected = [0.5 * F.cross_entropy(logits, labels), 1.5 * near.square().mean(), 1.5 * deep.square().mean()]
    assert [term.item() for term in found.values()] == pytest.approx([term.item() for term in expected], abs=1e-7)


def test_one_step_gives_the_trunk_the_gradient_of_the_features_and_the_head_that_of_the_labels():
    both, labels_alone, features_alone = (gradients(**options) for options in ({}, {"features": 0}, {"hard": 0}))
    for name, gradient in both.items():
        if name.startswith(HEAD):
            assert features_alone[name] is None
            assert torch.equal(gradient, labels_alone[name])
        else:
            assert name.startswith(TRUNK)
            assert labels_alone[name] is None
            assert torch.equal(gradient, features_alone[name])


def gradients(**options) -> dict[str, Tensor | None]:
    job = made(**options)
    next(steps_of(job))
    return {name: parameter.grad for name, parameter in job.models["s"].named_parameters()}


def test_without_features_the_trunk_does_not_move_at_all():
    job = made(features=0.0)
    before = {name: parameter.clone() for name, parameter in job.models["s"].named_parameters()}
    for _ in steps_of(job):
        pass
    for name, parameter in job.models["s"].named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(TRUNK), name


def test_a_student_like_its_teacher_has_nothing_to_learn_from_its_features():
    teacher = network(1)
    alike = student(1)
    alike.load_state_dict(teacher.state_dict())
    job = run(feature_only("t", "s", LAYERS, hard=0.0), {"t": teacher.eval(), "s": alike.eval()}, epochs=1)
    outputs = forward(job.graph, job.models, data().train.batches([torch.arange(4)], draw=0).__next__().inputs)
    for edge in job.graph.edges[1:]:
        projection = edge.divergence.projected.projection
        projection.weight.data.copy_(torch.eye(4)[:, :, None, None])
        apart = edge.divergence(outputs[edge.student], outputs[edge.teacher], torch.zeros(4))
        assert apart.tolist() == pytest.approx([0.0] * 4, abs=1e-12)  # a convolution by 1 may round


def test_the_larger_map_is_averaged_down_whichever_it_is():
    whole, part = random(2, 3, 4, 4), random(2, 3, 2, 1, seed=1)
    half = F.avg_pool2d(whole, (2, 4))
    for student_maps, teacher_maps in ((whole, part), (part, whole)):
        matched = Matched().double()
        matched.projected = Projected(mse)
        matched.projected.projection = nn.Identity()
        torch.testing.assert_close(matched(student_maps, teacher_maps, torch.zeros(2)), mse(half, part))


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 3)])
def test_vectors_and_tokens_are_compared_as_they_are(shape):
    features = random(*shape).float()
    matched = Matched()
    rows = matched(features, random(*shape[:-1], 5, seed=1).float(), torch.zeros(2))
    assert rows.shape == (2,)
    assert matched.projected.projection.weight.shape == (5, 3)


def test_one_layer_may_be_named_as_a_word():
    assert str(feature_only("t", "s", {"t": "2", "s": "cut"})) == str(feature_only("t", "s", {"t": ["2"],
                                                                                            "s": ["cut"]}))


@pytest.mark.parametrize(("layers", "says"), [
    ({"t": ["0", "2"], "s": ["0", "2"]}, "[models.s]"), ({"t": ["0", "2"], "s": ["cut", "2"]}, "[models.s]"),
    ({"t": ["0", "cut"], "s": ["0", "cut"]}, "[models.s]"), ({"t": ["0"], "s": ["0", "cut"]}, "as many of each"),
    ({"t": ["0", "0"], "s": ["0", "cut"]}, "none twice"), ({"t": ["0", "2"], "s": ["cut", "cut"]}, "none twice"),
    ({"t": ["0"]}, 's = "LAYER"'), ({"t": ["0"], "s": []}, 's = "LAYER"'),
    ({"t": ["0"], "s": ["cut"], "u": ["0"]}, "unknown network 'u'")])
def test_layers_that_cannot_be_paired_are_refused(layers, says):
    with pytest.raises(UsageError) as caught:
        feature_only("t", "s", layers)
    assert says in str(caught.value)


def test_a_student_that_is_not_cut_is_told_the_word():
    with pytest.raises(ModelError) as caught:
        run(feature_only("t", "s", LAYERS), {"t": network(1), "s": network(2)})
    assert "node 's'" in caught.value.where
    assert 'cut = "LAYER"' in caught.value.fix


def test_features_of_other_kinds_are_refused():
    with pytest.raises(ModelError, match="no projection"):
        run(feature_only("t", "s", {"t": ["4"], "s": ["cut"]}), {"t": network(1), "s": student()})


def test_two_classes_and_a_teacher_of_zeros_give_finite_numbers():
    teacher = network(1, classes=2)
    for parameter in teacher.parameters():
        nn.init.zeros_(parameter)
    two = data()
    object.__setattr__(two, "classes", two.classes[:2])
    two.train.labels.clamp_(max=1)
    two.validation.labels.clamp_(max=1)
    learner = network(2, classes=2)
    cut(learner, "2")
    job = start(feature_only("t", "s", LAYERS), {"t": teacher, "s": learner}, two, settings(1),
                World(torch.device("cpu")))
    for _ in steps_of(job):
        pass
    assert every(parameter.isfinite().all() for parameter in learner.parameters())
