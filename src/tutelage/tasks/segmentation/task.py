"""Segmentation: each pixel of an image is of one class, and a network gives a map of logits [B, K, h, w]."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tutelage.data.source import Data
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.overlays import overlay
from tutelage.tasks.segmentation import metrics
from tutelage.tasks.segmentation.rows import channels, mask_of, masks, pixels, places, resized
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.types import BatchLabels, View, one_tensor

SCORES = (
    Score("dice", "Dice"),
    Score("iou", "IoU"),
    Score("image_dice", "Dice by image"),
    Score("pixel_accuracy", "pixel accuracy"),
)
BACKGROUND = "background"
LOOKED_AT = 16
"""So many training images are looked at before a run."""


def check_labels_of_masks(data: Data) -> None:
    """Refuse data whose labels are no masks of their classes, by a few training images."""
    if len(data.classes) < 2:
        raise DataError("too few classes: there is nothing to tell apart", where="training data",
                        found=f"{len(data.classes)} classes", expected="two or more, the background among them")
    rows = first(data.train.ids, LOOKED_AT)
    (batch,) = data.train.batches([rows], draw=None)
    try:
        found = mask_of(batch.labels)
    except ModelError as error:
        raise DataError(error.what, where="training data", found=error.found, expected=error.expected,
                        fix='give the set a mask for each image, or leave task = "segmentation" out') from None
    least, most = (int(end) for end in found.aminmax())
    if least < -1 or most >= len(data.classes):
        raise DataError("values of masks out of range", where="training data", found=f"{least} .. {most}",
                        expected=f"-1 (does not count) .. {len(data.classes) - 1}")


def first_class(names: tuple[str, ...]) -> int:
    """The first class that is no background: 1 where the class 0 is called so, as in "__background__", else 0.

    >>> first_class(("__background__", "polyp")), first_class(("road", "sky"))
    (1, 0)
    """
    return int(len(names) > 1 and names[0].strip("_ ").casefold() == BACKGROUND)


def judge_of_masks(names: tuple[str, ...]) -> Judge:
    """The judge of maps of logits of these classes; its evidence is "counts" [B, K, 3], see `metrics`."""
    first = first_class(names)
    return Judge(partial(_measure, len(names)), partial(_summary, first),
                 by_sample=lambda evidence: metrics.image_dice(evidence["counts"], first))


def predicted_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of logits [B, K, h, w] -> the class of each pixel [B, height, width] at another size."""
    return resized(logits, size).argmax(1)


def mean_map(*logits: Tensor) -> Tensor:
    """The log of the mean probability, at each place, of several maps [B, K, h, w], on the grid of the first.

    >>> mean_map(torch.full((1, 2, 1, 1), 9.0), torch.zeros(1, 2, 4, 4)).exp().flatten().tolist()
    [0.5, 0.5]
    """
    shapes = [list(maps.shape) for maps in logits]
    if any(len(shape) != 4 or shape[:2] != shapes[0][:2] for shape in shapes):
        raise ModelError("a mean of what is not maps of logits of the same classes", found=str(shapes),
                         expected="[B, K, height, width] of each")
    height, width = logits[0].shape[2:]
    logs = [resized(maps, (height, width)).log_softmax(1) for maps in logits]
    return torch.stack(logs).logsumexp(0) - math.log(len(logits))


def draw_masks(images: View, labels: BatchLabels, taps: Mapping[str, Tensor]) -> list[bytes]:
    """A picture of each image: what a network says as areas, what is true as outlines; class 0 is not painted."""
    true = mask_of(labels)
    height, width = true.shape[1:]
    said = predicted_masks(taps[""], (height, width))
    return [overlay(*of) for of in zip(one_tensor(images), true, said, strict=True)]


def _measure(classes: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    logits = taps[""]
    if logits.dim() != 4 or logits.shape[1] != classes:
        return None
    true = mask_of(labels)
    height, width = true.shape[1:]
    return {"counts": metrics.count_pixels(predicted_masks(logits, (height, width)), true, classes)}


def _summary(first: int, evidence: Evidence) -> dict[str, Any]:
    counts = evidence["counts"]
    if not bool(counts[..., 2].any()):
        raise DataError("there is nothing to evaluate on", found="no pixel with a label")
    whole = counts.sum(0)
    return {**metrics.mask_scores(counts, first),
            "per_class": {"dice": _defined(metrics.dice_of(whole)), "iou": _defined(metrics.iou_of(whole))}}


def _defined(numbers: Tensor) -> list[float | None]:
    return [None if number != number else number for number in numbers.tolist()]


SEGMENTATION = Task("segmentation", SCORES, check_labels_of_masks, lambda data: judge_of_masks(data.classes),
                    learn=(Term(cross_entropy, rows=pixels, soft=True),),
                    imitate=(Term(kl, rows=pixels, soft=True),), mean=mean_map,
                    rows=(pixels, channels, masks, places), places=places, pictures=draw_masks,
                    samples="images")
