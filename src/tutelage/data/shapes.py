"""The set `shapes`: discs and squares on a grainy background, made in code, the same on every machine.

Discs tend to red and squares to blue, but so do the stripes of the background: colour helps, and form decides. Nothing
is computed that two machines could round in two ways: sums, products, quotients and square roots only.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tutelage.system.random import derive, uniform

CLASSES = ("background", "disc", "square")
SPLITS = {"train": 400, "validation": 100, "test": 200}
SIDE = 64
_SHAPES = 2
_AT_MOST = 3
GRAIN = 80.0
DARKEST = np.array([[70, 70, 70], [150, 60, 40], [40, 60, 150]])
"""Of the colours of each class, the least of red, green and blue."""
ODDS = 400
"""So many numbers make any image, but for its grain."""
_TOGETHER = 50


class Shapes(NamedTuple):
    """Images [700, 3, 64, 64] and the class of each pixel [700, 64, 64], those of the splits in their order."""

    images: UInt8[Tensor, "rows 3 side side"]
    masks: UInt8[Tensor, "rows side side"]


@cache
def make_shapes(rows: int = sum(SPLITS.values()), side: int = SIDE) -> Shapes:
    """The first `rows` of the images, of `side` pixels."""
    made = []
    for ids in torch.arange(rows).split(_TOGETHER):
        odds = uniform(derive("shapes"), ids, ODDS).double().numpy()
        grain = uniform(derive("shapes", "grain"), ids, 3 * side * side).double().numpy()
        made += [_make(Odds(odds[row]), grain[row].reshape(3, side, side)) for row in range(len(ids))]
    return Shapes(torch.from_numpy(np.stack([image for image, _ in made])),
                  torch.from_numpy(np.stack([mask for _, mask in made])))


def write_shapes(root: Path, values: Sequence[int], splits: Mapping[str, int]) -> None:
    """Write images and masks as a user's folder has them: `root`/SPLIT/images and `root`/SPLIT/masks.

    `values` are those of the classes in the masks, the background first; `splits` says how many images each has.
    """
    made = make_shapes(sum(splits.values()))
    rows = iter(range(len(made.images)))
    kinds = max(1, len(values) - 1)
    for split, count in splits.items():
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for row in (next(rows) for _ in range(count)):
            # Where there are more classes than shapes, a shape's class goes on with the row; where fewer, it returns.
            numbers = made.masks[row].numpy().astype(np.int64)
            numbers = np.where(numbers > 0, 1 + (numbers - 1 + _SHAPES * row) % kinds, 0)
            mask = np.array(values, np.uint16)[numbers]
            kind = np.uint8 if max(values) < 256 else np.uint16
            Image.fromarray(made.images[row].permute(1, 2, 0).numpy()).save(root / split / "images" / f"{row}.png")
            Image.fromarray(mask.astype(kind)).save(root / split / "masks" / f"{row}.png")


def _make(odds: "Odds", grain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    side = grain.shape[1]
    image = texture(odds, side)
    mask = np.zeros((side, side), np.uint8)
    for number in (1, 2):
        image = np.where(stripe(odds, side), texture(odds, side, number), image)
    for _ in range(1 + int(_AT_MOST * odds.one())):
        number, inside = _shape(odds, side)
        image = np.where(inside, texture(odds, side, number), image)
        mask = np.where(inside, np.uint8(number), mask)
    image = image + GRAIN * (grain - 0.5)
    return image.clip(0, 255).astype(np.uint8), mask


class Odds:
    """Uniform numbers in [0, 1), one after another."""

    def __init__(self, numbers: np.ndarray):
        self.numbers, self.used = numbers, 0

    def many(self, count: int) -> np.ndarray:
        """[count] float64."""
        self.used += count
        assert self.used <= len(self.numbers)
        return self.numbers[self.used - count:self.used]

    def one(self) -> float:
        """The next one."""
        return float(self.many(1)[0])

    def between(self, low: float, high: float) -> float:
        """The next one in [low, high)."""
        return low + (high - low) * self.one()


def texture(odds: Odds, side: int, number: int = 0, darkest: np.ndarray = DARKEST) -> np.ndarray:
    """A colour as things of a class have it, which changes from patch to patch: [3, side, side] of float64."""
    colour = darkest[number] + 90 * odds.many(3)
    coarse = odds.many(3 * 16).reshape(3, 4, 4) - 0.5
    places = np.arange(side) * 4 // side
    patches = coarse[:, places[:, None], places]
    return colour[:, None, None] + 50 * patches


def _direction(odds: Odds) -> tuple[float, float]:
    """Cosine and sine of an angle, without either: of the half-angle's tangent."""
    t = odds.between(-1, 1)
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def turned_plane(odds: Odds, side: int, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates around a random centre, in sides of the image."""
    steps = (np.arange(side) + 0.5) / side
    x = steps[None, :] - odds.between(edge, 1 - edge)
    y = steps[:, None] - odds.between(edge, 1 - edge)
    cosine, sine = _direction(odds)
    return cosine * x + sine * y, cosine * y - sine * x


def stripe(odds: Odds, side: int) -> np.ndarray:
    """Which pixels are in a random stripe: [side, side]."""
    u, _ = turned_plane(odds, side, 0.0)
    return np.abs(u) < odds.between(0.02, 0.05)


def _shape(odds: Odds, side: int) -> tuple[int, np.ndarray]:
    """The class number of a random shape, and which pixels are in it [side, side]."""
    number, size = 1 + int(_SHAPES * odds.one()), odds.between(0.12, 0.24)
    u, v = turned_plane(odds, side, 0.15)
    if number == 1:
        return number, u * u + v * v < size * size
    return number, np.maximum(np.abs(u), np.abs(v)) < 0.9 * size
