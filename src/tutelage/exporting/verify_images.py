"""The images that an exported network fuses, held against the network's own, also at another size."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.errors import ModelError
from tutelage.exporting.verify import SIZES, Trial, alone_or_together

LEVEL = 1 / 255


def compared_images(asked: Sequence[Trial], answers: Sequence[np.ndarray]) -> dict[str, Any]:
    """The numbers of the re-run, as they go into the JSON beside the file.

    `agreement` is the share of pixels that are the same to half a level of 255.
    """
    largest = {str(size): 0.0 for size in SIZES}
    same, pixels, images = 0, 0, 0
    for trial, answer in zip(asked, answers, strict=True):
        if answer.shape != trial.wanted.shape:
            raise ModelError("the exported file gives another shape", where=f"a batch of {len(trial.wanted)}",
                             found=list(answer.shape), expected=list(trial.wanted.shape), fix="another --format")
        gaps = np.abs(answer - trial.wanted.numpy())
        largest[str(trial.size)] = float(np.maximum(largest[str(trial.size)], gaps.max()))  # NaN must show
        if trial.size == SIZES[-1]:
            same, pixels = same + int((gaps < LEVEL / 2).sum()), pixels + gaps.size
            images += 0 if trial.shortened else len(answer)
    worst = float(np.max([*largest.values()]))
    return {"images": images, "labelled": 0, "pixels": pixels, "largest_difference": worst,
            "relative_difference": worst, "alone_or_together": alone_or_together(asked, answers),
            "largest_difference_by_batch": largest, "agreement": same / pixels}
