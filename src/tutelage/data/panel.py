"""Panel data: several series over one calendar, from a table -> windows, and the steps to forecast after each.

A sample is a series and a moment: what was known in the `window` steps up to it, and the targets of the `horizon` steps
after. Splits follow time: a sample belongs to the split in which all its targets lie, and between two splits `gap`
steps are nobody's targets. What is before a split may be read by its windows, as whoever forecasts then knows it.
Each column of each series is scaled by its training period alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.data.assemble import SplitRows
from tutelage.data.decoding import printable
from tutelage.data.memory import moved_to
from tutelage.data.panel_files import ReadTable, read_table
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import TEST_SHARE
from tutelage.data.stream import CPU
from tutelage.data.table_scaling import PanelScaling
from tutelage.data.waves_forecast import waves_forecast
from tutelage.errors import DataError, UsageError
from tutelage.types import Batch, View

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Panel:
    """Series over a calendar: `values` [S, C, T] float64, NaN where a series is not yet or no longer there.

    `times` [T] rise; `inputs` and `targets` are names of `columns`; `split` [T] is 0, 1 or 2 where the table says which
    split a moment is of, else None.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    times: np.ndarray
    values: np.ndarray
    split: np.ndarray | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PanelSource:
    """A split in memory: `values` [S, C, T] float32, scaled; a row is (series, moment), [N, 2].

    `inputs` and `targets` are numbers of columns. Labels are "target" and "naive" [B, targets * horizon], the last
    known value; those of one target stand together; and "series" [B] int64, whose they are.
    """

    ids: Tensor
    values: Tensor
    rows: Tensor
    inputs: Tensor
    targets: Tensor
    window: int
    horizon: int

    @property
    def labels(self) -> Tensor:
        """[N] zeros: each row has targets."""
        return torch.zeros(len(self.ids), dtype=torch.int64)

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        device = self.values.device
        past, ahead = torch.arange(1 - self.window, 1, device=device), torch.arange(1, self.horizon + 1, device=device)
        for entry in plan:
            series, moment = moved_to(self.rows[entry.cpu()], device).unbind(1)
            known = self._at(series, self.inputs, moment[:, None] + past)
            target = self._at(series, self.targets, moment[:, None] + ahead).flatten(1)
            naive = self._at(series, self.targets, moment[:, None]).expand(-1, -1, self.horizon).flatten(1)
            plain = tuple(views) == ("",)
            inputs: Tensor | Mapping[str, View] = known if plain else dict.fromkeys(views, known)
            labels = {"target": target, "naive": naive, "series": series}
            yield Batch(inputs, labels, moved_to(self.ids[entry.cpu()], device))

    def _at(self, series: Tensor, columns: Tensor, moments: Tensor) -> Tensor:
        """[B, columns, moments]."""
        return self.values[series[:, None, None], columns[None, :, None], moments[:, None]]


def read_panel(settings: DataSettings, roots: Sequence[Path]) -> Panel:
    """The panel that the settings name, of the first of `roots` that is there; the made one without roots."""
    if not roots:
        return made_panel(settings)
    table = read_table(next((root for root in roots if root.is_file()), roots[0]))
    targets = settings.targets or ()
    special = [name for name in (settings.series, settings.time) if name] + ["split"] * ("split" in table.columns)
    inputs = settings.inputs or tuple(name for name in table.columns if name not in special)
    columns = tuple(dict.fromkeys((*inputs, *targets)))
    times = table.times(settings.time or "time")
    names, whose = _series_of(table, settings)
    place = _calendar(table, times, names, whose)
    calendar = np.unique(times)
    values = np.full((len(names), len(columns), len(calendar)), np.nan)
    notes = []
    for number, name in enumerate(columns):
        found = table.numbers(name, "targets" if name in targets else "inputs")
        if name in (settings.log or ()):
            found, told = _logarithm(table, name, found)
            notes += told
        values[whose, number, place] = found
    return Panel(names, columns, inputs, targets, calendar, values, _splits_told(table, place, len(calendar)),
                 tuple(notes))


def made_panel(settings: DataSettings) -> Panel:
    """The made series, under the names of the columns that the settings know; without names x and its driver."""
    targets = settings.targets or ("load",)
    inputs = settings.inputs or tuple(dict.fromkeys((*targets, "driver")))
    columns = tuple(dict.fromkeys((*inputs, *targets)))
    values = waves_forecast(len(columns), settings.window + settings.horizon).numpy()
    return Panel(tuple(f"series {number}" for number in range(len(values))), columns, inputs, targets,
                 np.arange(values.shape[2], dtype=float), values)


