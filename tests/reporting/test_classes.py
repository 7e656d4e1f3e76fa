"""Precision over recall and gains by class in a report: the numbers of the records, and differences by hand."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import report_toys as toys
from tutelage.errors import ModelError
from tutelage.reporting.build import make_document
from tutelage.reporting.document import Chart, DocumentTable, Gallery, Item, Section
from tutelage.reporting.write import write_report
from tutelage.runs.evaluations import Evaluation, write_evaluation
from tutelage.tasks.detection.judge import SCORES

SCRATCH = """[data]
name = "digits"
[models.a]
arch = "resnet8"
[method]
name = "scratch"
student = "a"
[train]
seed = {seed}
"""
MUTUAL = SCRATCH.replace('"scratch"', '"mutual"').replace('student = "a"', 'students = ["a", "b"]') + (
    '[models.b]\narch = "resnet8"\n')
NAMES = ("circle", "</script>", "star")


def boxes_run(folder: Path, config: str, seed: int, scores: dict[str, Sequence[float | None]],
              edges: Sequence[str]) -> Path:
    """A run of detectors that was evaluated: mAP of each class by node."""
    toys.run(folder, seed=seed, config=config.format(seed=seed), nodes=list(scores), edges=edges)
    nodes: dict[str, Any] = {}
    for node, values in scores.items():
        there = [value for value in values if value is not None]
        nodes[node] = {**{score.key: 0.5 for score in SCORES}, "map": sum(there) / len(there), "map_large": None,
                       "per_class": {"map": list(values), "map50": list(values)},
                       "curves": [None if value is None else [round(value * (1 - i / 100) ** 0.5, 4)
                                                              for i in range(101)] for value in values]}
    worst = [{"id": i, "score": i / 100, "file": f"worst-a-{i:02d}.png"} for i in range(12)]
    metrics = {"on": "test", "task": "detection", "scores": [asdict(score) for score in SCORES], "rows": 40,
               "classes": list(NAMES), "nodes": nodes, "pairs": {}, "uncertainty": None, "worst": {"a": worst}}
    images = {shown["file"]: toys.png(64) for shown in worst}
    write_evaluation(folder, Evaluation(metrics, {}, torch.zeros(2, dtype=torch.int64), torch.arange(2), images, {}))
    return folder


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    made = []
    for seed in range(3):
        made.append(boxes_run(tmp_path / f"plain-{seed}", SCRATCH, seed, {"a": (0.5, 0.2 + 0.01 * seed, None)},
                              ["labels->a:cross_entropy"]))
        both = {"a": (0.5 + 0.02 + 0.001 * seed, 0.1, None), "b": (0.9, 0.8, None)}
        made.append(boxes_run(tmp_path / f"peers-{seed}", MUTUAL, seed, both,
                              ["labels->a:cross_entropy", "labels->b:cross_entropy", "a->b:kl", "b->a:kl"]))
    return made


def items_of(sections: Sequence[Section]) -> list[Item]:
    return [item for section in sections for item in [*section.items, *items_of(section.parts)]]


def test_curves_are_drawn_by_class_and_in_the_mean_and_their_numbers_stand_in_a_table(runs):
    items = items_of(make_document(runs[:1]).sections)
    charts = {item.title: item for item in items if isinstance(item, Chart)}
    assert {title for title in charts if "recall" in title} == {
        "Precision over recall, mean of the classes", "Precision over recall of circle",
        "Precision over recall of </script>"}
    curves = json.loads((runs[0] / "evaluation/test/metrics.json").read_text())["nodes"]["a"]["curves"]
    (line,) = charts["Precision over recall of circle"].figure["data"]
    assert line["y"] == curves[0]
    assert line["x"] == pytest.approx([i / 100 for i in range(101)])
    (mean,) = charts["Precision over recall, mean of the classes"].figure["data"]
    assert mean["y"] == pytest.approx([(a + b) / 2 for a, b in zip(curves[0], curves[1], strict=True)])
    (table,) = (item for item in items if isinstance(item, DocumentTable) and item.title == "Precision by recall")
    assert [row[3] for row in table.rows] == curves[0] + curves[1]


def test_the_twelve_worst_images_are_shown(runs):
    (gallery,) = (item for item in items_of(make_document(runs[:1]).sections) if isinstance(item, Gallery))
    assert len(gallery.pictures) == 12
    assert gallery.pictures[1].lines == ("mAP 1.00 %", "id 1")


def test_gains_are_differences_to_the_run_that_learns_from_labels_alone_paired_by_seed(runs):
    items = items_of(make_document(runs).sections)
    (table,) = (item for item in items if isinstance(item, DocumentTable) and "by class, beside plain" in item.title)
    rows = {row[0]: row for row in table.rows}
    assert set(rows) == {"circle", "</script>"}  # a class without an object gains nothing
    _, node, recipe, plain, own, gain, low, high, n = rows["circle"]
    assert (node, recipe, n) == ("a", "peers", 3)
    assert (plain, own, gain) == pytest.approx((0.5, 0.521, 0.021))
    assert low < 0.021 < high
    assert low == pytest.approx(0.021 - 4.302652729911275 * 0.001 / 3**0.5)  # t of 2 degrees of freedom
    assert rows["</script>"][5] == pytest.approx(-0.11)
    chart = next(item for item in items if isinstance(item, Chart) and item.title == "What each class gained in a")
    assert chart.figure["data"][1]["x"] == pytest.approx([2.1, -11.0])
    assert chart.figure["data"][1]["marker"]["color"] == ["@good", "@bad"]


def test_there_are_no_gains_without_a_plain_run_or_beside_other_classes(runs, tmp_path):
    for chosen in ([runs[1]], [runs[0]]):
        assert not [item for item in items_of(make_document(chosen).sections) if "gain" in item.title]
    path = runs[1] / "evaluation/test/metrics.json"
    other = json.loads(path.read_text())
    other["rows"] = 41
    write_evaluation(runs[1], Evaluation(other, {}, torch.zeros(2, dtype=torch.int64), torch.arange(2), {}, {}))
    assert not [item for item in items_of(make_document(runs[:2]).sections) if "gain" in item.title]


def test_curves_of_another_length_are_named(runs):
    metrics = json.loads((runs[0] / "evaluation/test/metrics.json").read_text())
    for wrong, where in (([[0.5] * 101] * 2, "nodes.a.curves"), ([[0.5] * 101, [0.5] * 100, None], r"nodes.a.curves.1"),
                         ([[0.5], None, None], "nodes.a.curves.0")):
        metrics["nodes"]["a"]["curves"] = wrong
        write_evaluation(runs[0], Evaluation(metrics, {}, torch.zeros(2, dtype=torch.int64), torch.arange(2), {}, {}))
        with pytest.raises(ModelError, match=f"metrics.json: {where}"):
            make_document(runs[:1])


def test_it_can_be_written_in_every_format(runs, tmp_path):
    for name in ("r.html", "r.md", "r.json"):
        write_report(runs, tmp_path / name)
    assert "</script>, " not in (tmp_path / "r.html").read_text()
