"""A cohort of peers and a teacher that learns beside them."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import two_rows
from every import every
from toys import models, run
from tutelage.engine.loop import steps_of
from tutelage.engine.state import capture
from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen
from tutelage.graph.objective import forward, losses
from tutelage.methods.distill import distill
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.methods.scratch import scratch

LABELS = torch.tensor([0, 3, 1, 2])


def outputs(*nodes: str, classes: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {node: torch.randn(4, classes, generator=generator, dtype=torch.float64).requires_grad_() for node in nodes}


def terms(graph: Graph, given: dict[str, Tensor], labels: Tensor = LABELS, progress: float = 1.0) -> dict[str, Tensor]:
    return losses(graph, given, labels, graph.weights(progress))


def values(graph: Graph, given: dict[str, Tensor], labels: Tensor = LABELS, progress: float = 1.0) -> dict[str, float]:
    return {name: term.item() for name, term in terms(graph, given, labels, progress).items()}


def test_golden_losses():
    given = {"t": two_rows.rows(two_rows.TEACHER), "a": two_rows.rows(two_rows.STUDENT),
             "b": two_rows.rows(two_rows.TEACHER)}
    found = values(peer_cohort("t", ["a", "b"], temperature=4.0, soft=0.5, peer=0.3), given, two_rows.LABELS)
    assert found == pytest.approx({
        "labels->t:cross_entropy": F.cross_entropy(given["t"], two_rows.LABELS).item(),
        "labels->a:cross_entropy": two_rows.CE_STUDENT,
        "labels->b:cross_entropy": F.cross_entropy(given["t"], two_rows.LABELS).item(),
        "t->a:kl/4": 0.5 * two_rows.KL_TO_STUDENT_4, "t->b:kl/4": 0.0,
        "b->a:kl": 0.3 * two_rows.KL_TO_STUDENT, "a->b:kl": 0.3 * two_rows.KL_TO_TEACHER}, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_of_the_other_students_has_its_share(count):
    students = [f"s{k}" for k in range(count)]
    graph = peer_cohort("t", students, peer=0.6)
    shares = {(e.teacher, e.student): e.weight for e in graph.edges if e.teacher in students}
    assert shares == {pair: pytest.approx(0.6 / (count - 1)) for pair in permutations(students, 2)}


def test_without_peers_it_is_online_distillation_of_each_student():
    given = outputs("t", "a", "b")
    apart = {"labels->t:cross_entropy": F.cross_entropy(given["t"], LABELS).item()}
    for student in "ab":
        apart |= values(distill("t", student, temperature=3.0, hard=1.0, soft=0.7), given)
    assert values(peer_cohort("t", ["a", "b"], temperature=3.0, soft=0.7, peer=0.0), given) == apart


def test_without_the_teachers_voice_it_is_mutual_learning():
    given = outputs("t", "a", "b", "c")
    found = values(peer_cohort("t", ["a", "b", "c"], soft=0.0, peer=0.9), given)
    assert found.pop("labels->t:cross_entropy")
    assert found == values(mutual(["a", "b", "c"], peer=0.9), given)


def test_without_either_everybody_learns_alone():
    graph = peer_cohort("t", ["a", "b"], soft=0.0, peer=0.0)
    assert [(edge.teacher, edge.student) for edge in graph.live(graph.weights(1.0))] == [
        ("labels", "t"), ("labels", "a"), ("labels", "b")]


@pytest.mark.parametrize("classes", [2, 5])
def test_one_student_has_no_peers_and_two_classes_are_enough(classes):
    given = outputs("t", "a", classes=classes)
    found = values(peer_cohort("t", ["a"]), given, LABELS % classes)
    assert sorted(found) == ["labels->a:cross_entropy", "labels->t:cross_entropy", "t->a:kl/2"]
    assert every(0 < value < 100 for value in found.values())


def test_the_order_of_the_students_changes_nothing():
    given = outputs("t", "a", "b", "c")
    orders = [values(peer_cohort("t", order), given) for order in permutations(["a", "b", "c"])]
    assert every(found == orders[0] for found in orders)


def test_the_teachers_voice_grows_from_nothing():
    graph = peer_cohort("t", ["a", "b"], soft=0.8, teacher_warmup=0.5)
    assert [graph.weights(p)["t->a:kl/2"] for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert peer_cohort("t", ["a"], teacher_warmup=0.0).weights()["t->a:kl/2"] == 1.0


def test_the_loss_of_a_student_pulls_only_that_student_and_the_teacher_hears_labels_alone():
    given = outputs("t", "a", "b")
    found = terms(peer_cohort("t", ["a", "b"]), given)
    sum(term for name, term in found.items() if "->a:" in name).backward(retain_graph=True)
    assert given["a"].grad.any()
    assert given["b"].grad is None
    assert given["t"].grad is None
    sum(found.values()).backward()
    torch.testing.assert_close(given["t"].grad, (given["t"].softmax(-1) - F.one_hot(LABELS, 5)) / 4)


def test_the_ensemble_is_the_mean_probability_and_on_every_row_at_least_as_good_as_its_members_are_on_average():
    given = outputs("t", "a", "b", "c")
    graph = peer_cohort("t", ["a", "b", "c"])
    ensemble = forward(graph, {}, torch.zeros(0), ["ensemble"], given)["ensemble"]
    torch.testing.assert_close(ensemble.exp(), sum(given[s].softmax(-1) for s in "abc") / 3)
    members = torch.stack([F.cross_entropy(given[s], LABELS, reduction="none") for s in "abc"]).mean(0)
    assert (F.cross_entropy(ensemble, LABELS, reduction="none") <= members).all()


def test_the_teacher_learns_to_the_bit_what_it_learns_without_students():
    found = []
    for graph in (peer_cohort("t", ["a", "b"]), scratch("t")):
        networks = {node: net for node, net in models().items() if node in graph.nodes}
        job = run(graph, networks, epochs=2, precision="exact")
        for _ in steps_of(job):
            pass
        found.append(capture(job)["t"])
    assert found[0].keys() == found[1].keys()
    assert every(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_frozen_teacher_in_its_place_says_the_same():
    """The gradient stops at a teacher that learns as it does at one that does not."""
    given, graph = outputs("t", "a", "b"), peer_cohort("t", ["a", "b"])
    frozen = Graph({**graph.nodes, "t": Frozen()}, [edge for edge in graph.edges if edge.student != "t"])
    for term in (terms(graph, given)["t->a:kl/2"], terms(frozen, given)["t->a:kl/2"]):
        given["a"].grad = None
        term.backward()
        torch.testing.assert_close(given["a"].grad, 2 / 4 * ((given["a"] / 2).softmax(-1)
                                                             - (given["t"] / 2).softmax(-1)))


@pytest.mark.parametrize(("options", "where"), [
    ({"students": []}, "students"), ({"students": "ab"}, "students"), ({"students": ["a", "a"]}, "students"),
    ({"students": ["a", "ensemble"]}, "students"), ({"students": ["a", "t"]}, "teacher"),
    ({"soft": -1.0}, "soft"), ({"soft": float("nan")}, "soft"), ({"teacher_warmup": 1.5}, "teacher_warmup"),
    ({"temperature": 0.0}, "edge t -> a"), ({"peer_temperature": -1.0}, "edge b -> a"), ({"peer": -1.0}, "edge b -> a"),
])
def test_an_option_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        peer_cohort("t", options.pop("students", ["a", "b"]), **options)
    assert caught.value.where == where
