"""A cohort that meets every k steps: what is old, and that nothing else is different."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from every import every
from toys import network, run
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture
from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema
from tutelage.methods.cooperative import cooperative
from tutelage.methods.peer_cohort import peer_cohort


def weights(job: Run, node: str) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in job.models[node].parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return every(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def start(graph: Graph, norm: bool = True, **options) -> Run:
    networks = {node: network(seed, width=4 + seed, norm=norm) for seed, node in enumerate("tab")}
    return run(graph, {node: net for node, net in networks.items() if node in graph.nodes}, **options)


def test_without_delay_it_is_the_cohort():
    options = {"soft": 0.7, "peer": 0.4, "temperature": 3.0, "peer_temperature": 2.0, "teacher_warmup": 0.3}
    assert cooperative("t", ["a", "b"], every=1, **options).nodes == peer_cohort("t", ["a", "b"]).nodes
    assert str(cooperative("t", ["a", "b"], every=1, **options)) == str(peer_cohort("t", ["a", "b"], **options))


def test_a_copy_that_is_made_after_every_step_teaches_what_the_network_itself_would():
    """So what `every` counts is the delay, and the copies change nothing else. (Dropout draws by node: none here.)"""
    graph = cooperative("t", ["a", "b"], every=2, teacher_every=2)
    prompt = {name: replace(kind, every=1) if isinstance(kind, Ema) else kind for name, kind in graph.nodes.items()}
    graphs = Graph(prompt, graph.edges), peer_cohort("t", ["a", "b"])
    runs = [start(made, norm=False, precision="exact") for made in graphs]
    for job in runs:
        for _ in steps_of(job):
            pass
    for node in "tab":
        assert same(weights(runs[0], node), weights(runs[1], node)), node


def test_a_peer_is_heard_as_it_was_when_they_last_met():
    job = start(cooperative("t", ["a", "b"], every=3))
    expected, past = weights(job, "b"), []
    for _ in steps_of(job):
        if job.step % 3 == 0:
            expected = weights(job, "b")
        past.append(same(weights(job, "b_stale"), weights(job, "b")))
        assert same(weights(job, "b_stale"), expected)
    assert past == [False, False, True] * 3
    assert "t_stale" not in job.models


def test_the_teacher_may_be_heard_late_too():
    graph = cooperative("t", ["a", "b"], every=1, teacher_every=4)
    assert {name: kind for name, kind in graph.nodes.items() if isinstance(kind, Ema)} == {"t_stale": Ema("t", 0.0, 4)}
    assert {(e.teacher, e.student) for e in graph.edges if e.teacher != "labels"} == {
        ("t_stale", "a"), ("t_stale", "b"), ("a", "b"), ("b", "a")}


def test_a_copy_gets_no_gradient_and_the_teacher_hears_labels_alone():
    graph = cooperative("t", ["a", "b"], every=3, teacher_every=2)
    job = start(graph)
    next(steps_of(job))
    for node in ("a_stale", "b_stale", "t_stale"):
        assert every(parameter.grad is None for parameter in job.models[node].parameters())
    assert [edge.teacher for edge in graph.edges if edge.student == "t"] == ["labels"]


@pytest.mark.parametrize("lost", ["a_stale", "b_stale", "t_stale"])
def test_a_copy_is_part_of_the_state(lost):
    assert lost in capture(start(cooperative("t", ["a", "b"], teacher_every=2)))


def test_one_student_has_no_peer_to_be_late():
    assert str(cooperative("t", ["a"], every=5)) == str(peer_cohort("t", ["a"]))


@pytest.mark.parametrize(("options", "where"), [
    ({"every": 0}, "every"), ({"teacher_every": -1}, "teacher_every"), ({"students": []}, "students"),
    ({"students": ["a", "a_stale"]}, "students"), ({"peer": -1.0}, "edge b -> a"), ({"soft": -1.0}, "soft"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        cooperative("t", options.pop("students", ["a", "b"]), **options)
    assert caught.value.where == where
