"""Methods that differ from plain distillation in one function of logits and labels: pld, abkd and rectification."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from every import every
from toys import models, run
from tutelage.engine.loop import steps_of
from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import losses
from tutelage.methods.abkd import abkd
from tutelage.methods.distill import distill
from tutelage.methods.dynamic_rectification import dynamic_rectification, rectified
from tutelage.methods.pld import pld
from tutelage.methods.scratch import scratch
from tutelage.system.files import fingerprint

LABELS = torch.tensor([0, 0])
TEACHER, STUDENT = [[2, 1, 0, -1], [0.5, 2.5, 0, -0.5]], [[1, 0.5, 0.2, -0.3], [1.5, 1, -0.2, 0.1]]
METHODS = {"pld": pld, "abkd": abkd, "dynamic_rectification": dynamic_rectification}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def golden() -> dict[str, Tensor]:
    return {"t": torch.tensor(TEACHER, dtype=torch.float64),
            "s": torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)}


def random(rows: int = 6, classes: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {node: (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).requires_grad_()
            for node in ("t", "s")}


def values(graph: Graph, outputs: dict[str, Tensor], labels: Tensor = LABELS) -> dict[str, float]:
    return {name: term.item() for name, term in losses(graph, outputs, labels).items()}


@each_method
def test_it_is_one_frozen_teacher_and_one_student(method):
    assert method("t", "s").nodes == {"t": Frozen(), "s": Trained()}


@each_method
def test_the_gradient_reaches_the_student_alone(method):
    outputs = random()
    sum(losses(method("t", "s"), outputs, torch.tensor([0, 4, -1, 2, 1, 3])).values()).backward()
    assert outputs["s"].grad.any(-1).sum() >= 5
    assert outputs["t"].grad is None
    assert outputs["s"].grad.sum(-1).abs().max() < 1e-12


@each_method
@pytest.mark.parametrize("classes", [1, 2])
def test_one_and_two_classes_give_a_finite_loss(method, classes):
    outputs = random(classes=classes)
    loss = sum(losses(method("t", "s"), outputs, torch.zeros(6, dtype=torch.long)).values())
    loss.backward()
    assert loss.isfinite()
    assert outputs["s"].grad.isfinite().all()


@each_method
def test_a_batch_without_a_label_gives_a_finite_loss(method):
    outputs = random()
    loss = sum(losses(method("t", "s"), outputs, torch.full((6,), -1)).values())
    loss.backward()
    assert loss.isfinite()
    assert outputs["s"].grad.isfinite().all()


@each_method
@pytest.mark.parametrize("size", [1e4, 65504.0])
def test_logits_of_any_size_give_finite_gradients(method, size):
    generator = torch.Generator().manual_seed(0)
    outputs = {node: (size * torch.randn(6, 5, generator=generator).sign()).requires_grad_() for node in ("t", "s")}
    loss = sum(losses(method("t", "s"), outputs, torch.tensor([0, 4, -1, 2, 1, 3])).values())
    loss.backward()
    assert loss.isfinite()
    assert outputs["s"].grad.isfinite().all()


@each_method
def test_an_epoch_of_it_changes_the_student_and_not_the_teacher(method):
    networks = models()
    before = {node: fingerprint(networks[node].state_dict()) for node in ("t", "a")}
    job = run(method("t", "a"), networks, epochs=1)
    epochs = [event for event in steps_of(job) if event]
    assert every(loss > 0 for loss in epochs[0].losses.values())
    assert fingerprint(job.models["t"].state_dict()) == before["t"]
    assert fingerprint(job.models["a"].state_dict()) != before["a"]


@each_method
def test_nobody_is_their_own_teacher(method):
    with pytest.raises(UsageError, match="its own teacher"):
        method("s", "s")


@pytest.mark.parametrize("make", [
    partial(pld, temperature=0.0), partial(pld, temperature=float("nan")), partial(abkd, temperature=-1.0),
    partial(abkd, alpha=float("nan")), partial(abkd, beta=-1.5), partial(abkd, soft=-1.0), partial(abkd, hard=-1.0),
    partial(dynamic_rectification, temperature=0.0), partial(dynamic_rectification, soft=float("nan"))])
def test_an_option_that_cannot_be_is_refused_before_any_run(make):
    with pytest.raises(UsageError, match="cannot be"):
        make("t", "s")


# --- pld -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, [0.7712437835, 0.5535981722]),
                                                       (4.0, [0.6100278457, 0.5445987230])])
def test_golden_pld(temperature, expected):
    (value,) = values(pld("t", "s", temperature=temperature), golden()).values()
    assert value == pytest.approx(sum(expected) / 2, abs=1e-9)


def test_pld_by_a_teacher_that_knows_the_labels_is_plain_training():
    outputs, labels = random(), torch.tensor([0, 4, -1, 2, 1, 3])
    outputs["t"] = 1e4 * F.one_hot(labels.clamp(min=0), 5).double()
    (ranked,) = values(pld("t", "s"), outputs, labels).values()
    (plain,) = values(scratch("s"), outputs, labels).values()
    assert ranked == pytest.approx(plain, rel=1e-14)


# --- abkd ------------------------------------------------------------------------------------------------------


def test_golden_abkd():
    terms = values(abkd("t", "s", temperature=1.0), golden())
    assert terms == pytest.approx({"labels->s:cross_entropy": (0.8451776501 + 0.7108943379) / 2,
                                   "t->s:alpha_beta": 32 * (0.1113421047 + 0.4887803297) / 2}, abs=1e-7)


def test_abkd_with_alpha_1_and_beta_0_is_plain_distillation_without_the_square_of_the_temperature():
    outputs, labels = random(), torch.tensor([0, 4, -1, 2, 1, 3])
    terms = values(abkd("t", "s", alpha=1.0, beta=0.0, temperature=3.0, hard=0.2, soft=0.7 * 9), outputs, labels)
    plain = values(distill("t", "s", temperature=3.0, hard=0.2, soft=0.7), outputs, labels)
    assert terms["labels->s:cross_entropy"] == plain["labels->s:cross_entropy"]
    assert terms["t->s:alpha_beta"] == pytest.approx(plain["t->s:kl/3"], rel=1e-12)


def test_abkd_pulls_by_its_closed_form():
    outputs, labels, T, a, b = random(), torch.tensor([0, 4, 2, 2, 1, 3]), 4.0, 0.8, 0.3  # noqa: N806
    sum(losses(abkd("t", "s"), outputs, labels).values()).backward()
    s, t = outputs["s"].detach(), outputs["t"].detach()
    p, q = (t / T).softmax(-1), (s / T).softmax(-1)
    g = -(q ** (b - 1)) * (p**a - q**a) / a
    expected = (s.softmax(-1) - F.one_hot(labels, 5) + 32 * q * (g - (q * g).sum(-1, keepdim=True)) / T) / 6
    torch.testing.assert_close(outputs["s"].grad, expected, rtol=1e-10, atol=1e-13)


# --- dynamic_rectification -------------------------------------------------------------------------------------


def test_golden_rectification():
    teacher = golden()["t"]
    assert rectified(teacher, LABELS).tolist() == [[2, 1, 0, -1], [2.5, 0.5, 0, -0.5]]
    assert teacher.tolist() == TEACHER


def test_golden_dynamic_rectification():
    """a = 0.95, m = 50 and T = 6 of the authors' code, whose KL is the mean over classes too."""
    terms = values(dynamic_rectification("t", "s"), golden())
    assert sum(terms.values()) == pytest.approx(2.6202085264, abs=1e-9)
    assert terms["t->s:element_mean_rectified_kl/6"] == pytest.approx(0.95 * 50 / 4 * 36 * 0.0060381444, abs=1e-7)
    summed = dynamic_rectification("t", "s", hard=1 - 0.95, soft=0.95 * 50 / 4, reduction="batchmean")
    terms = values(summed, golden())
    assert sum(terms.values()) == pytest.approx(2.6202085264, abs=1e-9)
    assert terms["t->s:rectified_kl/6"] == pytest.approx(0.95 * 50 / 4 * 36 * 0.0060381444, abs=1e-7)


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_rectification_is_as_strong_as_released_for_any_number_of_classes(classes):
    """(1 - a) CE + a m T^2 mean KL over rows and classes, by torch's own kl_div."""
    outputs, labels = random(classes=classes), torch.tensor([0, 1, 0, 1, 1, 0])
    s, right = outputs["s"] / 6, rectified(outputs["t"], labels) / 6
    released = 0.05 * F.cross_entropy(outputs["s"], labels) + 0.95 * 50 * 36 * F.kl_div(
        s.log_softmax(-1), right.softmax(-1), reduction="none").mean()
    assert sum(values(dynamic_rectification("t", "s"), outputs, labels).values()) == pytest.approx(released.item())


