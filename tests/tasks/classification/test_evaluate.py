"""A finished run measured: what is written is what the networks say, for every kind of run, and nothing is moved."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from every import every
from toys import Rows, free_port
from tutelage import Frozen, Graph, Trained
from tutelage.cli.results import evaluation_text
from tutelage.data.images import png
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError, NumericError, UsageError
from tutelage.models.cost import costs
from tutelage.models.saved import load_network
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.runs.evaluations import Evaluation, cost_of, evaluated, evaluation_of
from tutelage.system.distributed import World
from tutelage.tasks.classification.evaluate import assess, measure

CPU = World(torch.device("cpu"))
RECIPES = Path(__file__).parents[3] / "recipes" / "digits"
SMALL = ["data.image_size=8", "data.limit=256", "data.batch_size=32", "train.epochs=3"]


def train(recipe: Path, out: Path, *sets: str) -> Path:
    job = make_job(read_recipe(recipe, [*SMALL, *sets]), CPU)
    for _ in train_job(job, out, CPU, lambda: 0):
        pass
    return out


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return train(RECIPES / "teacher.toml", tmp_path_factory.mktemp("teacher") / "run", "models.teacher.arch=resnet8")


@pytest.fixture(scope="module")
def dual(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dual") / "run"
    return train(RECIPES / "dual_student.toml", out, "models.teacher.arch=resnet8", "models.mobilenetv2.arch=resnet8",
                 f'models.teacher.weights="{teacher}"', "method.entropy_temperature=2.0")


@pytest.fixture(scope="module")
def found(dual) -> tuple[dict, dict | None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutelage.recipes.evaluate.costs", partial(costs, seconds=0.02))
        return evaluate_run(dual, "test", CPU)


def test_what_is_given_back_is_what_lies_in_the_folder(dual, found):
    metrics, cost = found
    assert evaluation_of(dual, "test").metrics == metrics
    assert cost_of(dual) == cost
    assert evaluated(dual) == ("test", "cost")


def test_the_keys_are_those_that_readers_rely_on(found):
    metrics, cost = found
    assert metrics["also_in_training"] == 0
    assert list(metrics) == ["on", "rows", "also_in_training", "classes", "images_per_class", "training", "nodes",
                             "pairs", "uncertainty", "robust", "task", "scores"]
    assert metrics["task"] == "classification"
    assert every(score["key"] in scores for score in metrics["scores"] for scores in metrics["nodes"].values())
    assert metrics["robust"] is None, "nobody was attacked"
    assert (metrics["on"], metrics["rows"], len(metrics["classes"])) == ("test", 358, 10)
    assert list(metrics["nodes"]) == ["teacher", "resnet8", "mobilenetv2", "ensemble"]
    node = metrics["nodes"]["resnet8"]
    assert set(node) == {"top1", "balanced_accuracy", "top5", "nll", "brier", "ece", "adaptive_ece", "classwise_ece",
                         "macro_f1", "aurc", "per_class", "confusion", "reliability", "temperature", "diversity",
                         "mark"}
    assert np.array(node["confusion"]).shape == (10, 10)
    assert np.array(node["confusion"]).sum() == 358
    assert set(node["temperature"]) == {"value", "identified", "nll_before", "nll_after", "ece_before", "ece_after"}
    assert len(metrics["pairs"]) == 6
    assert set(metrics["pairs"]["teacher|resnet8"]) == {"agreement", "kl", "both_right", "one_right", "both_wrong"}
    assert set(metrics["uncertainty"]) == {"teacher", "options", "histogram", "mean", "mean_right", "mean_wrong",
                                           "auroc", "deciles", "per_class", "most", "least"}
    assert metrics["uncertainty"]["options"] == {"temperature": 2.0, "power": 1.0}
    assert set(metrics["uncertainty"]["most"][0]) == {"id", "file", "label", "prediction", "weight"}
    assert list(cost["nodes"]) == ["teacher", "resnet8", "mobilenetv2"]
    assert set(cost["nodes"]["resnet8"]) == {"parameters", "flops", "bytes", "compression", "latency"}
    assert cost["nodes"]["resnet8"]["bytes"] > 4 * cost["nodes"]["resnet8"]["parameters"]
    assert cost["nodes"]["resnet8"]["compression"] == 1


def plain_logits(dual: Path, teacher: Path, images: Tensor) -> dict[str, Tensor]:
    files = {"teacher": teacher / "models" / "teacher.safetensors",
             **{node: dual / "models" / f"{node}.safetensors" for node in ("resnet8", "mobilenetv2")}}
    with torch.no_grad():
        logits = {node: load_network(file)[0].eval()(images) for node, file in files.items()}
    mean = (logits["resnet8"].softmax(-1) + logits["mobilenetv2"].softmax(-1)) / 2
    return {**logits, "ensemble": mean.log()}


def test_logits_and_scores_are_those_of_the_saved_networks_on_the_images(dual, teacher, found):
    data = make_job(read_recipe(dual / "config.toml"), CPU).data
    (batch,) = data.test.batches([torch.arange(len(data.test.ids))], draw=None)
    expected, written = plain_logits(dual, teacher, batch.inputs), evaluation_of(dual, "test")
    assert torch.equal(written.ids, data.test.ids)
    assert torch.equal(written.labels, data.test.labels)
    for node, logits in expected.items():
        torch.testing.assert_close(written.logits[node], logits, rtol=1e-4, atol=1e-4)
        scores, p = found[0]["nodes"][node], logits.double().softmax(-1)
        assert scores["top1"] == accuracy_score(batch.labels, p.argmax(-1))
        assert scores["nll"] == pytest.approx(log_loss(batch.labels, p, labels=range(10)), rel=1e-4)


def test_a_temperature_is_fitted_to_validation_data_and_judged_on_the_split(dual, teacher, found):
    data = make_job(read_recipe(dual / "config.toml"), CPU).data
    splits = {}
    for name in ("validation", "test"):
        (batch,) = getattr(data, name).batches([torch.arange(len(getattr(data, name).ids))], draw=None)
        splits[name] = plain_logits(dual, teacher, batch.inputs)["resnet8"].double(), batch.labels

    def loss(split: str, t: float) -> float:
        return nn.functional.cross_entropy(splits[split][0] / t, splits[split][1]).item()

    warm = found[0]["nodes"]["resnet8"]["temperature"]
    grid = np.geomspace(0.05, 20, 2000)
    assert warm["value"] == pytest.approx(min(grid, key=lambda t: loss("validation", t)), rel=0.01)
    assert warm["nll_after"] == pytest.approx(loss("test", warm["value"]), rel=1e-4)
    assert warm["nll_before"] == found[0]["nodes"]["resnet8"]["nll"]


def test_example_images_are_the_images_of_their_ids(dual, found):
    source = make_job(read_recipe(dual / "config.toml"), CPU).data.test
    written = evaluation_of(dual, "test")
    about = found[0]["uncertainty"]
    assert sorted(written.images) == sorted(f"{kind}-{k:02d}.png" for kind in ("most", "least") for k in range(24))
    for example in (*about["most"], *about["least"]):
        (row,) = (source.ids == example["id"]).nonzero()[0]
        (batch,) = source.batches([row[None]], draw=None)
        pixels = np.array(Image.open(io.BytesIO(written.images[example["file"]])))
        assert np.array_equal(pixels, (batch.inputs[0, 0] * 255).round().numpy())
        assert example["label"] == int(source.labels[row])
        assert example["prediction"] == int(written.logits["teacher"][row].argmax())
    assert about["most"][0]["weight"] >= about["most"][-1]["weight"] >= about["least"][0]["weight"]


def test_the_tables_show_every_network_and_number(found):
    text = evaluation_text(*found)
    for word in ("test, 358 images", "teacher and resnet8", "class-wise ECE", "AUROC", "decile", "1.00x", "2 FLOP"):
        assert word in text
    assert f"{found[0]['nodes']['ensemble']['top1']:.2%}" in text
    assert "compression" not in evaluation_text(found[0], None)
    assert "in training too" not in text
    assert "test, 358 images, 3 of them in training too" in evaluation_text({**found[0], "also_in_training": 3}, None)


def test_what_is_known_of_training_images_is_said_of_a_stated_sample(dual, teacher, found, monkeypatch):
    data = make_job(read_recipe(dual / "config.toml"), CPU).data
    monkeypatch.setattr("tutelage.recipes.evaluate.TRAINING_IMAGES", 5)
    metrics, _ = evaluate_run(dual, "validation", CPU, cost=False)
    assert evaluate_run(dual, "train", CPU, cost=False)[0]["training"] is None, "the split says it itself"
    rows = first(data.train.ids, 5)
    (batch,) = data.train.batches([rows], draw=None)
    logits = plain_logits(dual, teacher, batch.inputs)
    assert metrics["training"] == {"images": 5, "of": len(data.train.ids), "top1": {
        node: accuracy_score(batch.labels, logits[node].argmax(-1)) for node in metrics["nodes"]}}
    assert f"top-1 on 5 of the {len(data.train.ids)} labelled training images" in evaluation_text(metrics, None)
    assert found[0]["training"]["images"] == min(1000, len(data.train.ids))


def test_the_worst_classes_are_shown_with_how_many_images_judge_them():
    def change(logits: dict) -> None:
        for node in "ta":  # right in class 0 twice of three, in 1 once of two, in 4 never, in 2 always
            logits[node][:] = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 0, 3, 2]), 5) * 3.0

    metrics = judged([0, 0, 0, 1, 1, 4, 2], 5, change).metrics
    assert metrics["images_per_class"] == [3, 2, 1, 0, 1]
    assert metrics["nodes"]["t"]["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4)
    text = evaluation_text(metrics, None)
    assert "class 4 0.0% of 1, class 1 50.0% of 2, class 0 66.7% of 3, class 2 100.0% of 1" in text
    assert "class 3" not in text


def test_measuring_changes_nothing_else_in_the_folder_and_can_be_repeated(dual, found):
    def others() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in dual.rglob("*")
                if path.is_file() and path.parent.parent.name != "evaluation" and path.name != "lock"}

    before, logits = others(), evaluation_of(dual, "test").logits
    again, cost = evaluate_run(dual, "test", CPU, cost=False)
    assert cost is None
    assert again == found[0]
    assert others() == before
    assert every(torch.equal(z, logits[node]) for node, z in evaluation_of(dual, "test").logits.items())


def test_the_finished_run_still_resumes(dual, found):
    job = make_job(read_recipe(dual / "config.toml"), CPU)
    assert [event.number for event in train_job(job, dual, CPU, lambda: 0)] == [1, 2, 3]


# Every kind of run


OWN = """
[data]
name = "digits"
[models.a]
arch = "resnet8"
[models.b]
arch = "resnet8"
[nodes]
a = "trained"
b = "trained"
slow = { kind = "ema", of = "a", decay = 0.9 }
both = { kind = "ensemble", of = ["a", "slow"] }
[[edges]]
teacher = "labels"
student = "a"
divergence = "cross_entropy"
[[edges]]
teacher = "labels"
student = "b"
divergence = "cross_entropy"
[[edges]]
teacher = "both"
student = "b"
divergence = "kl"
[train]
lr = 0.05
"""


def test_one_student_without_a_teacher(teacher):
    metrics, _ = evaluate_run(teacher, "validation", CPU, cost=False)
    assert list(metrics["nodes"]) == ["teacher"]
    assert (metrics["pairs"], metrics["uncertainty"]) == ({}, None)
    assert evaluated(teacher) == ("validation",)
    assert not evaluation_of(teacher, "validation").images


def test_moving_averages_and_ensembles_of_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.recipes.evaluate.costs", partial(costs, seconds=0.02))
    (tmp_path / "own.toml").write_text(OWN)
    run = train(tmp_path / "own.toml", tmp_path / "run")
    metrics, cost = evaluate_run(run, "train", CPU)
    assert list(metrics["nodes"]) == ["a", "b", "slow", "both", "ensemble"]
    assert metrics["rows"] == 256
    assert cost is not None
    assert list(cost["nodes"]) == ["a", "b", "slow"]
    logits = evaluation_of(run, "train").logits
    for name, members in {"both": ["a", "slow"], "ensemble": ["a", "b"]}.items():
        expected = sum(logits[node].softmax(-1) for node in members) / 2
        torch.testing.assert_close(logits[name].softmax(-1), expected)


def test_what_has_learned_is_attacked_where_it_is_asked_for(dual, tmp_path):
    run = copied(dual, tmp_path / "run")
    metrics, _ = evaluate_run(run, "test", CPU, cost=False, eps=0.2)
    robust = metrics["robust"]
    assert robust == evaluation_of(run, "test").metrics["robust"]
    assert (robust["eps"], robust["step_size"], robust["steps"]) == (0.2, 0.05, 10)
    assert list(robust["top1"]) == ["resnet8", "mobilenetv2"], "not the frozen teacher"
    for node, shares in robust["top1"].items():
        assert list(shares) == ["teacher", "resnet8", "mobilenetv2"]
        assert shares[node] < metrics["nodes"][node]["top1"]
    text = evaluation_text(metrics, None)
    assert "top-1 under attack: 10 steps of 0.0500, within 0.2000" in text
    assert f"{robust['top1']['resnet8']['teacher']:.2%}" in text


def test_a_run_whose_method_attacks_is_attacked_as_far_as_in_training(tmp_path):
    options = ["data.limit=64", "train.epochs=1", "train.warmup_epochs=0", "models.peer.arch=resnet8",
               "method.eps=0.1", "method.step_size=0.03", "method.steps=2"]
    run = train(RECIPES / "peeraid.toml", tmp_path / "run", *options)
    robust = evaluate_run(run, "validation", CPU, cost=False)[0]["robust"]
    assert (robust["eps"], robust["step_size"], robust["steps"]) == (0.1, 0.03, 10)
    assert {node: list(shares) for node, shares in robust["top1"].items()} == {
        "peer": ["peer", "resnet8"], "resnet8": ["peer", "resnet8"]}
    assert evaluate_run(run, "validation", CPU, cost=False, eps=0.0)[0]["robust"] is None


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_a_teacher_whose_weights_are_gone_or_others_is_told_of(dual, teacher, tmp_path):
    file = teacher / "models" / "teacher.safetensors"
    kept = file.read_bytes()
    try:
        file.unlink()
        with pytest.raises(ModelError, match="'teacher' of this run cannot be opened") as error:
            evaluate_run(dual, "test", CPU)
        assert str(teacher) in str(error.value)
        shutil.copy(dual / "models" / "resnet8.safetensors", file)
        with pytest.raises(ModelError, match="learned from another teacher"):
            evaluate_run(dual, "test", CPU)
    finally:
        file.write_bytes(kept)


def test_other_data_than_the_run_learned_from_are_noted(dual, tmp_path):
    run = copied(dual, tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("limit = 256", "limit = 255"))
    notes: list[str] = []
    evaluate_run(run, "test", CPU, cost=False, note=notes.append)
    assert notes == ["the data are not those the run learned from: an image may be in another split now"]


def test_runs_that_cannot_be_measured_say_why(dual, tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        evaluate_run(tmp_path, "test", CPU)
    run = copied(dual, tmp_path / "run")
    (run / "FINISHED").unlink()
    with pytest.raises(UsageError, match=f"tutelage train --resume {run}"):
        evaluate_run(run, "test", CPU)
    shutil.copy(dual / "FINISHED", run)
    (run / "models" / "resnet8.safetensors").unlink()
    with pytest.raises(ModelError, match="no trained network 'resnet8'"):
        evaluate_run(run, "test", CPU)
    data = bytearray((dual / "models" / "resnet8.safetensors").read_bytes())
    data[-5] ^= 1
    (run / "models" / "resnet8.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        evaluate_run(run, "test", CPU)


# Odd predictions


def source(labels: list[int]) -> Rows:
    return Rows(torch.rand(len(labels), 3, 8, 8, generator=torch.manual_seed(0)), torch.tensor(labels))


GRAPH = Graph({"t": Frozen(), "a": Trained()}, [])


def judged(labels: list[int], classes: int, change: Callable[[dict], None] = lambda logits: None,
           fit: Rows | None = None) -> Evaluation:
    data = source(labels)
    logits = {node: torch.randn(len(labels), classes, generator=torch.manual_seed(k)) for k, node in enumerate("ta")}
    change(logits)
    held_out = fit or data
    return assess(GRAPH, "test", data, logits, [f"class {k}" for k in range(classes)],
                  (held_out, logits if fit is None else {n: torch.zeros(len(fit.labels), classes) for n in logits}))


def test_rows_without_a_label_count_for_agreement_and_kl_alone():
    half = judged([0, -1, 1, -1, 2, -1], 3)
    kept = torch.tensor([0, 2, 4])
    for node in "ta":
        expected = measure(half.logits[node][kept], torch.tensor([0, 1, 2]))
        assert half.metrics["nodes"][node].items() >= expected.items()
    assert half.metrics["rows"] == 6
    choices = [half.logits[node].argmax(-1) for node in "ta"]
    assert half.metrics["pairs"]["t|a"]["agreement"] == accuracy_score(*choices)
    assert sum(half.metrics["uncertainty"]["histogram"]["count"]) == 3
    assert {example["id"] for example in half.metrics["uncertainty"]["most"]} == {1000, 1002, 1004}
    with pytest.raises(DataError, match="nothing to evaluate on"):
        judged([-1, -1], 3)


def test_without_labels_to_fit_to_there_is_no_temperature():
    found = judged([0, 1], 3, fit=source([-1, -1, -1]))
    assert found.metrics["nodes"]["a"]["temperature"] is None
    assert "-" in evaluation_text(found.metrics, None)


def test_logits_that_are_no_numbers_are_refused_with_node_and_image():
    def break_(logits: dict) -> None:
        logits["a"][3, 0] = float("nan")

    for labels in ([0, 1, 2, 0], [0, 1, 2, -1]):
        with pytest.raises(NumericError, match=r"node 'a'[\s\S]*1 of 4 images, with the ids 1003"):
            judged(labels, 3, break_)


def test_one_class_has_metrics_and_no_uncertainty():
    found = judged([0, 0, 0], 1)
    assert found.metrics["nodes"]["a"]["top1"] == 1
    assert found.metrics["nodes"]["a"]["temperature"]["value"] == 1
    assert found.metrics["uncertainty"] is None


def test_ten_thousand_classes_have_no_confusion_and_mostly_empty_classes():
    found = judged([7, 9_999, 7], 10_000)
    node = found.metrics["nodes"]["a"]
    assert "confusion" not in node
    assert [c for c, share in enumerate(node["per_class"]) if share is not None] == [7, 9_999]
    assert "NaN" not in json.dumps(found.metrics)


def test_many_students_are_all_compared_and_the_table_says_how_many_pairs_it_leaves_out():
    data = source([0, 1, 1, 0])
    logits = {f"s{k}": torch.randn(4, 2, generator=torch.manual_seed(k)) for k in range(12)}
    graph = Graph(dict.fromkeys(logits, Trained()), [])
    found = assess(graph, "test", data, logits, ["a", "b"], (data, logits))
    assert len(found.metrics["pairs"]) == 12 * 11 / 2
    assert "... and 51 more: --json" in evaluation_text(found.metrics, None)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB")])
def test_large_images_are_shown_small_whatever_their_channels(channels, mode):
    picture = Image.open(io.BytesIO(png(torch.rand(channels, 300, 150))))
    assert (picture.mode, picture.size) == (mode, (64, 128))


# The command, and ranks


def command(*words: str, ranks: int = 1) -> list[subprocess.CompletedProcess]:
    port, processes = str(free_port()), []
    for rank in range(ranks):
        several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"} if ranks > 1 else {}
        processes.append(subprocess.Popen([sys.executable, "-m", "tutelage", *words], stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE, text=True,
                                          env={**os.environ, "OMP_NUM_THREADS": "1", **several}))
    outputs = [process.communicate(timeout=200) for process in processes]
    return [subprocess.CompletedProcess(words, process.returncode, *output)
            for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
def test_the_command_prints_every_number_as_json(dual, found):
    (done,) = command("evaluate", str(dual), "--on", "test", "--no-cost", "--json")
    assert json.loads(done.stdout) == {"run": str(dual), **found[0], "cost": None}, done.stderr


@pytest.mark.slow
def test_two_ranks_count_every_image_once_and_one_writes(dual, found, tmp_path):
    run = copied(dual, tmp_path / "run")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    first, second = command("evaluate", str(run), "--on", "test", "--no-cost", ranks=2)
    assert "test, 358 images" in first.stdout, first.stderr
    assert second.stdout == ""
    written = evaluation_of(run, "test")
    assert torch.equal(written.ids, evaluation_of(dual, "test").ids)
    for node, scores in written.metrics["nodes"].items():
        assert scores["top1"] == found[0]["nodes"][node]["top1"]
        assert scores["nll"] == pytest.approx(found[0]["nodes"][node]["nll"], rel=1e-5)
        assert scores["confusion"] == found[0]["nodes"][node]["confusion"]
