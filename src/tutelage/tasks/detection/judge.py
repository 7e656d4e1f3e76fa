"""How detectors are judged: by boxes, after suppression, against the true ones."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tutelage.errors import DataError
from tutelage.models.dense_boxes import LEAD
from tutelage.tasks.detection.drawing import Box, draw_on, png_of
from tutelage.tasks.detection.metrics import agreement_of_boxes, box_scores, image_map, sure_boxes
from tutelage.tasks.detection.predicted import detections_of
from tutelage.tasks.overlays import LEAST_SIDE, MOST_SIDE
from tutelage.tasks.task import Evidence, Judge, Score
from tutelage.types import BatchLabels, View

SCORES = (
    Score("map", "mAP"),
    Score("map50", "mAP50"),
    Score("map75", "mAP75", main=False),
    Score("map_small", "mAP of small", each_epoch=False, main=False),
    Score("map_medium", "mAP of medium", each_epoch=False, main=False),
    Score("map_large", "mAP of large", each_epoch=False, main=False),
    Score("recall", "recall at 1 false positive per image"),
)
MOST_DRAWN = 10
"""Boxes in a picture: more hide it, and each other."""


def judge_of_boxes(names: tuple[str, ...], size: tuple[int, int]) -> Judge:
    """The judge of packed tensors (`models.dense_boxes`) of these classes, of images of `size` (height, width).

    Its evidence is "detections" [N, 100, 6] and "truth" [N, M, 5], see `metrics`.
    """
    return Judge(partial(_measure, len(names), size), partial(_summary, len(names)), _agreement, by_sample=_by_sample,
                 pictures=partial(draw_boxes, names))


def draw_boxes(names: tuple[str, ...], images: View, labels: BatchLabels, taps: Mapping[str, Tensor]) -> list[bytes]:
    """A PNG file of each image: the boxes that a network is sure of, with class and score; dashed those that are true.

    The class is told where there are several, and of what is said the MOST_DRAWN surest are drawn.
    """
    pixels, truth = images if isinstance(images, Tensor) else images["images"], truth_of(labels)
    height, width = pixels.shape[2:]
    said = sure_boxes(detections_of(taps[""], (height, width)))
    return [_picture(names, *of) for of in zip(pixels, said, truth, strict=True)]


def _picture(names: Sequence[str], image: Tensor, said: Tensor, true: Tensor) -> bytes:
    rgb = (image[: 3 if len(image) >= 3 else 1].detach().cpu().float().clamp(0, 1) * 255).round().byte()
    small = Image.fromarray(rgb.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    longest = max(small.size)
    times = max(1, round(LEAST_SIDE / longest)) if longest < MOST_SIDE else MOST_SIDE / longest
    shown = small.resize([max(1, round(side * times)) for side in small.size],
                         Image.Resampling.NEAREST if times > 1 else Image.Resampling.BILINEAR)

    def corners(box: Tensor) -> tuple[float, float, float, float]:
        left, top, right, lower = (times * corner for corner in box[:4].tolist())
        return left, top, right, lower

    told = [Box(corners(box), int(box[5]), f"{names[int(box[5])]} {box[4]:.0%}" if len(names) > 1 else f"{box[4]:.0%}")
            for box in said[:MOST_DRAWN] if box[5] >= 0]
    return png_of(draw_on(shown, told, [Box(corners(box), int(box[4])) for box in true if box[4] >= 0]))


def _measure(classes: int, size: tuple[int, int], taps: Mapping[str, Tensor], labels: BatchLabels,
             ids: Tensor) -> Evidence | None:
    packed = taps[""]
    if packed.dim() != 3 or packed.shape[2] != LEAD + classes:
        return None
    return {"detections": detections_of(packed, size), "truth": truth_of(labels)}


def truth_of(labels: BatchLabels) -> Tensor:
    """The true boxes of a batch, [B, M, 5]: left, top, right, lower, class."""
    assert not isinstance(labels, Tensor), "checked when the data were made"
    return torch.cat([labels["boxes"].float(), labels["classes"][..., None].float()], -1)


def _summary(classes: int, evidence: Evidence) -> dict[str, Any]:
    if not bool((evidence["truth"][..., 4] >= 0).any()):
        raise DataError("there is nothing to evaluate on", found="no object in any image")
    return box_scores(evidence["detections"], evidence["truth"], classes)


def _agreement(one: Evidence, other: Evidence) -> float:
    return agreement_of_boxes(one["detections"], other["detections"])


def _by_sample(evidence: Evidence) -> Tensor:
    return image_map(evidence["detections"], evidence["truth"])
