"""Which object each place of a detector is to find: by the middle of the object, or by how much an anchor covers it.

Both are functions of places and labels alone, the same for every network that has these places. Labels are padded:
class -1 is no object.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.models.dense_boxes import boxes_of, distances_of

NEAR = 1.5
"""Within so many sizes of a place of an object's middle, a place may be its own (FCOS with centre sampling)."""
FINEST, COARSEST = 4, 8
"""An object is for the places whose size is between an eighth and a fourth of its farthest side's distance."""
SURE, UNSURE = 0.5, 0.4
"""Anchors that cover an object by the first are its own; those below the second are of no object; between, neither."""


class Assigned(NamedTuple):
    """What each place [B, P] is to say: a class number, `classes` for no object, -1 where it does not count.

    `boxes` are distances of the object's sides, in sizes of the place, 1 where there is no object.
    """

    classes: Int[Tensor, "batch places"]
    boxes: Float[Tensor, "batch places 4"]


def assign_by_centre(places: Float[Tensor, "batch places 4"], boxes: Float[Tensor, "batch objects 4"],
                     labels: Int[Tensor, "batch objects"], classes: int) -> Assigned:
    """FCOS: a place finds an object that it lies in, near its middle, and of the size that its grid is for.

    Of several objects the smallest. The finest grid is for all that is smaller too, the coarsest for all that is larger
    (Tian et al., 2019, arXiv:1904.01355, with the centre sampling and ranges of torchvision).
    """
    # One object more than needed, which is none, so that there is always one to choose from.
    boxes = torch.cat([boxes, boxes.new_zeros(len(boxes), 1, 4)], 1)
    labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], 1)
    # [B, objects, places]: what is compared lies along memory.
    x, y, size, _ = places.transpose(1, 2).contiguous()[:, :, None].unbind(1)
    left, top, right, lower = boxes[..., None].unbind(2)
    sides = x - left, y - top, right - x, lower - y
    farthest = torch.maximum(torch.maximum(sides[0], sides[2]), torch.maximum(sides[1], sides[3]))
    nearest = torch.minimum(torch.minimum(sides[0], sides[2]), torch.minimum(sides[1], sides[3]))
    finest, coarsest = size <= size.amin(-1, keepdim=True), size >= size.amax(-1, keepdim=True)
    beside = torch.maximum((x - (left + right) / 2).abs(), (y - (top + lower) / 2).abs())
    fits = (beside < NEAR * size) & (nearest > 0) & (labels >= 0)[..., None]
    fits &= (finest | (farthest > FINEST * size)) & (coarsest | (farthest < COARSEST * size))
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[..., None]
    least, of_object = areas.where(fits, torch.inf).min(1)
    found = least < torch.inf
    chosen = labels.gather(1, of_object)
    distances = distances_of(places, boxes.gather(1, of_object[..., None].expand(-1, -1, 4)))
    return Assigned(chosen.where(found, classes), distances.where(found[..., None], 1.0))


def assign_by_overlap(places: Float[Tensor, "batch places 4"], boxes: Float[Tensor, "batch objects 4"],
                      labels: Int[Tensor, "batch objects"], classes: int) -> Assigned:
    """RetinaNet: an anchor finds the object that it covers best, if well enough; each object's best anchors find it.

    (Lin et al., 2017, arXiv:1708.02002, with the thresholds of torchvision: intersection over union 0.5 and 0.4.)
    """
    boxes = torch.cat([boxes, boxes.new_zeros(len(boxes), 1, 4)], 1)
    labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], 1)
    half = torch.full_like(places, 0.5)
    overlap = _overlap(boxes_of(places, half)[:, :, None], boxes[:, None])
    overlap = overlap.where(labels[:, None] >= 0, -1.0)
    best, of_object = overlap.max(-1)
    nearest = (overlap == overlap.amax(1, keepdim=True)) & (overlap >= 0)
    found = (best >= SURE) | nearest.any(-1)
    counts = found | (best < UNSURE)
    chosen = labels.gather(1, of_object).where(found, classes).where(counts, -1)
    distances = distances_of(places, boxes.gather(1, of_object[..., None].expand(-1, -1, 4)))
    return Assigned(chosen, distances.where(found[..., None], 1.0))


def centreness(distances: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any"]:
    """How central a point is in its box, in [0, 1]: the root of (least / largest) across times the same downwards.

    >>> round(centreness(torch.tensor([1.0, 1, 1.5, 2])).item(), 5)
    0.57735
    """
    first, second = distances[..., :2], distances[..., 2:]
    ratio = torch.minimum(first, second) / torch.maximum(first, second).clamp(min=1e-12)
    return ratio.clamp(min=0).prod(-1).sqrt()


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes, broadcast."""
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    shared = inner.clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared)