def test_of_100_classes_both_reductions_are_the_same():
    outputs, labels = random(classes=100), torch.tensor([0, 99, 4, -1, 7, 7])
    means, sums = (values(dynamic_rectification("t", "s", reduction=one), outputs, labels).values()
                   for one in ("element_mean", "batchmean"))
    assert list(means) == pytest.approx(list(sums))


def test_rectified_logits_name_the_label_keep_their_values_and_stay():
    teacher, labels = random()["t"].detach(), torch.tensor([0, 4, 2, 2, 1, 3])
    changed = rectified(teacher, labels)
    assert changed.argmax(-1).tolist() == labels.tolist()
    assert changed.sort(-1).values.equal(teacher.sort(-1).values)
    assert rectified(changed, labels).equal(changed)
    assert rectified(teacher, F.one_hot(labels, 5).double()).equal(changed)
    others = torch.ones_like(teacher, dtype=torch.bool)
    others.scatter_(-1, labels[:, None], False).scatter_(-1, teacher.argmax(-1, keepdim=True), False)
    assert changed[others].equal(teacher[others])


def test_nothing_is_rectified_without_a_label_or_where_the_label_is_among_the_largest():
    teacher = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    assert rectified(teacher, torch.tensor([-1, 1, 2])).equal(teacher)
    assert rectified(teacher, torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])).equal(teacher)


