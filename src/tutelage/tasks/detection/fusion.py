"""What several detectors say, put together: the mean, place by place, or boxes that are merged."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.models.dense_boxes import NO_CENTRE, Packed, pack_places, unpack_places
from tutelage.tasks.detection.predicted import detections_of

SAME = 0.55
"""Boxes of one class with this intersection over union are of one object."""
EVERYWHERE = 2**20, 2**20
"""The size of an image that no box reaches the lower right edges of: what is said is clipped where it is judged."""
LOWEST = 1e-6
"""The score of a box that is none."""


def mean_of_places(*packed: Tensor) -> Packed:
    """Of each place the mean box, the mean probability of the class and of the centre, as what one detector says.

    >>> one = pack_places(torch.ones(1, 4), torch.ones(1, 1, 4), None, torch.zeros(1, 1, 2))
    >>> bool((mean_of_places(one, one) == one).all())
    True
    """
    shapes = [list(one.shape) for one in packed]
    if any(len(shape) != 3 or shape != shapes[0] for shape in shapes):
        raise ModelError("a mean of detectors with unlike places or classes", found=str(shapes),
                         expected="[B, places, columns], the same of each")
    parts = [unpack_places(one) for one in packed]
    distances = torch.stack([part.distances for part in parts]).mean(0)
    centres = torch.stack([part.centres for part in parts])
    silent = (centres >= NO_CENTRE).any(0)
    central = torch.where(silent, NO_CENTRE, _mean_logit(centres))
    return pack_places(parts[0].places, distances, central, _mean_logit(torch.stack([part.logits for part in parts])))


def fused_boxes(*packed: Tensor) -> Packed:
    """The predictions of several detectors, merged into the boxes of one [B, P, 9 + K], the surest first.

    Weighted boxes fusion (Solovyev, Wang & Gabruseva, 2021, arXiv:1910.13302): boxes of one class that overlap become
    their mean, weighted by score; its score is the mean score, times the share of detectors that have it.
    """
    classes = unpack_places(packed[0]).logits.shape[-1]
    said = [detections_of(one.detach(), EVERYWHERE).double().cpu().numpy() for one in packed]
    images = [_fused([of_one[row] for of_one in said]) for row in range(len(packed[0]))]
    most = max(1, *map(len, images))
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(len(images), most, 1)
    scores = torch.full((len(images), most, classes), LOWEST, dtype=torch.float64)
    for row, found in enumerate(images):
        for place, one in enumerate(found):
            boxes[row, place] = torch.from_numpy(one.box)
            scores[row, place, one.label] = one.score
    places = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)], -1)
    logits = scores.clamp(LOWEST, 1 - LOWEST).logit().to(packed[0])
    return pack_places(places.to(packed[0]), torch.full_like(places, 0.5).to(packed[0]), None, logits)


class _Fused(NamedTuple):
    box: np.ndarray
    label: int
    score: float


def _fused(said: Sequence[np.ndarray]) -> list[_Fused]:
    """The merged boxes of one image, from rows (box, score, class) of each detector."""
    rows = np.concatenate([one[one[:, 5] >= 0] for one in said])
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    found: list[_Fused] = []
    for label in np.unique(rows[:, 5]):
        groups: list[np.ndarray] = []
        means = np.zeros((0, 4))
        for row in rows[rows[:, 5] == label]:
            overlap = _overlap(row[:4], means)
            if len(groups) and overlap.max() > SAME:
                which = int(overlap.argmax())
                groups[which] = np.vstack([groups[which], row])
                means[which] = np.average(groups[which][:, :4], axis=0, weights=groups[which][:, 4])
            else:
                groups.append(row[None])
                means = np.vstack([means, row[:4]])
        for group, mean in zip(groups, means, strict=True):
            share = min(len(group), len(said)) / len(said)
            found.append(_Fused(mean, int(label), float(group[:, 4].mean() * share)))
    return sorted(found, key=lambda one: -one.score)


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of the others."""
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = inner.clip(min=0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def _mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean of the probabilities, over the first dimension."""
    low = torch.nn.functional.logsigmoid(-logits).logsumexp(0)
    high = torch.nn.functional.logsigmoid(logits).logsumexp(0)
    return high - low
