"""Switchable online distillation: when a teacher waits, for whom, and that then nothing of it moves."""

import math

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
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods import switokd as page
from tutelage.methods.mutual import mutual
from tutelage.methods.switokd import Distances, distances, switokd, too_far_ahead

# By hand: d of AHEAD is 1.0, of LOST 1.2, of NEAR 1.1; G to LOST is 1.14 and above delta, to NEAR 0.1 and below it.
AHEAD, LOST, NEAR = (torch.tensor([p, p]).log() for p in (
    [0.5, 0.01, 0.48, 0.01], [0.4, 0.58, 0.01, 0.01], [0.45, 0.01, 0.53, 0.01]))
RIGHT = torch.tensor([0, 0])


def start(graph: Graph, norm: bool = True, **options) -> Run:
    networks = {node: network(seed, width=4 + seed % 3, norm=norm) for seed, node in enumerate(["t", "u", "a", "b"])}
    return run(graph, {node: net for node, net in networks.items() if node in graph.nodes},
               **{"epochs": 1, "precision": "exact", **options})


def finish(job: Run) -> Run:
    for _ in steps_of(job):
        pass
    return job


def decide(monkeypatch, ahead: bool) -> None:
    monkeypatch.setattr(page, "too_far_ahead", lambda of, only_if_better: torch.tensor(ahead))


def golden() -> Distances:
    return distances(two_rows.rows(two_rows.STUDENT), two_rows.rows(two_rows.TEACHER), two_rows.LABELS)


def test_golden_distances():
    found = golden()
    assert [x.item() for x in found] == pytest.approx(
        [0.7056393331, 1.0793142479, 1.2492876828, 0.3487392234], abs=1e-9)
    assert math.exp(-found.teacher / (found.student + found.teacher)) == pytest.approx(0.5847932662, abs=1e-9)


def test_a_teacher_that_is_farther_from_the_labels_waits_by_the_readme_and_not_by_the_code():
    assert not too_far_ahead(golden())
    assert too_far_ahead(golden(), only_if_better=False)


def test_a_teacher_that_is_nearer_to_the_labels_waits_if_the_gap_is_wide():
    found = distances(LOST, AHEAD, RIGHT)
    assert [x.item() for x in found[:3]] == pytest.approx([1.14, 1.2, 1.0], abs=1e-6)
    assert found.threshold.item() == pytest.approx(1.2 - math.exp(-1 / 2.2), abs=1e-6)
    assert too_far_ahead(found)
    assert not too_far_ahead(distances(NEAR, AHEAD, RIGHT))
    assert not too_far_ahead(distances(AHEAD, LOST, RIGHT)), "a teacher that is behind does not wait"


@pytest.mark.parametrize("classes", [2, 5])
def test_equal_predictions_are_no_reason_to_wait(classes):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = distances(logits, logits, torch.tensor([0, 1, 0, 1]))
    assert found.gap == 0
    assert found.threshold.item() == pytest.approx(found.student.item() * (1 - math.exp(-0.5)))
    assert not too_far_ahead(found)


def test_networks_that_are_right_throughout_and_rows_without_labels_give_numbers():
    sure = torch.eye(3) * 1e4
    for labels in (torch.arange(3), torch.full((3,), -1), torch.zeros(3, 3)):
        found = distances(sure, sure, labels)
        assert every(x.isfinite() for x in found)
        assert not too_far_ahead(found)


def test_rows_without_a_label_do_not_count_and_soft_labels_are_what_they_are():
    student, teacher = two_rows.rows(two_rows.STUDENT), two_rows.rows(two_rows.TEACHER)
    one = distances(student[:1], teacher[:1], torch.tensor([0]))
    assert distances(student, teacher, torch.tensor([0, -1])) == one
    assert distances(student, teacher, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])) == one


def test_the_gap_has_a_temperature_of_its_own():
    student, teacher = two_rows.rows(two_rows.STUDENT), two_rows.rows(two_rows.TEACHER)
    assert distances(student, teacher, two_rows.LABELS, 2.0) == distances(student / 2, teacher / 2, two_rows.LABELS)