def panel_data(settings: DataSettings, panel: Panel, *, device: torch.device = CPU,
               most: Mapping[str, int] | None = None, kept: Tensor | None = None) -> Data:
    """The `Data` of a panel: windows of each split, the first `most` of each by time if that is given.

    `kept` are the ids of the training rows to keep.
    """
    _check_lengths(panel, settings)
    periods = periods_of(panel, settings)
    last = periods["train"].stop
    mean, std = scaling_of_panel(panel, last)
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num((panel.values - mean[..., None]) / std[..., None]).astype(np.float32)
    values = torch.from_numpy(scaled)
    inputs, targets = (torch.tensor([panel.columns.index(name) for name in those], device=device)
                       for those in (panel.inputs, panel.targets))
    sources, splits = {}, {}
    for split, period in periods.items():
        rows = windows_in(panel, settings, period)
        ids = rows[:, 0] * len(panel.times) + rows[:, 1]
        if kept is not None and split == "train":
            rows, ids = rows[torch.isin(ids, kept)], ids[torch.isin(ids, kept)]
        count = len(ids) if most is None else most[split]
        order = rows[:, 1].argsort(stable=True)[:count].sort().values
        rows, ids = rows[order], ids[order]
        if not len(ids):
            raise DataError(f"no window for {split}", where="[data] window, horizon, gap",
                            found=f"{len(period)} of {len(panel.times)} steps", fix="shorten them, or add data")
        # Nothing that comes later than its own period lies with a split.
        sources[split] = PanelSource(ids, values[..., :period.stop].contiguous().to(device), rows, inputs, targets,
                                     settings.window, settings.horizon)
        splits[split] = SplitRows(ids, torch.zeros_like(ids))
    classes = tuple(f"{target} +{step}" for target in panel.targets for step in range(1, settings.horizon + 1))
    whose = settings.series or ("series" if len(panel.names) > 1 else None)
    how = PanelScaling(whose, settings.time or "time", panel.names, panel.inputs, panel.targets, panel.columns,
                       tuple(settings.log or ()), settings.window, settings.horizon,
                       tuple(map(tuple, mean.tolist())), tuple(map(tuple, std.tolist()))).as_json()
    rule = f"validation {settings.validation:g}, gap {settings.gap}, fold {settings.fold}, limit {settings.limit}"
    return Data(settings.name, classes, (len(panel.inputs), settings.window), sources["train"], sources["validation"],
                sources["test"], how, digest(settings.name, classes, splits, _content(panel), rule), "none",
                notes=panel.notes)


def _check_lengths(panel: Panel, settings: DataSettings) -> None:
    lengths = (~np.isnan(panel.values).any(1)).sum(1)
    short = int(lengths.argmin())
    if lengths[short] < settings.window + settings.horizon:
        raise DataError("a window that is longer than the series", where=f"series {printable(panel.names[short])}",
                        found=f"{int(lengths[short])} steps", expected=f"window + horizon = {settings.window} "
                        f"+ {settings.horizon} or more", fix="shorten them, or leave the series out")


def periods_of(panel: Panel, settings: DataSettings) -> dict[str, range]:
    """Of each split the steps of the calendar in which its targets lie.

    Without a column `split`, a fifth of the steps, the last, is for the test, and of the rest the last share for
    validation. A `fold` of k ends all that k test periods earlier. The `gap` is taken from the later split.
    """
    count = len(panel.times)
    if panel.split is not None:
        starts = [int((panel.split < part).sum()) for part in range(4)]
    else:
        tested = round(TEST_SHARE * count)
        stop = count - settings.fold * tested
        validated = round(settings.validation * (stop - tested))
        starts = [0, stop - tested - validated, stop - tested, stop]
        if starts[1] <= 0:
            raise UsageError("a fold that leaves nothing to train on", where="[data] fold", found=settings.fold,
                             expected=f"{(count - tested) // tested - 1} at most")
    gaps = [0, settings.gap, settings.gap]
    found = {split: range(min(first + gap, stop), stop)
             for split, first, stop, gap in zip(SPLITS, starts, starts[1:], gaps, strict=False)}
    empty = next((split for split, period in found.items() if not period), None)
    if empty is not None:
        raise DataError(f"no step of the calendar for {empty}", where="[data] gap, validation",
                        found=f"{count} steps, gap {settings.gap}", fix="shorten the gap, or add data")
    return found


