"""What several detectors say together: the mean place by place, and merged boxes by the rule of the paper."""

import pytest
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.models.dense_boxes import NO_CENTRE, boxes_of, pack_places, scores_of, unpack_places
from tutelage.tasks.detection.fusion import fused_boxes, mean_of_places
from tutelage.tasks.detection.predicted import detections_of

PLACES = torch.tensor([[8.0, 8, 16, 16], [24, 8, 16, 16], [8, 24, 16, 16], [24, 24, 16, 16]])


def says(boxes: dict[int, tuple[list[float], int, float]], classes: int = 2) -> Tensor:
    """A detector that says at some places a box, of a class, with a score."""
    distances, logits = torch.full((1, 4, 4), 0.1), torch.full((1, 4, classes), -20.0)
    for place, (box, label, score) in boxes.items():
        centre, size = PLACES[place, :2], PLACES[place, 2:]
        corners = torch.tensor(box)
        distances[0, place] = torch.cat([(centre - corners[:2]) / size, (corners[2:] - centre) / size])
        logits[0, place, label] = torch.tensor(score).logit()
    return pack_places(PLACES, distances, None, logits)


def merged(*said: Tensor) -> list[list[float]]:
    """(box, score, class) of what is merged, the surest first."""
    (rows,) = detections_of(fused_boxes(*said), (64, 64))
    return rows[rows[:, 5] >= 0].tolist()


def test_boxes_of_one_object_become_their_mean_weighted_by_score():
    one, other = says({0: ([0.0, 0, 20, 20], 1, 0.9)}), says({0: ([2.0, 0, 22, 20], 1, 0.6)})
    (row,) = merged(one, other)
    assert row[:4] == pytest.approx([0.8, 0, 20.8, 20], abs=1e-3)
    assert row[4:] == pytest.approx([0.75, 1], abs=1e-4)


def test_what_one_of_two_detectors_says_counts_half():
    (row,) = merged(says({3: ([10.0, 10, 30, 30], 0, 0.8)}), says({}))
    assert row == pytest.approx([10, 10, 30, 30, 0.4, 0], abs=1e-3)


def test_boxes_of_two_classes_or_far_apart_stay_two():
    one = says({0: ([0.0, 0, 20, 20], 0, 0.9), 3: ([40.0, 40, 60, 60], 0, 0.5)})
    other = says({0: ([0.0, 0, 20, 20], 1, 0.8)})
    assert [(round(row[4], 3), row[5]) for row in merged(one, other)] == [(0.45, 0), (0.4, 1), (0.25, 0)]


def test_more_boxes_of_one_object_than_detectors_do_not_make_it_surer():
    twice = says({0: ([0.0, 0, 20, 20], 0, 0.9), 1: ([1.0, 0, 33, 30], 0, 0.2)})
    rows = merged(twice, says({0: ([0.0, 0, 20, 20], 0, 0.7)}))
    assert rows[0][4] == pytest.approx(0.8, abs=1e-4)


def test_images_with_unlike_numbers_of_boxes_are_filled_up_with_nothing():
    batch = torch.cat([says({0: ([0.0, 0, 20, 20], 0, 0.9)}), says({})])
    first, second = detections_of(fused_boxes(batch, batch), (64, 64))
    assert (first[:, 5] >= 0).sum() == 1
    assert (second[:, 5] >= 0).sum() == 0


def test_the_mean_is_of_probabilities_and_of_boxes():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 4, 7, generator=generator) for _ in range(3)]
    said = [pack_places(PLACES, draw[..., :4], draw[..., 4], draw[..., 5:]) for draw in parts]
    mean = unpack_places(mean_of_places(*said))
    assert torch.allclose(mean.logits.sigmoid(), torch.stack([draw[..., 5:].sigmoid() for draw in parts]).mean(0))
    assert torch.allclose(mean.centres.sigmoid(), torch.stack([draw[..., 4].sigmoid() for draw in parts]).mean(0))
    assert torch.allclose(mean.distances, torch.stack([draw[..., :4] for draw in parts]).mean(0))
    assert torch.equal(mean.places, unpack_places(said[0]).places)


def test_the_mean_with_a_network_that_says_nothing_of_centres_says_nothing_of_them():
    silent = pack_places(PLACES, torch.ones(1, 4, 4), None, torch.zeros(1, 4, 1))
    speaking = pack_places(PLACES, torch.ones(1, 4, 4), torch.zeros(1, 4), torch.zeros(1, 4, 1))
    parts = unpack_places(mean_of_places(silent, speaking))
    assert (parts.centres == NO_CENTRE).all()
    assert torch.allclose(scores_of(parts), torch.full((1, 4, 1), 0.5))
    assert torch.equal(boxes_of(parts.places, parts.distances), boxes_of(PLACES, torch.ones(4, 4))[None])


def test_detectors_of_unlike_places_have_no_mean():
    with pytest.raises(ModelError, match="unlike places"):
        mean_of_places(torch.zeros(1, 4, 11), torch.zeros(1, 3, 11))