def test_a_paused_teacher_keeps_its_bytes_and_its_momentum(monkeypatch):
    job = start(switokd(["t"], ["a"], freeze_statistics=True), epochs=2)
    steps = steps_of(job)
    decide(monkeypatch, ahead=False)
    next(steps)
    before = {name: x.clone() for name, x in capture(job)["t"].items()}
    decide(monkeypatch, ahead=True)
    next(steps)
    next(steps)
    assert every(torch.equal(x, before[name]) for name, x in capture(job)["t"].items())
    decide(monkeypatch, ahead=False)
    next(steps)
    assert every(not torch.equal(x, before[name]) for name, x in capture(job)["t"].items() if name != "1.bias")
    switch = job.graph.controllers["switch"]
    assert (switch.paused.tolist(), switch.batches.item()) == ([[2]], 4)


def test_as_released_the_statistics_of_a_paused_teacher_move_and_its_weights_do_not(monkeypatch):
    decide(monkeypatch, ahead=True)
    job = start(switokd(["t"], ["a"]))
    before = {name: x.clone() for name, x in capture(job)["t"].items()}
    finish(job)
    moved = {name for name, x in capture(job)["t"].items() if not torch.equal(x, before[name])}
    assert moved == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_never_paused_it_is_mutual_learning(monkeypatch):
    decide(monkeypatch, ahead=False)
    one, other = finish(start(switokd(["t"], ["a"], soft=0.7))), finish(start(mutual(["t", "a"], peer=0.7)))
    for node in "ta":
        for name, weight in capture(one)[node].items():
            assert torch.equal(weight, capture(other)[node][name])


def test_always_paused_it_is_distillation_from_a_frozen_teacher(monkeypatch):
    decide(monkeypatch, ahead=True)
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("labels", "a", cross_entropy),
                                                    Edge("t", "a", kl, 0.7, temperature=2.0)])
    one = finish(start(switokd(["t"], ["a"], soft=0.7, temperature=2.0), norm=False))
    other = finish(start(graph, norm=False))
    for name, weight in capture(one)["a"].items():
        torch.testing.assert_close(weight, capture(other)["a"][name], rtol=1e-6, atol=1e-7)


def heard(graph: Graph, outputs: dict[str, Tensor], labels: Tensor) -> set[tuple[str, str]]:
    """(from, to) of the edges that are left, as the controller decides on these outputs."""
    job = start(graph)
    weights = graph.weights()
    job.graph.controllers["switch"].before_losses(job, {**outputs, "labels": labels}, weights)
    return {(edge.teacher, edge.student) for edge in graph.edges if weights[edge.name]}



def test_with_two_students_a_teacher_hears_the_one_that_keeps_up_and_the_labels():
    graph = switokd(["t"], ["a", "b"])
    whole = {(edge.teacher, edge.student) for edge in graph.edges}
    assert heard(graph, {"t": AHEAD, "a": NEAR, "b": LOST}, RIGHT) == whole - {("b", "t")}
    assert heard(graph, {"t": AHEAD, "a": LOST, "b": LOST}, RIGHT) == whole - {("labels", "t"), ("a", "t"), ("b", "t")}
    assert heard(graph, {"t": LOST, "a": LOST, "b": AHEAD}, RIGHT) == whole


def test_with_two_teachers_each_waits_by_its_own_pair():
    graph = switokd(["t", "u"], ["a"])
    whole = {(edge.teacher, edge.student) for edge in graph.edges}
    assert heard(graph, {"t": AHEAD, "u": LOST, "a": LOST}, RIGHT) == whole - {
        ("labels", "t"), ("a", "t"), ("u", "t")}


@pytest.mark.parametrize(("options", "where"), [
    ({"teachers": []}, "teachers"), ({"students": []}, "students"), ({"students": ["t"]}, "teachers"),
    ({"teachers": "t"}, "teachers"), ({"students": ["a", "a"]}, "teachers"),
    ({"gap_temperature": 0.0}, "gap_temperature"), ({"soft": -1.0}, "edge a -> t"),
    ({"temperature": 0.0}, "edge a -> t"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        switokd(**{"teachers": ["t"], "students": ["a"], **options})
    assert caught.value.where == where