@pytest.mark.parametrize("right", [True, False], ids=["a teacher that is right", "no labels"])
def test_where_nothing_is_wrong_it_is_plain_distillation_to_the_bit(right):
    outputs = random()
    labels = outputs["t"].argmax(-1) if right else torch.full((6,), -1)
    terms = values(dynamic_rectification("t", "s", reduction="batchmean"), outputs, labels)
    assert list(terms.values()) == list(values(distill("t", "s", temperature=6.0, hard=0.05, soft=0.475), outputs,
                                               labels).values())


def test_a_teacher_that_is_always_wrong_pulls_towards_the_labels_by_its_closed_form():
    outputs, T = random(), 6.0  # noqa: N806
    labels = outputs["t"].argmin(-1)
    sum(losses(dynamic_rectification("t", "s", reduction="batchmean"), outputs, labels).values()).backward()
    s, right = outputs["s"].detach(), outputs["t"].detach().clone()
    for row, label in enumerate(labels.tolist()):
        chosen = int(right[row].argmax())
        right[row, [label, chosen]] = right[row, [chosen, label]]
    expected = (0.05 * (s.softmax(-1) - F.one_hot(labels, 5))
                + 0.475 * T * ((s / T).softmax(-1) - (right / T).softmax(-1))) / 6
    torch.testing.assert_close(outputs["s"].grad, expected, rtol=1e-12, atol=1e-14)
