"""Self-distillation: golden values of its two ways to smooth labels, its limits, and the memory of the Beta draws."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toys
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.errors import ModelError, UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.graph.objective import losses
from tutelage.methods.distill import distill
from tutelage.methods.self_distill import BetaTargets, self_distill, smoothed
from tutelage.system.files import fingerprint, pack, unpack

STUDENT = torch.tensor([[2, 0.5, 0, -0.5], [0, 1, 0, 0]], dtype=torch.float64)
TEACHER = torch.tensor([[4, 1, 0, -1], [0.5, 0.4, 0.3, 0.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def terms(graph: Graph, student: Tensor = STUDENT, teacher: Tensor = TEACHER) -> tuple[list[float], Tensor]:
    """The two terms and the gradient of their sum for the student's logits."""
    given = {"s": student.clone().requires_grad_(), "teacher": teacher.clone().requires_grad_()}
    found = losses(graph, given, LABELS)
    sum(found.values()).backward()
    assert given["teacher"].grad is None
    assert given["s"].grad is not None
    return [term.item() for term in found.values()], given["s"].grad


def test_a_graph_for_each_generation_and_the_first_learns_from_labels_alone():
    first, second, third = self_distill("s", generations=3)
    assert first.nodes == {"s": Trained()}
    assert [edge.name for edge in first.edges] == ["labels->s:cross_entropy"]
    assert second.nodes == third.nodes == {"teacher": Frozen(before="s"), "s": Trained()}


def test_the_teacher_is_softened_and_the_student_is_not():
    _, second = self_distill("s", soft=0.4, temperature=4.0)
    (hard, soft), gradient = terms(second)
    target = (TEACHER / 4).softmax(-1)
    assert hard == pytest.approx(0.6 * F.cross_entropy(STUDENT, LABELS).item(), abs=1e-12)
    divergence = F.kl_div(STUDENT.log_softmax(-1), target, reduction="batchmean").item()
    assert soft == pytest.approx(0.4 * divergence, abs=1e-12)
    of_soft_cross_entropy = 0.6 * (STUDENT.softmax(-1) - F.one_hot(LABELS, 4)) + 0.4 * (STUDENT.softmax(-1) - target)
    torch.testing.assert_close(gradient, of_soft_cross_entropy / 2, rtol=0, atol=1e-12)


def test_with_the_student_scaled_too_it_is_plain_distillation():
    _, second = self_distill("s", soft=0.3, temperature=3.0, scale_student=True)
    plain = distill("teacher", "s", temperature=3.0, hard=0.7, soft=0.3)
    assert [edge.name for edge in second.edges] == [edge.name for edge in plain.edges]
    assert terms(second)[0] == terms(plain)[0]


def test_a_boundless_temperature_is_label_smoothing():
    _, second = self_distill("s", soft=0.1, temperature=1e9)
    _, gradient = terms(second)
    row = STUDENT[:1].clone().requires_grad_()
    loss = F.cross_entropy(row, LABELS[:1], label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.5150252919, abs=1e-10)
    torch.testing.assert_close(2 * gradient[:1], torch.autograd.grad(loss, row)[0], rtol=0, atol=1e-9)


def test_without_a_share_for_the_soft_targets_it_is_cross_entropy():
    _, second = self_distill("s", soft=0.0)
    assert [edge.name for edge in second.live(second.weights())] == ["labels->s:cross_entropy"]
    assert terms(second)[0] == [F.cross_entropy(STUDENT, LABELS).item()]


def test_golden_targets_of_beta_smoothing():
    targets = smoothed(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([0.95, 0.7, 0.85], dtype=torch.float64),
                       torch.tensor([0, 0, 3]), 4)
    expected = [[0.95, 0.0166667, 0.0166667, 0.0166667], [0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.05, 0.85]]
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_equal_ranks_take_the_draws_in_the_order_of_the_rows():
    targets = smoothed(torch.full((3,), 0.5), torch.tensor([0.9, 0.3, 0.6]), torch.zeros(3, dtype=torch.long), 2)
    assert targets[:, 0].tolist() == pytest.approx([0.3, 0.6, 0.9])


