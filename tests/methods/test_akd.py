"""akd: each of its three ideas against numbers worked out by hand, alone, together and switched off."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from every import every
from toys import Rows, data, models, network, run
from tutelage.engine.loop import set_modes, steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.objective import forward, losses
from tutelage.methods.akd import Context, Discrepancy, HeldOut, Learnable, akd, by_sample
from tutelage.methods.distill import distill
from tutelage.system.files import fingerprint, pack, unpack
from tutelage.types import Batch

LABELS = torch.tensor([0, 4, -1, 2, 1, 3])
BALANCES = ["learnable", "held_out", "discrepancy", "per_sample", "fixed"]
each_form = pytest.mark.parametrize(("balance", "context"), [(b, c) for b in BALANCES for c in (True, False)])


def logits(rows: int = 6, classes: int = 5, size: float = 3.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {node: (size * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).requires_grad_()
            for node in ("t", "s")}


def terms(graph: Graph, outputs: dict[str, Tensor], labels: Tensor = LABELS) -> dict[str, Tensor]:
    given = {**outputs, "labels": labels}
    return losses(graph, forward(graph, {}, torch.zeros(0), known=given), labels)


def of_the_student(graph: Graph, outputs: dict[str, Tensor]) -> list[Tensor]:
    return [term for name, term in terms(graph, outputs).items() if "->s:" in name]


def stirred(graph: Graph, outputs: dict[str, Tensor]) -> Graph:
    """The graph with a context whose weights are not 1."""
    torch.manual_seed(0)
    for part in graph.parts().values():
        if isinstance(part, Context):
            part(outputs["t"], outputs["s"])
            torch.nn.init.normal_(part.out.weight)
    return graph


def torch_terms(outputs: dict[str, Tensor], temperature: float = 4.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy and T^2 KL of every row, by torch's own functions."""
    s, t = (outputs[node].detach() / temperature for node in ("s", "t"))
    hard = F.cross_entropy(outputs["s"].detach(), LABELS, ignore_index=-1, reduction="none")
    return hard, temperature**2 * F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)


# --- switched off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [True, False])
def test_with_a_fixed_balance_it_begins_as_plain_distillation_to_the_bit(context):
    """With the context too: its weights are all 1 at first, and what they change is added to the teacher's logits."""
    graph = akd("t", "s", balance="fixed", context=context, hard=0.25)
    found = of_the_student(graph, logits())
    plain = losses(distill("t", "s", hard=0.25, soft=0.75), logits(), LABELS)
    assert [term.item() for term in found] == [term.item() for term in plain.values()]


@pytest.mark.parametrize("context", [True, False])
def test_a_learnable_balance_begins_with_the_given_share(context):
    for hard, balance in ((0.5, "learnable"), (0.3, "learnable"), (0.3, "held_out")):
        found = of_the_student(akd("t", "s", balance=balance, context=context, hard=hard), logits())
        plain = losses(distill("t", "s", hard=hard, soft=1 - hard), logits(), LABELS)
        assert [term.item() for term in found] == pytest.approx([term.item() for term in plain.values()], rel=1e-6)


def test_all_switched_off_a_whole_run_is_plain_distillation_to_the_bit():
    runs = [finish(run(graph, models(), epochs=1)) for graph in
            (akd("t", "a", balance="fixed", context=False), distill("t", "a"))]
    assert fingerprint(runs[0].models["a"].state_dict()) == fingerprint(runs[1].models["a"].state_dict())


