"""Boxes of a packed tensor: by hand, and against a plain loop and torchvision's own FCOS."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from every import every
from tutelage.models.dense_boxes import ABSENT, NO_CENTRE, boxes_of, grid_places, pack_places, scores_of, unpack_places
from tutelage.tasks.detection import predicted
from tutelage.tasks.detection.predicted import detections_of, scored_boxes

SIZE = (40, 56)


def random_packed(seed: int, batch: int = 3, classes: int = 4, central: bool = True) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    places = grid_places(SIZE, (4, 8))
    count = len(places)
    return pack_places(places, torch.rand(batch, count, 4, generator=g) * 3,
                torch.randn(batch, count, generator=g) if central else None,
                torch.randn(batch, count, classes, generator=g) * 2 - 1)


def by_loop(packed: Tensor, size: tuple[int, int]) -> list[list[tuple[float, ...]]]:
    """The same rule, one candidate after the other."""
    images = []
    for image in packed:
        parts = unpack_places(image)
        boxes, scores = boxes_of(parts.places, parts.distances), scores_of(parts)
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        said = [(float(scores[p, k]), k, p) for k in range(scores.shape[1]) for p in range(len(scores))
                if scores[p, k] > 0.05 and boxes[p, 2] > boxes[p, 0] and boxes[p, 3] > boxes[p, 1]]
        said = sorted(said, key=lambda one: -one[0])[:1000]
        kept: list[tuple[float, int, int]] = []
        for k in range(scores.shape[1]):
            own = [one for one in said if one[1] == k]
            if own:
                left = nms(boxes[[p for _, _, p in own]], torch.tensor([score for score, _, _ in own]), 0.6)
                kept += [own[i] for i in left.tolist()]
        kept = sorted(kept, key=lambda one: -one[0])[:100]
        images.append([(*boxes[p].tolist(), score, float(k)) for score, k, p in kept])
    return images


@pytest.mark.parametrize("central", [True, False])
def test_boxes_are_those_of_a_loop_over_candidates(central):
    packed = random_packed(0, central=central)
    found = detections_of(packed, SIZE)
    assert found.shape == (3, 100, 6)
    for image, expected in zip(found, by_loop(packed, SIZE), strict=True):
        assert len(expected) == int((image[:, 5] >= 0).sum())
        torch.testing.assert_close(image[: len(expected)], torch.tensor(expected))


def test_few_boxes_are_filled_up_and_none_are_all_filling():
    places = torch.tensor([[8.0, 8, 8, 8], [24, 8, 8, 8]])
    logits = torch.tensor([[[3.0, ABSENT], [ABSENT, 2.0]], [[-9.0, -9], [-9, -9]]])
    found = detections_of(pack_places(places, torch.full((2, 2, 4), 0.5), None, logits), (16, 32))
    torch.testing.assert_close(found[0, :2], torch.tensor([[4.0, 4, 12, 12, torch.tensor(3.0).sigmoid(), 0],
                                                           [20.0, 4, 28, 12, torch.tensor(2.0).sigmoid(), 1]]))
    filling = torch.tensor([0.0, 0, 0, 0, 0, -1])
    assert torch.equal(found[0, 2:], filling.expand(98, 6))
    assert torch.equal(found[1], filling.expand(100, 6))


def test_boxes_are_cut_at_the_image_and_what_lies_outside_is_none():
    places = torch.tensor([[4.0, 4, 8, 8], [44, 4, 8, 8], [20, 4, 8, 8]])
    distances = torch.tensor([[[1.0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5], [0, 0, -0.5, 1]]])  # beside it, and inside out
    boxes, scores = scored_boxes(pack_places(places, distances, None, torch.full((1, 3, 1), 2.0)), (10, 40))
    assert boxes[0, 0].tolist() == [0, 0, 12, 10]
    assert (scores[0, 0] > 0).tolist() == [True, False, False]
    assert int((detections_of(pack_places(places, distances, None, torch.full((1, 3, 1), 2.0)), (10, 40))[..., 5] >= 0)
               .sum()) == 1


def test_two_classes_at_one_place_do_not_suppress_each_other_but_two_of_one_class_do():
    places = torch.tensor([[16.0, 16, 8, 8], [17.0, 16, 8, 8]])
    packed = pack_places(places, torch.ones(1, 2, 4), None, torch.tensor([[[3.0, 1.0], [2.0, ABSENT]]]))
    found = detections_of(packed, (32, 32))[0]
    assert found[found[:, 5] >= 0][:, 5].tolist() == [0, 1]
    assert found[0, :4].tolist() == [8, 8, 24, 24]


def test_the_best_candidates_are_looked_at_and_no_more(monkeypatch):
    packed = random_packed(1)
    monkeypatch.setattr(predicted, "MOST_CANDIDATES", 5)
    few = detections_of(packed, SIZE)
    assert every(int((image[:, 5] >= 0).sum()) <= 5 for image in few)
    best = scores_of(unpack_places(packed)).flatten(1).max(1).values
    torch.testing.assert_close(few[:, 0, 4], best)


def test_scores_that_are_alike_keep_the_order_of_classes_and_places():
    places = torch.tensor([[x, 8.0, 8, 8] for x in (8.0, 40.0, 24.0)])
    found = detections_of(pack_places(places, torch.full((1, 3, 4), 0.5), None, torch.zeros(1, 3, 2)), (16, 48))[0, :6]
    assert found[:, 5].tolist() == [0, 0, 0, 1, 1, 1]
    assert found[:, 0].tolist() == [4, 36, 20] * 2


def test_half_numbers_are_read_as_wide_ones():
    packed = random_packed(2)
    assert detections_of(packed.bfloat16(), SIZE).dtype == torch.float32
    assert torch.equal(packed[..., 8:9] >= NO_CENTRE, torch.zeros_like(packed[..., 8:9], dtype=torch.bool))


def test_numbers_that_are_none_are_no_boxes():
    packed = random_packed(3)
    packed[0, :, 9:] = float("nan")
    assert bool((detections_of(packed, SIZE)[0, :, 5] == -1).all())
