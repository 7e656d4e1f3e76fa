"""Networks that forecast: exported, and asked for the next steps of a table, or for numbers of rows and images."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from every import every
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.table_scaling import PanelScaling, TableScaling, panel_scaling, rows_scaling
from tutelage.errors import DataError, UsageError
from tutelage.exporting import formats, verify
from tutelage.exporting.module import Choice, Student, about
from tutelage.exporting.predict import Numbers, predictor
from tutelage.exporting.predict_numbers import csv_of, numbers_of, require_csv
from tutelage.models.forecast import forecast_gru
from tutelage.tasks.forecast.rows import gaussians_of

SCALING = PanelScaling("who", "day", ("a", "b"), ("x", "load"), ("load",), ("x", "load"), ("load",), 3, 2,
                       ((0.0, 1.0), (2.0, 3.0)), ((1.0, 0.5), (2.0, 4.0)))


def table_of(path, days=5, names="ab", **changed):
    lines = ["who,day,x,load"]
    for name in names:
        for day in range(days):
            value = changed.get(f"{name}{day}", 10 * day + ord(name) - 96)
            lines.append(f"{name},{day},{day},{value}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_forecast_is_of_the_last_window_and_comes_in_the_units_of_the_table(tmp_path):
    seen = []

    def forecast(given):
        seen.append(given)
        return np.stack([np.stack([np.array([[0.5, 0.25], [1.0, 2.0]])] * len(given))])[0]

    found = [*numbers_of(table_of(tmp_path / "t.csv"), Numbers(("load +1", "load +2"), SCALING, forecast))]
    by_hand = [[(np.array([2.0, 3, 4]) - mean_x) / std_x, (np.log1p([10 * day + n for day in (2, 3, 4)]) - mean) / std]
               for n, (mean_x, std_x, mean, std) in ((1, (0, 1, 1, 0.5)), (2, (2, 2, 3, 4)))]
    np.testing.assert_allclose(seen[0], np.array(by_hand), rtol=1e-6)
    assert [(one.row, one.target, one.step) for one in found] == [
        ("a", "load", 1), ("a", "load", 2), ("b", "load", 1), ("b", "load", 2)]
    reach = 1.6448536269514722
    assert found[0].forecast == pytest.approx(np.expm1(1 + 0.5 * 0.5))
    assert found[0].low == pytest.approx(np.expm1(1 + 0.5 * (0.5 - reach * 0.25)))
    assert found[3].high == pytest.approx(np.expm1(3 + 4 * (1 + reach * 2)))
    rows = [*csv.DictReader(csv_of(found).decode().splitlines())]
    assert [row["row"] for row in rows] == ["a", "a", "b", "b"]
    assert float(rows[2]["forecast"]) == found[2].forecast
    assert json.loads(found[0].as_json())["step"] == 1


def test_means_alone_have_no_interval(tmp_path):
    student = Numbers(("load +1", "load +2"), SCALING, lambda given: np.ones((len(given), 2, 2)))
    assert every(one.low is None and "between" not in str(one)
                 for one in numbers_of(table_of(tmp_path / "t.csv"), student))


@pytest.mark.parametrize(("changed", "message", "place"), [
    ({"b3": "nan"}, "not a finite number", "line 10"), ({"a1": ""}, "missing number", "line 3"),
    ({"a4": "-5"}, "log", "line 6")])
def test_a_number_that_is_none_is_named_by_its_row(tmp_path, changed, message, place):
    student = Numbers(("load +1", "load +2"), SCALING, lambda given: np.zeros((len(given), 2, 2)))
    with pytest.raises(DataError, match=message) as caught:
        [*numbers_of(table_of(tmp_path / "t.csv", **changed), student)]
    assert place in caught.value.where


@pytest.mark.parametrize(("days", "names", "message"), [
    (2, "ab", "shorter than the window"), (5, "abc", "not trained")])
def test_a_series_that_cannot_be_forecast_is_named(tmp_path, days, names, message):
    student = Numbers(("load +1", "load +2"), SCALING, lambda given: np.zeros((len(given), 2, 2)))
    with pytest.raises(DataError, match=message):
        [*numbers_of(table_of(tmp_path / "t.csv", days, names), student)]


def test_numbers_are_written_to_a_csv_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="CSV"):
        require_csv(tmp_path / "folder", force=False)
    (tmp_path / "f.csv").write_text("kept")
    with pytest.raises(UsageError, match="kept"):
        require_csv(tmp_path / "f.csv", force=False)
    require_csv(tmp_path / "f.csv", force=True)


def test_scalings_travel_as_json():
    assert panel_scaling(json.loads(json.dumps(SCALING.as_json()))) == SCALING
    rows = TableScaling(("a",), (1.0,), (2.0,), ("y", "z"), (0.0, 1.0), (3.0, 4.0))
    assert rows_scaling(json.loads(json.dumps(rows.as_json()))) == rows
    with pytest.raises(DataError, match="preprocessing"):
        panel_scaling({"kind": "panel"})


def test_an_exported_file_says_what_the_network_says():
    pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
    torch.manual_seed(0)
    student = Student(forecast_gru(2, 2, width=3).eval(), ("load +1", "load +2"), SCALING, "s", "forecast")
    model = formats.onnx_model(student, Choice("onnx"))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = torch.randn(5, 2, 3)
    with torch.no_grad():
        wanted = gaussians_of(student.network(values), 2)
    found = session.run(["forecast"], {"values": values.numpy()})[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    assert about(student, Choice("onnx"))["output"]["shape"] == ["batch", 2, 2]
    trials = verify.trials(student, values, Choice("onnx"))
    numbers = verify.compared_numbers(trials, [trial.wanted.numpy() for trial in trials], wanted[..., 0])
    assert (numbers["largest_difference"], numbers["mae"], numbers["mae_of_network"]) == (0, 0, 0)
    moved = [trial.wanted.numpy() + 1 for trial in trials]
    assert verify.compared_numbers(trials, moved, wanted[..., 0])["mae"] == pytest.approx(1)


def test_numbers_of_images_and_rows_come_in_the_units_of_the_targets(tmp_path):
    path = tmp_path / "t.csv"
    for number in range(20):
        Image.new("RGB", (9, 9), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    path.write_text("file,y\n" + "".join(f"{n}.png,{100 + n}\n" for n in range(20)))
    data = load_data(DataSettings("table", root=str(path), image="file", targets=("y",), image_size=9))
    how = rows_scaling(data.preprocessing)
    student = predictor(data.classes, "regression", how, lambda given: np.stack(
        [given["images"].mean((1, 2, 3)), np.ones(len(given["images"]))], 1)[:, None])
    one, *_ = numbers_of(tmp_path / "3.png", student)
    assert (one.low, one.step) == (None, None)
    assert one.forecast == pytest.approx(how.target_mean[0] + how.target_std[0] * (30 / 255 / 3), rel=1e-5)