# --- a balance that learns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_the_balance_learns_by_its_closed_form(bonus):
    graph = akd("t", "s", context=False, hard=0.3, low=0.2, high=0.8, entropy_bonus=bonus)
    (part,) = graph.parts().values()
    terms(graph, logits())["labels->s_balance.loss:value"].backward()
    hard, soft = (rows.mean().item() for rows in torch_terms(logits()))
    r = math.log((0.1 / 0.6) / (1 - 0.1 / 0.6))
    slope = 0.6 / (1 + math.exp(-r)) * (1 - 1 / (1 + math.exp(-r)))
    expected = 0.01 * slope * (hard - soft - bonus * math.log(0.7 / 0.3))
    assert part.r.item() == pytest.approx(r, rel=1e-6)
    assert part.r.grad.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_bonus_the_balance_moves_to_the_smaller_loss_and_stays_in_its_bounds():
    for teacher, grows in ((1.0, False), (-5.0, True)):
        part = Learnable(0.5, 0.1, 0.9, 4.0, 0.0)
        sgd = torch.optim.SGD(part.parameters(), lr=10.0)
        student, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        shares = []
        for _ in range(200):
            found = part(student, teacher * student, label)
            shares.append(found["logits"].item())
            sgd.zero_grad()
            found["loss"].mean().backward()
            sgd.step()
        assert (shares[1] > shares[0]) is grows
        assert min(shares) >= 0.1
        assert max(shares) <= 0.9


@pytest.mark.parametrize("r", [-1e4, 1e4])
def test_the_bounds_hold_for_any_parameter(r):
    part = Learnable(0.5, 0.0, 1.0, 4.0, 0.1)
    with torch.no_grad():
        part.r.fill_(r)
    found = part(torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([0, 1, -1]))
    assert found["logits"].tolist() == [float(r > 0)] * 3
    found["loss"].sum().backward()
    assert part.r.grad.isfinite()


# --- a balance that learns from held-out images ----------------------------------------------------------------


def looking_ahead(context: bool, **options) -> tuple[Run, Batch]:
    """A run in float64 at its first step, with its first batch; all of its six validation rows are looked at."""
    graph = akd("t", "a", balance="held_out", context=context, hard=0.3, temperature=2.0)
    job = run(graph, {node: net for node, net in models().items() if node != "b"}, epochs=1, precision="exact",
              optimizer=partial(torch.optim.SGD, lr=0.7))
    set_modes(job)
    for module in (*job.models.values(), *job.graph.parts().values()):
        module.double()
    job.models["a"][3].p = 0.0  # what dropout draws is not the point
    if context:
        torch.nn.init.normal_(job.graph.parts()["t_context"].out.weight)
    generator = torch.Generator().manual_seed(0)
    held_out, x = (torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64) for n in (6, 12))
    labels = torch.arange(12) % 4
    job.data = replace(job.data, validation=Rows(held_out, labels[:6].where(torch.arange(6) < 5, -1)))
    return job, Batch(x, labels.where(labels < 3, -1), torch.arange(12))


def held_out_loss(job: Run, batch: Batch, h: float) -> float:
    """After a real step of a real optimizer on a copy of the student."""
    student, T = deepcopy(job.models["a"]), 2.0  # noqa: N806
    said, heard = student(batch.inputs), job.models["t"](batch.inputs).detach()
    context = job.graph.parts().get("t_context")
    heard = heard if context is None else context(heard, said)["logits"].detach()
    hard = F.cross_entropy(said, batch.labels, ignore_index=-1, reduction="sum") / len(said)
    soft = T**2 * F.kl_div((said / T).log_softmax(-1), (heard / T).softmax(-1), reduction="batchmean")
    (h * hard + (1 - h) * soft).backward()
    torch.optim.SGD(student.parameters(), lr=0.7).step()
    rows = job.data.validation
    return F.cross_entropy(student(rows.inputs[:5]), rows.labels[:5]).item()


@pytest.mark.parametrize("context", [True, False])
def test_the_slope_is_that_of_the_held_out_loss_after_a_real_step(context):
    job, batch = looking_ahead(context)
    assert job.graph.controllers["look_ahead"].before_forward(job, batch) is batch
    up, down = (held_out_loss(job, batch, 0.3 + e) for e in (1e-5, -1e-5))
    slope = job.graph.parts()["a_balance"].slope.item()
    assert abs(slope) > 1e-4
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-5)


