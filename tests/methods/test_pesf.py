"""An adapter on the teacher that learns with the student: what it is, who moves it, and what is left without it."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

import two_rows
from every import every
from toys import SGD, network, run
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture
from tutelage.errors import ModelError, UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.modules import pooled
from tutelage.graph.objective import forward, losses
from tutelage.methods.distill import distill
from tutelage.methods.pesf import Adapter, pesf

HARD, SOFT = "labels->s:cross_entropy", "t_adapter->s:kl/4"
OWN, BACK = "labels->t_adapter:cross_entropy", "s->t_adapter:reverse_kl/4"


def start(graph: Graph, **options) -> Run:
    networks = {"t": network(1, width=6), "s": network(2, width=5)}
    return run(graph, networks, **{"epochs": 2, "precision": "exact", **options})


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(graph: Graph) -> Adapter:
    return graph.parts()["t_adapter"]


def outputs(graph: Graph, teacher: Tensor, student: Tensor, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    known = {"t": teacher, "s": student, "t.pool": features, "labels": labels}
    return forward(graph, {}, torch.zeros(0), known=known)


def moved(graph: Graph) -> Graph:
    """The graph, its adapter with weights that change something."""
    torch.manual_seed(0)
    adapter(graph)(random(2, 4), random(2, 3))
    for place, weight in enumerate(adapter(graph).parameters()):
        weight.data = random(*weight.shape, seed=place)
    return graph


def test_as_it_comes_it_is_plain_distillation_and_the_teachers_own_loss():
    graph = pesf("t", "s", "pool", hard=0.3, soft=0.7)
    student, teacher = two_rows.rows(two_rows.STUDENT), two_rows.rows(two_rows.TEACHER)
    found = losses(graph, outputs(graph, teacher, student, random(2, 3), two_rows.LABELS), two_rows.LABELS)
    own = sum(math.log(sum(map(math.exp, row))) - row[0] for row in two_rows.TEACHER) / 2
    assert {name: term.item() for name, term in found.items()} == pytest.approx({
        HARD: 0.3 * two_rows.CE_STUDENT, SOFT: 0.7 * two_rows.KL_TO_STUDENT_4,
        OWN: own, BACK: 0.7 * two_rows.KL_TO_STUDENT_4}, abs=1e-9)


def test_the_adapter_for_64_features_and_100_classes_has_13032_weights():
    part = Adapter(32)
    part(torch.zeros(2, 100), torch.zeros(2, 64))
    assert sum(weight.numel() for weight in part.parameters()) == 13032


def test_the_adapter_is_three_linear_maps_and_one_relu_on_pooled_features():
    part = adapter(moved(pesf("t", "s", "pool", width=2)))
    w1, b1, w2, b2, w3, b3 = (weight.tolist() for weight in part.parameters())
    maps, logits = random(2, 3, 2, 2, seed=9), random(2, 4, seed=8)
    def linear(w, b, x):
        return [sum(w_ij * x_j for w_ij, x_j in zip(row, x, strict=True)) + b_i for row, b_i in zip(w, b, strict=True)]
    for i in range(2):
        h = [sum(channel.flatten().tolist()) / 4 for channel in maps[i]]
        hidden = [max(0.0, x) for x in linear(w2, b2, linear(w1, b1, h))]
        expected = [z + a for z, a in zip(logits[i].tolist(), linear(w3, b3, hidden), strict=True)]
        assert part(logits, maps)[i].tolist() == pytest.approx(expected, abs=1e-12)


def test_each_gradient_reaches_its_own():
    """By hand: the student's is that of distillation from z', the adapter's that of its two losses through z'."""
    graph = moved(pesf("t", "s", "pool", hard=0.3, soft=0.7, adapter_hard=0.4, adapter_soft=0.5, temperature=2.0))
    teacher, student, features, labels = random(2, 4), random(2, 4, seed=1), random(2, 3, seed=2), torch.tensor([1, 3])
    given = [x.requires_grad_() for x in (teacher, student, features)]
    sum(losses(graph, outputs(graph, *given, labels), labels).values()).backward()
    z = adapter(graph)(teacher, features).detach().requires_grad_()
    p, q = (z / 2).softmax(-1), (student.detach() / 2).softmax(-1)
    y = torch.eye(4, dtype=torch.float64)[labels]
    torch.testing.assert_close(student.grad, (0.3 * (student.softmax(-1) - y) + 0.7 * 2 * (q - p)).detach() / 2)
    apart = (p.log() - q.log()).detach()
    pull = 0.4 * (z.softmax(-1) - y) + 0.5 * 2 * p * (apart - (p * apart).sum(-1, keepdim=True))
    expected = torch.autograd.grad(adapter(graph)(teacher, features), list(adapter(graph).parameters()),
                                   pull.detach() / 2)
    for weight, gradient in zip(adapter(graph).parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_the_adapter_learns_from_the_student_alone():
    graph = moved(pesf("t", "s", "pool", hard=0, soft=0, adapter_hard=0, adapter_soft=1))
    given = random(2, 4), random(2, 4, seed=1), random(2, 3, seed=2)
    sum(losses(graph, outputs(graph, *given, torch.tensor([1, 3])), torch.tensor([1, 3])).values()).backward()
    assert every(weight.grad.any() for weight in adapter(graph).parameters())


@pytest.mark.parametrize(("options", "optimizer"), [
    ({"adapter_hard": 0, "adapter_soft": 0}, SGD),
    ({}, {"": SGD, "t_adapter": partial(torch.optim.SGD, lr=0.0)})])
def test_an_adapter_that_does_not_learn_leaves_distillation_bit_for_bit(options, optimizer):
    one = finish(start(pesf("t", "s", "4", hard=0.5, soft=0.5, **options), optimizer=optimizer))
    other = finish(start(distill("t", "s")))
    for name, weight in capture(one)["s"].items():
        assert torch.equal(weight, capture(other)["s"][name]), name


def test_in_training_the_adapter_moves_and_the_teacher_does_not():
    job = start(pesf("t", "s", "0"))
    teacher = {name: x.clone() for name, x in job.models["t"].state_dict().items()}
    before = [weight.detach().clone() for weight in adapter(job.graph).parameters()]
    finish(job)
    assert every(not torch.equal(now, then) for now, then in zip(adapter(job.graph).parameters(), before, strict=True))
    assert every(torch.equal(x, teacher[name]) for name, x in job.models["t"].state_dict().items())
    assert every(weight.grad is None for weight in job.models["t"].parameters())
    assert {"t", "s", "t_adapter"} <= set(job.scores["nodes"]), "the adapted teacher is judged too"


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("size", [1.0, 6e4])
def test_wrong_and_huge_teachers_give_numbers(classes, size):
    graph = pesf("t", "s", "pool")
    labels = torch.tensor([0, -1])
    teacher = torch.eye(classes)[[1, 1]] * size
    student = torch.eye(classes)[[1, 0]].mul(size).requires_grad_()
    terms = losses(graph, outputs(graph, teacher, student, torch.full((2, 3), size), labels), labels)
    sum(terms.values()).backward()
    assert every(term.isfinite() for term in terms.values())
    assert student.grad.isfinite().all()
    assert every(weight.grad.isfinite().all() for weight in adapter(graph).parameters())


def test_features_that_are_neither_vectors_nor_maps_are_refused():
    assert pooled(torch.ones(2, 3, 4, 5)).tolist() == [[1.0] * 3] * 2
    with pytest.raises(ModelError, match="neither vectors nor maps"):
        pooled(torch.zeros(2, 3, 4))


def test_a_layer_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ModelError, match="did you mean") as caught:
        start(pesf("t", "s", "00"))
    assert "'t'" in caught.value.where


@pytest.mark.parametrize(("options", "where"), [
    ({"student": "t"}, "teacher"), ({"student": "t_adapter"}, "student"), ({"layer": ""}, "layer"),
    ({"width": 0}, "width"), ({"adapter_hard": -1.0}, "adapter_hard"), ({"adapter_soft": float("inf")}, "adapter_soft"),
    ({"hard": -1.0}, "edge labels -> s"), ({"temperature": 0.0}, "edge t_adapter -> s")])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        pesf(**{"teacher": "t", "student": "s", "layer": "pool", **options})
    assert caught.value.where == where
