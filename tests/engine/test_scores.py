"""What held-out data say, from training to the report: whatever a node is called, and whichever version wrote it."""

import json
import shutil
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch

import tutelage
from every import every
from report_toys import RECIPE, STUDENTS
from toys import SGD, data, network
from tutelage import Edge, Ema, Graph, Trained
from tutelage.engine.train import load
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.reporting.build import make_document
from tutelage.reporting.groups import group_runs, member_of
from tutelage.reporting.markdown_csv_json import document_as_json
from tutelage.reporting.run_folder import read_run
from tutelage.runs.folder import Records, finished, open_run, read_records, read_scores
from tutelage.studies.compare import Hands, compare
from tutelage.studies.study import Asked, read_study
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint, read_folder, write_folder, write_json

CPU = World(torch.device("cpu"))
NAMES = ("agreement", "nodes", "pairs", "ensemble")
"""What the scores of a run, or an evaluation, call something else."""
MODELS = "".join(f'[models.{name}]\narch = "resnet8"\n' for name in NAMES)
OWN = f'''{MODELS}
[data]
name = "digits"
image_size = 8
[method]
name = "mutual"
students = {json.dumps(NAMES)}
[train]
lr = 0.05
best = true
'''
STUDY = """
[study]
baseline = "plain"
tables = ["accuracy"]
[methods.plain]
recipes = ["own.toml"]
set = ["train.best=false"]
[methods.best]
recipes = ["own.toml"]
"""


def peers(*names: str) -> Graph:
    edges = [Edge("labels", name, cross_entropy) for name in names]
    edges += [Edge(one, other, kl) for one, other in pairwise(names)]
    return Graph({name: Trained() for name in names} | {"slow": Ema(names[0], 0.5)}, edges)


def train(out: Path, *names: str, stop_after: int | None = None) -> list[tutelage.engine.train.Epoch]:
    networks, told = {name: network(i) for i, name in enumerate(names)}, []
    for epoch in tutelage.train(peers(*names), networks, data(), epochs=4, optimizer=SGD, batch_size=12, out=out,
                                best=True):
        told.append(epoch)
        if epoch.number == stop_after:
            break
    return told


def old(scores: dict) -> dict:
    """Scores as they were written before nodes and pairs lay apart."""
    return {**scores["nodes"], "agreement": {pair: shares["agreement"] for pair, shares in scores["pairs"].items()}}


