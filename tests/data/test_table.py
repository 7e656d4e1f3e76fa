"""Tables to learn numbers from: splits, scaling by training rows alone, images beside numbers, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.check_tables import check_table, guessed_panel
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.tasks.forecast.task import REGRESSION


def write(path, rows, header="a,b,y"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def rows_of(count=40):
    generator = np.random.default_rng(0)
    return [[*generator.normal(size=2), 100 + 3 * n] for n in range(count)]


def settings(path, **more):
    return DataSettings("table", **{"root": str(path), "targets": ("y",), "validation": 0.2, **more})


def everything(source):
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=None)
    return batch


def test_features_and_targets_are_scaled_by_the_training_rows_alone(tmp_path):
    rows = rows_of()
    data = load_data(settings(write(tmp_path / "t.csv", rows)))
    assert (data.shape, data.classes) == ((2, 1), ("y",))
    assert sorted(torch.cat([part.ids for part in (data.train, data.validation, data.test)]).tolist()) == [*range(40)]
    table, trained = np.array(rows), data.train.ids.numpy()
    scaled = (table - table[trained].mean(0)) / table[trained].std(0)
    for part in (data.train, data.validation, data.test):
        batch = everything(part)
        np.testing.assert_allclose(batch.inputs[..., 0], scaled[part.ids, :2], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.labels["target"][:, 0], scaled[part.ids, 2], rtol=1e-5, atol=1e-6)
    REGRESSION.check(data)


@pytest.mark.parametrize("column", [0, 2])
def test_a_held_out_row_that_changes_by_a_million_leaves_training_equal(tmp_path, column):
    rows = rows_of()
    before = load_data(settings(write(tmp_path / "t.csv", rows)))
    rows[int(before.test.ids[0])][column] += 1e6
    after = load_data(settings(write(tmp_path / "t.csv", rows)))
    one, other = everything(before.train), everything(after.train)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.labels["target"], other.labels["target"])
    assert before.digest != after.digest


def test_a_column_of_splits_is_heard(tmp_path):
    rows = [[*row, split] for row, split in zip(rows_of(10), ["train"] * 6 + ["val"] * 2 + ["test"] * 2, strict=True)]
    data = load_data(settings(write(tmp_path / "t.csv", rows, "a,b,y,split")))
    assert [part.ids.tolist() for part in (data.train, data.validation, data.test)] == [[*range(6)], [6, 7], [8, 9]]
    assert data.shape == (2, 1)


def test_images_stand_beside_their_numbers_and_keep_their_split_when_rows_move(tmp_path):
    for number in range(30):
        Image.new("RGB", (12, 12), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [[f"{number}.png", number] for number in range(30)]
    how = {"image": "file", "image_size": 12}
    data = load_data(settings(write(tmp_path / "t.csv", rows, "file,y"), **how))
    batch = everything(data.test)
    assert data.shape == (3, 12, 12)
    torch.testing.assert_close(batch.inputs[:, 0, 0, 0] * 255 / 8, data.test.ids.float())
    moved = load_data(settings(write(tmp_path / "u.csv", rows[::-1], "file,y"), **how))
    assert {29 - row for row in moved.test.ids.tolist()} == set(data.test.ids.tolist())


@pytest.mark.parametrize(("row", "message", "line"), [
    ([1, 2, "nan"], "not a finite number", "line 5, column y"), ([1, 2, "inf"], "not a finite", "line 5, column y"),
    ([1, "", 3], "missing", "line 5, column b"), ([1, "x", 3], "not a finite number", "line 5, column b")])
def test_what_is_no_finite_number_stops_with_its_row(tmp_path, row, message, line):
    rows = rows_of()
    rows[3] = row
    with pytest.raises(DataError, match=message) as caught:
        load_data(settings(write(tmp_path / "t.csv", rows)))
    assert line in caught.value.where
    assert caught.value.exit_code == 3


def test_an_image_that_is_not_there_or_lies_elsewhere_is_named_by_its_row(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "out.png")
    with pytest.raises(DataError, match="no such image") as caught:
        load_data(settings(write(folder / "t.csv", [["none.png", 1]], "file,y"), image="file"))
    assert "line 2" in caught.value.where
    with pytest.raises(SecurityError):
        load_data(settings(write(folder / "t.csv", [["../out.png", 1]], "file,y"), image="file"))


@pytest.mark.parametrize(("more", "key"), [
    ({"targets": None}, "targets"), ({"inputs": ("y",)}, "inputs"), ({"mixup": 0.2}, "mixup"),
    ({"window": 3}, "window"), ({"image": "a", "inputs": ("b",)}, "image"), ({"task": "forecast"}, "task")])
def test_settings_that_cannot_be_meant_are_refused(tmp_path, more, key):
    path = write(tmp_path / "t.csv", rows_of())
    with pytest.raises(UsageError) as caught:
        load_data(settings(path, **more))
    assert key in caught.value.where


def test_a_panel_is_known_by_its_columns_and_checked(tmp_path):
    lines = [[f"2024-01-{day + 1:02d}", who, 5 * day, day % 7] for who in "ab" for day in range(30)]
    found = guessed_panel(write(tmp_path / "p.csv", lines, "when,shop,price,sales"))
    assert (found.time, found.series, found.targets, found.inputs) == ("when", "shop", ("sales",), ("price", "sales"))
    report = check_table(found)
    assert report.errors == ()
    assert report.counts["train"] > 0
    lines[40][3] = "nan"
    bad = check_table(guessed_panel(write(tmp_path / "p.csv", lines, "when,shop,price,sales")))
    assert "line 42" in bad.errors[0].example
    assert "error" in bad.text()
