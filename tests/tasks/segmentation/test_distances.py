"""HD95 against distances worked out pixel by pixel, where MONAI is installed."""

import math
import sys

import pytest
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.tasks.segmentation.distances import hd95


def square(top: int, left: int, side: int = 4) -> Tensor:
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(ModelError, match=r"pip install 'tutelage\[segmentation\]'"):
        hd95(square(2, 2), square(2, 2), 2)


def border(mask: Tensor) -> list[tuple[int, int]]:
    inside = {tuple(place) for place in mask.nonzero().tolist()}
    return [(y, x) for y, x in inside if {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} - inside]


def naive(predicted: Tensor, labels: Tensor, height: float = 1, width: float = 1) -> float:
    """The larger of the two 95th percentiles of how far each border is from the other."""
    a, b = border(predicted), border(labels)

    def percentile(of: list[tuple[int, int]], to: list[tuple[int, int]]) -> float:
        least = [min(math.hypot(height * (y - v), width * (x - u)) for v, u in to) for y, x in of]
        return torch.tensor(least, dtype=torch.float64).quantile(0.95).item()

    return max(percentile(a, b), percentile(b, a))


@pytest.mark.parametrize("spacing", [None, (0.5, 2.0)])
def test_distances_are_those_of_a_loop_over_the_borders(spacing):
    pytest.importorskip("monai", reason="MONAI is an extra")
    predicted, labels = torch.cat([square(2, 2), square(3, 5, 6)]), torch.cat([square(5, 3), square(4, 4, 5)])
    expected = [naive(a, b, *(spacing or ())) for a, b in zip(predicted, labels, strict=True)]
    assert hd95(predicted, labels, 2, spacing=spacing).tolist() == pytest.approx(expected, rel=1e-5)


def test_what_is_not_there_has_no_distance_and_what_does_not_count_is_right():
    pytest.importorskip("monai", reason="MONAI is an extra")
    nothing = torch.zeros(1, 16, 16, dtype=torch.int64)
    assert math.isnan(hd95(nothing, square(2, 2), 2)[0])
    labels = square(2, 2).where(square(9, 9) == 0, -1)
    assert hd95(square(2, 2) + square(9, 9), labels, 2)[0] == 0
