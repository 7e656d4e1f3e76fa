"""A picture of what a network says of each pixel of an image, beside what it is."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

COLOURS = ((0, 158, 115), (213, 94, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
"""Of the classes 1, 2, ..., over again where there are more: told apart also by the colour-blind (Okabe and Ito)."""
FILLED = 0.45
LEAST_SIDE, MOST_SIDE = 192, 320
"""Pixels of the longer side of a picture: small images are enlarged by a whole number."""


def overlay(image: Tensor, labels: Tensor, predicted: Tensor) -> bytes:
    """A PNG file: `predicted` [H, W] as filled areas, `labels` [H, W] as outlines, over `image` [1 or 3, H, W].

    The image is in [0, 1]. A class has one colour; class 0 is the background, and not painted. Pixels with the label -1
    do not count, and are hatched. Where area and outline are of one colour and one shape, the network is right.
    """
    assert labels.shape == predicted.shape == image.shape[1:], "an image and its two masks have one size"
    rgb = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    pixels = np.broadcast_to(rgb.transpose(1, 2, 0)[..., : 3 if len(rgb) >= 3 else 1], (*labels.shape, 3))
    is_, said = labels.detach().cpu().numpy(), predicted.detach().cpu().numpy()
    times = max(1, round(LEAST_SIDE / max(is_.shape)))
    pixels, is_, said = (np.kron(x, np.ones((times, times) + (1,) * (x.ndim - 2), x.dtype))
                         for x in (pixels, is_, said))
    painted = pixels.astype(np.float64)
    palette = np.array(COLOURS, np.float64)
    painted[said > 0] = (1 - FILLED) * painted[said > 0] + FILLED * palette[(said[said > 0] - 1) % len(palette)]
    line = _outline(is_)
    painted[line] = palette[(is_[line] - 1) % len(palette)]
    rows, columns = np.indices(is_.shape)
    painted[(is_ < 0) & ((rows + columns) // 2 % 4 == 0)] = 128
    picture = Image.fromarray(painted.round().astype(np.uint8))
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _outline(labels: NDArray) -> NDArray:
    """Pixels of a class above 0 with a neighbour, up, down, left or right, of another; the image's rim is no outline."""
    around = np.pad(labels, 1, mode="edge")
    same = np.ones(labels.shape, bool)
    for moved in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        same &= moved == labels
    return (labels > 0) & ~same