def test_the_balance_goes_against_the_slope_within_its_bounds():
    part = HeldOut(0.3, 0.2, 0.8)
    part.slope.fill_(2.0)
    found = part(torch.zeros(3, 4))
    assert found["logits"].tolist() == pytest.approx([0.3] * 3)
    assert found["soft"].tolist() == pytest.approx([0.7] * 3)
    found["loss"].mean().backward()
    share = (0.3 - 0.2) / 0.6
    assert part.r.grad.item() == pytest.approx(2.0 * 0.6 * share * (1 - share), rel=1e-6)
    for r, bound in ((-1e4, 0.2), (1e4, 0.8)):
        part.r.data.fill_(r)
        assert part.hard.item() == pytest.approx(bound)


def test_looking_ahead_moves_nothing_but_the_slope():
    job, batch = looking_ahead(context=True)
    before = {name: fingerprint(tensors) for name, tensors in capture(job).items()}
    job.graph.controllers["look_ahead"].before_forward(job, batch)
    assert {name: fingerprint(tensors) for name, tensors in capture(job).items()} == before
    learners = (*job.models.values(), *job.graph.parts().values())
    assert every(parameter.grad is None for module in learners for parameter in module.parameters())
    assert every(module.training for module in job.models["a"].modules())
    assert not job.models["t"].training


def test_without_held_out_labels_there_is_nothing_to_look_ahead_to():
    job, batch = looking_ahead(context=False)
    job.data.validation.labels[1:] = -1
    with pytest.raises(DataError, match="look ahead"):
        job.graph.controllers["look_ahead"].before_forward(job, batch)


def test_held_out_images_are_drawn_by_step():
    job, batch = looking_ahead(context=False)
    job.settings = replace(job.settings, batch_size=3)
    asked = job.data.validation.asked
    for job.step in (4, 5, 4):
        job.graph.controllers["look_ahead"].before_forward(job, batch)
    assert [len(rows) for rows in asked] == [3, 3, 3]
    assert asked[0].tolist() == asked[2].tolist() != asked[1].tolist()
    assert every((job.data.validation.labels[rows] >= 0).all() for rows in asked)


# --- a balance by discrepancy ----------------------------------------------------------------------------------

TEACHER, STUDENT = [[2, 1, 0, -1], [0.5, 2.5, 0, -0.5]], [[1, 0.5, 0.2, -0.3], [1.5, 1, -0.2, 0.1]]


def distance(first: list[float], second: list[float]) -> float:
    p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (first, second))
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def test_the_further_from_the_teacher_the_less_the_labels_count():
    part, teacher, student = Discrepancy(0.1, 0.9), torch.tensor(TEACHER), torch.tensor(STUDENT)
    rows = [distance(t, s) for t, s in zip(TEACHER, STUDENT, strict=True)]
    first = sum(rows) / 2
    assert part(student, teacher)["logits"].tolist() == pytest.approx([0.9 - 0.8 * first] * 2, abs=1e-6)
    second = 0.9 * first + 0.1 * rows[0]
    found = part(student[:1], teacher[:1])
    assert found["logits"].item() == pytest.approx(0.9 - 0.8 * second, abs=1e-6)
    assert found["soft"].item() == pytest.approx(0.1 + 0.8 * second, abs=1e-6)
    assert part.distance.item() == pytest.approx(second, abs=1e-6)
    by_row = by_sample(student.double(), teacher.double(), low=0.1, high=0.9)
    assert by_row["logits"].tolist() == pytest.approx([0.9 - 0.8 * row for row in rows], abs=1e-7)


def test_it_remembers_in_training_alone():
    part = Discrepancy(0.1, 0.9).eval()
    part(torch.tensor(STUDENT), torch.tensor(TEACHER))
    assert (part.distance.item(), part.batches.item()) == (0.0, 0)


def test_a_student_like_its_teacher_hears_the_labels_as_loudly_as_it_can():
    outputs = logits()
    graph = akd("s", "t", balance="discrepancy", context=False, low=0.2, high=0.7)
    found = terms(graph, {"t": outputs["t"], "s": outputs["t"].detach()})
    plain = F.cross_entropy(outputs["t"], LABELS, ignore_index=-1, reduction="sum") / 6
    assert found["labels->t:cross_entropy"].item() == pytest.approx(0.7 * plain.item(), rel=1e-6)
    assert found["s->t:kl/4"].item() == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("balance", ["discrepancy", "per_sample"])
