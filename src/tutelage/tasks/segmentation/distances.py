"""How far the borders of a predicted mask are from those of the true one: HD95, by MONAI, an extra."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import ModelError

Masks = Int[Tensor, "batch height width"]


def hd95(predicted: Masks, labels: Masks, classes: int, first: int = 1,
         spacing: tuple[float, float] | None = None) -> Float[Tensor, " batch"]:
    """The 95th percentile of the distances between the borders of each image's masks, the mean over its classes.

    In pixels or, with `spacing`, the height and width of a pixel, in its unit (mm). Classes before `first` are left
    out. A class that the image does not have, or is not said to have, has no distance: NaN where no class has one.
    Pixels whose label is -1 are taken to be right. Raises ModelError without MONAI.
    """
    try:
        from monai.metrics import compute_hausdorff_distance  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise ModelError("HD95 needs MONAI: pip install 'tutelage[segmentation]'") from None
    true = labels.where(labels >= 0, predicted)
    numbers = torch.arange(classes, device=labels.device)[:, None, None]
    said, there = ((masks[:, None] == numbers)[:, first:] for masks in (predicted, true))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MONAI calls itself; a class that is missing is told by NaN
        found = compute_hausdorff_distance(said.float(), there.float(), include_background=True, percentile=95.0,
                                           spacing=None if spacing is None else list(spacing))
    defined = said.flatten(2).any(2) & there.flatten(2).any(2)
    return found.double().where(defined.to(found.device), torch.nan).nanmean(1)
