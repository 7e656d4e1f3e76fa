"""A mixture of losses for each image, learned by looking ahead: the arithmetic, when it happens, and what it leaves."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import toys
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.engine.teacher_cache.use import cached_ends
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.graph.divergences import kl
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Table
from tutelage.graph.objective import forward
from tutelage.methods.alm import HeldOutOutputs, alm, gains, gradients, moved_mix
from tutelage.methods.distill import distill
from tutelage.system.files import fingerprint


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(graph: Graph | None = None, *, norm: bool = False, **options) -> Run:
    graph = alm(["t"], "s", "4" if norm else "3", first=0, every=1) if graph is None else graph
    networks = {"t": toys.network(1, width=6, norm=norm), "s": toys.network(2, width=5, norm=norm)}
    return toys.run(graph, networks, **{"epochs": 1, "precision": "exact", **options})


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def table(job: Run) -> Tensor:
    numbers = job.graph.parts()["mix"].numbers
    return numbers[job.data.train.ids]


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none")
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")


# --- the arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [torch.tensor([1, -1, 0]), random(3, 4).softmax(-1), torch.zeros(3, 4).double()])
def test_the_gradients_are_those_of_the_losses(labels):
    student, teachers = random(3, 4, seed=1).requires_grad_(), [random(3, 4, seed=2), random(3, 4, seed=3)]
    terms = [label_loss(student, labels), *(9 * kl(student / 3, teacher / 3) for teacher in teachers)]
    expected = [torch.autograd.grad(term.sum(), student)[0] for term in terms]
    torch.testing.assert_close(gradients(student.detach(), teachers, labels, 3.0), torch.stack(expected, 1))


def loss_after_a_real_step(mix: Tensor, weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor,
                           teachers: list[Tensor], held: tuple[Tensor, Tensor], rate: float, rows: int) -> Tensor:
    """The validation loss of a last layer that has truly been stepped, every gradient by autograd."""
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    logits = features @ weight.T + bias
    terms = [label_loss(logits, labels), *(16 * kl(logits / 4, teacher / 4) for teacher in teachers)]
    total = (mix * torch.stack(terms, 1)).sum() / rows
    of_weight, of_bias = torch.autograd.grad(total, [weight, bias], create_graph=True)
    return F.cross_entropy(held[0] @ (weight - rate * of_weight).T + bias - rate * of_bias, held[1])


@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("classes", [2, 4])
def test_what_a_weight_gains_is_how_the_loss_after_a_real_step_falls_with_it(teachers, classes):
    weight, bias, features, others = random(classes, 3), random(classes), random(5, 3, seed=1), random(6, 3, seed=2)
    labels, held_labels = torch.tensor([0, 1, -1, 1, 0]), torch.arange(6) % classes
    said = [random(5, classes, seed=7 + k) for k in range(teachers)]
    mix = random(5, 1 + teachers, seed=3).sigmoid().requires_grad_()
    loss = loss_after_a_real_step(mix, weight, bias, features, labels, said, (others, held_labels), 0.3, 8)
    (slope,) = torch.autograd.grad(loss, mix)
    with torch.no_grad():
        pulls = gradients(features @ weight.T + bias, said, labels, 4.0) / 8
        found = gains(mix, pulls, features, HeldOutOutputs(others, others @ weight.T + bias, held_labels), 0.3)
    torch.testing.assert_close(found, -slope, rtol=1e-12, atol=1e-15)


def test_a_label_that_opposes_the_validation_images_loses_weight_and_one_that_agrees_gains():
    """Two alike images of class 0, the second with a wrong label; the validation image is of class 0."""
    features, student = torch.ones(2, 3), torch.zeros(2, 2)
    pulls = gradients(student, [], torch.tensor([0, 1]), 1.0)
    right, wrong = gains(torch.ones(2, 1), pulls, features,
                         HeldOutOutputs(features[:1], student[:1], torch.tensor([0])), 0.1)
    assert right > 0 > wrong


def test_weights_stay_in_their_bounds():
    mix, gain = torch.tensor([[0.1, 0.9], [0.1, 0.9]]), torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    free = moved_mix(mix, gain, convex=False)
    assert free.flatten().tolist() == pytest.approx([2, 1e-7, 1e-7, 2], abs=1e-6)
    assert 0 < free.min() < free.max() < 2
    assert moved_mix(mix, gain, convex=True).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_convex_mixture_moves_by_the_difference_and_sums_to_1():
    found = moved_mix(torch.tensor([[0.4, 0.6]]), torch.tensor([[0.1, 0.3]]), convex=True)
    assert found[0].tolist() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("size", [0.0, 6e4])
def test_huge_and_wrong_logits_and_rows_without_a_label_give_numbers(size):
    student, wrong = torch.eye(3) * size, torch.eye(3).roll(1, 0) * size
    pulls = gradients(student, [wrong], torch.tensor([0, -1, -1]), 4.0)
    found = gains(torch.zeros(3, 2), pulls, student, HeldOutOutputs(student, wrong, torch.arange(3)), 0.1)
    assert found.isfinite().all()
    assert found[1:, 0].tolist() == [0.0, 0.0]


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_training_image_and_is_read_by_id():
    job = start()
    part = job.graph.parts()["mix"]
    assert isinstance(part, Table)
    assert part.numbers.shape == (int(job.data.train.ids.max()) + 1, 2)
    part.numbers[:, 0] = torch.arange(len(part.numbers))
    ids = job.data.train.ids[torch.tensor([7, 0, 20, 3])]
    known = {"ids": ids, "labels": ids, "s": torch.zeros(4, 4), "t": torch.zeros(4, 4)}
    found = forward(job.graph, {}, torch.zeros(0), known=known)
    assert found["mix.labels"].tolist() == ids.tolist()
    assert found["mix.t"].tolist() == pytest.approx([0.9] * 4)


def test_until_the_first_refresh_it_is_distillation():
    one = finish(start(alm(["t"], "s", "3", soft=0.7), epochs=2, norm=False))
    other = finish(start(distill("t", "s", hard=0.3, soft=0.7), epochs=2, norm=False))
    assert one.graph.controllers["look_ahead"].refreshes == 0
    for name, weight in capture(one)["s"].items():
        torch.testing.assert_close(weight, capture(other)["s"][name], rtol=1e-5, atol=1e-6)


def test_with_rho_0_a_refresh_changes_nothing():
    one = finish(start(alm(["t"], "s", "4", first=0, every=1, rho=0.0), norm=True))
    other = finish(start(alm(["t"], "s", "4"), norm=True))
    assert one.graph.controllers["look_ahead"].refreshes == 1
    for file in ("s", "run.parts", "run.optimizers"):
        assert fingerprint(capture(one)[file]) == fingerprint(capture(other)[file])


@pytest.mark.parametrize("convex", [False, True])
def test_a_refresh_is_what_a_real_step_of_the_last_layer_says(convex):
    """All images in one pool, in float64, at the learning rate of the very first step of a warm-up."""
    graph = alm(["t"], "s", "3", first=0, every=1, repeats=3, pool=9, convex=convex)
    networks = {"t": toys.network(1, norm=False), "s": toys.network(2, norm=False)}
    before = deepcopy(networks)
    job = toys.run(graph, networks, epochs=2, warmup_epochs=1, precision="exact")
    rows, held = torch.arange(len(job.data.train.ids)), torch.arange(len(job.data.validation.ids))
    (batch,), (other,) = job.data.train.batches([rows], draw=0), job.data.validation.batches([held], draw=None)
    trunk, last = before["s"][:-1].eval(), before["s"][-1]
    with torch.no_grad():
        seen = [x.double() for x in (trunk(batch.inputs), before["t"](batch.inputs), trunk(other.inputs))]
    mix = torch.tensor([[0.1, 0.9]], dtype=torch.float64).repeat(len(rows), 1)
    for _ in range(3):
        mix = mix.detach().requires_grad_()
        given = torch.stack([1 - mix[:, 1], mix[:, 1]], 1) if convex else mix
        loss = loss_after_a_real_step(given, last.weight.detach().double(), last.bias.detach().double(), seen[0],
                                      batch.labels, [seen[1]], (seen[2], other.labels), 0.05 / job.steps_per_epoch, 12)
        (slope,) = torch.autograd.grad(loss, mix)
        mix = mix - 1500 * slope
        mix = mix.clamp(0, 1) if convex else mix.clamp(1e-7, 2 - 1e-7)
    if convex:
        mix = torch.stack([1 - mix[:, 1], mix[:, 1]], 1)
    next(steps_of(job))
    torch.testing.assert_close(table(job).double(), mix.detach(), rtol=1e-4, atol=1e-5)
    change = job.graph.controllers["look_ahead"].change.item()
    assert change == pytest.approx((mix - torch.tensor([0.1, 0.9])).abs().mean().item(), rel=1e-3)
    assert change > 0.01


# --- when ------------------------------------------------------------------------------------------------------


def test_refreshes_come_in_the_first_step_of_their_epochs_and_reach_every_image():
    job = start(alm(["t"], "s", "4", first=1, every=2, pool=1, validation_batch=5), norm=True, epochs=4)
    counts, tables = [], [table(job).clone()]
    for _ in steps_of(job):
        counts.append(int(job.graph.controllers["look_ahead"].refreshes))
        tables.append(table(job).clone())
    assert job.steps_per_epoch == 3
    assert counts == [0] * 3 + [1] * 6 + [2] * 3
    assert (tables[4] != tables[3]).any(1).all(), "every training image has had its turn"
    assert job.models["s"].training


def test_with_micro_batches_a_step_refreshes_once():
    job = finish(start(accumulate=2))
    assert job.graph.controllers["look_ahead"].refreshes == 1


def resumed(job: Run, after: int, state: dict) -> Run:
    restore(job, {"frozen": job.frozen, "best": {}, "step": after, "scores": {}}, state)
    return finish(job)


def test_resumed_after_any_step_it_ends_with_the_same_bits_and_a_lost_table_would_be_noticed():
    graph = alm(["t"], "s", "4", first=0, every=1, pool=1, validation_batch=5)
    whole = start(graph, norm=True, epochs=2)
    states = [deepcopy(capture(whole)), *(deepcopy(capture(whole)) for _ in steps_of(whole))]
    end = {file: fingerprint(tensors) for file, tensors in states[-1].items()}
    for after in range(1, whole.steps):
        again = resumed(start(graph, norm=True, epochs=2), after, states[after])
        assert {file: fingerprint(tensors) for file, tensors in capture(again).items()} == end, after
    for file, keys in (("run.parts", ["mix|numbers"]), ("run.controllers", ["look_ahead|refreshes"])):
        lost = {**states[5], file: {**states[5][file], **{key: states[0][file][key] for key in keys}}}
        again = resumed(start(graph, norm=True, epochs=2), 5, lost)
        assert fingerprint(capture(again)[file]) != end[file], file


# --- what cannot be --------------------------------------------------------------------------------------------


def test_the_teachers_outputs_may_still_be_cached():
    assert cached_ends(alm(["t", "u"], "s", "pool")) == ["t", "u"]


@pytest.mark.parametrize(("layer", "what"), [("33", "did you mean"), ("tokens", "neither vectors nor maps")])
def test_a_layer_that_cannot_be_is_told_in_the_first_step(layer, what):
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x.mean((1, 2, 3))[:, None].repeat(1, 4) * self.scale, "tokens": x.flatten(2)}

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    student = Tokens() if layer == "tokens" else toys.network(2)
    job = toys.run(alm(["t"], "s", layer), {"t": toys.network(1), "s": student}, epochs=1)
    with pytest.raises(ModelError, match=what) as caught:
        next(steps_of(job))
    assert caught.value.where == f"node 's', layer {layer!r}"


def test_validation_images_without_labels_are_told_in_the_first_step():
    data = toys.data()
    held = replace(data.validation, labels=torch.full_like(data.validation.labels, -1))
    with pytest.raises(DataError, match="nothing to look ahead to"):
        next(steps_of(start(data=replace(data, validation=held))))


@pytest.mark.parametrize(("options", "where"), [
    ({"teachers": []}, "teachers"), ({"teachers": "t"}, "teachers"), ({"teachers": ["t", "t"]}, "teachers"),
    ({"teachers": ["s"]}, "teachers"), ({"teachers": ["mix"]}, "teachers"), ({"layer": ""}, "layer"),
    ({"teachers": ["t", "u"], "convex": True}, "teachers"), ({"convex": True, "hard": 0.3}, "hard"),
    ({"soft": 2.1, "hard": 0.1}, "soft"), ({"hard": -0.1}, "hard"), ({"soft": 1.5, "convex": True}, "soft"),
    ({"rho": -1.0}, "rho"), ({"rho": float("inf")}, "rho"), ({"first": -1}, "first"), ({"every": 0}, "every"),
    ({"repeats": 0}, "repeats"), ({"pool": 0}, "pool"), ({"validation_batch": 0}, "validation_batch"),
    ({"temperature": 0.0}, "edge t -> s")])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        alm(**{"teachers": ["t"], "student": "s", "layer": "pool", **options})
    assert caught.value.where == where
