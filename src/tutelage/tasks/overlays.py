"""A picture of what a network says of each pixel of an image, beside what it is."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

COLOURS = ((0, 158, 115), (213, 94, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
"""Of the classes, over again where there are more: told apart also by the colour-blind (Okabe and Ito)."""
FILLED = 0.45
LEAST_SIDE, MOST_SIDE = 192, 256
"""Pixels of the longer side of a picture: small images are enlarged by a whole number."""


def overlay(image: Tensor, labels: Tensor, predicted: Tensor, first: int = 1) -> bytes:
    """A PNG file: `predicted` [H, W] as filled areas, `labels` [H, W] as outlines, over `image` [1 or 3, H, W].

    The image is in [0, 1]. A class has one colour; those below `first` are the background, and not painted. Pixels with
    the label -1 do not count, and are hatched. Where area and outline agree, the network is right.
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
    area, line = said >= first, _outline(is_) & (is_ >= first)
    painted[area] = (1 - FILLED) * painted[area] + FILLED * palette[(said[area] - first) % len(palette)]
    painted[line] = palette[(is_[line] - first) % len(palette)]
    rows, columns = np.indices(is_.shape)
    painted[(is_ < 0) & ((rows + columns) // 2 % 4 == 0)] = 128
    picture = Image.fromarray(painted.round().astype(np.uint8))
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _outline(labels: NDArray) -> NDArray:
    """Pixels beside one of another class; the rim of an image is no outline."""
    around = np.pad(labels, 1, mode="edge")
    same = np.ones(labels.shape, bool)
    for moved in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        same &= moved == labels
    return ~same
