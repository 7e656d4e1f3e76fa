"""From a series of a file to the numbers a network receives: one rule, for training and prediction, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.errors import DataError

KIND = "series"
"""What preprocessing of series says of itself; that of images has no such word."""


@dataclass(frozen=True)
class SeriesScaling:
    """What is taken off each channel, and what it is divided by; and the length that all series are padded to."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    length: int
    masked: bool

    @property
    def channels(self) -> int:
        """How many channels every series has."""
        return len(self.mean)

    def as_json(self) -> dict[str, object]:
        """What makes of further series what a network was trained on; `series_scaling` reads it back."""
        return {"kind": KIND, "mean": list(self.mean), "std": list(self.std), "length": self.length,
                "channels": len(self.mean), "masked": self.masked}


def series_scaling(preprocessing: Mapping[str, object]) -> SeriesScaling:
    """The scaling that a model brought along as JSON."""
    mean, std = (_read_numbers(preprocessing, key) for key in ("mean", "std"))
    length, masked = preprocessing.get("length"), preprocessing.get("masked")
    if preprocessing.get("kind") != KIND or len(mean) != len(std) or min(std) <= 0:
        raise _unreadable("kind, mean and std", {key: preprocessing.get(key) for key in ("kind", "mean", "std")},
                          "those of series: a number for each channel")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise _unreadable("length", length, "a whole number of steps")
    if not isinstance(masked, bool):
        raise _unreadable("masked", masked, "true or false")
    return SeriesScaling(mean, std, length, masked)


def padded_series(values: Sequence[np.ndarray], how: SeriesScaling) -> tuple[np.ndarray, np.ndarray | None]:
    """Series [C, steps] -> values [N, C, L] float32, 0 in the padding, and their mask [N, L] if `how` has one."""
    length = max(how.length, *(series.shape[1] for series in values)) if values else how.length
    made = np.zeros((len(values), how.channels, length), dtype=np.float32)
    with np.errstate(over="ignore"):
        for place, series in enumerate(values):
            made[place, :, :series.shape[1]] = _scaled(series, how)
    if not np.isfinite(made).all():
        raise DataError("numbers that are too far from those of training", expected="such as float32 can hold",
                        found=f"{int((~np.isfinite(made)).any((1, 2)).sum())} series", fix="look for faulty values")
    steps = np.array([series.shape[1] for series in values])
    return made, np.arange(length) < steps[:, None] if how.masked else None


def _scaled(series: np.ndarray, how: SeriesScaling) -> np.ndarray:
    return (series - np.array(how.mean)[:, None]) / np.array(how.std)[:, None]


def _read_numbers(preprocessing: Mapping[str, object], name: str) -> tuple[float, ...]:
    found = preprocessing.get(name)
    if not isinstance(found, list | tuple) or not found or not all(
            isinstance(number, int | float) and np.isfinite(number) for number in found):
        raise _unreadable(name, found, "a number for each channel")
    return tuple(map(float, found))


def _unreadable(name: str, found: object, expected: str) -> DataError:
    return DataError("preprocessing cannot be read", where=name, found=repr(found), expected=expected)
