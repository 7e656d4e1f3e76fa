"""Two students that learn in two styles: who is given what, and how features are compared."""

import math

import pytest
import torch
from torch import Tensor

from toys import models, run
from tutelage.engine.loop import steps_of
from tutelage.errors import ModelError, UsageError
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import losses
from tutelage.methods.learning_styles import channel_mse, learning_styles
from tutelage.methods.peer_cohort import peer_cohort

LAYERS = {"t": "0", "a": "0", "b": "0"}
STUDENTS = ["a", "b"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def links(graph) -> set[tuple[str, str]]:
    return {(edge.teacher, edge.student) for edge in graph.edges}


def test_as_it_comes_one_learns_from_predictions_and_the_other_from_features():
    assert str(learning_styles("t", STUDENTS, {"t": "layer3", "a": "layer2", "b": "layer1"})) == """\
t  frozen
a  trained
b  trained

labels   -> a         cross_entropy  T=1  x 1
labels   -> b         cross_entropy  T=1  x 1
t        -> a         kl             T=4  x 1
t.layer3 -> b.layer1  Projected      T=1  x 10
b.layer1 -> a.layer2  Projected      T=1  x 10
a        -> b         kl             T=1  x 1"""


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (2, 5, 3)])
def test_features_are_compared_channel_by_channel_at_norm_1(shape):
    student, teacher = random(*shape), random(*shape, seed=1)
    expected = []
    for one, other in zip(student, teacher, strict=True):
        if one.dim() == 2:  # tokens [N, D]
            one, other = one.T, other.T
        total = 0.0
        for mine, theirs in zip(one, other, strict=True):
            mine, theirs = mine.flatten().tolist(), theirs.flatten().tolist()
            size = [math.sqrt(sum(x * x for x in numbers)) for numbers in (mine, theirs)]
            total += sum((x / size[0] - y / size[1]) ** 2 for x, y in zip(mine, theirs, strict=True))
        expected.append(total / one.numel())
    assert channel_mse(student, teacher).tolist() == pytest.approx(expected, rel=1e-7)


def test_equal_features_give_0_and_their_size_does_not_count():
    features = random(2, 3, 4, 4)
    assert channel_mse(features, features).tolist() == [0.0, 0.0]
    assert channel_mse(1000 * features, features).max() < 1e-12
    assert channel_mse(-features, features).tolist() == pytest.approx([4 / 16] * 2, rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 6e4])
def test_dead_and_huge_channels_have_finite_losses_and_gradients(size):
    student = torch.full((2, 3, 4, 4), size, requires_grad=True)
    channel_mse(student, torch.zeros(2, 3, 4, 4)).sum().backward()
    assert student.grad.isfinite().all()
    student.grad = None
    channel_mse(student, torch.full((2, 3, 4, 4), 6e4)).sum().backward()
    assert student.grad.isfinite().all()


def test_with_predictions_alone_and_a_teacher_that_learns_it_is_the_cohort_of_two():
    given = {node: random(4, 5, seed=seed).requires_grad_() for seed, node in enumerate("tab")}
    labels = torch.tensor([0, 3, -1, 2])
    styles = learning_styles("t", STUDENTS, LAYERS, soft=0.7, temperature=3.0, peer=0.4, peer_temperature=2.0,
                             from_teacher=["predictions"] * 2, from_peer=["predictions"] * 2, online=True)
    cohort = peer_cohort("t", STUDENTS, soft=0.7, temperature=3.0, peer=0.4, peer_temperature=2.0, teacher_warmup=0.0)
    found, expected = losses(styles, given, labels), losses(cohort, given, labels)
    assert {name: term.item() for name, term in found.items()} == {
        name: term.item() for name, term in expected.items()}


@pytest.mark.parametrize(("words", "expected"), [
    ({"from_teacher": ["none", "none"], "from_peer": ["none", "none"]}, set()),
    ({"from_teacher": ["both", "none"], "from_peer": ["none", "both"]},
     {("t", "a"), ("t.0", "a.0"), ("a", "b"), ("a.0", "b.0")}),
    ({"from_teacher": ["features", "predictions"], "from_peer": ["predictions", "features"]},
     {("t.0", "a.0"), ("t", "b"), ("b", "a"), ("a.0", "b.0")}),
])
def test_any_sharing_of_predictions_and_features_can_be_asked_for(words, expected):
    assert links(learning_styles("t", STUDENTS, LAYERS, **words)) == expected | {("labels", "a"), ("labels", "b")}


def test_the_teacher_is_frozen_or_learns_from_labels():
    assert learning_styles("t", STUDENTS, LAYERS).nodes["t"] == Frozen()
    online = learning_styles("t", STUDENTS, LAYERS, online=True)
    assert online.nodes["t"] == Trained()
    assert [edge.teacher for edge in online.edges if edge.student == "t"] == ["labels"]


def test_a_projection_learns_with_its_receiver_alone():
    """b's features are a target of a's projection, which leaves b and everything behind it alone."""
    graph = learning_styles("t", STUDENTS, LAYERS, from_teacher=["none", "none"], from_peer=["features", "none"])
    job = run(graph, models(), epochs=1, precision="exact")
    alone = run(learning_styles("t", STUDENTS, LAYERS, from_teacher=["none", "none"], from_peer=["none", "none"]),
                models(), epochs=1, precision="exact")
    (part,) = job.graph.parts().values()
    before = part.projection.weight.detach().clone()
    assert before.shape == (5, 4, 1, 1)
    for made in (job, alone):
        for _ in steps_of(made):
            pass
    assert not torch.equal(part.projection.weight, before)
    for name, weight in job.models["b"].state_dict().items():
        assert torch.equal(weight, alone.models["b"].state_dict()[name])
    assert not torch.equal(job.models["a"][0].weight, alone.models["a"][0].weight)


def test_a_layer_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ModelError, match="did you mean") as caught:
        run(learning_styles("t", STUDENTS, {**LAYERS, "b": "00"}), models())
    assert "'b'" in caught.value.where


@pytest.mark.parametrize(("options", "where"), [
    ({"students": ["a"]}, "students"), ({"students": ["a", "b", "c"]}, "students"),
    ({"students": ["a", "a"]}, "students"),
    ({"students": ["t", "a"]}, "teacher"), ({"layers": {"t": "0", "a": "0"}}, "layers"),
    ({"layers": {**LAYERS, "c": "0"}}, "layers"), ({"layers": {**LAYERS, "b": ""}}, "layers"),
    ({"from_teacher": ["predictions"]}, "from_teacher"), ({"from_peer": ["all", "none"]}, "from_peer"),
    ({"from_peer": "both"}, "from_peer"), ({"features": -1.0}, "edge t.0 -> b.0"), ({"temperature": 0}, "edge t -> a"),
    ({"peer_features": -1.0}, "edge b.0 -> a.0"), ({"layers": {**LAYERS, "b": "0@x@y"}}, None),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    given = {"students": STUDENTS, "layers": LAYERS, **options}
    with pytest.raises(UsageError) as caught:
        learning_styles("t", **given)
    assert caught.value.where == where
