"""The boxes of an exported detector held against those of the network itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import DataError, ModelError
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.verify import AGREED, SIZES, Trial
from tutelage.tasks.detection.metrics import agreement_of_boxes, box_scores, matched
from tutelage.tasks.detection.predicted import MOST_BOXES, Detections, detections_of

PIXELS, SCORES = 1.0, 1e-3
"""By so much a box of the file, and its score, may differ from the network's."""


def tried(student: Student, choice: Choice, asked: Sequence[Trial], answers: Sequence[np.ndarray], truth: Tensor,
          map_lost: float) -> tuple[dict[str, Any], dict[str, float]]:
    """What the re-run found, as it goes into the JSON beside the file, and the bounds that were kept.

    ModelError for a file that says other boxes than the network or, of 8-bit numbers, whose mAP is lower by more than
    `map_lost`; DataError without any object.
    """
    said = [torch.from_numpy(answer) for answer in answers]
    if choice.format != "onnx":  # what there is before suppression
        said = [detections_of(answer, student.images.size) for answer in said]
    wrong = next((answer for answer in said if answer.shape[1:] != (MOST_BOXES, 6)), None)
    if wrong is not None:
        raise ModelError("the exported file gives another shape", found=list(wrong.shape),
                         expected=["batch", MOST_BOXES, 6], fix="another --format")
    numbers = compared_boxes(asked, said, truth, len(student.classes))
    few = 2 / max(1, numbers["boxes"])  # one box of each
    if choice.int8:
        lost = numbers["map_of_network"] - numbers["map"]
        bound = {"map_lost": map_lost}
        kept = {f"mAP lost <= {map_lost:g}": lost <= map_lost + 1e-12}
        found = f"mAP lost {lost:.4f}"
        fix = "export it without --int8, or set --accuracy-lost to what is enough for you"
    else:
        bound = {"pixels": PIXELS, "scores": SCORES, "same": AGREED}
        kept = {f"boxes equal to {PIXELS:g} pixel, scores to {SCORES:g}: {AGREED:.1%}": _enough(numbers["same"], few)}
        found = f"{numbers['same']:.2%} of the boxes"
        fix = "another --format; please report it with the network's name"
    kept |= {f"an image alone as in a batch: {AGREED:.1%}": _enough(numbers["alone_or_together"], few),
             "finite numbers": bool(np.isfinite(numbers["largest_difference"]))}
    if not all(kept.values()):
        raise ModelError("the exported file does not say what the network says; it was not kept",
                         where=f"network {student.node!r}, {numbers['images']} images",
                         found=f"{found}; largest difference {numbers['largest_difference']:.3g} pixels, of a score "
                               f"{numbers['largest_difference_of_score']:.3g}; an image alone as in a batch: "
                               f"{numbers['alone_or_together']:.2%} of the boxes",
                         expected="; ".join(words for words, held in kept.items() if not held), fix=fix)
    return numbers, bound


def compared_boxes(asked: Sequence[Trial], said: Sequence[Tensor], truth: Tensor, classes: int) -> dict[str, Any]:
    """Mean average precision of the file and of the network, and how alike their boxes are.

    "same" is the share of boxes, of all batches and of both, that go with one of the other that is equal to PIXELS and
    SCORES; "agreement" that of the sure boxes that find each other at IoU 0.5.
    """
    if not bool((truth[..., 4] >= 0).any()):
        raise DataError("there is no object to try the file on", found=f"{len(truth)} images without one",
                        fix="--on another split")
    by_size = {size: held_against(*(torch.cat(parts) for parts in zip(
        *((one, trial.wanted) for trial, one in zip(asked, said, strict=True) if trial.size == size), strict=True)))
               for size in SIZES}
    whole = [(trial, one) for trial, one in zip(asked, said, strict=True) if trial.size == SIZES[-1]]
    theirs, own = torch.cat([one for _, one in whole]), torch.cat([trial.wanted for trial, _ in whole])
    alone = torch.cat([one for trial, one in zip(asked, said, strict=True) if trial.size == 1])
    of_file, of_network = (box_scores(boxes, truth, classes) for boxes in (theirs, own))
    return {"images": len(truth), "labelled": int((truth[..., 4] >= 0).sum()), "boxes": by_size[SIZES[-1]]["boxes"],
            "same": min(found["same"] for found in by_size.values()),
            "largest_difference": float(np.max([found["pixels"] for found in by_size.values()])),
            "largest_difference_of_score": float(np.max([found["scores"] for found in by_size.values()])),
            "largest_difference_by_batch": {str(size): found["pixels"] for size, found in by_size.items()},
            "alone_or_together": held_against(alone, theirs[: len(alone)])["same"],
            "agreement": agreement_of_boxes(theirs, own), "accuracy": None, "mark": None,
            **{f"{key}{of}": scores[key] for of, scores in (("", of_file), ("_of_network", of_network))
               for key in ("map", "map50")}}


def held_against(said: Detections, wanted: Detections) -> dict[str, Any]:
    """How alike boxes are: each goes with the one of its class that it overlaps most, at IoU 0.5 at least.

    "same": the share of all boxes of both that go with one that is as near as PIXELS, and as sure as to SCORES.
    "pixels" and "scores": the largest differences of those that go together, NaN where a number is not finite.
    """
    partner = matched(said, torch.cat([wanted[..., :4], wanted[..., 5:]], -1))[0]
    gap = (said - wanted.gather(1, partner.clamp(min=0)[..., None].expand(-1, -1, 6)))[partner >= 0].abs()
    pixels, scores = gap[:, :4].max(1).values, gap[:, 4]
    same = 2 * int(((pixels <= PIXELS) & (scores <= SCORES)).sum())
    count = int((said[..., 5] >= 0).sum() + (wanted[..., 5] >= 0).sum())
    sound = bool(torch.isfinite(said).all())
    return {"same": same / count if count else 1.0, "boxes": count,
            "pixels": (pixels.max().item() if len(gap) else 0.0) if sound else float("nan"),
            "scores": (scores.max().item() if len(gap) else 0.0) if sound else float("nan")}


def _enough(share: float, one: float) -> bool:
    """All but so few, or all but one box of both."""
    return 1 - share <= max(1 - AGREED, one) + 1e-12