@pytest.mark.parametrize("labels", [torch.arange(512) % 5, torch.full((512,), -1),
                                    F.one_hot(torch.arange(512) % 5, 5).float()])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_targets_are_probabilities_whatever_is_ranked(labels, scale):
    logits = scale * torch.randn(512, 5, generator=torch.Generator().manual_seed(0))
    targets = BetaTargets()(logits, labels).exp()
    assert torch.isfinite(targets).all()
    if labels.is_floating_point() or labels[0] >= 0:
        torch.testing.assert_close(targets.sum(-1), torch.ones(512), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [1.0, 3.0])
def test_the_draws_are_of_the_beta_distribution(shape):
    labels = torch.zeros(20_000, dtype=torch.long)
    b = BetaTargets(shape)(torch.zeros(20_000, 3), labels).exp()[:, 0]
    assert b.mean().item() == pytest.approx(shape / (shape + 1), abs=0.01)
    assert b.var().item() == pytest.approx(shape / ((shape + 1) ** 2 * (shape + 2)), abs=0.003)


def test_the_label_may_have_a_probability_of_at_least_so_much():
    b = BetaTargets(1.0, lowest=0.6)(torch.zeros(1000, 3), torch.zeros(1000, dtype=torch.long)).exp()[:, 0]
    assert b.min().item() == pytest.approx(0.6, abs=1e-6)


def test_the_surer_row_has_the_surer_target_and_draws_change_from_batch_to_batch_in_training_only():
    part, logits = BetaTargets(), torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, -2.0]])
    labels = torch.ones(3, dtype=torch.long)
    first, second = part(logits, labels), part(logits, labels)
    assert first[:, 1].argsort().tolist() == second[:, 1].argsort().tolist() == [2, 0, 1]
    assert not torch.equal(first, second)
    part.eval()
    third = part(logits, labels)
    assert torch.equal(third, part(logits, labels))


def test_one_class_has_no_other_to_be_unsure_of():
    with pytest.raises(ModelError, match="one class"):
        BetaTargets()(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))


def beta_run(seed: int = 0) -> Run:
    (graph,) = self_distill("s", smoothing="beta")
    return toys.run(graph, {"s": toys.network(0)}, data=toys.data(32), epochs=2, batch_size=12, seed=seed)


def saved(run: Run) -> dict[str, dict[str, Tensor]]:
    return {name: unpack(pack(tensors), name)[0] for name, tensors in capture(run).items()}


def test_beta_smoothing_resumed_after_any_step_ends_with_the_same_bits_and_not_without_its_memory():
    whole = beta_run()
    states = [saved(whole), *(saved(whole) for _ in steps_of(whole))]
    ends = {file: fingerprint(tensors) for file, tensors in states[-1].items()}
    memories = [file for file, tensors in states[0].items() if any("drawn" in key for key in tensors)]
    assert memories
    for after in range(1, whole.steps):
        for forgotten in (None, *memories):
            again = beta_run()
            state = {**states[after], **({forgotten: states[0][forgotten]} if forgotten else {})}
            restore(again, {"frozen": again.frozen, "best": {}, "step": after, "scores": {}}, state)
            for _ in steps_of(again):
                pass
            same = {file: fingerprint(tensors) for file, tensors in saved(again).items()} == ends
            assert same == (forgotten is None), (after, forgotten)


def test_another_seed_draws_other_numbers():
    keys = []
    for seed in (0, 1):
        run = beta_run(seed)
        for _ in steps_of(run):
            pass
        keys.append(int(run.graph.parts()["target"].key))
    assert keys[0] != keys[1]


def test_the_average_ranks_and_has_no_other_voice():
    (graph,) = self_distill("s", smoothing="beta", decay=0.9)
    assert graph.nodes["slow"] == Ema("s", 0.9)
    assert [edge.name for edge in graph.edges] == ["labels->s:cross_entropy", "target->s:kl"]
    assert [edge.weight for edge in graph.edges] == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize(("options", "where"), [
    ({"soft": 1.1}, "soft"), ({"soft": math.nan}, "soft"), ({"generations": 0}, "generations"),
    ({"shape": 0.0}, "shape"),
    ({"lowest": 1.5}, "lowest"), ({"temperature": 0.0}, "temperature"), ({"temperature": math.inf}, "temperature"),
    ({"smoothing": "beta", "decay": 2.0}, None)])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        self_distill("s", **options)
    assert caught.value.where == where


def test_the_names_of_its_own_nodes_are_refused():
    for name in ("teacher", "slow", "target"):
        with pytest.raises(UsageError, match="taken"):
            self_distill(name)
