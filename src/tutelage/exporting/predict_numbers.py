"""What a student says of tables: the next steps of each series, or numbers of rows or images. No torch in it."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.data.decoding import decode, pixels, printable
from tutelage.data.panel_files import TABLE_SUFFIXES, ReadTable, read_table
from tutelage.data.table_scaling import PanelScaling, TableScaling
from tutelage.errors import DataError, UsageError, UserError
from tutelage.exporting.predict import Damaged, Numbers, image_files

AT_ONCE = 256
"""Rows that run together."""
HEADER = ("row", "target", "step", "forecast", "low", "high")


@dataclass(frozen=True)
class NumberPrediction:
    """One number: of a series and a step after its last time, or of a row or an image.

    `forecast` is the median, `low` and `high` are the ends of its 90 % interval: None of a network that gives means
    alone. All are in the units of the table.
    """

    row: str
    target: str
    step: int | None
    forecast: float
    low: float | None
    high: float | None

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({key: getattr(self, key) for key in HEADER})

    def cells(self) -> list[object]:
        """A line of a CSV file, by HEADER."""
        return ["" if (value := getattr(self, key)) is None else value for key in HEADER]

    def __str__(self) -> str:
        step = "" if self.step is None else f" +{self.step}"
        between = "" if self.low is None else f"  90 % between {self.low:.6g} and {self.high:.6g}"
        return f"{printable(self.row)}  {printable(self.target)}{step}  {self.forecast:.6g}{between}"


def numbers_of(place: Path, student: Numbers) -> Iterator[NumberPrediction | Damaged]:
    """What the student says of a table or, of images, of a file or a folder of them."""
    how = student.scaling
    if isinstance(how, TableScaling) and how.image is not None:
        return _of_images(image_files(place), student, how)
    if place.is_dir() or place.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError("not a table", where=printable(place), expected=f"a file ({', '.join(TABLE_SUFFIXES)})")
    table = read_table(place)
    return _of_series(table, student, how) if isinstance(how, PanelScaling) else _of_rows(table, student, how)


def csv_of(found: Sequence[NumberPrediction]) -> bytes:
    """A CSV file of predictions, one a line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *(one.cells() for one in found)])
    return text.getvalue().encode()


def require_csv(to: Path, force: bool) -> None:
    """Refuse a place for a CSV file that is none, or is taken."""
    if to.suffix.lower() != ".csv":
        raise UsageError("numbers are written to a CSV file", where="--to", found=to, expected="FILE.csv")
    if to.exists() and not force:
        raise UsageError("the target exists and was kept", where=to, fix="--force, or another --to")


def _of_series(table: ReadTable, student: Numbers, how: PanelScaling) -> Iterator[NumberPrediction]:
    """The steps after the last time of each series of a table, in the order in which they first come."""
    times = table.times(how.time_column)
    whose = ["all"] * table.rows if how.series_column is None else [
        str(name) for name in table.column(how.series_column, "series")]
    values = {name: table.numbers(name, "inputs") for name in how.inputs}
    for name in how.inputs:
        if name in how.log and (values[name] <= -1).any():
            row = int((values[name] <= -1).argmax())
            raise DataError("a number that has no log(1 + x)", where=f"{table.where(row)}, column {printable(name)}",
                            found=f"{values[name][row]:g}", expected="above -1")
    windows = {}
    for series in dict.fromkeys(whose):
        rows = np.array([number for number, name in enumerate(whose) if name == series])
        _require_known(table, how, series, rows, times)
        windows[series] = how.window_of(series, {name: column[rows] for name, column in values.items()})
    said = _said(student, np.stack([*windows.values()]))
    for series, one in zip(windows, said, strict=True):
        for place, (middle, low, high) in enumerate(how.forecast_of(series, one).tolist()):
            plain = bool((one[:, 1] == 1).all())
            yield NumberPrediction(series, how.targets[place // how.horizon], place % how.horizon + 1, middle,
                                   None if plain else low, None if plain else high)


def _require_known(table: ReadTable, how: PanelScaling, series: str, rows: np.ndarray, times: np.ndarray) -> None:
    where = f"{table.where(int(rows[0]))}, series {printable(series)}"
    if series not in how.series:
        raise DataError("a series that the network was not trained on", where=where, found=printable(series),
                        expected=f"one of {len(how.series)}, such as {printable(how.series[0])}",
                        fix="leave it out, or train with it: each series has its own scaling")
    if len(rows) < how.window:
        raise DataError("a series that is shorter than the window", where=where, found=f"{len(rows)} steps",
                        expected=f"{how.window} or more", fix="give more of its past")
    falls = (np.diff(times[rows]) <= 0).nonzero()[0]
    if len(falls):
        raise DataError("times that do not rise", where=table.where(int(rows[falls[0] + 1])),
                        found=f"series {printable(series)}",
                        expected="each series in the order of time, each time once",
                        fix="sort the file by series and time")


def _of_rows(table: ReadTable, student: Numbers, how: TableScaling) -> Iterator[NumberPrediction]:
    values = np.stack([table.numbers(name, "inputs") for name in how.inputs], 1)
    for number, one in enumerate(_said(student, how.scaled(values))):
        yield from _told(table.where(number).rpartition(", ")[2], one, how)


def _of_images(paths: Sequence[Path], student: Numbers, how: TableScaling) -> Iterator[NumberPrediction | Damaged]:
    assert how.image is not None, "asked for by numbers_of"
    for path in paths:
        try:
            image = decode(path, how.image.channels, orientation=how.image.orientation,
                           value_range=how.image.value_range)
        except UserError as error:
            yield Damaged(path, error)
            continue
        given = pixels(image, how.image)
        (one,) = _said(student, given[None].astype(np.float32) / np.float32(255))
        yield from _told(str(path), one, how)


def _told(row: str, said: np.ndarray, how: TableScaling) -> Iterator[NumberPrediction]:
    plain = bool((said[:, 1] == 1).all())  # means alone: nothing is known of the spread
    for target, (middle, low, high) in zip(how.targets, how.numbers_of(said).tolist(), strict=True):
        yield NumberPrediction(row, target, None, middle, None if plain else low, None if plain else high)


def _said(student: Numbers, given: np.ndarray) -> np.ndarray:
    return np.concatenate([student.forecast(given[start : start + AT_ONCE])
                           for start in range(0, len(given), AT_ONCE)])
