"""One checkpoint of a teacher after another: whose time it is, and what that comes to in the limits."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor

import two_rows
from every import every
from toys import network, run
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture
from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.graph.objective import losses
from tutelage.graph.schedules import constant
from tutelage.methods.distill import distill
from tutelage.methods.scratch import scratch
from tutelage.methods.snapshot_teacher import snapshot_teacher

THREE = ["early", "middle", "late"]


def heard(graph: Graph, progress: float) -> list[str]:
    return [edge.teacher for edge in graph.live(graph.weights(progress))]


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def test_each_teacher_is_heard_in_its_time_and_labels_not_at_all():
    graph = snapshot_teacher(THREE, "s")
    found = [heard(graph, step / 9) for step in range(10)]
    assert found == [["early"]] * 3 + [["middle"]] * 3 + [["late"]] * 4


@pytest.mark.parametrize("last", [0.6, 1.0])
def test_times_may_be_given_and_the_last_teacher_is_heard_until_the_end(last):
    graph = snapshot_teacher(THREE, "s", times=[0.1, 0.5, last], hard=0.2)
    found = [heard(graph, p)[1:] for p in (0.0, 0.0999, 0.1, 0.4999, 0.5, 0.7, 1.0)]
    assert found == [["early"], ["early"], ["middle"], ["middle"], ["late"], ["late"], ["late"]]


def test_golden_losses():
    given = {"early": two_rows.rows(two_rows.TEACHER), "late": two_rows.rows(two_rows.STUDENT),
             "s": two_rows.rows(two_rows.STUDENT)}
    graph = snapshot_teacher(["early", "late"], "s", soft=0.5, hard=0.3)
    found = losses(graph, given, two_rows.LABELS, graph.weights(0.2))
    assert {name: term.item() for name, term in found.items()} == pytest.approx({
        "labels->s:cross_entropy": 0.3 * two_rows.CE_STUDENT, "early->s:kl/4": 0.5 * two_rows.KL_TO_STUDENT_4})
    sum(found.values()).backward()
    assert given["s"].grad.any()
    assert given["early"].grad is None


def test_one_checkpoint_is_plain_distillation():
    networks = [{"t": network(1), "s": network(2)} for _ in range(2)]
    one = finish(run(snapshot_teacher(["t"], "s", temperature=3.0), networks[0], epochs=1, precision="exact"))
    other = finish(run(distill("t", "s", temperature=3.0, hard=0.0, soft=1.0), networks[1], epochs=1,
                       precision="exact"))
    for name, weight in capture(one)["s"].items():
        assert torch.equal(weight, capture(other)["s"][name])


def test_a_checkpoint_of_every_step_is_a_teacher_that_learns_beside_the_student():
    def networks(**more: torch.nn.Module) -> dict[str, torch.nn.Module]:
        return {"s": network(2, norm=False), **more}

    teacher = run(scratch("t"), {"t": network(1, norm=False)}, epochs=1, precision="exact")
    past = [deepcopy(teacher.models["t"])]
    for _ in steps_of(teacher):
        past.append(deepcopy(teacher.models["t"]))
    names = [f"t{step}" for step in range(teacher.steps)]
    late = finish(run(snapshot_teacher(names, "s"), networks(**dict(zip(names, past[:-1], strict=True))), epochs=1,
                      precision="exact"))
    beside = Graph({"t": Trained(), "s": Trained()},
                   [Edge("labels", "t", cross_entropy), Edge("t", "s", kl, temperature=4.0)])
    online = finish(run(beside, networks(t=network(1, norm=False)), epochs=1, precision="exact"))
    for name, weight in capture(late)["s"].items():
        torch.testing.assert_close(weight, capture(online)["s"][name], rtol=1e-6, atol=1e-7)


def test_at_a_constant_rate_a_shorter_run_is_a_checkpoint_of_a_longer_one():
    """So the recipe's teachers are states of one training."""
    def weights(epochs: int, stop: int) -> dict[str, Tensor]:
        job = run(scratch("t"), {"t": network(1)}, epochs=epochs, rate=constant, precision="exact")
        for _ in steps_of(job):
            if job.step == stop:
                break
        return {name: tensor.clone() for name, tensor in capture(job)["t"].items()}

    short, long = weights(2, stop=6), weights(3, stop=6)
    assert every(torch.equal(short[name], long[name]) for name in short)


@pytest.mark.parametrize(("options", "where"), [
    ({"teachers": []}, "teachers"), ({"teachers": "tu"}, "teachers"), ({"teachers": ["t", "t"]}, "teachers"),
    ({"teachers": ["t", "s"]}, "teachers"), ({"times": [0.5]}, "times"), ({"times": [0.5, 0.5]}, "times"),
    ({"times": [0.0, 0.5]}, "times"), ({"times": [0.5, 1.1]}, "times"), ({"times": [float("nan"), 1.0]}, "times"),
    ({"soft": -1.0}, "soft"), ({"hard": -1.0}, "edge labels -> s"), ({"temperature": 0.0}, "edge t -> s"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    make = partial(snapshot_teacher, options.pop("teachers", ["t", "u"]), "s")
    with pytest.raises(UsageError) as caught:
        make(**options)
    assert caught.value.where == where
