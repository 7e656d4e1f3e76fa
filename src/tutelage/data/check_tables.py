"""What is wrong with a panel or another table of numbers: the first thing that a run would stop at, and notes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tutelage.data.check import Finding
from tutelage.data.decoding import printable
from tutelage.data.load import load_data
from tutelage.data.panel_files import ReadTable, read_table
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, SecurityError, UserError

TIMES = ("date", "time", "timestamp", "datetime", "ds", "day", "month")
WHOSE = ("series", "name", "unique_id", "id", "item_id", "ticker", "symbol", "store", "sensor")
WANTED = ("target", "y", "volume", "value", "sales", "load", "demand", "quantity")
"""Names by which columns are known, in lower case."""


@dataclass(frozen=True)
class TableReport:
    """What was found: `counts` says how many samples each split has, `series` the names, `read` how it was read."""

    root: str
    read: str
    counts: dict[str, int]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a run."""
        return tuple(finding for finding in self.findings if finding.error)

    def as_json(self) -> str:
        """The report for a program."""
        return json.dumps({"root": self.root, "read": self.read, "counts": self.counts, "notes": self.notes,
                           "errors": [asdict(finding) for finding in self.errors]}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person."""
        lines = [self.root, f"  read as    {self.read}",
                 *(f"  {split:<10} {count} samples" for split, count in self.counts.items()),
                 *(f"  note       {note}" for note in self.notes)]
        for finding in self.findings:
            lines += [f"  error      {finding.what}", f"  {'':<12} where     {finding.example}",
                      f"  {'':<12} fix       {finding.fix}"]
        return "\n".join(lines if self.findings else [*lines, "  nothing wrong was found"])

    def __str__(self) -> str:
        return self.text()


def guessed_panel(path: Path) -> DataSettings:
    """Settings for a table as a panel, by the names of its columns and what they hold; a person may mend them."""
    table = read_table(path)
    time = _named(table, TIMES, lambda name: True) or next(
        (name for name in table.columns if _is_time(table, name) and not _is_number(table, name)), None)
    if time is None:
        raise DataError("no column of times", where=printable(path), found=", ".join(map(printable, table.columns)),
                        expected=f"one called {', '.join(TIMES[:4])}, or one of dates",
                        fix="rename it, or write a recipe with [data] time")
    rest = [name for name in table.columns if name not in (time, "split")]
    words = [name for name in rest if not _is_number(table, name)]
    whose = _named(table, WHOSE, lambda name: name in rest) or (words[0] if words else None)
    numbers = [name for name in rest if name != whose and _is_number(table, name)]
    if not numbers:
        raise DataError("no column of numbers to forecast", where=printable(path),
                        found=", ".join(map(printable, table.columns)), expected="one or more")
    target = _named(table, WANTED, lambda name: name in numbers) or numbers[-1]
    steps = _shortest(table, whose)
    window = max(2, min(24, steps // 8))
    return DataSettings("panel", root=str(path.resolve()), series=whose, time=time, targets=(target,),
                        inputs=tuple(numbers), window=window, horizon=1, gap=1, validation=0.15)


def words_of_panel(settings: DataSettings) -> str:
    """How a table is read as a panel, for a person."""
    whose = f"series by {settings.series}" if settings.series else "one series"
    return (f"{whose}, time {settings.time or 'time'}, target {', '.join(settings.targets or ())}, window "
            f"{settings.window}, horizon {settings.horizon}")


def check_table(settings: DataSettings) -> TableReport:
    """Read and split a panel or a table as a run would."""
    root = printable(settings.root or settings.name)
    known = settings.image or ", ".join(settings.inputs or ("all others",))
    read = words_of_panel(settings) if settings.name == "panel" else (
        f"targets {', '.join(settings.targets or ())}, known {known}")
    try:
        data = load_data(settings)
    except SecurityError:
        raise
    except UserError as error:
        fix = error.fix or (f"expected {error.expected}" if error.expected else "mend the file")
        where = (error.where or root) + (f" ({error.found})" if error.found else "")
        return TableReport(root, read, {}, (), (Finding(error.kind, error.what, 1, where, fix, (), True),))
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return TableReport(root, read, {name: len(split.ids) for name, split in splits.items() if split is not None},
                       data.notes, ())


def _named(table: ReadTable, names: Sequence[str], allowed: Callable[[str], bool]) -> str | None:
    return next((column for name in names for column in table.columns
                 if column.lower() == name and allowed(column)), None)


def _is_time(table: ReadTable, name: str) -> bool:
    try:
        table.times(name)
    except UserError:
        return False
    return True


def _is_number(table: ReadTable, name: str) -> bool:
    """Whether the first value of a column is a number: what is wrong further down is told later, with its row."""
    try:
        float(table.columns[name][0])
    except (TypeError, ValueError):
        return False
    return True


def _shortest(table: ReadTable, whose: str | None) -> int:
    if whose is None:
        return table.rows
    return int(np.unique([str(name) for name in table.columns[whose]], return_counts=True)[1].min())
