"""Panels: windows by a naive loop, splits by time with a gap, scaling without leaks, and what is refused."""

import sys

import numpy as np
import pytest
import torch

from every import every
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.waves_forecast import waves_forecast
from tutelage.errors import DataError, SecurityError, UsageError

DAYS = 40


def rows_of(names=("a", "b"), days=DAYS, skip=()):
    lines = []
    for number, name in enumerate(names):
        for day in range(days):
            if (name, day) not in skip:
                date = f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}"
                lines.append(f"{date},{name},{100 * number + day},{1000 * (number + 1) + 7 * (day % 5)}")
    return lines


def write(path, lines, header="date,who,price,volume"):
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def settings(path, **more):
    return DataSettings("panel", **{"root": str(path), "series": "who", "time": "date", "targets": ("volume",),
                                    "window": 4, "horizon": 2, "validation": 0.25, **more})


def everything(source):
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=None)
    return batch


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "panel.csv", rows_of())


def test_a_sample_is_a_window_and_the_steps_after_it(file):
    data = load_data(settings(file, log=("volume",)))
    assert (data.shape, data.classes) == ((2, 4), ("volume +1", "volume +2"))
    table = {name: np.array([[100 * n + day, np.log1p(1000 * (n + 1) + 7 * (day % 5))] for day in range(DAYS)])
             for n, name in enumerate("ab")}
    trained = DAYS - 8 - 8  # a fifth to test on, a quarter of the rest to validate
    batch = everything(data.train)
    expected, targets, naive = [], [], []
    for series in table.values():
        scaled = (series - series[:trained].mean(0)) / series[:trained].std(0)
        for day in range(3, trained - 2):
            expected.append(scaled[day - 3:day + 1].T)
            targets.append(scaled[day + 1:day + 3, 1])
            naive.append([scaled[day, 1]] * 2)
    assert torch.allclose(batch.inputs, torch.tensor(np.array(expected)).float(), atol=1e-5)
    assert torch.allclose(batch.labels["target"], torch.tensor(np.array(targets)).float(), atol=1e-5)
    assert torch.allclose(batch.labels["naive"], torch.tensor(np.array(naive)).float(), atol=1e-5)


@pytest.mark.parametrize(("gap", "fold"), [(0, 0), (3, 0), (2, 1)])
def test_splits_follow_each_other_with_a_gap_in_which_nothing_is_forecast(file, gap, fold):
    data = load_data(settings(file, gap=gap, fold=fold))
    known = {split: torch.cat([source.ids[:, None] % DAYS + step for step in (1, 2)]).flatten()
             for split, source in (("train", data.train), ("validation", data.validation), ("test", data.test))}
    ends = [(int(days.min()), int(days.max())) for days in known.values()]
    assert ends[2][1] == DAYS - 1 - 8 * fold
    assert ends[1][0] - ends[0][1] == ends[2][0] - ends[1][1] == gap + 1


@pytest.mark.parametrize(("column", "row"), [(2, DAYS - 1), (3, DAYS - 1), (3, 2 * DAYS - 15), (2, DAYS - 16)])
def test_a_future_row_that_changes_by_a_million_leaves_every_training_tensor_equal(tmp_path, column, row):
    lines = rows_of()
    cells = lines[row].split(",")
    changed = [*lines]
    changed[row] = ",".join([*cells[:column], str(float(cells[column]) + 1e6), *cells[column + 1:]])
    before, after = (load_data(settings(write(tmp_path / f"{n}.csv", part))) for n, part in enumerate((lines, changed)))
    one, other = everything(before.train), everything(after.train)
    assert torch.equal(one.inputs, other.inputs)
    assert every(torch.equal(one.labels[name], other.labels[name]) for name in one.labels)
    assert torch.equal(before.train.values, after.train.values)
    assert before.digest != after.digest


def test_the_leak_test_would_see_a_leak(tmp_path):
    lines = rows_of()
    changed = [*lines[:5], lines[5].rpartition(",")[0] + ",1000000", *lines[6:]]
    before, after = (load_data(settings(write(tmp_path / f"{n}.csv", part))) for n, part in enumerate((lines, changed)))
    assert not torch.equal(everything(before.train).inputs, everything(after.train).inputs)


def test_several_targets_stand_one_after_another(file):
    data = load_data(settings(file, targets=("price", "volume")))
    assert data.classes == ("price +1", "price +2", "volume +1", "volume +2")
    batch = everything(data.train)
    assert torch.equal(batch.labels["naive"][:, 0], batch.inputs[:, 0, -1])
    assert torch.equal(batch.labels["naive"][:, 3], batch.inputs[:, 1, -1])


def test_limit_keeps_a_part_of_training_and_no_other_scaling(file):
    whole, part = load_data(settings(file)), load_data(settings(file, limit=10))
    assert len(part.train.ids) == 10
    assert set(part.train.ids.tolist()) < set(whole.train.ids.tolist())
    assert torch.equal(everything(whole.test).inputs, everything(part.test).inputs)