def test_the_discrepancy_is_to_what_the_teacher_itself_says(balance):
    """Not to what the context makes of it."""
    found = [stirred(akd("t", "s", balance=balance, context=context), logits()) for context in (True, False)]
    with_, without = (of_the_student(graph, logits())[0] for graph in found)
    assert with_.item() == without.item()


# --- the context -----------------------------------------------------------------------------------------------


def test_the_context_weighs_class_by_class_as_a_loop_does():
    outputs = {node: rows.detach() for node, rows in logits(rows=2, classes=3).items()}
    (part,) = stirred(akd("t", "s", balance="fixed"), outputs).parts().values()
    found = part(outputs["t"], outputs["s"])
    for row in range(2):
        u, v = (outputs[node][row] - outputs[node][row].mean() for node in ("t", "s"))
        m = part.mlp(torch.cat([u, v]))
        tokens = [part.token.weight @ torch.stack([u[c], v[c], m[c]]) for c in range(3)]
        q, k, values = ([matrix @ token for token in tokens] for matrix in part.attention.weight.split(16))
        weights = []
        for c in range(3):
            heed = torch.stack([q[c] @ k[d] / 4 for d in range(3)]).softmax(0)
            content = sum(heed[d] * values[d] for d in range(3))
            weights.append(2 * (part.out.weight[0] @ content + part.out.bias[0]).sigmoid())
        a = torch.stack(weights)
        assert (a - 1).abs().min() > 1e-3
        torch.testing.assert_close(found["logits"][row].softmax(-1), (a * u).softmax(-1))
        torch.testing.assert_close(found["change"][row], (a - 1).square().mean())


def test_what_the_context_makes_of_the_teacher_is_what_the_student_hears():
    outputs = logits()
    graph = stirred(akd("t", "s", balance="fixed", hard=0.0), outputs)
    heard = graph.nodes["t_context"].by(outputs["t"], outputs["s"])["logits"]
    assert not heard.softmax(-1).allclose(outputs["t"].softmax(-1), atol=1e-3)
    _, soft = torch_terms({**outputs, "t": heard})
    assert terms(graph, outputs)["t_context->s:kl/4"].item() == pytest.approx(soft.mean().item(), rel=1e-12)


def test_one_class_has_no_context():
    with pytest.raises(ModelError, match="nothing to weigh"):
        Context()(torch.zeros(3, 1), torch.zeros(3, 1))


# --- who learns ------------------------------------------------------------------------------------------------


@each_form
def test_the_student_learns_from_its_two_edges_and_the_parts_from_theirs(balance, context):
    outputs = logits()
    graph = stirred(akd("t", "s", balance=balance, context=context, entropy_bonus=0.2, hard=0.3), outputs)
    parts = [parameter for part in graph.parts().values() for parameter in part.parameters()]
    for name, term in terms(graph, outputs).items():
        pulls = torch.autograd.grad(term, [*outputs.values(), *parts], allow_unused=True, retain_graph=True)
        reached = dict(zip([*outputs, *range(len(parts))], (pull is not None for pull in pulls), strict=True))
        assert not reached.pop("t")
        assert reached.pop("s") is ("->s:" in name), name
        assert (True in reached.values()) is ("->s:" not in name), name


@each_form
def test_the_students_gradient_is_the_closed_form(balance, context):
    T, outputs, labels = 4.0, logits(), torch.tensor([0, 4, 2, 2, 1, 3])  # noqa: N806
    graph = stirred(akd("t", "s", balance=balance, context=context, hard=0.3), outputs)
    given = forward(graph, {}, torch.zeros(0), known={**outputs, "labels": labels})
    h = given["s_balance"].detach()[:, None] if balance != "fixed" else 0.3
    teacher = given["t_context"].detach() if context else outputs["t"].detach()
    (gradient,) = torch.autograd.grad(sum(losses(graph, given, labels).values()), outputs["s"])
    s = outputs["s"].detach()
    expected = (h * (s.softmax(-1) - F.one_hot(labels, 5))
                + (1 - h) * T * ((s / T).softmax(-1) - (teacher / T).softmax(-1))) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@each_form
