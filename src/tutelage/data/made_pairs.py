"""The set `pairs`: registered pairs of a blurred image with warm things and a textured one, made in code.

The visible image has fine texture, and by night little light; the infrared one is blurred and shows warm discs, of
which the visible one has hardly a trace. A good fused image has both. Nothing is computed that two machines could
round in two ways: sums, products, quotients and square roots only.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from tutelage.data.shapes import Odds, stripe, texture, turned_plane
from tutelage.system.random import derive, uniform

PAIR_SPLITS = {"train": 160, "validation": 32, "test": 48}
PAIR_SIDE = 64
_ODDS = 300
_TEXTURE, _NOISE = 70.0, 14.0
_GREY = np.array([[60, 60, 60], [30, 30, 30], [110, 110, 110]])


class MadePairs(NamedTuple):
    """Infrared and visible [rows, 2, side, side], and which pairs are of the night [rows]."""

    pairs: UInt8[Tensor, "rows 2 side side"]
    night: Bool[Tensor, " rows"]


@cache
def make_pairs(rows: int = sum(PAIR_SPLITS.values()), side: int = PAIR_SIDE) -> MadePairs:
    """The first `rows` of the pairs, of `side` pixels; every second one is of the night."""
    ids = torch.arange(rows)
    odds = uniform(derive("pairs"), ids, _ODDS).double().numpy()
    grain = uniform(derive("pairs", "grain"), ids, 2 * side * side).double().numpy().reshape(rows, 2, side, side)
    made = [_make(Odds(odds[row]), grain[row], row % 2 == 1) for row in range(rows)]
    return MadePairs(torch.from_numpy(np.stack(made)), ids % 2 == 1)


def write_pairs(root: Path, splits: Mapping[str, int], fused: Path | None = None, side: int = PAIR_SIDE) -> None:
    """Write pairs as a user's folder has them, `root`/SPLIT/infrared and visible; `fused` gets their means."""
    made = make_pairs(sum(splits.values()), side)
    rows = iter(range(len(made.pairs)))
    for split, count in splits.items():
        for row in (next(rows) for _ in range(count)):
            name = f"{row:05d}{'N' if made.night[row] else 'D'}.png"
            for folder, image in zip(("infrared", "visible"), made.pairs[row], strict=True):
                _save(image, root / split / folder / name)
            if fused is not None:
                _save((made.pairs[row].float().mean(0)).round().to(torch.uint8), fused / split / name)


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.numpy()).save(path)


def _make(odds: Odds, grain: np.ndarray, night: bool) -> np.ndarray:
    side = grain.shape[1]
    scene = texture(odds, side, 0, _GREY)[0]
    rough = np.full((side, side), odds.between(0.2, 1.0))
    for number in (1, 2, 1):
        inside = stripe(odds, side) | _disc(odds, side, 0.1, 0.3)
        scene = np.where(inside, texture(odds, side, number, _GREY)[0], scene)
        rough = np.where(inside, odds.between(0.0, 1.0), rough)
    fine = grain[0] - 0.5
    fine = (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1)) / 1.5  # a little wider than a pixel
    visible = scene + _TEXTURE * rough * fine
    infrared = 40 + 0.45 * _blurred(_blurred(scene)) + _NOISE * (grain[1] - 0.5)
    for _ in range(1 + int(3 * odds.one())):
        warm = _disc(odds, side, 0.05, 0.12)
        infrared = np.where(warm, odds.between(190, 250), infrared)
        visible = np.where(warm, 0.93 * visible, visible)
    visible = 0.35 * visible if night else visible
    return np.stack([_blurred(infrared), visible]).clip(0, 255).astype(np.uint8)


def _disc(odds: Odds, side: int, least: float, most: float) -> np.ndarray:
    u, v = turned_plane(odds, side, 0.1)
    return u * u + v * v < odds.between(least, most) ** 2


def _blurred(image: np.ndarray) -> np.ndarray:
    """The mean of each pixel and the eight around it; borders repeated."""
    around = np.pad(image, 1, mode="edge")
    lines = around[:-2] + around[1:-1] + around[2:]
    return (lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]) / 9
