"""A recorded step reads all that changes from memory of its own: here the step is "recorded" by keeping it."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import tutelage.data.memory as memory
from every import every
from toys import SGD, Memory, Switch, data, models, run
from tutelage import Computed, Edge, Ema, Frozen, Graph, Trained
from tutelage.engine import loop
from tutelage.engine.cuda_graph import STEADY, CapturedStep, NetworkStreams, make_capturable
from tutelage.engine.loop import may_capture, mean_losses, train_step
from tutelage.engine.monitor import Seen
from tutelage.engine.run import Run
from tutelage.engine.teacher_cache import use
from tutelage.engine.teacher_cache.codecs import Whole
from tutelage.engine.teacher_cache.store import TeacherCache
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.schedules import linear
from tutelage.methods.dual_student import dual_student
from tutelage.system.distributed import World
from tutelage.types import Batch

GRAPH = dual_student("t", ["a", "b"])


def keep(step: Callable[[], Seen | None]) -> Callable[[], Seen | None]:
    """Does again what was recorded, on whatever lies in its memory then."""
    return step


def never(step: Callable[[], Seen | None]) -> Callable[[], Seen | None]:
    raise RuntimeError("nothing can be recorded here")


def job(record: Callable, graph: Graph = GRAPH, **options) -> Run:
    made = run(graph, models(norm=False), optimizer=SGD, **options)
    made.recording = CapturedStep(made.optimizers.values(), made.world.device, record)
    loop.set_modes(made)
    return made


def batches(made: Run, rounds: int = 4) -> list[Batch]:
    return list(made.data.train.batches(torch.arange(36).split(12) * rounds, draw=0, views=("", *made.graph.views())))


def learned(made: Run) -> list[Tensor]:
    weights = [weight.detach().clone() for node in "ab" for weight in made.models[node].parameters()]
    return [*weights, torch.tensor(list(mean_losses(made).values()))]


def same(one: Run, other: Run) -> bool:
    return every(map(torch.equal, learned(one), learned(other)))


@pytest.mark.parametrize("graph", [GRAPH, Graph(GRAPH.nodes, [Edge("t@x", "a@y", kl, 0.5, 4.0), Edge("labels", "b",
                         cross_entropy)])], ids=["one view", "views"])
def test_a_recorded_step_learns_from_the_images_labels_and_rates_of_its_own_step(graph):
    recorded, plain = job(keep, graph), job(never, graph)
    for batch in batches(plain):
        train_step(plain, [batch])
        train_step(recorded, [batch])
    assert recorded.recording is not None
    assert recorded.recording.replay is not None
    assert recorded.step == plain.step == 12
    assert same(recorded, plain)


def test_what_the_guard_is_given_is_not_overwritten_by_the_next_replay():
    made = job(keep)
    for batch in batches(made):
        train_step(made, [batch])
    unread = made.guard._unread  # the steps before were read, each as it was taken
    assert [step for step, _ in unread] == list(range(STEADY, 12))
    assert len({seen.values.data_ptr() for _, seen in unread}) == len(unread)
    for (_, seen), batch in zip(unread, batches(made)[STEADY:], strict=True):
        assert torch.equal(seen.ids, batch.ids)


def test_a_step_is_recorded_anew_when_an_edge_gets_another_weight():
    graph = Graph(GRAPH.nodes, [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy),
                                Edge("t", "a", kl, weight=lambda progress: 0.5 if progress < 0.5 else 2.0)])
    seen = []

    def counted(step):
        seen.append(1)
        return step

    recorded, plain = job(counted, graph, epochs=4), job(never, graph, epochs=4)
    for batch in batches(plain):
        train_step(plain, [batch])
        train_step(recorded, [batch])
    assert len(seen) == 2
    assert same(recorded, plain)


def test_while_a_weight_moves_nothing_is_recorded():
    graph = Graph(GRAPH.nodes, [Edge("labels", "a", cross_entropy, weight=linear),
                                Edge("labels", "b", cross_entropy)])
    made = job(keep, graph)
    for batch in batches(made):
        train_step(made, [batch])
    assert made.recording is not None
    assert made.recording.replay is None


MIXED = Graph({**GRAPH.nodes, "both": Computed(("a", "t"), lambda a, t: (a + t) / 2)},
              [Edge("both", "b", kl, 0.5, 4.0), Edge("labels", "a", cross_entropy)])


@pytest.mark.parametrize("graph", [GRAPH, MIXED], ids=["an edge reads it", "a computed node reads it"])
def test_what_a_cache_knows_is_looked_up_for_each_step(tmp_path, graph):
    made = []
    for name, record in (("a", keep), ("b", never)):
        one = job(record, graph, cache=True, precision="auto")
        one.cache = TeacherCache(tmp_path / name, one.data.train.ids, {"t": Whole(True, False)}, 2**20)
        use.open_draw(one, one.cache)
        for number, batch in enumerate(batches(one)):
            train_step(one, [batch])
            if number == 5:  # in the middle the teacher's passes end and its rows are all there
                use.finish_draw(one, one.cache)
        made.append(one)
    assert made[0].recording.replay is not None
    assert "t" in made[0].recording.held, "it is no part of what is recorded: it writes into the memory of a draw"
    assert same(*made)


def test_where_a_step_cannot_be_recorded_it_is_taken_as_usual_and_that_is_said_once(caplog):
    made = job(never)
    for batch in batches(made):
        train_step(made, [batch])
    assert made.step == 12
    assert [record.getMessage() for record in caplog.records] == [
        "note: steps are not recorded: RuntimeError: nothing can be recorded here"]


def test_a_step_that_draws_random_numbers_is_not_recorded(monkeypatch, caplog):
    made = job(keep)
    monkeypatch.setattr(loop, "drawn", lambda device: True)
    for batch in batches(made):
        train_step(made, [batch])
    assert made.recording is not None
    assert made.recording.replay is None
    assert len(caplog.records) == 1


def test_rates_on_the_device_are_those_of_the_schedule():
    made = job(keep)
    for batch in batches(made):
        train_step(made, [batch])
        (group,) = made.optimizers["a"].param_groups
        assert isinstance(group["lr"], Tensor)
    plain = run(GRAPH, models(norm=False), optimizer=SGD)
    loop.set_modes(plain)
    for batch in batches(plain):
        train_step(plain, [batch])
    torch.testing.assert_close(learned(made), learned(plain))


def test_an_optimizer_that_asks_for_it_is_told_that_it_is_recorded():
    optimizers = [torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5), torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=0.25)]
    make_capturable(optimizers, torch.device("cpu"))
    assert optimizers[0].param_groups[0]["capturable"]
    assert "capturable" not in optimizers[1].param_groups[0]
    assert [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers] == [0.5, 0.25]


class Fake(NetworkStreams):
    """Streams without a GPU: what was read since they began, and whether they have been joined since."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def branch(self, works):
        def noted(node, work, *asked):
            self.seen.append(node)
            return work(*asked)
        return {node: partial(noted, node, work) for node, work in works.items()}

    def join(self) -> None:
        self.seen.append("join")


