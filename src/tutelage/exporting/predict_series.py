"""What a student says of the series in files: .ts, .npz and CSV, with labels or without. No torch in it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from tutelage.data.decoding import printable
from tutelage.data.layout import is_hidden
from tutelage.data.series_files import SERIES_SUFFIXES, SeriesFile, read_series_file
from tutelage.data.series_scaling import padded_series
from tutelage.errors import DataError, UserError
from tutelage.exporting.predict import Damaged, SeriesClassifier, softmax

AT_ONCE = 64
"""Series that run together."""


@dataclass(frozen=True)
class SeriesPrediction:
    """The likeliest class of a series with its probability, and whether that is below what was asked for.

    `series` says where it stands in the file.
    """

    file: Path
    series: str
    label: str
    probability: float
    below: bool

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "series": self.series, "label": self.label,
                           "probability": self.probability, "below": self.below})

    def __str__(self) -> str:
        note = "  below the confidence asked for" if self.below else ""
        return (f"{printable(self.file)}, {printable(self.series)}  {printable(self.label)}  "
                f"{self.probability:.1%}{note}")


def files_of_series(place: Path) -> list[Path]:
    """The file itself, or all files of series in a folder in the order of their names; hidden ones are left out."""
    expected = f"a file of series ({', '.join(SERIES_SUFFIXES)}), or a folder of them"
    if not place.is_dir():
        if not place.exists() or place.suffix.lower() not in SERIES_SUFFIXES:
            raise DataError("no such file or folder" if not place.exists() else "not a file of series",
                            where=printable(place), expected=expected)
        return [place]
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in SERIES_SUFFIXES
                   and not is_hidden(path.name) and path.is_file())
    if not found:
        raise DataError("there are no series in this folder", where=printable(place), expected=expected)
    return found


def classify_series(paths: Sequence[Path], student: SeriesClassifier,
                    confidence: float) -> Iterator[SeriesPrediction | Damaged]:
    """Of each series of each file, in order, what the student sees; a file that cannot be read stops nothing."""
    for path in paths:
        try:
            parts = read_series_file(path, labelled=False)
            found = [(place, row) for part in parts.values()
                     for place, row in zip(_places(part, parts), _probabilities(part, student), strict=True)]
        except UserError as error:
            yield Damaged(path, error)
            continue
        for place, row in found:
            best = int(row.argmax())
            yield SeriesPrediction(path, place, student.classes[best], float(row[best]), bool(row[best] < confidence))


def _places(part: SeriesFile, parts: dict[str, SeriesFile]) -> list[str]:
    """Where each series stands; with the split, where a file has several."""
    if len(parts) == 1:
        return list(part.places)
    split = next(name for name, one in parts.items() if one is part)
    return [f"{split}, {place}" for place in part.places]


def _probabilities(part: SeriesFile, student: SeriesClassifier) -> Iterator[np.ndarray]:
    """[classes] of each series. Without a mask nothing is padded: series of one length run together."""
    how = student.scaling
    if part.channels != how.channels:
        raise DataError("series of another number of channels than the network was trained on", where=part.where,
                        found=part.channels, expected=how.channels)
    for steps, group in groupby(part.values, key=lambda series: 0 if how.masked else series.shape[1]):
        series = list(group)
        for start in range(0, len(series), AT_ONCE):
            values, mask = padded_series(series[start : start + AT_ONCE], how)
            yield from softmax(student.logits(values if how.masked else values[:, :, :steps], mask))
