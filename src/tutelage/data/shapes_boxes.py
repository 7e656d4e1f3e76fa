"""The set `shapes_boxes`: discs, squares and, less often, triangles, with boxes; made in code, the same everywhere.

Colours and background are those of the set `shapes`; triangles tend to green. A shape that would hide much of another
one is not drawn, and a box is around those pixels of a shape that are seen. Some images have no shape at all.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tutelage.data.box_plain import BOXES_FILE
from tutelage.data.shapes import DARKEST, GRAIN, ODDS, Odds, stripe, texture, turned_plane
from tutelage.data.split_file import SPLITS_FILE
from tutelage.system.files import write_json
from tutelage.system.random import derive, uniform

CLASSES = ("disc", "square", "triangle")
SPLITS = {"train": 400, "validation": 100, "test": 200}
SIDE = 64
_COLOURS = np.array([*DARKEST, [50, 120, 50]])
_EMPTY, _AT_MOST = 16, 4
"""One of so many images has no shape; the others have one to four."""
_UP_TO = (0.42, 0.84, 1.0)
"""Odds of the classes, each with those before it."""
_SEEN = 0.6
"""Of a shape, at least, is not hidden by others."""
_TOGETHER = 50


class ShapesBoxes(NamedTuple):
    """Images [700, 3, 64, 64], those of the splits in their order; of each the boxes [M, 4] and the classes [M]."""

    images: UInt8[Tensor, "rows 3 side side"]
    boxes: tuple[np.ndarray, ...]
    classes: tuple[np.ndarray, ...]


@cache
def make_shapes_boxes(rows: int = sum(SPLITS.values()), side: int = SIDE) -> ShapesBoxes:
    """The first `rows` of the images, of `side` pixels."""
    made = []
    for ids in torch.arange(rows).split(_TOGETHER):
        odds = uniform(derive("shapes_boxes"), ids, ODDS).double().numpy()
        grain = uniform(derive("shapes_boxes", "grain"), ids, 3 * side * side).double().numpy()
        made += [_make(Odds(odds[row]), grain[row].reshape(3, side, side)) for row in range(len(ids))]
    images, boxes, classes = zip(*made, strict=True)
    return ShapesBoxes(torch.from_numpy(np.stack(images)), boxes, classes)


def write_shapes_boxes(root: Path, names: Sequence[str], splits: Mapping[str, int]) -> None:
    """Write images and boxes as a user's folder has them, boxes.json, with these names for the classes.

    `splits` says how many images each has, by the names of splits.json.
    """
    made = make_shapes_boxes(sum(splits.values()))
    (root / "images").mkdir(parents=True)
    rows = iter(range(len(made.images)))
    listed = {split: [str(next(rows)) for _ in range(count)] for split, count in splits.items()}
    boxes = {}
    for row, image in enumerate(made.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "images" / f"{row}.png")
        # Where there are more classes than shapes, a shape's class goes on with the row; where fewer, it returns.
        boxes[str(row)] = [[names[(number + len(CLASSES) * row) % len(names)], *box] for number, box in
                           zip(made.classes[row].tolist(), made.boxes[row].tolist(), strict=True)]
    write_json(root / BOXES_FILE, {"classes": [*names], "boxes": boxes})
    write_json(root / SPLITS_FILE, listed)


def _make(odds: Odds, grain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, the boxes in it, and their classes."""
    side = grain.shape[1]
    image = texture(odds, side)
    for number in (1, 2):
        image = np.where(stripe(odds, side), texture(odds, side, number), image)
    drawn: list[tuple[int, np.ndarray, int]] = []  # class, the pixels that are seen, how many there were
    turn = int(_EMPTY * odds.one())
    for _ in range(0 if turn == 0 else 1 + turn % _AT_MOST):
        number, inside = _shape(odds, side)
        colours = texture(odds, side, number + 1, _COLOURS)
        if inside.any() and all((seen & ~inside).sum() >= _SEEN * whole for _, seen, whole in drawn):
            image = np.where(inside, colours, image)
            drawn = [(kind, seen & ~inside, whole) for kind, seen, whole in drawn]
            drawn.append((number, inside, int(inside.sum())))
    image = image + GRAIN * (grain - 0.5)
    boxes = [_box(seen) for _, seen, _ in drawn]
    return (image.clip(0, 255).astype(np.uint8), np.array(boxes, np.float64).reshape(-1, 4),
            np.array([number for number, *_ in drawn], np.int64))


def _shape(odds: Odds, side: int) -> tuple[int, np.ndarray]:
    """The class of a random shape, and which pixels are in it [side, side]."""
    kind, size = odds.one(), odds.between(0.1, 0.2)
    number = next(place for place, most in enumerate(_UP_TO) if kind < most)
    u, v = turned_plane(odds, side, 0.15)
    if number == 0:
        return number, u * u + v * v < size * size
    if number == 1:
        return number, np.maximum(np.abs(u), np.abs(v)) < 0.9 * size
    edges = np.maximum(v, math.sqrt(0.75) * np.abs(u) - 0.5 * v)  # the farthest of three sides
    return number, edges < 0.7 * size


def _box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Around the pixels that are True: left, top, right, lower edge."""
    down, across = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1
