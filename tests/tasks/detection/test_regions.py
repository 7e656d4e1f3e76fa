"""One class of a teacher: the golden values, which places are relevant, and regions beside places."""

import pytest
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.graph.edge import Edge
from tutelage.graph.objective import edge_loss
from tutelage.graph.rows import check_rows
from tutelage.models.dense_boxes import ABSENT, NO_CENTRE, grid_places, pack_places
from tutelage.tasks.detection.regions import Relevant, one_class, region, relevant

LABELS = {"boxes": torch.tensor([[[4.0, 4, 24, 28]]]).double(), "classes": torch.tensor([[1]])}
"""Found by the places 5, 6, 9 and 10 of the grid."""
GRID = grid_places((32, 32), (8, 16)).double()


def said(logits: Tensor) -> Tensor:
    """A detector's output of one image from its logits [P, K]."""
    places = len(logits)
    return pack_places(GRID[:places], torch.ones(1, places, 4).double(), torch.zeros(1, places).double(), logits[None])


def teacher_of(number: int, logit: float, count: int = 3) -> Tensor:
    """Logits [P, K] of a network that knows one class alone, and finds it equally likely everywhere."""
    logits = torch.full((20, count), ABSENT).double()
    logits[:, number] = logit
    return logits


def student(seed: int = 0) -> Tensor:
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(seed)).double()


def test_one_class_has_the_values_of_the_specification():
    logits = torch.tensor([[0.0, 0, 1], [1, -1, -2], [0.5, 0.5, 0.5]]).double()
    teacher = torch.tensor([0.0, 2, 0.5]).double()[:, None].expand(3, 3)
    expected = [0.1201145070, 1.5231883119, 0.0]
    assert one_class(logits, teacher, index=2).tolist() == pytest.approx(expected, abs=1e-10)
    alone = teacher.clone()
    alone[:, :2] = ABSENT
    assert one_class(logits, alone).tolist() == pytest.approx(expected, abs=1e-10)


def test_the_gradient_reaches_the_logits_of_that_class_alone():
    logits = student().requires_grad_()
    one_class(logits, teacher_of(2, 1.0)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, :2] == 0).all()
    assert (logits.grad[:, 2] != 0).all()


def test_of_a_softmax_only_the_share_of_the_class_counts_however_the_rest_is_shared():
    logits, teacher = student(), student(1)
    mass, its = logits.softmax(-1)[:, 1], teacher.softmax(-1)[:, 1]
    by_hand = its * (its / mass).log() + (1 - its) * ((1 - its) / (1 - mass)).log()
    assert torch.allclose(one_class(logits, teacher, index=1, exclusive=True), by_hand, atol=1e-10)
    exchanged = logits[:, [2, 1, 0]]
    assert torch.allclose(one_class(exchanged, teacher, index=1, exclusive=True), by_hand, atol=1e-10)


@pytest.mark.parametrize("rows", [relevant, region(1)], ids=["of the teacher", "by number"])
def test_places_with_that_object_are_relevant_and_those_that_the_teacher_finds_likely(rows):
    teacher, mine = teacher_of(1, -1.0), student()
    teacher[0, 1] = 3.0  # not labelled, and likely
    edge = Edge("t", "a", one_class, rows=rows)
    loss = edge_loss(edge, {"t": said(teacher), "a": said(mine)}, LABELS)
    places = [0, 5, 6, 9, 10]
    assert loss.item() == pytest.approx(one_class(mine, teacher, index=1)[places].mean().item(), abs=1e-12)


def test_objects_of_other_classes_are_not_relevant_and_no_place_at_all_gives_exactly_zero():
    mine = said(student()).requires_grad_()
    loss = edge_loss(Edge("t", "a", one_class, rows=relevant), {"t": said(teacher_of(0, -1.0)), "a": mine}, LABELS)
    loss.backward()
    assert loss.item() == 0
    assert mine.grad is not None
    assert mine.grad.isfinite().all()


def test_a_teacher_of_two_classes_or_of_none_is_refused_before_the_run():
    edge = [Edge("t", "a", one_class, rows=relevant)]
    both = teacher_of(1, 0.0)
    both[:, 0] = 0
    for logits, found in ((both, "2 classes"), (torch.full((20, 3), ABSENT).double(), "0 classes")):
        with pytest.raises(ModelError, match="a teacher of one class is wanted") as refused:
            check_rows(edge, {"t": said(logits), "a": said(student())}, {})
        assert refused.value.found == found
    check_rows([Edge("t", "a", one_class, rows=region(1))], {"t": said(both), "a": said(student())}, {})


def test_a_region_of_a_two_stage_teacher_is_compared_with_the_place_that_is_for_objects_like_it():
    # Two regions: the box of the label, whose centre (14, 16) is nearest to place 5 at (12, 12) of the four of its
    # size, and one that nobody asks about, for padding has no class.
    regions = torch.tensor([[14.0, 16, 20, 24], [0.5, 0.5, 1, 1]]).double()
    logits = torch.tensor([[ABSENT, 0.7, ABSENT], [ABSENT] * 3]).double()
    teacher = pack_places(regions, torch.full((1, 2, 4), 0.5).double(), torch.full((1, 2), NO_CENTRE).double(),
                          logits[None])
    mine = student()
    loss = edge_loss(Edge("t", "a", one_class, rows=relevant), {"t": teacher, "a": said(mine)}, LABELS)
    by_place = {place: one_class(mine[place:place + 1], logits[:1], index=1).item() for place in range(20)}
    assert loss.item() == pytest.approx(by_place[5], abs=1e-12)


def test_rows_of_one_kind_are_equal_and_of_another_class_not():
    assert region(1) == region(1)
    assert region(1) != region(2)
    assert isinstance(relevant, Relevant)
    assert region(1).__name__ == "region(1)"
