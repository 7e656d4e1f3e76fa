"""CSV and parquet files of numbers: columns by name, each fault with its row."""

import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.decoding import printable
from tutelage.errors import DataError, SecurityError, UsageError, unknown

TABLE_SUFFIXES = (".csv", ".parquet")
LARGEST_TABLE = 2**31
"""Bytes of a file; larger ones are refused."""


@dataclass(frozen=True, eq=False)
class ReadTable:
    """A file as columns of text or numbers [rows]; `line` says where a row stands, for a person."""

    path: Path
    columns: Mapping[str, Sequence[Any]]
    rows: int
    sha256: str

    def where(self, row: int) -> str:
        """A row as the place in its file: the header of a CSV file is line 1."""
        return (f"{printable(self.path)}, line {row + 2}" if self.path.suffix.lower() == ".csv" else
                f"{printable(self.path)}, row {row}")

    def column(self, name: str, key: str) -> Sequence[Any]:
        """A column; DataError with a suggestion where there is none of that name."""
        if name not in self.columns:
            raise unknown("column", name, self.columns, where=f"[data] {key}, in {printable(self.path)}",
                          error=DataError)
        return self.columns[name]

    def numbers(self, name: str, key: str) -> np.ndarray:
        """A column as finite float64 [rows]."""
        made = np.empty(self.rows)
        for row, value in enumerate(self.column(name, key)):
            made[row] = number = _number(value)
            if not math.isfinite(number):
                missing = value is None or not str(value).strip()
                raise DataError("a missing number" if missing else "not a finite number",
                                where=f"{self.where(row)}, column {printable(name)}", found=repr(value)[:80],
                                expected="a finite number", fix="fill it, or leave the row or the column out")
        return made

    def times(self, name: str) -> np.ndarray:
        """A column of numbers, or of dates as ISO 8601 has them, as float64 [rows] that rise with time."""
        values = self.column(name, "time")
        read: Callable[[Any], float] = _number if self.rows and not math.isnan(_number(values[0])) else _seconds
        made = np.empty(self.rows)
        for row, value in enumerate(values):
            made[row] = read(value)
            if not math.isfinite(made[row]):
                raise DataError("not a time", where=f"{self.where(row)}, column {printable(name)}",
                                found=repr(value)[:80],
                                expected="a number, as in the first row" if read is _number else
                                "a date such as 2024-01-31, or 2024-01-31T12:00:00")
        return made


def read_table(path: Path) -> ReadTable:
    """A CSV or parquet file; parquet needs pyarrow."""
    if not path.is_file():
        raise DataError("no such file", where=path, fix="mend [data] root")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError("not a table", where=path, found=path.suffix or "no suffix", expected=", ".join(TABLE_SUFFIXES))
    if path.stat().st_size > LARGEST_TABLE:
        raise SecurityError("a file that is too large", where=path, found=f"{path.stat().st_size} bytes",
                            expected=f"{LARGEST_TABLE} at most")
    columns = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise DataError("a table without a row", where=path)
    with path.open("rb") as file:
        return ReadTable(path, columns, rows, hashlib.file_digest(file, "sha256").hexdigest())


def _csv(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = [name.strip() for name in next(reader, [])]
            rows = []
            for number, row in enumerate(reader):
                if len(row) != len(names):
                    raise DataError("a row of another length than the header", where=f"{printable(path)}, "
                                    f"line {number + 2}", found=f"{len(row)} cells", expected=f"{len(names)}")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not a CSV file in UTF-8", where=path, found=str(error)[:200]) from None
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None or "" in names:
        raise DataError("columns without a name of their own", where=f"{printable(path)}, line 1",
                        found=printable(double or "an empty name"), expected="each once")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise UsageError("parquet files need pyarrow", where=path, fix="pip install 'tutelage[parquet]', or give CSV"
                         ) from None
    try:
        return parquet.read_table(path).to_pydict()
    except Exception as error:  # whatever a broken file makes of it
        raise DataError("not a parquet file", where=path, found=str(error).partition("\n")[0][:200]) from None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _seconds(value: Any) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        return math.nan
    # Seconds since a fixed moment, whatever the zone of this machine is.
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1) - (moment.utcoffset() or moment.resolution * 0)
            ).total_seconds()
