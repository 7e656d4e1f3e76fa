"""Files of interactions, user,item[,time][,weight], a row each -> arrays, each row with its place in the file."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.decoding import open_regular, printable
from tutelage.errors import DataError, SecurityError, UsageError

INTERACTION_SUFFIXES = (".csv", ".parquet")
LARGEST_FILE = 2**32
COLUMNS = ("user", "item", "time", "weight")
NEEDED = COLUMNS[:2]


@dataclass(frozen=True, eq=False)
class InteractionFile:
    """The rows of a file that are interactions.

    `users` and `items` are numbers of the names `user_names` and `item_names`, which are sorted; `times` are seconds
    or numbers as they stand, None where there is no such column; `weights` are above 0, 1 without such a column.
    `rows` are places in the file, from 1 on, the line of names not counted. `left_out` is how many rows had no user or
    no item, or a weight of 0 or less.
    """

    where: str
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    weights: np.ndarray
    rows: np.ndarray
    left_out: int = 0


def read_interactions(path: Path, columns: Mapping[str, str] | None = None) -> InteractionFile:
    """A CSV file or, where pyarrow is there, a parquet file; `columns` says how user, item, time and weight are called.

    Without `columns` a file has columns of these very names; time and weight may be missing. DataError names file and
    row.
    """
    suffix = path.suffix.lower()
    if suffix not in INTERACTION_SUFFIXES:
        raise DataError("not a file of interactions", where=printable(path), found=suffix or "no suffix",
                        expected=", ".join(INTERACTION_SUFFIXES))
    read = _parquet if suffix == ".parquet" else _csv
    return _made(printable(path), *read(path, dict(columns or {})))


def _csv(path: Path, columns: dict[str, str]) -> tuple[dict[str, Sequence[Any]], list[int]]:
    where = printable(path)
    with open_regular(path) as file:
        if file.seek(0, 2) > LARGEST_FILE:
            raise SecurityError("a file that is too large", where=where, expected=f"{LARGEST_FILE} bytes at most")
        file.seek(0)
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError("not UTF-8 text", where=where, found=error, fix="save it as CSV in UTF-8") from None
    lines = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(lines, [])]
    places = _places(names, columns, where)
    found: dict[str, list[str]] = {key: [] for key in places}
    rows: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if len(line) != len(names):
            raise DataError("a row of another length than the line of names", where=f"{where}, row {number}",
                            found=f"{len(line)} columns", expected=f"{len(names)}: {', '.join(names[:8])}")
        for key, place in places.items():
            found[key].append(line[place].strip())
        rows.append(number)
    return dict(found), rows


def _parquet(path: Path, columns: dict[str, str]) -> tuple[dict[str, Sequence[Any]], Sequence[int]]:
    if find_spec("pyarrow") is None:
        raise UsageError("reading parquet needs pyarrow", where=printable(path), fix="pip install pyarrow, or give CSV")
    from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]

    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise DataError("not a parquet file", where=printable(path), found=str(error)[:200]) from None
    places = _places(table.column_names, columns, printable(path))
    found = {key: table.column(place).to_pylist() for key, place in places.items()}
    return found, range(1, len(table) + 1)


def _places(names: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, int]:
    wanted = {key: columns.get(key, key) for key in COLUMNS}
    if len(names) < 2:
        raise DataError("a file of fewer than two columns", where=f"{where}, line of names", found=", ".join(names),
                        expected="user,item[,time][,weight]")
    for key, name in wanted.items():
        if name not in names and (key in NEEDED or key in columns):
            raise DataError(f"there is no column {name!r}", where=f"{where}, line of names",
                            found=", ".join(names[:20]), expected="user,item[,time][,weight]",
                            fix=f'name it in [data]: columns = {{ {key} = "..." }}')
    return {key: names.index(name) for key, name in wanted.items() if name in names}


def _made(where: str, found: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> InteractionFile:
    users, items = (["" if one is None else str(one) for one in found[key]] for key in NEEDED)
    weights = (np.ones(len(rows)) if "weight" not in found else
               np.array([_number(value, where, row) for value, row in zip(found["weight"], rows, strict=True)]))
    named = np.fromiter((bool(user and item) for user, item in zip(users, items, strict=True)), bool, len(rows))
    kept = np.flatnonzero(named & (weights > 0)).tolist()
    times = None
    if "time" in found:
        times = np.array([_time(found["time"][place], where, rows[place]) for place in kept])
    user_names, user_numbers = _numbered(users[place] for place in kept)
    item_names, item_numbers = _numbered(items[place] for place in kept)
    return InteractionFile(where, user_names, item_names, user_numbers, item_numbers, times, weights[kept],
                           np.asarray(rows, np.int64)[kept], len(rows) - len(kept))


def _numbered(names: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    given = list(names)
    order = {name: number for number, name in enumerate(sorted(set(given)))}
    return tuple(order), np.array([order[name] for name in given], np.int64)


def _number(value: object, where: str, row: int) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError("a weight that is no finite number", where=f"{where}, row {row}", found=repr(value),
                        expected="a number; 0 or less means that the row is no interaction")
    return number


def _time(value: object, where: str, row: int) -> float:
    """Seconds of a date, or a number as it stands."""
    text = str(value)
    try:
        number = float(text)
    except ValueError:
        try:
            date = value if isinstance(value, datetime) else datetime.fromisoformat(text)
            number = (date.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() - (
                date.utcoffset().total_seconds() if date.utcoffset() else 0)  # pyright: ignore
        except ValueError:
            number = math.nan
    if not math.isfinite(number):
        raise DataError("a time that cannot be read", where=f"{where}, row {row}", found=repr(value),
                        expected="a number, or a date such as 2011-12-09 or 2011-12-09 08:26")
    return number
