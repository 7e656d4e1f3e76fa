"""A number that is not finite is told with its step, its ends and its samples, and means are exact across a resume."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from every import every
from toys import SGD, models, run
from tutelage import Computed, Edge, Ema, Frozen, Graph, Trained
from tutelage.engine.loop import mean_losses, steps_of
from tutelage.engine.monitor import Guard, Means, look, warn_outweighed
from tutelage.engine.optimizers import guarded_step
from tutelage.engine.run import Run
from tutelage.errors import NumericError
from tutelage.graph.divergences import cross_entropy, kl, value
from tutelage.methods.dckd import dckd
from tutelage.system.files import fingerprint, pack, unpack
from tutelage.tasks.forecast.task import FORECAST

IDS = torch.tensor([70, 71, 72, 73])
FINE = torch.ones(2)


def logits(*bad: int, by: float = float("nan")) -> Tensor:
    rows = torch.zeros(4, 3)
    rows[list(bad), 1] = by
    return rows


def told(guard: Guard) -> tuple[str, str]:
    with pytest.raises(NumericError, match="no longer finite") as caught:
        guard.read()
    return caught.value.where, caught.value.found


# --- the guard ---------------------------------------------------------------------------------------------------


def test_as_long_as_all_is_finite_nothing_is_told():
    guard = Guard()
    for step in range(3):
        guard.watch(step, seen := look(("x", "y"), FINE, {"a": logits(), "t": logits()}, IDS))
        assert bool(seen.finite)
    guard.read()


@pytest.mark.parametrize("by", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_step_is_named_with_its_ends_and_its_samples(by):
    guard = Guard()
    guard.watch(3, look(("x", "y"), FINE, {"a": logits(), "t": logits()}, IDS))
    bad = look(("x", "y"), torch.tensor([1.0, by]), {"a": logits(), "t": logits(0, 2, by=by)}, IDS)
    assert not bool(bad.finite)
    guard.watch(4, bad)
    guard.watch(5, look(("x", "y"), torch.tensor([by, by]), {"a": logits(1, by=by), "t": logits(1, by=by)}, IDS))
    assert told(guard) == ("step 4", "outputs of t for samples [70, 72]")
    guard.read()  # it is told once


def test_several_bad_ends_are_all_named_and_ten_samples_at_most():
    guard, rows = Guard(), torch.full((30, 2), float("nan"))
    outputs = {"a": rows, "b.0": rows[:, 0], "fine": torch.zeros(30, 2)}
    guard.watch(0, look(("x",), rows.sum()[None], outputs, torch.arange(30)))
    assert told(guard) == ("step 0", f"outputs of a, b.0 for samples {list(range(10))}")


def test_a_loss_that_is_bad_though_its_ends_are_fine_is_named_itself():
    guard = Guard()
    guard.watch(7, look(("x", "y", "z"), torch.tensor([1.0, float("inf"), float("nan")]), {"a": logits()}, IDS))
    assert told(guard) == ("step 7", "losses of y, z")


def test_ends_that_are_not_a_number_a_row_are_passed_over():
    guard = Guard()
    outputs = {"labels": torch.zeros(4, dtype=torch.long), "ids": IDS, "few": torch.full((2, 3), float("nan")),
               "scalar": torch.tensor(float("nan")), "a": logits(1), "map": torch.zeros(4, 2, 5, 5)}
    guard.watch(1, look(("x",), torch.tensor([float("nan")]), outputs, IDS))
    assert told(guard) == ("step 1", "outputs of a for samples [71]")


def test_what_is_watched_is_kept_without_its_graph_of_gradients():
    guard, rows = Guard(), logits().requires_grad_()
    guard.watch(0, look(("x",), FINE[:1], {"a": rows * 2}, IDS))
    (kept,) = guard._unread[0][1].outputs.values()
    assert not kept.requires_grad


# --- the loop ----------------------------------------------------------------------------------------------------


class Breaks(nn.Module):
    """A network whose logits are nan from its nth training pass on."""

    def __init__(self, network: nn.Module, at: int) -> None:
        super().__init__()
        self.network, self.at, self.passes = network, at, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        return self.network(images) * (float("nan") if self.passes > self.at else 1.0)


BOTH = Graph({"a": Trained(), "b": Trained(), "t": Frozen()},
             [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy), Edge("t", "b", kl, 0.5)])


def broken(at: int, optimizer: object = SGD, graph: Graph = BOTH) -> Run:
    networks = models(norm=False)
    return run(graph, networks | {"a": Breaks(networks["a"], at)}, optimizer=optimizer)


def moving(job: Run) -> dict[str, str]:
    """Every weight and every number of an optimizer."""
    slots = {f"{owner}.{number}.{slot}": torch.as_tensor(held) for owner, optimizer in job.optimizers.items()
             for number, held_by in enumerate(optimizer.state.values()) for slot, held in held_by.items()
             if held is not None}
    return {node: fingerprint(net.state_dict()) for node, net in job.models.items()} | {"slots": fingerprint(slots)}


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_run_stops_at_its_first_bad_step_with_the_weights_of_the_step_before(at):
    job, reference, before = broken(at), broken(100), None
    for _ in steps_of(reference):
        if reference.step == at:
            before = moving(reference)
            break
    before = before or moving(broken(100))
    with pytest.raises(NumericError) as caught:
        for _ in steps_of(job):
            pass
    assert caught.value.where == f"step {at}"
    assert caught.value.found.startswith("outputs of a for samples [")
    assert "b" not in caught.value.found.split("samples")[0].replace("outputs of a", "")
    assert (job.step, moving(job)) == (at, before)


OPTIMIZERS = {
    "fused SGD": SGD, "fused AdamW": partial(torch.optim.AdamW, lr=0.01),
    "fused Adam": partial(torch.optim.Adam, lr=0.01), "fused Adagrad": partial(torch.optim.Adagrad, lr=0.01),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.01), "NAdam": partial(torch.optim.NAdam, lr=0.01),
    "damped SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_after_a_bad_number_no_weight_moves_any_more_however_late_it_is_read(monkeypatch, optimizer, at):
    job = broken(at, OPTIMIZERS[optimizer])
    assert optimizer.startswith("fused") == bool(job.optimizers["a"].defaults.get("fused"))
    monkeypatch.setattr(job.guard, "read", lambda: None)  # a GPU's loop reads once a second
    weights = [{node: fingerprint(net.state_dict()) for node, net in job.models.items()}]
    for _ in steps_of(job):
        weights.append({node: fingerprint(net.state_dict()) for node, net in job.models.items()})
    assert len(weights) == job.steps + 1
    assert weights[0] != weights[1] or at == 0
    assert every(held == weights[at] for held in weights[at + 1:])
    assert not bool(job.healthy)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_not_taken_leaves_the_optimizer_as_it_was(optimizer):
    torch.manual_seed(0)
    job = broken(100, OPTIMIZERS[optimizer])
    steps = steps_of(job)
    next(steps)
    owner, before = job.optimizers["b"], moving(job)
    for parameter in job.models["b"].parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    guarded_step(owner, torch.tensor(False))
    assert moving(job) == before
    for parameter in job.models["b"].parameters():
        parameter.grad = torch.ones_like(parameter)
    guarded_step(owner, torch.tensor(True))
    changed = {name for name, now in moving(job).items() if now != before[name]}
    assert changed == {"b", "slots"}


def test_a_bad_micro_batch_spoils_the_whole_step(monkeypatch):
    networks = models(norm=False)
    job = run(BOTH, networks | {"a": Breaks(networks["a"], 1)}, accumulate=3)
    monkeypatch.setattr(job.guard, "read", lambda: None)
    before = moving(job)["b"]
    next(steps_of(job))
    assert moving(job)["b"] == before


def test_an_end_that_is_one_number_for_all_rows_does_not_trouble_the_guard():
    nodes = {"a": Trained(), "c": Computed(("a",), lambda a: {"logits": a, "norm": a.norm()})}
    job = run(Graph(nodes, [Edge("labels", "c", cross_entropy)]), models(norm=False))
    next(steps_of(job))
    assert job.step == 1


# --- means -------------------------------------------------------------------------------------------------------

LIVE = [("x", "y"), ("x", "y"), ("y",), ("z", "x"), ("z", "x"), ("y", "x"), ("x", "y", "z")]


def counted(*parts: slice) -> Means:
    """Losses of changing sets of edges; between parts the means go through bytes into fresh ones."""
    means = Means()
    for number, part in enumerate(parts):
        if number:
            state, means = unpack(pack(means.state()), "means")[0], Means()
            means.load(state)
        for step in range(len(LIVE))[part]:
            means.add(LIVE[step], losses_at(step))
    return means


def losses_at(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(len(LIVE[step]), generator=generator) * 10 ** (step % 3)


def test_the_mean_of_an_edge_is_over_the_micro_batches_in_which_it_was_live():
    seen: dict[str, list[float]] = {}
    for step, edges in enumerate(LIVE):
        for edge, loss in zip(edges, losses_at(step).tolist(), strict=True):
            seen.setdefault(edge, []).append(loss)
    found = counted(slice(None)).read(["z", "never", "y", "x"])
    assert list(found) == ["z", "y", "x"]
    assert found == pytest.approx({edge: sum(losses) / len(losses) for edge, losses in seen.items()}, rel=1e-12)
    assert [len(seen[edge]) for edge in "xyz"] == [6, 5, 3]


def test_a_step_of_several_micro_batches_counts_their_sum():
    whole, parts = Means(), Means()
    whole.add(("x",), torch.tensor([3.0]))
    for _ in range(4):
        parts.add(("x",), torch.tensor([0.75]))
    assert parts.read(["x"], 4) == whole.read(["x"]) == {"x": 3.0}


@pytest.mark.parametrize("cut", range(len(LIVE) + 1))
def test_means_that_are_saved_and_loaded_have_the_same_bits(cut):
    whole = counted(slice(None))
    again = counted(slice(0, cut), slice(cut, None))
    assert fingerprint(again.state()) == fingerprint(whole.state())
    assert again.read("xyz") == whole.read("xyz")


def test_sums_are_float64():
    means = Means()
    means.add(("x",), torch.tensor([2.0**24]))
    for _ in range(4):
        means.add(("x",), torch.ones(1))
    assert means.read(["x"])["x"] * 5 == 2**24 + 4


def test_means_of_nothing_are_nothing():
    assert Means().read(["x"]) == {}
    assert Means().state() == {}


def test_what_is_loaded_replaces_what_was_there():
    means = counted(slice(0, 3))
    state = counted(slice(3, 5)).state()
    means.load(state)
    assert fingerprint(means.state()) == fingerprint(state)


def test_the_losses_told_of_an_epoch_are_means_over_the_steps_in_which_an_edge_was_live(monkeypatch):
    def every_other(progress: float) -> float:
        return float(round(progress * job.steps) % 2 == 0)

    job = run(Graph({"a": Trained(), "slow": Ema("a", 0.5)},
                    [Edge("labels", "a", cross_entropy), Edge("slow", "a", kl, every_other, 2.0)]), models(), epochs=1,
              warmup_epochs=0, accumulate=2)
    sums: dict[str, list[float]] = {}
    inside = job.losses

    def spied(*args):
        terms = inside(*args)
        for name, term in terms.items():
            sums.setdefault(name, []).append(float(term.detach()))
        return terms

    monkeypatch.setattr(job, "losses", spied)
    for epoch in steps_of(job):
        if epoch is None:
            assert mean_losses(job) == pytest.approx({name: 2 * sum(x) / len(x) for name, x in sums.items()}, rel=1e-9)
    assert len(sums["slow->a:kl/2"]) < len(sums["labels->a:cross_entropy"])
    assert epoch.losses == pytest.approx({name: 2 * sum(x) / len(x) for name, x in sums.items()}, rel=1e-9)


def test_a_loss_of_one_number_a_row_is_watched_too():
    nodes = {"a": Trained(), "bad": Computed(("a",), lambda a: (a.sum(-1) - a.sum(-1).amax()).log())}
    job = run(Graph(nodes, [Edge("labels", "bad", value)]), models(norm=False))
    with pytest.raises(NumericError, match="outputs of bad for samples"):
        next(steps_of(job))


@pytest.mark.parametrize(("relation", "likelihood", "told"), [
    (11.0, 1.0, True), (9.0, 1.0, False), (11.0, -1.0, True), (0.9, 0.0, False), (1.1, 0.0, True)])
def test_a_relation_that_costs_ten_times_what_labels_do_is_told(caplog, relation, likelihood, told):
    graph = dckd("t", "s", cosine=0, task=FORECAST)
    names = [edge.name for edge in graph.edges]
    warn_outweighed(graph, dict(zip(names, (likelihood, 99.0, relation), strict=True)))
    assert bool(caplog.records) is told
    assert not told or "relation_distance" in caplog.text
