"""A task of which less is better, from training to evaluation, study, text and report."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import report_toys
import tutelage
from every import every
from toy_task import SCORES, TOY, doubled, expected
from toys import SGD, data, network
from tutelage import Edge, Graph, Trained
from tutelage.cli.results import evaluation_text
from tutelage.data.images import png
from tutelage.engine.train import load
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.graph_data import data_of
from tutelage.graph.nodes import Computed
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job
from tutelage.recipes.recipe import read_recipe
from tutelage.reporting.build import make_document
from tutelage.reporting.graph_model import diagram_of
from tutelage.reporting.graph_svg import draw_graph
from tutelage.reporting.html import as_html
from tutelage.reporting.markdown_csv_json import document_as_json
from tutelage.runs.evaluations import evaluation_of, write_evaluation
from tutelage.runs.folder import finished, read_records
from tutelage.studies.compare import Hands, compare
from tutelage.studies.statistics import comparison_of
from tutelage.studies.study import Asked, read_study
from tutelage.system.distributed import World
from tutelage.tasks import named
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.scores import scores_in, scores_json

CPU = World(torch.device("cpu"))
RECIPE = """[data]
name = "digits"
image_size = 8
task = "{}"
[train]
lr = 0.05
epochs = 2
best = true
[models.a]
arch = "resnet8"
[models.b]
arch = "resnet8"
[method]
name = "mutual"
students = ["a", "b"]
"""
STUDY = """[study]
baseline = "plain"
tables = ["accuracy", "ablation"]
[methods.plain]
recipes = ["toy.toml"]
[methods.fast]
recipes = ["toy.toml"]
set = ["train.lr=0.2"]
[methods.slow]
recipes = ["toy.toml"]
set = ["train.lr=0.001"]
ablation_of = "fast"
"""


@pytest.fixture(scope="module", autouse=True)
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named.TASKS, "toy", TOY)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A study of two seeds."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "toy.toml").write_text(RECIPE.format("toy"))
    (folder / "study.toml").write_text(STUDY)
    _, error = compare(read_study([folder / "study.toml"]), Asked(2, quick=True), folder / "out", Hands(),
                       tell=lambda line: None)
    assert error is None
    return folder / "out"


def far(student: torch.Tensor, teacher: torch.Tensor, labels: object) -> torch.Tensor:
    """A divergence made for labels."""
    return (student - teacher).abs().mean(-1)


def told(folders: list[Path]) -> str:
    return document_as_json(make_document(folders))


def table(text: str, title: str) -> list[dict]:
    found = next(found for found in json.loads(text)["tables"] if found["table"] == title)
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


# -- an evaluation -----------------------------------------------------------------------------------------------------

def test_an_evaluation_is_the_judges_of_every_network_and_of_the_tasks_mean(out):
    run = out / "runs" / "plain" / "seed-0"
    found, source = evaluation_of(run, "test"), make_job(read_recipe(run / "config.toml"), CPU).data.test
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=None)
    logits = {node: load(run, node)[0](batch.inputs).detach() for node in "ab"}
    logits["ensemble"] = (logits["a"] + logits["b"]) / 2
    assert list(found.metrics["nodes"]) == ["a", "b", "ensemble"]
    assert set(found.evidence) == {"a", "b", "ensemble"}
    for node, said in logits.items():
        error = (expected(said.double()) - source.labels).abs()
        scores = found.metrics["nodes"][node]
        assert scores["mae"] == pytest.approx(error.mean().item(), abs=1e-4)
        assert scores["largest"] == pytest.approx(error.max().item(), abs=1e-3)
        three = error[source.labels == 3].mean().item()
        assert scores["per_class"]["mae"][3] == pytest.approx(three, abs=1e-4)
        torch.testing.assert_close(found.evidence[node]["said"], expected(said).double(), atol=1e-4, rtol=1e-4)
    assert list(found.metrics) == ["on", "task", "scores", "samples", "labels", "unit", "rows", "also_in_training",
                                   "classes", "images_per_class", "training", "nodes", "pairs", "uncertainty", "robust",
                                   "worst"]
    assert found.metrics["task"] == "toy"
    assert scores_in(found.metrics) == SCORES
    assert found.metrics["images_per_class"] == source.labels.bincount().tolist()
    assert set(found.metrics["training"]) == {"images", "of", "mae"}
    assert set(found.metrics["pairs"]) == {"a|b", "a|ensemble", "b|ensemble"}
    assert torch.equal(found.ids, source.ids)
    assert found.logits == {}
    assert not (run / "evaluation" / "test" / "logits.safetensors").exists()


def test_the_worst_samples_of_the_first_network_are_drawn_the_worst_first(out):
    run = out / "runs" / "plain" / "seed-0"
    found, source = evaluation_of(run, "test"), make_job(read_recipe(run / "config.toml"), CPU).data.test
    error = (found.evidence["a"]["said"] - found.labels).abs()
    worst = np.argsort(-error.numpy(), kind="stable")[:12]
    assert list(found.metrics["worst"]) == ["a"]
    for number, (row, of) in enumerate(zip(worst, found.metrics["worst"]["a"], strict=True)):
        assert of == {"id": int(source.ids[row]), "score": error[row].item(), "file": f"worst-a-{number:02d}.png"}
        (batch,) = source.batches([torch.tensor([row])], draw=None)
        assert found.images[of["file"]] == png(batch.inputs[0])


def test_only_networks_that_tell_classes_apart_are_attacked(out):
    with pytest.raises(UsageError, match="attacked"):
        evaluate_run(out / "runs" / "plain" / "seed-0", "test", CPU, eps=0.1)


def test_text_of_an_evaluation_has_every_score_and_the_worst_classes(out):
    metrics = evaluation_of(out / "runs" / "fast" / "seed-0", "test").metrics
    text, scores = evaluation_text(metrics, None), metrics["nodes"]["a"]
    for word in (*(score.title for score in SCORES), f"{scores['mae']:.4f}", f"{scores['near']:.2%}",
                 f"test, {metrics['rows']} samples"):
        assert word in text
    by_class, count = scores["per_class"]["mae"], metrics["images_per_class"]
    worst = max(range(10), key=by_class.__getitem__)
    assert f"a         {worst} {by_class[worst]:.4g} of {count[worst]}, " in text
    assert f"mean error on {metrics['training']['images']} of the" in text
    assert "top-1" not in text


def test_best_keeps_the_weights_of_the_lower_number(out):
    run = out / "runs" / "fast" / "seed-0"
    epochs = [record for record in read_records(run) if record["event"] == "epoch"]
    assert every(set(scores) == {"mae", "near"} for record in epochs for scores in record["metrics"]["nodes"].values())
    done = finished(run)
    for node in "ab":
        assert done["metrics"]["nodes"][node]["mae"] == min(
            record["metrics"]["nodes"][node]["mae"] for record in epochs)
    start = read_records(run)[0]
    assert (start["event"], start["task"], scores_in(start)) == ("start", "toy", SCORES)


# -- a study -----------------------------------------------------------------------------------------------------------

def test_a_study_compares_the_main_scores_and_knows_which_way_is_better(out):
    results = comparison_of(out)
    assert (results["task"], scores_in(results)) == ("toy", SCORES)
    assert {row["metric"] for row in results["rows"]} == {"mae", "near"}
    assert results["mcnemar"] == []
    for row in results["rows"]:
        runs = [out / "runs" / row["method"] / f"seed-{seed}" for seed in range(2)]
        assert row["values"] == [evaluation_of(run, "test").metrics["nodes"][row["node"]][row["metric"]]
                                 for run in runs]
    lines = results["tables"]["accuracy"]
    assert lines["title"] == "Scores by experiment"
    assert lines["columns"] == ["method", "network", "mean error", "over plain (95 % interval)", "p (Holm)", "says",
                                "within one %"]
    assert "Of mean error less is better." in lines["note"]
    (own,) = (row for row in results["rows"] if (row["method"], row["node"], row["metric"]) == ("fast", "a", "mae"))
    cells = next(line for line in lines["rows"] if line[:2] == ["fast", "a"])
    assert cells[2] == f"{np.mean(own['values']):.4f} ± {np.std(own['values'], ddof=1):.4f} (2)"
    assert cells[3] == f"{own['difference']['mean']:+.4f}"
    assert results["tables"]["ablation"]["columns"][3] == "mean error"


def test_recipes_of_unlike_tasks_are_refused_before_anything_trains(tmp_path):
    for name, task in (("toy", "toy"), ("other", "classification")):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(task))
    with pytest.raises(UsageError, match="unlike tasks"):
        compare(read_study([tmp_path / "toy.toml", tmp_path / "other.toml"]), Asked(1, quick=True), tmp_path / "out",
                Hands(), tell=lambda line: None)
    assert not (tmp_path / "out").exists()


# -- a report ----------------------------------------------------------------------------------------------------------

def test_a_report_reads_the_scores_from_the_records_and_needs_no_code_of_the_task(out, monkeypatch):
    monkeypatch.delitem(named.TASKS, "toy")
    text, page = told([out]), as_html(make_document([out]))
    for word in ("mean error", "within one", "largest error", "Mean error by class"):
        assert word in text
        assert word in page
    for word in ("Mean error of", "Within one on validation data", "What a knows least", "Less is better of mean err"):
        assert word in page
    assert "data:image/png" in page
    for word in ("top-1", "Accuracy", "Calibration", "NLL"):
        assert word not in page.partition("<script")[0].replace("accuracy", "")
    for row in table(text, "Mean and standard deviation over seeds"):
        assert set(row) >= {"mean error", "± sd of mean error", "within one"}
    run = out / "runs" / "plain" / "seed-0"
    scores = evaluation_of(run, "test").metrics["nodes"]["b"]
    (row,) = (row for row in table(told([run]), "Scores") if (row["measured on"], row["network"]) == ("test", "b"))
    assert [row[score.title] for score in SCORES] == [scores[score.key] for score in SCORES]


def test_in_a_study_of_errors_less_is_drawn_as_good(out, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    results = comparison_of(out)
    for row in results["rows"]:
        if row["metric"] == "mae" and row["difference"] is not None:
            row["difference"] |= {"mean": -0.5, "low": -0.7, "high": -0.3}
    (folder / "results.json").write_text(json.dumps({**results, "cells": []}))
    assert "@good" in str(make_document([folder]))
    assert "@bad" not in str([item for section in make_document([folder]).sections for item in section.items])


def test_an_evaluation_of_a_task_that_is_damaged_is_named(out, tmp_path):
    for change, where in ((lambda m: m["nodes"]["a"].update(mae="1"), "mae"),
                          (lambda m: m["nodes"]["a"]["per_class"]["mae"].pop(), "per_class.mae"),
                          (lambda m: m["nodes"]["a"].pop("mae"), "no mae"), (lambda m: m.update(scores=[]), "scores"),
                          (lambda m: m["scores"][0].update(better="sideways"), "scores.0"),
                          (lambda m: m["training"].pop("mae"), "training"),
                          (lambda m: m["scores"].append(m["scores"][0]), "one key")):
        run = tmp_path / where
        shutil.copytree(out / "runs" / "plain" / "seed-0", run)
        whole = evaluation_of(run, "test")
        change(whole.metrics)
        write_evaluation(run, whole)
        with pytest.raises(ModelError, match=where):
            make_document([run])


# -- rows --------------------------------------------------------------------------------------------------------------

def test_a_report_of_a_run_with_rows_names_them_and_its_losses_are_those_of_the_log(tmp_path):
    graph = Graph({"a": Trained(), "b": Trained()}, [
        Edge("labels", "a", cross_entropy, rows=doubled), Edge("labels", "b", cross_entropy),
        Edge("b", "a", kl, rows=doubled, temperature=2)])
    toys, run = replace(data(), task=TOY), tmp_path / "run"
    for _ in tutelage.train(graph, {"a": network(0), "b": network(1)}, toys, epochs=2, optimizer=SGD, batch_size=12,
                            out=run):
        pass
    text = told([run])
    last = read_records(run)[-2]["losses"]
    assert set(last) == {"labels->a:cross_entropy[doubled]", "labels->b:cross_entropy", "b->a:kl/2[doubled]"}
    losses = {row["edge"]: row["loss"] for row in table(text, "Losses by edge and epoch") if row["epoch"] == 2}
    assert losses == last
    assert [row["divergence"] for row in table(text, "Edges")] == ["cross_entropy [doubled]", "cross_entropy",
                                                                   "kl [doubled]"]
    page = as_html(make_document([run]))
    assert "kl [doubled]" in page
    assert "Mean error of run" in page


def test_nodes_of_rows_and_several_labels_are_drawn(tmp_path):
    graph = Graph({"a": Trained(), "b": Trained(), "both": Computed(("a", "b"), torch.add, doubled)}, [
        Edge("labels.boxes", "a", far, rows=partial(doubled)), Edge("both", "b.body", mse, rows=doubled)])
    config = '[models.a]\narch = "resnet8"\n[models.b]\narch = "resnet8"\n'
    diagram = diagram_of(config, tmp_path, data_of(graph))
    assert [link.name for link in diagram.links] == [edge.name for edge in graph.edges]
    assert [node.words for node in diagram.nodes] == ["trained", "trained", "computed [doubled]"]
    drawn = draw_graph(diagram, {}).svg
    for words in ("a learns from labels.boxes by far [doubled]", ">labels<", "computed [doubled]"):
        assert words in drawn


# -- folders of before -------------------------------------------------------------------------------------------------

def test_a_folder_that_names_no_scores_is_of_classification(tmp_path):
    old, new, added = tmp_path / "old" / "study", tmp_path / "new" / "study", scores_json(CLASSIFICATION)
    for folder in (old, new):
        folder.parent.mkdir()
        report_toys.study(folder)
        for run in sorted((folder / "runs").iterdir()):
            report_toys.evaluate(run)
            report_toys.cost(run)
    for log in new.glob("runs/*/records.jsonl"):
        start, *rest = log.read_text().splitlines()
        assert "scores" not in json.loads(start)
        log.write_text("\n".join([json.dumps({**json.loads(start), **added}), *rest]) + "\n")
        whole = evaluation_of(log.parent, "test")
        assert "scores" not in whole.metrics
        write_evaluation(log.parent, replace(whole, metrics={**whole.metrics, **added}))
    results = json.loads((new / "results.json").read_text())
    (new / "results.json").write_text(json.dumps({**results, **added}))
    pages = [as_html(make_document([folder])) for folder in (old, new)]
    assert pages[0].replace(str(old), "") == pages[1].replace(str(new), "")
    for word in ("Accuracy on validation data", "Accuracy of", "Cost against accuracy", "points of top-1"):
        assert word in pages[0]


def test_a_run_begun_before_scores_were_recorded_goes_on_and_names_them_from_then_on(tmp_path):
    graph, run, told_scores = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)]), tmp_path / "run", []
    for stop_after in (1, 3):
        for epoch in tutelage.train(graph, {"a": network(0)}, data(), epochs=3, optimizer=SGD, batch_size=12, out=run):
            told_scores.append(epoch.score)
            if epoch.number == stop_after:
                break
        if stop_after == 1:
            old = [{key: value for key, value in record.items() if key not in ("task", "scores")}
                   for record in read_records(run)]
            (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
            assert "Accuracy of run" in as_html(make_document([run]))
    assert every(score == CLASSIFICATION.scores[0] for score in told_scores)
    named_in = {record["event"]: "scores" in record for record in read_records(run) if record["event"] != "epoch"}
    assert named_in["start"] is False
    assert named_in["resume"] is True
    assert len(make_document([run]).sections) > 1