def make_old(run: Path) -> None:
    """Write a run folder as an earlier version would have: old scores everywhere, and no graph.json."""
    (run / "graph.json").unlink()
    records = [record | ({"metrics": old(record["metrics"])} if "metrics" in record else {})
               for record in read_records(run)]
    (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if (done := finished(run)) is not None:
        write_json(run / "FINISHED", {**done, "metrics": old(done["metrics"])})
    for path in (run / "checkpoints").iterdir():
        manifest, files = read_folder(path)
        about = {key: value for key, value in manifest.items() if key != "files"}
        write_folder(path, files, {**about, "scores": old(about["scores"])}, replace=True)


# -- names -----------------------------------------------------------------------------------------------------------

def test_a_run_with_best_keeps_every_nodes_scores_and_weights_whatever_it_is_called(tmp_path):
    plain = train(tmp_path / "plain", "a", "b", "c", "d")
    told = train(tmp_path / "run", *NAMES)
    assert len(told) == len(plain) == 4
    assert every(list(epoch.accuracy) == [*NAMES, "slow"] for epoch in told)
    for record in read_records(tmp_path / "run"):
        if record["event"] in ("epoch", "finished"):
            assert list(record["metrics"]["nodes"]) == [*NAMES, "slow"]
            assert list(record["metrics"]["pairs"]) == [f"{a}|{b}" for a, b in combinations([*NAMES, "slow"], 2)]
    done = finished(tmp_path / "run")
    assert done is not None
    for node in NAMES:
        best = max(epoch.accuracy[node] for epoch in told)
        assert done["metrics"]["nodes"][node]["top1"] == best, "those of the weights that are kept"
        assert fingerprint(load(tmp_path / "run", node, into=network(9))[0].state_dict()) == done["weights"][node]


def test_a_stopped_run_goes_on_to_the_same_bits_whatever_its_nodes_are_called(tmp_path):
    whole = train(tmp_path / "whole", *NAMES)
    train(tmp_path / "run", *NAMES, stop_after=2)
    again = train(tmp_path / "run", *NAMES)
    assert [epoch.accuracy for epoch in again] == [epoch.accuracy for epoch in whole]
    assert finished(tmp_path / "run") == finished(tmp_path / "whole")


@pytest.fixture(scope="module")
def recipe_run(tmp_path_factory) -> Path:
    """A finished, evaluated run of a recipe whose students have these names."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.toml").write_text(OWN)
    job = make_job(read_recipe(folder / "own.toml", quick=True), CPU)
    for _ in train_job(job, folder / "run", CPU, lambda: 0):
        pass
    evaluate_run(folder / "run", "test", CPU, cost=False)
    return folder / "run"


def table(document: dict, name: str) -> list[dict]:
    """The rows of a table of a report, by the names of its columns."""
    (found,) = [table for table in document["tables"] if table["table"] == name]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_evaluation_and_report_have_every_node_whatever_it_is_called(recipe_run):
    metrics = json.loads((recipe_run / "evaluation/test/metrics.json").read_text())
    assert tuple(metrics["nodes"]) == NAMES
    assert tuple(metrics["pairs"]) == tuple(f"{a}|{b}" for a, b in combinations(NAMES, 2))
    told = json.loads(document_as_json(make_document([recipe_run])))
    (record,) = [record for record in read_records(recipe_run) if record["event"] == "epoch"]
    by_epoch = {row["network"]: row["top-1"] for row in table(told, "Scores by epoch, on validation data")}
    assert by_epoch == {node: record["metrics"]["nodes"][node]["top1"] for node in NAMES}
    tested = {row["network"]: row["top-1"] for row in table(told, "Scores") if row["measured on"] == "test"}
    assert tested == {node: metrics["nodes"][node]["top1"] for node in NAMES}
    assert [row["network"] for row in table(told, "All networks")] == list(NAMES)
    assert every(row["kind"] == "trained" for row in table(told, "All networks"))


def test_a_study_compares_every_node_whatever_it_is_called(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "study.toml").write_text(STUDY)
    results, error = compare(read_study([tmp_path / "study.toml"]), Asked(1, "validation", quick=True),
                             tmp_path / "out", Hands(), tell=lambda line: None)
    assert error is None
    assert set(results["nodes"]) == set(NAMES)
    assert {(row["method"], row["node"]) for row in results["rows"] if row["metric"] == "top1" and row["n"] == 1} == {
        (method, node) for method in ("plain", "best") for node in NAMES}
    told = table(json.loads(document_as_json(make_document([tmp_path / "out"]))), "All networks")
    assert sorted(row["network"] for row in told) == sorted([*NAMES, *NAMES])


# -- earlier versions ------------------------------------------------------------------------------------------------

A, B, SHARE = {"top1": 0.5, "nll": 1.0}, {"top1": 0.25, "nll": 2.0}, {"agreement": 0.75}


@pytest.mark.parametrize(("written", "nodes", "pairs"), [
    ({"nodes": {"a": A, "b": B}, "pairs": {"a|b": SHARE}}, {"a": A, "b": B}, {"a|b": SHARE}),
    ({"nodes": {"a": A}, "pairs": {}}, {"a": A}, {}),
    ({"a": A, "b": B, "agreement": {"a|b": 0.75}}, {"a": A, "b": B}, {"a|b": SHARE}),
    ({"a": A}, {"a": A}, {}),
    ({}, {}, {}),
    ({"nodes": A, "pairs": B, "agreement": {"nodes|pairs": 0.75}}, {"nodes": A, "pairs": B}, {"nodes|pairs": SHARE}),
    ({"nodes": A}, {"nodes": A}, {}),
    ({"agreement": A}, {"agreement": A}, {}),
    ({"a": A, "agreement": {"a|agreement": 0.75}}, {"a": A}, {"a|agreement": SHARE}),
], ids=["two", "one", "two, old", "one, old", "none yet, old", "named like the new keys, old",
        "one named like a new key, old", "one named like the old key, old", "one that had vanished, old"])
def test_scores_are_read_as_they_are_and_as_they_were(written, nodes, pairs):
    assert read_scores(written) == {"nodes": nodes, "pairs": pairs}


@pytest.mark.parametrize("stop_after", [1, 4], ids=["in the middle", "before FINISHED was written"])
def test_a_run_that_an_earlier_version_began_goes_on_to_the_same_bits(tmp_path, stop_after):
    whole = train(tmp_path / "whole", "a", "b")
    train(tmp_path / "run", "a", "b", stop_after=stop_after)
    make_old(tmp_path / "run")
    again = train(tmp_path / "run", "a", "b")
    assert [(epoch.number, epoch.losses, epoch.accuracy) for epoch in again] == [
        (epoch.number, epoch.losses, epoch.accuracy) for epoch in whole]
    assert finished(tmp_path / "run") == finished(tmp_path / "whole")
    layouts = [set(record["metrics"]) == {"nodes", "pairs"} for record in read_records(tmp_path / "run")
               if "metrics" in record]
    assert layouts == [False] * stop_after + [True] * (4 - stop_after) + [True], "the test wants both in one log"
    runs = [read_run(tmp_path / name) for name in ("run", "whole")]
    assert [epoch["metrics"] for epoch in runs[0].epochs] == [epoch["metrics"] for epoch in runs[1].epochs]


def test_a_run_that_an_earlier_version_finished_is_opened_and_reported_as_before(tmp_path):
    told = train(tmp_path / "run", "a", "b")
    page = document_as_json(make_document([tmp_path / "run"]))
    make_old(tmp_path / "run")
    assert document_as_json(make_document([tmp_path / "run"])) == page
    assert train(tmp_path / "run", "a", "b") == told


def test_a_recipes_run_that_an_earlier_version_finished_is_evaluated_and_reported(recipe_run, tmp_path):
    run = shutil.copytree(recipe_run, tmp_path / "run")
    make_old(run)
    before = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert evaluate_run(run, "test", CPU, cost=False)[0] == before
    told = json.loads(document_as_json(make_document([run])))
    assert [row["network"] for row in table(told, "Scores") if row["measured on"] == "test"] == list(NAMES)


def test_a_log_written_by_hand_as_it_was_gives_the_same_numbers(tmp_path):
    scores = {"teacher": {"top1": 0.9, "top5": 1.0, "nll": 0.3, "ece": 0.05},
              **{node: {"top1": 0.8 - i / 8, "top5": 0.9, "nll": 0.5, "ece": 0.1} for i, node in enumerate(STUDENTS)},
              "agreement": {"teacher|resnet8": 0.7, "teacher|mobilenetv2": 0.6, "resnet8|mobilenetv2": 0.5}}
    open_run(tmp_path, RECIPE.format(seed=0), "data")
    records = Records(tmp_path, tensorboard=False)
    records.add("epoch", 10, epoch=1, losses={}, accuracy={}, metrics=scores, learning_rate={}, seconds=1.0,
                images_per_second=1.0)
    records.add("finished", 10, metrics=scores)
    write_json(tmp_path / "FINISHED", {"step": 10, "metrics": scores, "weights": {}})
    (group,) = group_runs([member_of(read_run(tmp_path))])
    assert group.nodes() == ["teacher", *STUDENTS]
    assert [group.values(node, "top1") for node in group.nodes()] == [[0.9], [0.8], [0.675]]
    assert read_run(tmp_path).epochs[0]["metrics"]["pairs"]["teacher|resnet8"] == {"agreement": 0.7}
