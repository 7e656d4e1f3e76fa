"""From what a dense detector says of each place to boxes: those that are likely, and none of them twice.

The rule of torchvision's FCOS, but that the candidates of an image are chosen among those of all strides: of each place
and class with a score above LEAST_SCORE the MOST_CANDIDATES best; of those of one class that overlap by more than
MOST_OVERLAP (IoU) the best; of these the MOST_BOXES best. What lies at the same score is taken in the order of the
classes, then of the places.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from tutelage.models.dense_boxes import Packed, boxes_of, scores_of, unpack_places

LEAST_SCORE = 0.05
MOST_CANDIDATES = 1000
MOST_OVERLAP = 0.6
MOST_BOXES = 100
NOTHING = -1
"""The class of what only fills up a tensor."""

Detections = Float[Tensor, "batch most 6"]
"""Of each image up to so many boxes, the surest first: left, top, right, lower in pixels, score in [0, 1], class."""


def scored_boxes(packed: Packed, size: tuple[int, int]
               ) -> tuple[Float[Tensor, "batch places 4"], Float[Tensor, "batch classes places"]]:
    """The box of each place, within an image of `size` (height, width), and its score for each class.

    The score of a box that has no area in the image is 0.
    """
    parts = unpack_places(packed.float())
    boxes = clip_boxes_to_image(boxes_of(parts.places, parts.distances), size)
    there = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return boxes, scores_of(parts).transpose(1, 2) * there[:, None]


def detections_of(packed: Packed, size: tuple[int, int]) -> Detections:
    """What a detector says of images of `size` (height, width), filled up with boxes 0, score 0 and class NOTHING."""
    boxes, scores = scored_boxes(packed, size)
    found = boxes.new_zeros(len(boxes), MOST_BOXES, 6)
    found[..., 5] = NOTHING
    for own, (where, said) in zip(found, zip(boxes, scores, strict=True), strict=True):
        likely = (said.flatten() > LEAST_SCORE).nonzero()[:, 0]
        sure, order = said.flatten()[likely].sort(descending=True, stable=True)
        sure, chosen = sure[:MOST_CANDIDATES], likely[order[:MOST_CANDIDATES]]
        classes, at = chosen // said.shape[1], where[chosen % said.shape[1]]
        kept = batched_nms(at, sure, classes, MOST_OVERLAP).sort().values[:MOST_BOXES]  # of scores that fall
        own[: len(kept)] = torch.cat([at[kept], sure[kept, None], classes[kept, None].to(at)], 1)
    return found
