"""Which object a place is to find: the golden values, and naive loops over places and objects."""

import math

import pytest
import torch
from torch import Tensor

from every import every
from tutelage.models.dense_boxes import boxes_of, distances_of, grid_places
from tutelage.tasks.detection.assign import assign_by_centre, assign_by_overlap, centreness

GRID = grid_places((32, 32), (8, 16))[None].double()
BOX = torch.tensor([[[4.0, 4, 24, 28]]]).double()


def some_objects(seed: int, images: int = 3, most: int = 5, side: int = 64) -> tuple[Tensor, Tensor]:
    """Boxes [images, most, 4] and classes, -1 for padding; the first image has none."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, most, 2, generator=generator, dtype=torch.float64) * side * 0.7
    sizes = 2 + torch.rand(images, most, 2, generator=generator, dtype=torch.float64) * side * 0.5
    classes = torch.randint(0, 3, (images, most), generator=generator)
    there = torch.arange(most) < torch.arange(images)[:, None] * most / (images - 1)
    boxes = torch.cat([corners, corners + sizes], -1)
    return boxes.where(there[..., None], 0.0), classes.where(there, -1)


def test_the_box_of_the_specification_is_found_by_four_places():
    found = assign_by_centre(GRID, BOX, torch.tensor([[0]]), classes=1)
    assert (found.classes[0] == 0).nonzero()[:, 0].tolist() == [5, 6, 9, 10]
    assert every(label == 1 for label in found.classes[0].tolist() if label != 0)
    assert found.boxes[0, 5].tolist() == [1, 1, 1.5, 2]
    assert centreness(found.boxes[0, [5, 6, 9, 10]]).tolist() == pytest.approx([0.57735, 0.353553] * 2, abs=1e-5)


def centre_by_loop(places: Tensor, boxes: Tensor, labels: Tensor, classes: int) -> tuple[list[int], list[list[float]]]:
    """The rule of FCOS for one image, place by place."""
    sizes = places[:, 2].tolist()
    found, distances = [], []
    for x, y, size, _ in places.tolist():
        best, area = None, math.inf
        for (left, top, right, lower), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            sides = x - left, y - top, right - x, lower - y
            far = max(sides)
            near = max(abs(x - (left + right) / 2), abs(y - (top + lower) / 2)) < 1.5 * size
            large = size == min(sizes) or far > 4 * size
            small = size == max(sizes) or far < 8 * size
            mine = (right - left) * (lower - top)
            if label >= 0 and min(sides) > 0 and near and large and small and mine < area:
                best, area = (label, [side / size for side in sides]), mine
        found.append(classes if best is None else best[0])
        distances.append([1.0] * 4 if best is None else best[1])
    return found, distances


@pytest.mark.parametrize("seed", range(4))
def test_places_find_the_smallest_object_that_they_are_for_as_a_loop_over_all_pairs_does(seed):
    places = grid_places((64, 64), (4, 8, 16)).double()
    boxes, labels = some_objects(seed)
    found = assign_by_centre(places.expand(3, -1, -1), boxes, labels, classes=3)
    for image in range(3):
        classes, distances = centre_by_loop(places, boxes[image], labels[image], 3)
        assert found.classes[image].tolist() == classes
        assert torch.allclose(found.boxes[image], torch.tensor(distances).double(), atol=1e-12)
    assert (found.classes[0] == 3).all()  # the image without objects
    assert (found.classes[1:] < 3).any()


def overlap_by_hand(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) if shared == 0 else shared / (
        sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


@pytest.mark.parametrize("seed", range(3))
def test_anchors_find_what_they_cover_as_a_loop_over_all_pairs_does(seed):
    places = grid_places((64, 64), (8, 16, 32)).double()
    boxes, labels = some_objects(seed + 10)
    found = assign_by_overlap(places.expand(3, -1, -1), boxes, labels, classes=3)
    anchors = boxes_of(places, torch.full_like(places, 0.5)).tolist()
    for image in range(3):
        there = [(box, label) for box, label in zip(boxes[image].tolist(), labels[image].tolist(), strict=True)
                 if label >= 0]
        table = [[overlap_by_hand(anchor, box) for box, _ in there] for anchor in anchors]
        best_of_object = [max(row[column] for row in table) for column in range(len(there))]
        expected = []
        for row in table:
            best = max(row, default=-1.0)
            nearest = any(share > 0 and abs(share - most) < 1e-12
                          for share, most in zip(row, best_of_object, strict=True))
            expected.append(there[row.index(best)][1] if best >= 0.5 or nearest else 3 if best < 0.4 else -1)
        assert found.classes[image].tolist() == expected


def test_padding_is_found_by_nobody_whatever_its_numbers_are():
    for assign in (assign_by_centre, assign_by_overlap):
        plain = assign(GRID, BOX, torch.tensor([[0]]), 1)
        padded = assign(GRID, torch.cat([BOX, BOX + 1, torch.full_like(BOX, 1e6)], 1), torch.tensor([[0, -1, -1]]), 1)
        assert torch.equal(plain.classes, padded.classes)
        assert torch.equal(plain.boxes, padded.boxes)


def test_no_objects_at_all_are_allowed_and_nothing_is_found():
    found = assign_by_centre(GRID, torch.zeros(1, 0, 4).double(), torch.zeros(1, 0, dtype=torch.int64), 2)
    assert (found.classes == 2).all()
    assert found.boxes.isfinite().all()


def test_distances_are_the_inverse_of_boxes_also_where_a_centre_is_outside():
    boxes = torch.tensor([[20.0, 20, 30, 30], [0, 0, 3, 3]]).double()
    places = torch.tensor([[12.0, 12, 8, 8], [12, 12, 8, 16]]).double()
    assert torch.allclose(boxes_of(places, distances_of(places, boxes)), boxes, atol=1e-12)
