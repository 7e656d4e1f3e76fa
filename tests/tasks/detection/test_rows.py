"""The rows of detectors: golden losses, counts and totals, and what is refused."""

import pytest
import torch
from torch import Tensor

from every import every
from tutelage.errors import ModelError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import absolute, binary_cross_entropy, binary_kl, focal, focal_kd, giou
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import edge_loss
from tutelage.graph.rows import check_rows, row_sets
from tutelage.graph.sample_weights import binary_entropy
from tutelage.models.dense_boxes import grid_places, pack_places
from tutelage.tasks.detection.rows import anchor_classes, boxes, centres, classes
from tutelage.types import label_ends

SIZE, STRIDES = (32, 32), (8, 16)
LABELS = {"boxes": torch.tensor([[[4.0, 4, 24, 28], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]]).double(),
          "classes": torch.tensor([[1, -1], [-1, -1]])}
NONE = {"boxes": torch.zeros(2, 2, 4).double(), "classes": torch.full((2, 2), -1)}
LEARN = [Edge("labels.classes", "a", focal, rows=classes), Edge("labels.boxes", "a", giou, rows=boxes),
         Edge("labels.centres", "a", binary_cross_entropy, rows=centres)]
IMITATE = [Edge("t", "a", focal_kd, rows=classes), Edge("t", "a", giou, rows=boxes),
           Edge("t", "a", binary_kl, rows=centres)]
each_loss = pytest.mark.parametrize("losses", [objective.losses, fused_losses.losses], ids=["plain", "fused"])


def said(seed: int, strides: tuple[int, ...] = STRIDES, number: int = 2, central: bool = True) -> Tensor:
    """What a detector may say of two images."""
    generator = torch.Generator().manual_seed(seed)
    places = grid_places(SIZE, strides).double()
    draw = torch.randn(2, len(places), 5 + number, generator=generator, dtype=torch.float64)
    return pack_places(places, draw[..., :4].exp(), draw[..., 4] if central else None, draw[..., 5:])


def test_binary_losses_have_the_values_of_the_specification():
    student, teacher = (torch.tensor(rows).double()[:, None] for rows in ([0.5, -1, 2], [1.0, -2, 2]))
    assert focal(student, torch.tensor([0, 1, 0])).tolist() == pytest.approx(
        [0.0168933701, 0.0169935431, 0.0004508911], abs=1e-8)
    assert focal_kd(student, teacher).tolist() == pytest.approx([0.0071770877, 0.0096965564, 0], abs=1e-8)
    assert binary_kl(student, teacher).tolist() == pytest.approx([0.0263445860, 0.0671307545, 0], abs=1e-8)


def test_the_overlap_of_boxes_has_the_values_of_the_specification():
    first, second = (torch.tensor([row]).double() for row in ([1, 2, 1, 0.5], [2.0, 2, 1, 1]))
    assert giou(first, second).item() == pytest.approx(0.4444444506, abs=1e-8)
    assert 0 <= giou(torch.ones(1, 4).double(), torch.ones(1, 4).double()).item() < 1e-7
    assert absolute(first, second).item() == pytest.approx(1.5)


def test_certainty_of_yes_and_no_is_that_of_two_logits():
    z = torch.tensor([[0.3], [-4.0], [0.0]]).double()
    p = z.sigmoid()
    by_hand = 1 + (p * p.log2() + (1 - p) * (1 - p).log2())
    assert torch.allclose(binary_entropy(None, z), by_hand[:, 0], atol=1e-12)
    assert torch.allclose(binary_entropy(None, torch.cat([z, z.flip(0)], 1)), (by_hand + by_hand.flip(0))[:, 0] / 2)


@each_loss
def test_every_loss_is_a_sum_over_places_divided_by_how_many_are_to_find_something(losses):
    a, t = said(0), said(1)
    graph = Graph({"t": Frozen(), "a": Trained()}, [*LEARN, *IMITATE])
    found = {name: value.item() for name, value in losses(graph, {"a": a, "t": t}, LABELS).items()}
    positive, (mine, its) = [5, 6, 9, 10], (a[0], t[0])
    target = torch.full((2, 20), 2)
    target[0, positive] = 1
    sums = [focal(a[..., 9:].flatten(0, 1), target.flatten()).sum(),
            giou(mine[positive, 4:8], torch.tensor([[1.0, 1, 1.5, 2], [2, 1, 0.5, 2], [1, 2, 1.5, 1],
                                                    [2, 2, 0.5, 1]]).double()).sum(),
            torch.nn.functional.binary_cross_entropy_with_logits(
                mine[positive, 8], torch.tensor([1 / 3, 1 / 8] * 2, dtype=torch.float64).sqrt(), reduction="sum"),
            focal_kd(a[..., 9:].flatten(0, 1), t[..., 9:].flatten(0, 1)).sum(),
            giou(mine[positive, 4:8], its[positive, 4:8]).sum(), binary_kl(mine[positive, 8], its[positive, 8]).sum()]
    assert list(found.values()) == pytest.approx([value.item() / 4 for value in sums], abs=1e-10)


