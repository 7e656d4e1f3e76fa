"""Evaluations in a run folder: what was written comes back, damage is noticed, and nothing but JSON stands in JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from every import every
from tutelage.errors import BusyError, ModelError, UsageError
from tutelage.runs import evaluations
from tutelage.runs.evaluations import Evaluation, cost_of, evaluated, evaluation_of, write_cost, write_evaluation
from tutelage.system.files import locked

METRICS = {"on": "test", "rows": 3, "classes": ["<b>", "", "🐈"],
           "nodes": {"a": {"top1": 0.5, "nll": math.inf, "per_class": [math.nan, 1.0, 0.0]}}, "pairs": {},
           "uncertainty": None}
READ = {**METRICS, "nodes": {"a": {"top1": 0.5, "nll": None, "per_class": [None, 1.0, 0.0]}}}


def evaluation(split: str = "test") -> Evaluation:
    logits = {"a": torch.arange(9.0).view(3, 3), "ensemble": torch.randn(3, 3, generator=torch.manual_seed(0))}
    return Evaluation({**METRICS, "on": split}, logits, torch.tensor([0, 2, -1]), torch.tensor([7, 5, 9]),
                      {"most-00.png": b"picture", "least-00.png": b"another"})


def test_what_was_written_comes_back(tmp_path):
    write_evaluation(tmp_path, evaluation())
    found = evaluation_of(tmp_path, "test")
    assert (found.metrics, found.split) == (READ, "test")
    assert found.images == evaluation().images
    assert found.labels.tolist() == [0, 2, -1]
    assert found.ids.tolist() == [7, 5, 9]
    assert found.logits.keys() == evaluation().logits.keys()
    assert every(torch.equal(found.logits[node], logits) for node, logits in evaluation().logits.items())
    assert {found.labels.dtype, found.ids.dtype} == {torch.int64}
    assert {logits.dtype for logits in found.logits.values()} == {torch.float32}


def test_evidence_stands_in_the_place_of_logits(tmp_path):
    seen = {"a": {"counts": torch.arange(12).view(3, 2, 2), "of.two": torch.rand(3)}, "b": {"counts": torch.zeros(3)}}
    write_evaluation(tmp_path, replace(evaluation(), logits={}, evidence=seen))
    found = evaluation_of(tmp_path, "test")
    assert found.logits == {}
    assert found.labels.tolist() == [0, 2, -1]
    assert {node: set(own) for node, own in found.evidence.items()} == {"a": {"counts", "of.two"}, "b": {"counts"}}
    assert every(torch.equal(found.evidence[node][name], x) for node, own in seen.items() for name, x in own.items())
    names = {path.name for path in (tmp_path / "evaluation" / "test").iterdir()}
    assert "evidence.safetensors" in names
    assert "logits.safetensors" not in names
    write_evaluation(tmp_path, evaluation())
    assert evaluation_of(tmp_path, "test").evidence is None


def test_the_folder_is_as_the_documents_say(tmp_path):
    write_evaluation(tmp_path, evaluation())
    write_cost(tmp_path, {"nodes": {}})
    assert sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "evaluation").rglob("*.*")) == [
        "evaluation/cost/cost.json", "evaluation/cost/manifest.json", "evaluation/test/least-00.png",
        "evaluation/test/logits.safetensors", "evaluation/test/manifest.json", "evaluation/test/metrics.json",
        "evaluation/test/most-00.png"]
    assert "NaN" not in (tmp_path / "evaluation/test/metrics.json").read_text()


def test_a_second_evaluation_takes_the_place_of_the_first_and_of_no_other(tmp_path):
    write_evaluation(tmp_path, evaluation("train"))
    write_evaluation(tmp_path, evaluation())
    second = evaluation()
    second.metrics["rows"] = 4
    write_evaluation(tmp_path, Evaluation(second.metrics, second.logits, second.labels, second.ids, {}))
    assert evaluation_of(tmp_path, "test").metrics["rows"] == 4
    assert not evaluation_of(tmp_path, "test").images
    assert evaluation_of(tmp_path, "train").metrics["rows"] == 3
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["test", "train"]


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_evaluation(tmp_path, evaluation())
    monkeypatch.setattr("tutelage.system.files._sync_folder", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ValueError, match="cannot write"):
        write_evaluation(tmp_path, evaluation())
    assert evaluation_of(tmp_path, "test").metrics == READ


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    with locked(tmp_path), pytest.raises(BusyError):
        write_evaluation(tmp_path, evaluation())


@pytest.mark.parametrize("name", ["metrics.json", "logits.safetensors", "most-00.png", "manifest.json"])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    path = write_evaluation(tmp_path, evaluation()) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="a damaged evaluation"):
        evaluation_of(tmp_path, "test")


@pytest.mark.parametrize("name", ["metrics.json", "logits.safetensors", "most-00.png", "manifest.json"])
def test_a_missing_file_is_noticed(tmp_path, name):
    (write_evaluation(tmp_path, evaluation()) / name).unlink()
    with pytest.raises(ModelError, match="a damaged evaluation"):
        evaluation_of(tmp_path, "test")


def test_a_folder_of_something_else_is_no_evaluation(tmp_path):
    no_metrics = {"metrics.json": b"[]", "logits.safetensors": evaluations.pack({"x": torch.zeros(1)})}
    for files in ({"other": b""}, no_metrics):
        evaluations.write_folder(tmp_path / "evaluation" / "test", files, {}, replace=True)
        with pytest.raises(ModelError, match="not an evaluation"):
            evaluation_of(tmp_path, "test")
    evaluations.write_folder(tmp_path / "evaluation" / "cost", {"cost.json": b"\xff"}, {})
    with pytest.raises(ModelError, match="not an evaluation"):
        cost_of(tmp_path)


def test_what_was_not_measured_is_asked_for(tmp_path):
    write_evaluation(tmp_path, evaluation("validation"))
    assert evaluated(tmp_path) == ("validation",)
    with pytest.raises(UsageError, match=f"fix +tutelage evaluate {tmp_path} --on test"):
        evaluation_of(tmp_path, "test")
    with pytest.raises(UsageError, match="not measured yet"):
        cost_of(tmp_path)
    with pytest.raises(UsageError, match="no such run folder"):
        cost_of(tmp_path / "nowhere")
    assert evaluated(tmp_path / "nowhere") == ()


def test_costs_come_back(tmp_path):
    cost = {"machine": "m", "convention": "c", "nodes": {"a": {"flops": 12, "compression": None}}}
    write_cost(tmp_path, cost)
    assert cost_of(tmp_path) == cost
    assert evaluated(str(tmp_path)) == ("cost",)


def test_json_is_strict():
    assert json.loads(evaluations.as_json({"a": (1, math.nan, [math.inf, -math.inf]), 2: "ü"})) == {
        "a": [1, None, [None, None]], "2": "ü"}


def test_the_paths_are_those_of_the_run(tmp_path):
    assert write_evaluation(tmp_path, evaluation()) == Path(tmp_path, "evaluation", "test")