def windows_in(panel: Panel, settings: DataSettings, period: range) -> Tensor:
    """The (series, moment) [N, 2] whose targets all lie in a period and whose window is all there; series by series."""
    there = ~np.isnan(panel.values).any(1)
    length = settings.window + settings.horizon
    whole = np.lib.stride_tricks.sliding_window_view(there, length, axis=1).all(2)
    begin = np.arange(panel.values.shape[2] - length + 1)
    first, last = begin + settings.window, begin + length - 1
    found = np.argwhere(whole & (first >= period.start) & (last < period.stop))
    return torch.from_numpy(found + np.array([0, settings.window - 1])).long()


def scaling_of_panel(panel: Panel, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [S, C] of each column of each series before step `last`; 1 where it never changes."""
    training = panel.values[..., :last]
    empty = np.isnan(training).all((1, 2))
    if empty.any():
        raise DataError("a series without a step to train on", where=printable(panel.names[int(empty.argmax())]),
                        found=f"{int(empty.sum())} such series", expected="a beginning in the training period",
                        fix="leave it out")
    mean, std = np.nanmean(training, 2), np.nanstd(training, 2)
    return mean, np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)


def _series_of(table: ReadTable, settings: DataSettings) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the series, and which each row is of."""
    if settings.series is None:
        return ("all",), np.zeros(table.rows, dtype=int)
    whose = [str(name) for name in table.column(settings.series, "series")]
    names = tuple(dict.fromkeys(whose))
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[name] for name in whose])


def _calendar(table: ReadTable, times: np.ndarray, names: Sequence[str], whose: np.ndarray) -> np.ndarray:
    """The place of each row in the calendar of all series; times rise in each series, and none is left out."""
    place = np.unique(times, return_inverse=True)[1]
    for number, name in enumerate(names):
        rows = (whose == number).nonzero()[0]
        steps = np.diff(place[rows])
        if (steps <= 0).any():
            row = int(rows[int((steps <= 0).argmax()) + 1])
            twice = bool((steps == 0).any()) and steps[(steps <= 0).argmax()] == 0
            raise DataError("a time that comes twice" if twice else "times that do not rise", where=table.where(row),
                            found=f"series {printable(name)}", expected="each series in the order of time, each time "
                            "once", fix="remove the copy" if twice else "sort the file by series and time")
        if (steps > 1).any():
            row = int(rows[int((steps > 1).argmax()) + 1])
            lost = int((steps[steps > 1] - 1).sum())
            raise DataError("a series with holes", where=f"{table.where(row)}, series {printable(name)}",
                            found=f"{lost} of the times that other series have are missing before this row or later",
                            expected="all times from its first to its last", fix="fill them, or leave the series out")
    return place


def _logarithm(table: ReadTable, name: str, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if (values <= -1).any():
        row = int((values <= -1).argmax())
        raise DataError("a number that has no log(1 + x)", where=f"{table.where(row)}, column {printable(name)}",
                        found=f"{values[row]:g}", expected="above -1", fix="take the column out of `log`")
    zeros = int((values == 0).sum())
    return np.log1p(values), [f"{zeros} values of {printable(name)} are 0: log(1 + 0) = 0"] if zeros else []


def _splits_told(table: ReadTable, place: np.ndarray, count: int) -> np.ndarray | None:
    """The split of each step of the calendar, where the table has a column for it; they follow each other."""
    if "split" not in table.columns:
        return None
    numbers = {name: number for number, name in enumerate(SPLITS)} | {"val": 1, "valid": 1}
    told = np.full(count, -1)
    latest = (-1, -1)
    for row in place.argsort(kind="stable").tolist():
        name = str(table.columns["split"][row])
        if name not in numbers:
            raise DataError("not a split", where=f"{table.where(row)}, column split", found=repr(name)[:80],
                            expected=", ".join(SPLITS))
        number = numbers[name]
        if number < latest[0] or (told[place[row]] not in (-1, number)):
            raise DataError(f"a time of {name} that is not before {SPLITS[latest[0]]}", where=table.where(row),
                            found=f"{SPLITS[latest[0]]} begins at or before it", expected="train, validation, test in "
                            "the order of time", fix="mend the column split")
        told[place[row]], latest = number, (number, row)
    if set(told.tolist()) != {0, 1, 2}:
        raise DataError("a column of splits that lacks some", where=table.path,
                        found=", ".join(SPLITS[number] for number in sorted(set(told.tolist()))),
                        expected=", ".join(SPLITS))
    return told


def _content(panel: Panel) -> str:
    seal = hashlib.sha256("\n".join((*panel.names, *panel.columns)).encode())
    seal.update(np.ascontiguousarray(panel.times).tobytes())
    seal.update(np.ascontiguousarray(panel.values).tobytes())
    return seal.hexdigest()
