"""Detection as a task: methods beside loops by hand, what is refused, and data that are no boxes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.engine.run import Epoch
from tutelage.errors import UsageError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import binary_kl, focal, focal_kd, giou
from tutelage.graph.ends import is_of_batch, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ensemble, Frozen, Trained
from tutelage.methods.class_aware import class_aware
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.models.dense_boxes import grid_places, pack_places
from tutelage.recipes.methods import method_names
from tutelage.tasks.detection.assign import assign_by_centre, centreness
from tutelage.tasks.detection.fusion import fused_boxes, mean_of_places
from tutelage.tasks.detection.task import ANCHOR_DETECTION, DETECTION
from tutelage.tasks.named import TASKS

GRID = grid_places((32, 32), (8, 16)).double()
LABELS = {"boxes": torch.tensor([[[4.0, 4, 24, 28], [0, 0, 0, 0]], [[2, 2, 14, 12], [10, 10, 31, 31]]]).double(),
          "classes": torch.tensor([[1, -1], [0, 2]])}


def said(seed: int) -> Tensor:
    draw = torch.randn(2, len(GRID), 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return pack_places(GRID, draw[..., :4].exp(), draw[..., 4], draw[..., 5:])


ENDS = {"t": said(0), "a": said(1), "b": said(2)}
WANTED = assign_by_centre(GRID.expand(2, -1, -1), LABELS["boxes"], LABELS["classes"], 3)
FOUND = WANTED.classes.flatten() < 3


def from_labels(x: Tensor, by_place: Tensor | float = 1.0) -> Tensor:
    """The plain loss of a detector, by hand; `by_place` weighs classes."""
    rows = x.flatten(0, 1)
    central = F.binary_cross_entropy_with_logits(rows[FOUND, 8], centreness(WANTED.boxes.flatten(0, 1)[FOUND]),
                                                 reduction="sum")
    return ((by_place * focal(rows[:, 9:], WANTED.classes.flatten())).sum()
            + giou(rows[FOUND, 4:8], WANTED.boxes.flatten(0, 1)[FOUND]).sum() + central) / FOUND.sum()


def from_network(x: Tensor, teacher: Tensor, temperature: float, by_place: Tensor | float = 1.0) -> Tensor:
    """What is learned from another detector, by hand."""
    rows, its = x.flatten(0, 1), teacher.flatten(0, 1)
    classes = temperature**2 * by_place * focal_kd(rows[:, 9:] / temperature, its[:, 9:] / temperature)
    return (classes.sum() + giou(rows[FOUND, 4:8], its[FOUND, 4:8]).sum()
            + binary_kl(rows[FOUND, 8], its[FOUND, 8]).sum()) / FOUND.sum()


def certainty(x: Tensor) -> Tensor:
    p = x.flatten(0, 1)[:, 9:].sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(-1)
    return 1 - entropy / math.log(2)


def loss(graph: Graph, *, by=objective.losses) -> float:
    return torch.stack(list(by(graph, ENDS, LABELS, graph.weights(1.0)).values())).sum().item()


@pytest.mark.parametrize("by", [objective.losses, fused_losses.losses], ids=["plain", "fused"])
def test_dual_student_trusts_the_teacher_place_by_place_as_a_loop_by_hand_does(by):
    sure, expected = certainty(ENDS["t"]), torch.zeros(())
    for me, peer in (("a", "b"), ("b", "a")):
        expected = expected + (from_labels(ENDS[me]) + from_network(ENDS[me], ENDS["t"], 2.0, sure)
                               + from_network(ENDS[me], ENDS[peer], 2.0)) / 3
    assert loss(dual_student("t", ["a", "b"], temperature=2.0, task=DETECTION), by=by) == pytest.approx(
        expected.item(), abs=1e-10)


def test_labels_get_what_is_taken_from_the_teacher_place_by_place():
    graph = dual_student("t", ["a", "b"], temperature=1.0, peer=0, label_weighting="1-w", hard=0.5, soft=0.5,
                         task=DETECTION)
    sure = certainty(ENDS["t"])
    expected = torch.zeros(())
    for me in ("a", "b"):
        # Boxes and centres have no certainty: their weight stays `hard`.
        plain = from_labels(ENDS[me]) - from_labels(ENDS[me], 0.0)
        weighed = from_labels(ENDS[me], 0.5 + 0.5 * (1 - sure)) - from_labels(ENDS[me], 0.0)
        rest = from_labels(ENDS[me], 0.0)
        assert plain > 0
        expected = expected + weighed + 0.5 * rest + 0.5 * from_network(ENDS[me], ENDS["t"], 1.0, sure)
    assert loss(graph) == pytest.approx(expected.item(), abs=1e-10)


def test_peers_learn_from_each_other_as_a_loop_by_hand_has_it():
    expected = sum(from_labels(ENDS[me]) + from_network(ENDS[me], ENDS[peer], 1.0)
                   for me, peer in (("a", "b"), ("b", "a")))
    assert loss(mutual(["a", "b"], task=DETECTION)) == pytest.approx(float(expected), abs=1e-10)


def test_an_online_teacher_learns_as_if_it_had_no_students():
    alone = {"t": said(0).requires_grad_()}
    sum(objective.losses(Graph({"t": Trained()}, DETECTION.from_labels("t")), alone, LABELS).values()).backward()
    for graph in (peer_cohort("t", ["a", "b"], task=DETECTION), distill("t", "a", online=True, task=DETECTION)):
        ends = {end: value.clone().requires_grad_() for end, value in ENDS.items()}
        sum(objective.losses(graph, ends, LABELS, graph.weights(1.0)).values()).backward()
        assert isinstance(graph.nodes["t"], Trained)
        assert alone["t"].grad is not None
        assert ends["t"].grad is not None
        assert torch.equal(alone["t"].grad, ends["t"].grad)
    assert isinstance(distill("t", "a", task=DETECTION).nodes["t"], Frozen)


def test_a_cohort_of_one_has_no_peers_and_any_cohort_two_ensembles():
    one = peer_cohort("t", ["a"], task=DETECTION)
    assert {(edge.teacher.partition(".")[0], edge.student) for edge in one.edges} == {
        ("labels", "t"), ("labels", "a"), ("t", "a")}
    two = peer_cohort("t", ["a", "b"], task=DETECTION)
    assert two.nodes["ensemble"] == Ensemble(["a", "b"], mean_of_places)
    assert two.nodes["ensemble_fused"] == Ensemble(["a", "b"], fused_boxes)


def test_a_class_aware_loss_of_weight_nothing_is_the_plain_loss_to_the_last_bit():
    plain = objective.losses(Graph({"a": Trained()}, DETECTION.from_labels("a")), ENDS, LABELS)
    graph = class_aware("t", "a", weight=0.0, task=DETECTION)
    found = objective.losses(graph, ENDS, LABELS)
    assert {name: value.item() for name, value in found.items()} == {name: x.item() for name, x in plain.items()}
    assert "t" not in {parse_end(end).node for end in graph.ends(graph.weights()) if not is_of_batch(end)}


@pytest.mark.parametrize(("option", "value"), [("uncertainty", "correct"), ("label_weighting", "true_class"),
                                               ("target", "mixture")])
def test_what_needs_one_right_class_is_refused(option, value):
    with pytest.raises(UsageError, match="needs one choice among several") as refused:
        dual_student("t", ["a", "b"], task=DETECTION, **{option: value})
    assert refused.value.where == option


def test_methods_that_need_a_softmax_are_not_for_detection():
    assert TASKS["detection"] is DETECTION
    names = set(method_names(DETECTION))
    assert names.isdisjoint({"abkd", "pld", "dynamic_rectification", "akd", "channel_wise", "alm", "peeraid"})
    assert {"scratch", "distill", "mutual", "peer_cohort", "dual_student", "learning_styles",
            "class_aware"} <= names == set(method_names(ANCHOR_DETECTION))


def test_the_line_of_an_epoch_tells_the_losses_of_many_edges_by_the_nodes_that_they_are_between():
    graph = mutual(["a", "b"], task=DETECTION)
    found = {edge.name: 0.25 * (number + 1) for number, edge in enumerate(graph.edges)}
    line = str(Epoch(1, 10, found, {"a": 0.5}, 1.0, 100.0, DETECTION.scores[0]))
    by_hand = {f"{teacher}->{me}": sum(value for name, value in found.items()
                                       if name.startswith((f"{teacher}.", f"{teacher}->")) and f"->{me}:" in name)
               for teacher, me in (("labels", "a"), ("labels", "b"), ("b", "a"), ("a", "b"))}
    assert line.split("  |  ")[1] == "  ".join(f"{pair} {value:.4f}" for pair, value in by_hand.items())
    few = {edge.name: 0.25 for edge in graph.edges[:3]}
    assert str(Epoch(1, 10, few, {}, 1.0, 100.0)).count("[") == 3
