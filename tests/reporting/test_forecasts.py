"""Forecasts in a report: coverage by interval, a table by series, and the naive forecast as the first row."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import report_toys as toys
from tutelage.errors import ModelError
from tutelage.reporting.build import make_document
from tutelage.reporting.document import Chart, DocumentTable
from tutelage.reporting.write import write_report
from tutelage.runs.evaluations import Evaluation, write_evaluation
from tutelage.tasks.forecast.judge import INTERVALS
from tutelage.tasks.forecast.task import FORECAST_SCORES

CONFIG = """[data]
name = "waves_forecast"
[models.a]
arch = "forecast_gru"
[method]
name = "scratch"
student = "a"
"""
SERIES = ["AAPL", "</script>", "late"]


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    toys.run(folder, config=CONFIG, nodes=["a"], edges=["labels.target->a:gaussian_nll[steps]"])
    by_series = {"series": SERIES, "count": [3, 4, 0], "mae": [0.25, 0.75, None], "naive_mae": [0.5, 0.5, None],
                 "coverage": [0.9, 0.8, None], "unit_mae": [1e6, 2e6, None]}
    node = {**{score.key: 0.5 for score in FORECAST_SCORES}, "per_class": {"mae": [0.1, 0.2]}, "by_series": by_series,
            "coverage_curve": {"interval": list(INTERVALS), "share": [share**2 for share in INTERVALS]}}
    metrics = {"on": "test", "task": "forecast", "scores": [asdict(score) for score in FORECAST_SCORES], "rows": 7,
               "samples": "windows", "labels": "steps", "unit": "MAE is in deviations.", "classes": ["x +1", "x +2"],
               "nodes": {"a": node}, "pairs": {}, "uncertainty": None, "baseline": {"name": "last value", "mae": 0.625}}
    write_evaluation(folder, Evaluation(metrics, {}, torch.zeros(7, dtype=torch.int64), torch.arange(7), {}, {}))
    return folder


def items_of(sections):
    return [item for section in sections for item in [*section.items, *items_of(section.parts)]]


def test_a_report_of_forecasts_has_the_coverage_curve_a_table_by_series_and_the_naive_row(run, tmp_path):
    items = items_of(make_document([run]).sections)
    (chart,) = [item for item in items if isinstance(item, Chart) and item.title.startswith("How many targets")]
    just, line = chart.figure["data"]
    assert (just["x"], just["y"]) == ([0, 1], [0, 1])
    assert (line["x"], line["y"]) == (list(INTERVALS), [share**2 for share in INTERVALS])
    tables = {item.title: item for item in items if isinstance(item, DocumentTable)}
    assert tables["Scores by series"].rows[0] == ("AAPL", 3, 0.5, 0.25, 0.9, 1e6)
    assert tables["Scores by series"].rows[2] == ("late", 0, None, None, None, None)
    assert "at least as good: a 1 of 3" in tables["Scores by series"].note
    assert tables["Scores"].rows[0][2:4] == ("last value", 0.625)
    assert [row[0] for row in tables["MAE by step"].rows] == ["x +1", "x +2"]
    write_report([run], tmp_path / "r.html")
    assert SERIES[1] not in (tmp_path / "r.html").read_text().split("Scores by series")[1][:2000]


def test_series_of_another_number_are_named(run):
    path = run / "evaluation" / "test"
    metrics = json.loads((path / "metrics.json").read_text())
    metrics["nodes"]["a"]["by_series"]["mae"] = [0.25]
    write_evaluation(run, Evaluation(metrics, {}, torch.zeros(7, dtype=torch.int64), torch.arange(7), {}, {}))
    with pytest.raises(ModelError, match=r"by_series\.mae"):
        make_document([run])