@each_loss
def test_a_batch_without_objects_has_finite_losses_and_boxes_cost_exactly_nothing(losses):
    a = said(0).requires_grad_()
    graph = Graph({"t": Frozen(), "a": Trained()}, [*LEARN, *IMITATE])
    found = losses(graph, {"a": a, "t": said(1)}, NONE)
    assert [found[edge.name].item() for edge in (LEARN[1], LEARN[2], IMITATE[1], IMITATE[2])] == [0, 0, 0, 0]
    torch.stack(list(found.values())).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert (a.grad[..., :9] == 0).all()
    assert (a.grad[..., 9:] != 0).any()


def test_nothing_is_learned_of_how_central_a_place_is_where_a_network_does_not_say():
    graph = Graph({"t": Frozen(), "a": Trained()}, [LEARN[2], IMITATE[2]])
    silent, speaking = said(0, central=False), said(1)
    for student, teacher in ((silent, speaking), (speaking, silent)):
        found = objective.losses(graph, {"a": student, "t": teacher}, LABELS)
        assert found[IMITATE[2].name].item() == 0
    assert objective.losses(graph, {"a": silent, "t": silent}, LABELS)[LEARN[2].name].item() == 0


def test_an_anchor_that_covers_a_little_less_than_half_of_an_object_learns_nothing_from_the_label():
    # Of 9 x 16 = 144 pixels the anchor 16 covers all, with 256 of its own, and 0 and 4 cover their 64.
    labels = {"boxes": torch.tensor([[[0.0, 0, 9, 16]]] * 2).double(), "classes": torch.tensor([[1]] * 2)}
    a = said(0).requires_grad_()
    edge = Edge("labels.classes", "a", focal, rows=anchor_classes)
    rows = row_sets([edge], {"a": a}, labels)[anchor_classes]
    wanted = label_ends(rows.labels)["labels.classes"].view(2, 20)[0].tolist()
    assert {place for place, label in enumerate(wanted) if label == 1} == {16}
    assert {place for place, label in enumerate(wanted) if label == -1} == {0, 4}
    edge_loss(edge, {"a": a}, labels).backward()
    assert a.grad is not None
    assert (a.grad[0, [0, 4]] == 0).all()
    assert (a.grad[0, [1, 16], 9:] != 0).all()


def test_an_image_of_which_nothing_is_known_learns_nothing_from_labels_and_all_from_another_network():
    unknown = {"boxes": LABELS["boxes"], "classes": torch.tensor([[1, -1], [-2, -2]])}
    graph = Graph({"t": Frozen(), "a": Trained()}, [*LEARN, *IMITATE])
    a = said(0).requires_grad_()
    found = objective.losses(graph, {"a": a, "t": said(1)}, unknown)
    alone = objective.losses(graph, {"a": a[:1], "t": said(1)[:1]}, {key: x[:1] for key, x in unknown.items()})
    for edge in (*LEARN, IMITATE[1], IMITATE[2]):
        assert found[edge.name].item() == pytest.approx(alone[edge.name].item(), abs=1e-12)
    assert found[IMITATE[0].name] > alone[IMITATE[0].name]
    found[LEARN[0].name].backward()
    assert a.grad is not None
    assert (a.grad[1] == 0).all()


def test_networks_of_unlike_grids_are_refused_and_both_grids_named():
    edge = [Edge("t", "a", focal_kd, rows=classes)]
    with pytest.raises(ModelError) as refused:
        row_sets(edge, {"t": said(0, (16, 32)), "a": said(1)}, LABELS)
    assert refused.value.found is not None
    assert every(text in refused.value.found for text in ("t: 5 places of sizes 16, 32", "a: 20 places of sizes 8, 16"))
    moved = said(1)
    moved[..., :2] -= 4  # as many places, elsewhere
    with pytest.raises(ModelError, match="unlike grids"):
        check_rows(edge, {"t": said(0), "a": moved}, {})


@pytest.mark.parametrize(("ends", "labels", "words"), [
    ({"a": torch.zeros(2, 3)}, LABELS, "says nothing of places"),
    ({"a": said(0)}, torch.zeros(2), "labels that are no boxes"),
    ({"a": said(0), "t": said(1, number=3)}, LABELS, "unlike numbers of classes")])
def test_what_is_no_detector_or_no_box_is_refused_in_words(ends, labels, words):
    edges = [Edge("t" if "t" in ends else "labels.classes", "a", focal_kd if "t" in ends else focal, rows=classes)]
    with pytest.raises(ModelError, match=words):
        row_sets(edges, ends, labels)