def test_lanes_are_joined_before_anything_reads_what_the_networks_gave(monkeypatch):
    lanes = Fake()

    def mean(first: Tensor, other: Tensor) -> Tensor:
        lanes.seen.append("computed")
        return (first + other) / 2

    nodes = {**GRAPH.nodes, "both": Computed(("a", "t"), mean)}
    graph = Graph(nodes, [Edge("both", "b", kl, 0.5, 4.0), Edge("labels", "a", cross_entropy)])
    recorded, plain = job(keep, graph), job(never, graph)
    monkeypatch.setattr(loop, "streams_for", lambda run: lanes)
    for batch in batches(plain):
        train_step(plain, [batch])
        lanes.seen.clear()
        train_step(recorded, [batch])
    assert sorted(lanes.seen[:3]) == ["a", "b", "t"]
    assert lanes.seen[3:] == ["join", "computed"]
    assert same(recorded, plain)


NODES = {"t": Frozen(), "a": Trained(), "b": Trained()}


@pytest.mark.parametrize(("graph", "options", "device", "may"), [
    (GRAPH, {}, "cuda", True), (GRAPH, {}, "cpu", False), (GRAPH, {"accumulate": 2}, "cuda", False),
    (Graph(NODES, [Edge("t", "a", kl), Edge("t", "b", kl)], {"switch": Switch("a")}), {}, "cuda", False),
    (Graph(NODES | {"slow": Ema("a")}, [Edge("slow", "a", kl), Edge("t", "b", kl)]), {}, "cuda", False),
    (Graph(NODES, [Edge("t", "a", Memory()), Edge("t", "b", kl)]), {}, "cuda", False),
    (GRAPH, {"cache": True, "cache_top": 2}, "cuda", False),
    (GRAPH, {"optimizer": lambda weights: torch.optim.RMSprop(weights, lr=0.1)}, "cuda", False)],
    ids=["plain", "on a CPU", "micro-batches", "controller", "moving average", "memory", "largest logits", "not fused"])
def test_only_a_step_that_always_does_the_same_is_recorded(graph, options, device, may):
    made = run(graph, models(norm=False), **{"optimizer": SGD} | options)
    made.world = World(torch.device(device))
    assert may_capture(made) is may


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4, "cutmix": 1.0}], ids=["crop", "mixtures"])
def test_batches_that_are_made_together_are_those_made_one_by_one(monkeypatch, options):
    source, plan = data(**options).train, torch.arange(36).split(7) * 3
    alone = [next(iter(source.batches([rows], draw=1, views=("", "x")))) for rows in plan]
    monkeypatch.setattr(memory, "together_on", lambda device: 4)
    for batch, own in zip(source.batches(plan, draw=1, views=("", "x")), alone, strict=True):
        assert every(torch.equal(batch.inputs[view], own.inputs[view]) for view in ("", "x"))
        assert torch.equal(batch.labels, own.labels)
        assert torch.equal(batch.ids, own.ids)