@pytest.mark.parametrize("size", [1e4, 65504.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_logits_of_any_size_and_no_labels_give_finite_gradients(balance, context, size, classes):
    generator = torch.Generator().manual_seed(0)
    outputs = {node: (size * torch.randn(6, classes, generator=generator).sign()).requires_grad_() for node in "ts"}
    graph = stirred(akd("t", "s", balance=balance, context=context), outputs)
    for labels in (LABELS.clamp(max=classes - 1), torch.full((6,), -1)):
        total = sum(terms(graph, outputs, labels).values())
        total.backward()
        assert total.isfinite()
        learners = [outputs["s"], *(p for part in graph.parts().values() for p in part.parameters())]
        assert every(learner.grad.isfinite().all() for learner in learners if learner.grad is not None)


# --- runs ------------------------------------------------------------------------------------------------------


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def digest(job: Run) -> dict[str, str]:
    return {name: fingerprint(tensors) for name, tensors in capture(job).items()}


def resumed(make: partial, after: int, drop: str | None = None) -> dict[str, str]:
    """A run saved after `after` steps, through bytes, into fresh objects; `drop` loses one file of the state."""
    first = make()
    for _ in steps_of(first):
        if first.step == after:
            break
    state = {name: unpack(pack(tensors), name)[0] for name, tensors in capture(first).items()}
    second = make()
    if drop is not None:
        state[drop] = capture(second)[drop]
    restore(second, {"frozen": first.frozen, "best": {}, "step": first.step, "scores": first.scores}, state)
    return digest(finish(second))


@pytest.mark.parametrize("balance", ["learnable", "held_out", "discrepancy"])
def test_a_run_resumed_after_any_step_ends_with_the_same_bits_and_lost_state_is_noticed(balance):
    def make() -> Run:
        return run(akd("t", "a", balance=balance), {node: net for node, net in models().items() if node != "b"},
                   epochs=2)

    job = make()
    teacher = fingerprint(job.models["t"].state_dict())
    whole = digest(finish(job))
    assert fingerprint(job.models["t"].state_dict()) == teacher
    assert [resumed(make, after) == whole for after in range(1, job.steps)] == [True] * (job.steps - 1)
    for lost in ("a", "run.parts", "run.optimizers"):
        assert resumed(make, 3, drop=lost) != whole, lost


def test_of_a_balance_by_discrepancy_the_memory_alone_is_state():
    def make() -> Run:
        return run(akd("t", "a", balance="discrepancy", context=False), models(), epochs=2)

    assert resumed(make, 3) == digest(finish(make()))
    assert resumed(make, 3, drop="run.parts") != digest(finish(make()))


def test_a_balance_has_no_weight_decay_and_the_context_has():
    job = run(akd("t", "a"), {node: net for node, net in models().items() if node != "b"}, epochs=1)
    assert {name: optimizer.param_groups[0]["weight_decay"] for name, optimizer in job.optimizers.items()} == {
        "a": 1e-3, "t_context": 1e-3, "a_balance": 0.0}


@each_form
def test_data_of_one_class_are_refused(balance, context):
    alone = replace(data(), classes=("only",))
    with pytest.raises(DataError, match="too few classes"):
        run(akd("t", "a", balance=balance, context=context), {"t": network(0), "a": network(1)}, data=alone)


# --- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "where"), [
    ({"balance": "learned"}, "balance"), ({"low": 0.9, "high": 0.1}, "low, high"), ({"low": -0.1}, "low, high"),
    ({"high": 1.1}, "low, high"), ({"high": float("nan")}, "low, high"), ({"hard": 0.95}, "hard"),
    ({"hard": 0.95, "balance": "held_out"}, "hard"),
    ({"hard": 1.5, "balance": "fixed"}, "hard"), ({"entropy_bonus": -1.0}, "entropy_bonus"),
    ({"closeness": -1.0}, "edge labels -> t_context.change"), ({"temperature": 0.0}, "edge t_context -> s"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        akd("t", "s", **options)
    assert caught.value.where == where


def test_nobody_is_their_own_teacher():
    with pytest.raises(UsageError, match="its own teacher"):
        akd("s", "s")