def test_a_series_that_begins_later_has_windows_from_there_on(tmp_path):
    late = {("b", day) for day in range(10)}
    data = load_data(settings(write(tmp_path / "late.csv", rows_of(skip=late))))
    assert int((data.train.ids // DAYS == 1).sum()) == int((data.train.ids // DAYS == 0).sum()) - 10


def test_a_column_says_the_splits(tmp_path):
    lines = [f"{line},{'train' if n % DAYS < 25 else 'val' if n % DAYS < 32 else 'test'}"
             for n, line in enumerate(rows_of())]
    data = load_data(settings(write(tmp_path / "s.csv", lines, "date,who,price,volume,split")))
    assert [len(source.ids) for source in (data.train, data.validation, data.test)] == [2 * 20, 2 * 6, 2 * 7]
    lines[3] = lines[3].replace("train", "test")
    with pytest.raises(DataError, match="not before test") as caught:
        load_data(settings(write(tmp_path / "s.csv", lines, "date,who,price,volume,split")))
    assert "line" in caught.value.where


def swapped(lines):
    return [*lines[:6], lines[7], lines[6], *lines[8:]]


@pytest.mark.parametrize(("spoil", "what", "where"), [
    (swapped, "do not rise", "line 9"),
    (lambda lines: [*lines[:6], lines[5], *lines[6:]], "comes twice", "line 8"),
    (lambda lines: [*lines[:6], *lines[7:]], "holes", "series a"),
    (lambda lines: [*lines[:6], lines[6].rpartition(",")[0] + ",", *lines[7:]], "a missing number", "line 8"),
    (lambda lines: [*lines[:6], lines[6].rpartition(",")[0] + ",inf", *lines[7:]], "not a finite", "line 8"),
    (lambda lines: [*lines[:6], "yesterday" + lines[6][10:], *lines[7:]], "not a time", "line 8"),
    (lambda lines: [*lines[:6], lines[6] + ",1", *lines[7:]], "another length", "line 8"),
    (lambda lines: lines[:DAYS] + lines[DAYS:DAYS + 3], "longer than the series", "series b"),
    (lambda lines: [line for line in lines if ",b," not in line or ("-02-" in line and line[8:10] > "05")],
     "without a step to train on", "b"), (lambda lines: [], "without a row", "panel.csv")])
def test_what_cannot_be_a_panel_is_refused_with_its_place(tmp_path, spoil, what, where):
    lines = spoil(rows_of())
    with pytest.raises(DataError, match=what) as caught:
        load_data(settings(write(tmp_path / "panel.csv", lines)))
    assert where in str(caught.value.where)
    assert caught.value.exit_code == 3


def test_zeros_have_a_logarithm_that_is_told_and_what_is_below_has_none(tmp_path):
    lines = rows_of()
    lines[4] = lines[4].rpartition(",")[0] + ",0"
    data = load_data(settings(write(tmp_path / "p.csv", lines), log=("volume",)))
    assert data.notes == ("1 values of volume are 0: log(1 + 0) = 0",)
    lines[4] = lines[4].rpartition(",")[0] + ",-1"
    with pytest.raises(DataError, match="no log") as caught:
        load_data(settings(write(tmp_path / "p.csv", lines), log=("volume",)))
    assert "line 6" in caught.value.where


@pytest.mark.parametrize(("more", "error", "what"), [
    ({"targets": ("volumes",)}, DataError, "did you mean 'volume'"), ({"series": "whose"}, DataError, "unknown column"),
    ({"targets": None}, UsageError, "columns to forecast"), ({"targets": ("price", "price")}, UsageError, "named once"),
    ({"gap": 30}, DataError, "no step of the calendar"), ({"fold": 9}, UsageError, "nothing to train on"),
    ({"image_size": 32}, UsageError, "images alone"), ({"balance": "sqrt"}, UsageError, "classes alone"),
    ({"task": "segmentation"}, UsageError, "not for"), ({"augment": "jitter"}, UsageError, "augmentation")])
def test_settings_that_cannot_be_meant_are_refused(file, more, error, what):
    with pytest.raises(error, match=what):
        load_data(settings(file, **more))


def test_what_panels_alone_have_is_refused_elsewhere():
    with pytest.raises(UsageError, match="panels alone"):
        DataSettings("digits", horizon=3)


def test_parquet_is_read_or_the_way_to_it_is_told(tmp_path):
    path = tmp_path / "panel.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises((UsageError, DataError), match=r"pyarrow|not a parquet file"):
        load_data(settings(path))
    with pytest.raises(DataError, match="no such file"):
        load_data(settings(tmp_path / "none.csv"))


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    monkeypatch.setattr("tutelage.data.panel_files.LARGEST_TABLE", 10)
    with pytest.raises(SecurityError, match="too large"):
        load_data(settings(file))


def test_the_made_series_are_the_same_whenever_they_are_made_and_last_value_is_beaten_by_a_wave():
    assert torch.equal(waves_forecast(2), waves_forecast(2))
    assert torch.equal(waves_forecast(4)[:, :2], waves_forecast(2))
    data = load_data(DataSettings("waves_forecast", window=24, horizon=3))
    batch = everything(data.train)
    known, target = batch.inputs.flatten(1).double(), batch.labels["target"].double()
    weights = torch.linalg.lstsq(known, target).solution
    linear = (known @ weights - target).abs().mean()
    assert linear < 0.6 * (batch.labels["naive"].double() - target).abs().mean()


def test_a_quick_run_needs_no_file():
    data = load_data(settings("nowhere.csv", inputs=("price", "volume")), quick=True)
    assert (data.shape, data.classes) == ((2, 4), ("volume +1", "volume +2"))
    assert [len(source.ids) for source in (data.train, data.validation, data.test)] == [64, 32, 32]


def test_a_parquet_file_is_read_as_the_csv_file_of_the_same_rows(tmp_path, file):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra tutelage[parquet] is not installed")
    from pyarrow import csv, parquet

    parquet.write_table(csv.read_csv(file), tmp_path / "panel.parquet")
    assert pyarrow
    one, other = (everything(load_data(settings(path)).train) for path in (file, tmp_path / "panel.parquet"))
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.labels["target"], other.labels["target"])


def test_without_pyarrow_a_parquet_file_is_refused_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "panel.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="parquet") as caught:
        load_data(settings(tmp_path / "panel.parquet"))
    assert "tutelage[parquet]" in caught.value.fix
