"""How well boxes are predicted: mean average precision as COCO has it, by torchmetrics, and what that does not tell.

Detections are [N, D, 6] (left, top, right, lower, score, class; the surest first), true boxes [N, M, 5] (left, top,
right, lower, class); the class NOTHING fills them up. A detection is right if it finds a true box: in the order of the
scores each takes, of the true boxes of its class that no surer one has taken, the one that it overlaps most, and by the
IoU asked for at least. That is COCO's rule.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import box_iou

from tutelage.errors import ModelError
from tutelage.tasks.detection.predicted import NOTHING, Detections

Truth = Float[Tensor, "batch objects 5"]
OVERLAPS = tuple(torch.linspace(0.5, 0.95, 10).tolist())
"""0.5, 0.55 .. 0.95, as torchmetrics has them."""
FOUND = 0.5
"""The IoU at which a box is found, where one is asked for alone."""
SURE = 0.3
"""The score from which a box counts as said, where boxes are shown, or compared between networks."""
ALARM = 0.5
"""The score from which a box in an image without an object is a false alarm."""
_NAMES = {"map": "map", "map50": "map_50", "map75": "map_75", "map_small": "map_small", "map_medium": "map_medium",
          "map_large": "map_large"}
"""Our names of scores, and those of torchmetrics."""
POINTS = 101
"""Recalls 0, 0.01 .. 1 at which COCO reads a precision."""
_AT_ONCE = 2**22
"""Pairs of boxes of so many images are compared together."""


def box_scores(detections: Detections, truth: Truth, classes: int) -> dict[str, Any]:
    """The scores of a split; what is not defined, as all is where nothing is true, is NaN.

    "map" is the mean over classes with an object, and over IoU 0.5, 0.55 .. 0.95, of the average precision; "map50" and
    "map75" at one IoU; "map_small", "map_medium" and "map_large" of objects below 32^2, below 96^2, and of more pixels
    of the network's input; "recall" is `recall_at`. "per_class" has "map" and "map50" of each class, and "curves" the
    precision of each at IoU 0.5 and at recall 0, 0.01 .. 1: None where a class has no object.
    """
    whole = _averaged(detections, truth)
    scores = {own: whole[theirs].item() for own, theirs in _NAMES.items()}
    right = matched(detections, truth, OVERLAPS) >= 0
    curves = [_curves_of_class(right, detections, truth, k) for k in range(classes)]
    return {**{key: value if value >= 0 else float("nan") for key, value in scores.items()},
            "recall": recall_at(detections, truth, found=right[0]),
            "per_class": {"map": [None if curve is None else curve.mean().item() for curve in curves],
                          "map50": [None if curve is None else curve[0].mean().item() for curve in curves]},
            "curves": [None if curve is None else [round(point, 4) for point in curve[0].tolist()]
                       for curve in curves]}


def recall_at(detections: Detections, truth: Truth, false_positives: float = 1.0,
              found: Bool[Tensor, "batch most"] | None = None) -> float:
    """The share of all true boxes that are found at IoU 0.5, at so many false positives per image, on average.

    The boxes of all images and classes stand in one order, the surest first. The score asked for falls as far as those
    that find nothing allow; boxes of one score are in together, or out. NaN where nothing is true. `found` are the
    detections that find something, where that is known.
    """
    found = matched(detections, truth)[0] >= 0 if found is None else found
    said = detections[..., 5] >= 0
    scores, order = detections[..., 4][said].sort(descending=True, stable=True)
    right = found[said][order].long().cumsum(0)
    wrong = torch.arange(1, len(right) + 1, device=right.device) - right
    last = torch.cat([scores[1:] < scores[:-1], scores.new_ones(len(scores[:1]), dtype=torch.bool)])
    allowed = right[last & (wrong <= false_positives * len(detections))]
    count = int((truth[..., 4] >= 0).sum())
    return (int(allowed[-1]) if len(allowed) else 0) / count if count else float("nan")


def matched(detections: Detections, truth: Truth,
            overlaps: Sequence[float] = (FOUND,)) -> Int[Tensor, "overlaps batch most"]:
    """Which true box of its image each detection finds, at each IoU; -1 where it finds none.

    >>> truth = torch.tensor([[[0.0, 0, 8, 8, 0]]])
    >>> matched(torch.tensor([[[0.0, 0, 8, 6, 0.9, 0], [0, 0, 8, 8, 0.8, 0]]]), truth, [0.5, 0.8]).tolist()
    [[[0, -1]], [[-1, 0]]]
    """
    pairs = max(1, detections.shape[1] * truth.shape[1] * len(overlaps))
    parts = [_matched(said, true, overlaps) for said, true in zip(
        detections.split(max(1, _AT_ONCE // pairs)), truth.split(max(1, _AT_ONCE // pairs)), strict=True)]
    return torch.cat(parts, 1)


def image_map(detections: Detections, truth: Truth) -> Float[Tensor, " batch"]:
    """"map" of each image alone.

    Of an image without an object it is 0 if a box is said with the score ALARM at least, and else NaN.
    """
    right = matched(detections, truth, OVERLAPS) >= 0
    said, true = detections[..., 5], truth[..., 4]
    total, count = (torch.zeros(len(truth), dtype=torch.float64, device=truth.device) for _ in range(2))
    for k in true.unique()[true.unique() >= 0].tolist():
        rows = (true == k).any(1).nonzero()[:, 0]
        own = said[rows] == k
        objects = (true[rows] == k).sum(1)
        total[rows] += _precisions(right[:, rows] & own, own, objects).mean((0, 2))
        count[rows] += 1
    alarm = ((detections[..., 4] >= ALARM) & (said >= 0)).any(1)
    return torch.where(count > 0, total / count, torch.where(alarm, 0.0, float("nan")))


def agreement_of_boxes(one: Detections, other: Detections) -> float:
    """The share of boxes, of two networks together, that find one of the same class in the other, at IoU 0.5.

    Boxes with the score SURE at least count. In [0, 1]; where no box is said at all two networks agree.
    """
    one, other = (sure_boxes(boxes) for boxes in (one, other))
    found = int((matched(one, torch.cat([other[..., :4], other[..., 5:]], -1))[0] >= 0).sum())
    count = int((one[..., 5] >= 0).sum() + (other[..., 5] >= 0).sum())
    return 2 * found / count if count else 1.0


def sure_boxes(detections: Detections, least: float = SURE) -> Detections:
    """The same with what is less sure replaced by nothing."""
    said = (detections[..., 4:5] >= least) & (detections[..., 5:] >= 0)
    return torch.where(said, detections, detections.new_tensor([0.0] * 5 + [NOTHING]))


def _matched(detections: Detections, truth: Truth, overlaps: Sequence[float]) -> Int[Tensor, "overlaps batch most"]:
    same = (detections[..., None, 5] == truth[:, None, :, 4]) & (truth[:, None, :, 4] >= 0)
    ious = _ious(detections[..., :4].double(), truth[..., :4].double()) * same
    near = (ious >= min(overlaps)).any(-1)  # of a hundred boxes a few
    order = near.long().sort(descending=True, stable=True).indices[:, : int(near.sum(1).max()) if near.numel() else 0]
    ious = ious.gather(1, order[..., None].expand(-1, -1, truth.shape[1]))
    least = torch.tensor(overlaps, dtype=ious.dtype, device=ious.device)[:, None, None]
    free = same.new_ones(len(overlaps), *truth.shape[:2])
    taken = torch.full((len(overlaps), *order.shape), -1, device=truth.device)
    for d in range(order.shape[1]):  # the surest of each image, then the next
        could = torch.where(free & (ious[:, d] >= least), ious[:, d], 0.0)
        best, at = could.max(-1)
        there = best > 0
        taken[..., d] = torch.where(there, at, -1)
        free.scatter_(-1, at[..., None], free.gather(-1, at[..., None]) & ~there[..., None])
    found = torch.full((len(overlaps), *detections.shape[:2]), -1, device=truth.device)
    return found.scatter(-1, order.expand(len(overlaps), -1, -1), taken)


def _ious(one: Float[Tensor, "batch some 4"], other: Float[Tensor, "batch others 4"]) -> Tensor:
    if not one.shape[1] or not other.shape[1]:
        return one.new_zeros(len(one), one.shape[1], other.shape[1])
    return torch.vmap(box_iou)(one, other).nan_to_num(0.0)  # of two boxes without area


def _curves_of_class(right: Bool[Tensor, "overlaps batch most"], detections: Detections, truth: Truth,
                     k: int) -> Float[Tensor, "overlaps points"] | None:
    """The precisions of one class over all images; None where nothing is of that class."""
    own, objects = detections[..., 5] == k, (truth[..., 4] == k).sum()
    if not bool(objects):
        return None
    order = detections[..., 4][own].sort(descending=True, stable=True).indices
    ranked = right[:, own][:, None, order]
    return _precisions(ranked, ranked.new_ones(1, ranked.shape[-1]), objects[None])[:, 0]


def _precisions(right: Bool[Tensor, "overlaps rows most"], said: Bool[Tensor, "rows most"],
                objects: Int[Tensor, " rows"]) -> Float[Tensor, "overlaps rows points"]:
    """COCO's precisions at POINTS recalls, in each of which the best to its right counts; their mean is the average."""
    hits = right.double().cumsum(-1)
    precision = torch.where(said, hits / said.double().cumsum(-1).clamp(min=1), 0.0)
    best = nn.functional.pad(precision.flip(-1).cummax(-1).values.flip(-1), (0, 1))  # what is never reached is 0
    points = torch.linspace(0, 1, POINTS, device=hits.device).double().expand(*right.shape[:2], POINTS)
    return best.gather(-1, torch.searchsorted(hits / objects[:, None], points.contiguous()))


def _averaged(detections: Detections, truth: Truth) -> dict[str, Tensor]:
    """What torchmetrics says."""
    require_measure()
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(backend="faster_coco_eval")
    said, true = detections[..., 5] >= 0, truth[..., 4] >= 0
    all_said, all_true = detections[said].cpu(), truth[true].cpu()
    of_each, truth_of_each = said.sum(1).tolist(), true.sum(1).tolist()
    metric.update([{"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in zip(
                      all_said[:, :4].split(of_each), all_said[:, 4].split(of_each),
                      all_said[:, 5].long().split(of_each), strict=True)],
                  [{"boxes": boxes, "labels": labels} for boxes, labels in zip(
                      all_true[:, :4].split(truth_of_each), all_true[:, 4].long().split(truth_of_each), strict=True)])
    return metric.compute()


def require_measure() -> None:
    """ModelError where a package that mean average precision is measured by is not installed."""
    for package in ("torchmetrics", "faster_coco_eval"):
        if find_spec(package) is None:
            raise ModelError(f"mean average precision needs {package}: pip install 'tutelage[detection]'")
