"""From the rows of a table to the numbers a network receives, and from what it says back to the units of the table.

One rule for training and prediction, without torch: of panels, windows of several series; of other tables, rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tutelage.data.decoding import Preparation, preparation
from tutelage.errors import DataError

PANEL, TABLE = "panel", "table"
"""What preprocessing says of itself."""
NINETY = 1.6448536269514722
"""So many standard deviations to both sides of the mean hold 90 % of a Gaussian."""


@dataclass(frozen=True)
class PanelScaling:
    """How windows of a panel are read and scaled: `mean` and `std` of each of its `series` and `columns`.

    `series_column` and `time_column` are the names of columns of the file; of `log` columns log(1 + x) is taken first.
    """

    series_column: str | None
    time_column: str
    series: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    columns: tuple[str, ...]
    log: tuple[str, ...]
    window: int
    horizon: int
    mean: tuple[tuple[float, ...], ...]
    std: tuple[tuple[float, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and steps of what a network receives."""
        return len(self.inputs), self.window

    def as_json(self) -> dict[str, object]:
        """What travels with a model; `panel_scaling` reads it back."""
        return {"kind": PANEL, **{key: _as_lists(value) for key, value in asdict(self).items()}}

    def window_of(self, series: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The last `window` values of each input of a series, scaled: [inputs, window] float32."""
        number = self.series.index(series)
        rows = [self._scaled(name, number, values[name][-self.window:]) for name in self.inputs]
        return np.stack(rows).astype(np.float32)

    def forecast_of(self, series: str, said: np.ndarray) -> np.ndarray:
        """Mean and deviation of each step [steps, 2] -> its median and the ends of its 90 % interval, unscaled."""
        number = self.series.index(series)
        places = [self.columns.index(name) for name in self.targets for _ in range(self.horizon)]
        mean, std = (np.array(table[number])[places, None] for table in (self.mean, self.std))
        found = _with_ends(said) * std + mean
        logarithms = np.array([self.columns[place] in self.log for place in places])[:, None]
        return np.where(logarithms, np.expm1(np.where(logarithms, found, 0)), found)

    def _scaled(self, name: str, number: int, values: np.ndarray) -> np.ndarray:
        place = self.columns.index(name)
        given = np.log1p(values) if name in self.log else values
        return (given - self.mean[number][place]) / self.std[number][place]


@dataclass(frozen=True)
class TableScaling:
    """How rows become what a network receives: columns of numbers by `mean` and `std`, or an `image` prepared.

    Targets are told by `target_mean` and `target_std`.
    """

    inputs: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    targets: tuple[str, ...]
    target_mean: tuple[float, ...]
    target_std: tuple[float, ...]
    image: Preparation | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What a network receives, without the batch."""
        return (len(self.inputs), 1) if self.image is None else self.image.shape

    def as_json(self) -> dict[str, object]:
        """What travels with a model; `rows_scaling` reads it back."""
        told = {key: _as_lists(value) for key, value in vars(self).items() if key != "image"}
        return {"kind": TABLE, **told, "image": None if self.image is None else self.image.as_json()}

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Rows of the input columns [rows, inputs] as a network receives them, [rows, inputs, 1] float32."""
        return ((values - np.array(self.mean)) / np.array(self.std)).astype(np.float32)[..., None]

    def numbers_of(self, said: np.ndarray) -> np.ndarray:
        """Mean and deviation of each target [targets, 2] -> its mean and the ends of its 90 % interval, unscaled."""
        return _with_ends(said) * np.array(self.target_std)[:, None] + np.array(self.target_mean)[:, None]


def _with_ends(said: np.ndarray) -> np.ndarray:
    wide = said.astype(np.float64)
    return wide[:, :1] + np.array([0.0, -NINETY, NINETY]) * wide[:, 1:]


def panel_scaling(preprocessing: Mapping[str, Any]) -> PanelScaling:
    """The scaling of a panel that a model brought along as JSON."""
    made = _read(PanelScaling, preprocessing)
    if len(made.mean) != len(made.series) or len(made.std) != len(made.series) or not all(
            len(row) == len(made.columns) for row in (*made.mean, *made.std)):
        raise _unreadable("mean, std", "a number for each series and column")
    return made


def rows_scaling(preprocessing: Mapping[str, Any]) -> TableScaling:
    """The scaling of rows that a model brought along as JSON."""
    image = preprocessing.get("image")
    made = _read(TableScaling, {**preprocessing, "image": None if image is None else preparation(image)})
    if len(made.mean) != len(made.inputs) or len(made.target_std) != len(made.targets):
        raise _unreadable("mean, target_std", "a number for each column")
    return made


def _read(kind: Any, preprocessing: Mapping[str, Any]) -> Any:
    try:
        return kind(**{key: _as_tuples(preprocessing[key]) for key in kind.__dataclass_fields__})
    except KeyError as error:
        raise _unreadable(str(error), "an entry of this name") from None


def _unreadable(name: str, expected: str) -> DataError:
    return DataError("preprocessing cannot be read", where=name, expected=expected)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _as_lists(value: Any) -> Any:
    return [*map(_as_lists, value)] if isinstance(value, list | tuple) else value
