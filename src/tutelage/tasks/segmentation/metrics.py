"""How well masks are predicted: Dice, intersection over union, accuracy of pixels, from counts of each image.

An image's counts are [K, 3] whole numbers: of each class the pixels that are it and are said to be it, those that are
said to be it, and those that are it. Pixels whose label is -1 are in none of them. A class that an image neither has
nor is said to have has no Dice there, and NaN stands for that.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Masks = Int[Tensor, "batch height width"]
Counts = Int[Tensor, "batch classes 3"]


def count_pixels(predicted: Masks, labels: Masks, classes: int) -> Counts:
    """Of each image and class: pixels that are right, pixels that are said, pixels that are.

    >>> count_pixels(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, -1]]]), 2).tolist()
    [[[1, 1, 1], [1, 1, 1]]]
    """
    known = labels >= 0
    nowhere = torch.full_like(labels, classes)  # a class of its own for what does not count, left out at the end
    said, true = predicted.where(known, nowhere), labels.where(known, nowhere)
    both = said.where(said == true, nowhere)
    found = [labels.new_zeros(len(labels), classes + 1).scatter_add_(1, kind.flatten(1), torch.ones_like(labels)
                                                                     .flatten(1)) for kind in (both, said, true)]
    return torch.stack(found, -1)[:, :classes]


def dice_of(counts: Int[Tensor, "*any classes 3"]) -> Float[Tensor, "*any classes"]:
    """2 right / (said + true) of each class; NaN where both are 0.

    >>> dice_of(torch.tensor([[3, 4, 4], [0, 0, 0]])).tolist()
    [0.75, nan]
    """
    right, said, true = counts.double().unbind(-1)
    return 2 * right / (said + true)


def iou_of(counts: Int[Tensor, "*any classes 3"]) -> Float[Tensor, "*any classes"]:
    """right / (said + true - right) of each class; NaN where the class is neither said nor there.

    >>> iou_of(torch.tensor([[3, 4, 4]])).tolist()
    [0.6]
    """
    right, said, true = counts.double().unbind(-1)
    return right / (said + true - right)


def image_dice(counts: Counts, first: int) -> Float[Tensor, " batch"]:
    """The mean Dice of each image over its classes from `first` on; NaN for an image that has none of them."""
    return dice_of(counts)[:, first:].nanmean(1)


def mask_scores(counts: Counts, first: int) -> dict[str, float]:
    """The scores of a split; Dice is of the classes from `first` on, for those before are background.

    "dice" and "iou" are of the sums over all images, and means over classes; "image_dice" is the mean of `image_dice`.
    What is not defined is NaN.
    """
    whole, each = counts.sum(0), image_dice(counts, first)
    right, _, true = whole.sum(0).double().tolist()
    return {"dice": dice_of(whole)[first:].nanmean().item(), "iou": iou_of(whole).nanmean().item(),
            "image_dice": each.nanmean().item(), "pixel_accuracy": right / true if true else float("nan")}
