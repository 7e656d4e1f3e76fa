"""A study from its recipes to its results: small networks and three steps a run, but everything is real."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from every import every
from tutelage.cli.main import _with_ray
from tutelage.engine import autotune, train
from tutelage.errors import Interrupted, ModelError, UsageError
from tutelage.runs.evaluations import evaluation_of
from tutelage.runs.folder import read_records
from tutelage.studies import compare as studying
from tutelage.studies import executor
from tutelage.studies.compare import Hands, compare, compare_all
from tutelage.studies.statistics import comparison_of
from tutelage.studies.study import Asked, read_study, under_conditions
from tutelage.system.files import fingerprint, unpack
from tutelage.system.machine import processor_of

HEAD = '[data]\nname = "digits"\nimage_size = 8\n[train]\nlr = 0.05\n[models.{0}]\narch = "{1}"\n'
TEACHER = '[models.teacher]\narch = "resnet8"\nweights = "nowhere"\n'
DISTILL = TEACHER + '[method]\nname = "distill"\nteacher = "teacher"\nstudent = '
RECIPES = {
    "teacher": HEAD.format("teacher", "resnet8") + '[method]\nname = "scratch"\nstudent = "teacher"\n',
    "plain_a": HEAD.format("a", "resnet8") + DISTILL + '"a"\n',
    "plain_b": HEAD.format("b", "resnet14") + DISTILL + '"b"\n',
    "dual": HEAD.format("a", "resnet8") + '[models.b]\narch = "resnet14"\n' + TEACHER + '[method]\nname = '
            '"dual_student"\nteacher = "teacher"\nstudents = ["a", "b"]\n',
}
STUDY = """\
[study]
baseline = "plain"

[teachers.teacher]
recipe = "teacher.toml"
seeds = "once"

[methods.plain]
recipes = ["plain_a.toml", "plain_b.toml"]

[methods.dual]
recipes = ["dual.toml"]

[methods.twin]
recipes = ["dual.toml"]
set = ["method.temperature=4.0"]
ablation_of = "dual"
"""
CELLS = ["teacher/seed-0", *(f"{name}/seed-{seed}" for seed in (0, 1, 2)
                             for name in ("plain-plain_a", "plain-plain_b", "dual", "twin"))]


FAST = STUDY.replace("[teachers", 'tables = ["accuracy", "ablation"]\n\n[teachers', 1)
"""The same without the table of costs: latencies are measured for seconds."""


def write(folder: Path, study: str = FAST) -> Path:
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "study.toml").write_text(study)
    return folder / "study.toml"


def run(path: Path, out: Path, seeds: int = 3, on: str = "test", **options):
    return compare(read_study([path]), Asked(seeds, on, quick=True), out, Hands(), tell=lambda line: None, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The folder of a study that was stopped once, and gone on with."""
    folder = tmp_path_factory.mktemp("study")
    path, looks = write(folder, STUDY), []

    def stop() -> int:  # after some cells
        looks.append(1)
        return signal.SIGTERM if len(list((folder / "out").glob("runs/*/*/FINISHED"))) == 5 else 0

    with pytest.raises(Interrupted):
        run(path, folder / "out", stop=stop)
    assert not list((folder / "out").glob("runs/*/*/evaluation")), "nothing is looked at before all is trained"
    results, error = run(path, folder / "out")
    assert error is None
    assert comparison_of(folder / "out") == json.loads(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def results(study) -> dict:
    return comparison_of(study / "out")


def row(results: dict, method: str, node: str, metric: str) -> dict:
    (found,) = (row for row in results["rows"] if (row["method"], row["node"], row["metric"]) == (method, node, metric))
    return found


def test_every_cell_is_an_ordinary_finished_run_and_was_begun_once(study, results):
    assert [cell["run"].removeprefix("runs/") for cell in results["cells"]] == CELLS
    for cell in results["cells"]:
        events = [record["event"] for record in read_records(study / "out" / cell["run"])]
        assert cell["status"] == "finished"
        assert events.count("start") + events.count("resume") >= 1
        assert events.count("start") == 1
        assert events.count("finished") == 1
        assert events.count("epoch") == 1
        assert cell["seconds"] == cell["seconds_per_epoch"] > 0


def test_values_are_those_of_each_runs_evaluation(study, results):
    for method, node, folder in (("plain", "a", "plain-plain_a"), ("plain", "b", "plain-plain_b"),
                                 ("dual", "a", "dual"), ("dual", "ensemble", "dual"), ("twin", "b", "twin")):
        runs = [study / "out" / "runs" / folder / f"seed-{seed}" for seed in range(3)]
        for metric in ("top1", "top5", "nll", "ece"):
            told = [evaluation_of(run, "test").metrics["nodes"][node][metric] for run in runs]
            assert row(results, method, node, metric)["values"] == pytest.approx(told)


def test_two_students_of_two_recipes_have_an_ensemble_like_those_of_one(study, results):
    for seed in range(3):
        a, b = (evaluation_of(study / "out" / "runs" / f"plain-plain_{node}" / f"seed-{seed}", "test") for node in "ab")
        mean = (softmax(a.logits["a"].double().numpy(), -1) + softmax(b.logits["b"].double().numpy(), -1)) / 2
        right = (mean.argmax(-1) == a.labels.numpy()).mean()
        nll = -np.log(mean[np.arange(len(mean)), a.labels.numpy()]).mean()
        assert row(results, "plain", "ensemble", "top1")["values"][seed] == pytest.approx(right)
        assert row(results, "plain", "ensemble", "nll")["values"][seed] == pytest.approx(nll, rel=1e-4)


def test_differences_are_paired_by_seed(results):
    made, base = (np.array(row(results, method, "a", "nll")["values"]) for method in ("dual", "plain"))
    difference = row(results, "dual", "a", "nll")["difference"]
    assert difference["mean"] == pytest.approx((made - base).mean())
    assert difference["n"] == 3
    assert "Wilcoxon" in difference["says"]
    assert row(results, "plain", "a", "nll")["difference"] is None
    assert row(results, "teacher", "teacher", "top1")["difference"] is None


def test_one_method_under_two_names_has_the_same_bits_in_every_seed(study, results):
    """Seeds are paired: order, augmentation and first weights are the seed's, whatever the method is called."""
    for seed in range(3):
        files = [study / "out" / "runs" / name / f"seed-{seed}/models/b.safetensors" for name in ("dual", "twin")]
        first, second = (fingerprint(unpack(file.read_bytes(), file)[0]) for file in files)
        assert first == second
    for node in ("a", "b", "ensemble"):
        assert row(results, "dual", node, "nll")["values"] == row(results, "twin", node, "nll")["values"]
    assert "no difference in any seed" in json.dumps(results["tables"]["ablation"])


def test_seeds_are_not_all_the_same(results):
    assert len(set(row(results, "dual", "a", "nll")["values"])) == 3


def test_mcnemar_counts_images(study, results):
    (told,) = (r for r in results["mcnemar"] if (r["method"], r["node"], r["seed"]) == ("dual", "a", 1))
    right = {}
    for folder in ("dual", "plain-plain_a"):
        evaluation = evaluation_of(study / "out" / "runs" / folder / "seed-1", "test")
        right[folder] = evaluation.logits["a"].argmax(-1) == evaluation.labels
    assert told["only_method"] == sum(bool(a) and not bool(b) for a, b in zip(*right.values(), strict=True))
    assert told["only_baseline"] == sum(bool(b) and not bool(a) for a, b in zip(*right.values(), strict=True))


def test_the_papers_four_tables_are_there_as_text(study, results):
    assert set(results["tables"]) == {"configuration", "accuracy", "ablation", "cost", "training"}
    text = (study / "out" / "results.md").read_text()
    for table in results["tables"].values():
        assert f"## {table['title']}" in text
        assert every(len(line) == len(table["columns"]) for line in table["rows"])
    assert {line[0] for line in results["tables"]["cost"]["rows"]} == {"teacher", "a", "b"}
    accuracy = {(line[0], line[1]): line[2] for line in results["tables"]["accuracy"]["rows"]}
    values = np.array(row(results, "dual", "a", "top1")["values"]) * 100
    assert accuracy["dual", "a"] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f} (3)"
    assert ("twin", "a") not in accuracy


def test_again_trains_nothing_and_looks_at_nothing(study, results, monkeypatch):
    def never(*_arguments, **_options):
        raise AssertionError("done once")

    monkeypatch.setattr(executor, "train_recipe", never)
    monkeypatch.setattr(studying, "evaluate_run", never)
    again, error = run(study / "study.toml", study / "out")
    assert error is None
    assert json.loads(json.dumps(again))["rows"] == results["rows"]


def test_one_more_seed_trains_only_that(study, monkeypatch):
    began, real = [], executor.train_recipe
    monkeypatch.setattr(executor, "train_recipe", lambda recipe, out, *by, **more:
                        began.append(out) or real(recipe, out, *by, **more))
    results, _ = run(study / "study.toml", study / "out", seeds=4)
    assert [path.name for path in began] == ["seed-3"] * 4
    assert row(results, "dual", "a", "top1")["n"] == 4


def test_a_damaged_cell_is_named_and_the_others_keep_their_results(tmp_path):
    path, out = write(tmp_path), tmp_path / "out"
    run(path, out, seeds=1)
    damaged = out / "runs" / "dual" / "seed-0" / "evaluation" / "test" / "metrics.json"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    results, error = run(path, out, seeds=1)
    assert isinstance(error, ModelError)
    assert "dual/seed-0" in error.where
    assert [cell["method"] for cell in results["cells"] if cell["status"].startswith("failed: ")] == ["dual"]
    assert row(results, "plain", "a", "top1")["n"] == 1
    assert not [row for row in results["rows"] if row["method"] == "dual"]
    assert "Not all runs are here" in (out / "results.md").read_text()


def test_a_teacher_that_cannot_be_trained_is_told_with_those_that_wait_for_it(tmp_path):
    path, out = write(tmp_path), tmp_path / "out"
    (out / "runs" / "teacher" / "seed-0").mkdir(parents=True)
    cells = studying.cells_of(read_study([path]), Asked(1, quick=True), out)
    (out / "study.json").write_text(json.dumps({"on": "test", "cells": {str(cells[0]): cells[0].recipe.text()}}))
    (out / "runs" / "teacher" / "seed-0" / "thesis.tex").write_text("")
    results, error = run(path, out, seeds=1)
    assert isinstance(error, UsageError)
    assert {cell["status"] for cell in results["cells"] if cell["method"] != "teacher"} == {
        "failed: its teacher failed"}
    assert results["rows"] == []


def test_a_study_on_validation_images_does_not_touch_the_test_images(tmp_path, monkeypatch):
    asked, real = [], studying.evaluate_run
    monkeypatch.setattr(studying, "evaluate_run", lambda run, on, *rest, **more: asked.append(on)
                        or real(run, on, *rest, **more))
    results, _ = run(write(tmp_path), tmp_path / "out", seeds=1, on="validation")
    assert results["on"] == "validation"
    assert set(asked) == {"validation"}
    assert not list((tmp_path / "out").glob("runs/*/*/evaluation/test"))
    with pytest.raises(UsageError, match="this study reports on validation"):
        run(tmp_path / "study.toml", tmp_path / "out", seeds=1)


SHORT = FAST.partition("[methods.twin]")[0].replace(', "plain_b.toml"', "")
"""A teacher, a student that learns from it alone, and the same student beside another."""
LOADED, IDLE = 1000.0, 0.001
"""Seconds of a step: under load three of them are a run that is worth trials, and idle they are not."""


@pytest.fixture
def step_seconds(monkeypatch, tmp_path) -> list[float]:
    """What a step takes, cell by cell; idle when no more is told. In bfloat16 it takes a hundredth less."""
    told, now, real = list[float](), [IDLE], autotune.tune

    def tune(*rest, **more):
        now[0] = told.pop(0) if told else IDLE
        return real(*rest, **more)

    def seconds(graph, node, network, inputs, choice, *rest, **more) -> float:
        return now[0] * (0.99 if choice.bf16 else 1.0)

    for name, value in {"tune": tune, "_seconds": seconds, "FEWEST": 1, "SHARE": 1.0, "_compiles": lambda *_: False,
                        "_keeps_the_signal": lambda *_: True}.items():
        monkeypatch.setattr(autotune, name, value)
    monkeypatch.setattr(studying, "_measured", lambda *_: {})  # what they scored is not of interest
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    return told


def formats(out: Path, node: str) -> dict[str, bool]:
    """Cell -> whether a network of it computes in bfloat16."""
    told = {path.parent.relative_to(out / "runs"): json.loads(path.read_text())["choices"]
            for path in sorted(out.glob("runs/*/*/tuning.json"))}
    return {str(cell): choices[node]["bf16"] for cell, choices in told.items() if node in choices}


@pytest.mark.parametrize("load", [(LOADED, IDLE, LOADED), (IDLE, LOADED, IDLE, LOADED)], ids=str)
def test_whatever_the_load_a_network_computes_in_one_number_format_in_all_cells(tmp_path, step_seconds, load):
    step_seconds += load
    out = tmp_path / "out"
    results, error = run(write(tmp_path, SHORT), out, seeds=2)
    assert error is None
    first, second = (seconds == LOADED for seconds in load[:2])
    students = ["plain/seed-0", "plain/seed-1", "dual/seed-0", "dual/seed-1"]
    assert formats(out, "a") == dict.fromkeys(students, first), "a network like it was trained in the first cell"
    assert formats(out, "teacher") == {**dict.fromkeys(students, second), "teacher/seed-0": first}
    assert results["notes"] == []


def test_a_study_that_is_gone_on_with_keeps_its_formats(tmp_path, step_seconds):
    path, out = write(tmp_path, SHORT), tmp_path / "out"
    step_seconds += [LOADED] * 3
    run(path, out, seeds=1)
    run(path, out, seeds=2)
    assert formats(out, "a") == dict.fromkeys(formats(out, "a"), True)
    assert len(formats(out, "a")) == 4


def test_the_formats_of_an_older_studys_runs_hold_for_the_rest(tmp_path, step_seconds):
    path, out = write(tmp_path, SHORT), tmp_path / "out"
    step_seconds += [LOADED] * 3
    run(path, out, seeds=1)
    shutil.rmtree(out / "numerics")  # made before there was one
    results, _ = run(path, out, seeds=2)
    assert set(formats(out, "a").values()) == set(formats(out, "teacher").values()) == {True}
    assert results["notes"] == []


def test_where_an_older_studys_runs_disagree_they_are_kept_and_it_is_said(tmp_path, step_seconds):
    path, out = write(tmp_path, SHORT), tmp_path / "out"
    run(path, out, seeds=1)
    shutil.rmtree(out / "numerics")
    told = json.loads((out / "runs/dual/seed-0/tuning.json").read_text())
    told["choices"]["a"]["bf16"] = told["compiled_losses"] = True
    (out / "runs/dual/seed-0/tuning.json").write_text(json.dumps(told))
    results, error = run(path, out, seeds=2)
    assert error is None
    assert formats(out, "a") == {"dual/seed-0": True, "dual/seed-1": False, "plain/seed-0": False,
                                 "plain/seed-1": False}
    assert results["notes"][0].startswith("losses: not compiled in teacher/seed-0, plain/seed-0")
    assert results["notes"][1] == ("trained a: float32 in plain/seed-0, plain/seed-1, dual/seed-1; "
                                   "bfloat16 in dual/seed-0")
    assert f"- {results['notes'][1]}" in (out / "results.md").read_text()


def test_that_cells_were_computed_on_several_processors_is_said(tmp_path, step_seconds, monkeypatch):
    path, out = write(tmp_path, SHORT), tmp_path / "out"
    step_seconds += [LOADED] * 3
    run(path, out, seeds=1)
    monkeypatch.setattr(train, "processor_of", lambda device: "another one")
    results, _ = run(path, out, seeds=2)
    assert formats(out, "a") == {"dual/seed-0": True, "dual/seed-1": False, "plain/seed-0": True,
                                 "plain/seed-1": False}
    assert any(note.startswith("trained a: bfloat16 in ") for note in results["notes"])
    assert f"processors, each with formats of its own: {'; '.join(sorted([processor_of('cpu'), 'another one']))}" in (
        results["notes"])


def test_a_recipe_that_tells_its_precision_keeps_it(tmp_path, step_seconds):
    step_seconds += [LOADED] * 3
    text = SHORT.replace('recipes = ["dual.toml"]', 'recipes = ["dual.toml"]\nset = [\'train.precision="exact"\']')
    results, _ = run(write(tmp_path, text), tmp_path / "out", seeds=1)
    assert formats(tmp_path / "out", "a") == {"dual/seed-0": False, "plain/seed-0": True}
    assert results["notes"] == []


def test_under_several_conditions_each_has_a_study_of_its_own_and_one_page_shows_all(tmp_path):
    text = HEAD.format("a", "resnet8") + '[method]\nname = "scratch"\nstudent = "a"\n'
    (tmp_path / "alone.toml").write_text(text)
    study = ('[study]\nbaseline = "alone"\ntables = ["accuracy"]\n[methods.alone]\nrecipes = ["alone.toml"]\n'
             '[methods.fast]\nrecipes = ["alone.toml"]\nset = ["train.weight_decay=0.1"]\n'
             '[conditions.slow]\nset = ["train.lr=0.01"]\n[conditions.same]\n')
    (tmp_path / "study.toml").write_text(study)
    studies = under_conditions(read_study([tmp_path / "study.toml"]))
    results, error = compare_all(studies, Asked(1, quick=True), tmp_path / "out", Hands(), tell=lambda text: None)
    assert error is None
    assert list(results) == ["slow", "same"]
    assert {name: json.loads((tmp_path / "out" / name / "results.json").read_text()) for name in results} == results
    page = (tmp_path / "out" / "results.md").read_text()
    assert page.index("## Mean rank of a over 2 conditions") < page.index("# slow") < page.index("# same")
    assert every(f"\n| {name} " in page.partition("# slow")[0] for name in ("alone", "fast"))


def test_a_mistake_under_one_condition_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "alone.toml").write_text(HEAD.format("a", "resnet8") + '[method]\nname = "scratch"\nstudent = "a"\n')
    (tmp_path / "study.toml").write_text('[study]\nbaseline = "alone"\n[methods.alone]\nrecipes = ["alone.toml"]\n'
                                         '[conditions.good]\n[conditions.bad]\nset = ["train.lr=much"]\n')
    with pytest.raises(UsageError):
        compare_all(under_conditions(read_study([tmp_path / "study.toml"])), Asked(1), tmp_path / "out", Hands())
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        run(write(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(("words", "meant"), [
    (["compare", "a.toml", "--ray"], ["compare", "a.toml", "--ray=local"]),
    (["compare", "--ray", "a.toml"], ["compare", "--ray=local", "a.toml"]),
    (["compare", "--ray", "--quick", "a.toml"], ["compare", "--ray=local", "--quick", "a.toml"]),
    (["compare", "a.toml", "--ray", "ray://head:10001"], ["compare", "a.toml", "--ray", "ray://head:10001"]),
    (["train", "a.toml"], ["train", "a.toml"]),
])
def test_the_address_of_a_cluster_may_be_left_out(words, meant):
    assert _with_ray(words) == meant


def command(*words: str | Path, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tutelage", "compare", *map(str, words), "--quick"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def test_the_command_tells_an_unknown_baseline_in_one_block(tmp_path):
    process = command(write(tmp_path), "--out", tmp_path / "out", "--baseline", "plian")
    _, said = process.communicate()
    assert process.returncode == 2
    assert "unknown baseline 'plian'" in said
    assert "did you mean 'plain'?" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_started_at_once_share_the_work_and_do_no_cell_twice(tmp_path):
    path = write(tmp_path)
    both = [command(path, "--seeds", "2", "--out", tmp_path / "out", "--json") for _ in range(2)]
    texts = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    first, second = (json.loads(text) for text in texts)
    assert first["rows"] == second["rows"]
    for folder in (tmp_path / "out" / "runs").glob("*/*"):
        events = [record["event"] for record in read_records(folder)]
        assert events.count("start") == events.count("finished") == 1
        assert events.count("resume") == 0


SMALL = FAST.partition("[methods.dual]")[0]
"""A teacher and two distilled students."""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_nothing_outlives_it(tmp_path):
    path, out = write(tmp_path, SMALL), tmp_path / "out"
    words = [path, "--seeds", "1", "--out", out, "--jobs", "2"]
    first = command(*words)
    wait_for(lambda: list(out.glob("runs/*/*/lock")))
    first.kill()  # kill -9, with a child at work
    first.communicate()
    wait_for(lambda: not any(str(out) in line for line in commands()))
    second = command(*words, "--json")
    text, said = second.communicate(timeout=280)
    assert second.returncode == 0, said
    assert {cell["status"] for cell in json.loads(text)["cells"]} == {"finished"}
    assert settled_in(out) == ["frozen", "trained", "trained"], "the processes share one file"


def settled_in(out: Path) -> list[str]:
    """The roles of the networks whose number format is settled on this processor."""
    (told,) = json.loads((out / "numerics" / "settled.json").read_text())["machines"].values()
    return sorted(network.split()[0] for network in told["networks"])


@pytest.mark.slow
def test_asked_to_stop_it_stops_its_processes_and_says_how_to_go_on(tmp_path):
    path, out = write(tmp_path, SMALL), tmp_path / "out"
    process = command(path, "--seeds", "3", "--out", out, "--jobs", "2")
    wait_for(lambda: list(out.glob("runs/*/*/lock")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=280)
    assert process.returncode == 130
    assert "Go on with: the same command again" in said
    assert every(str(out) not in line for line in commands())


@pytest.mark.slow
def test_ray_works_off_the_same_cells_into_the_same_folders(tmp_path):
    pytest.importorskip("ray", reason="the extra tutelage[ray] is not installed")
    process = command(write(tmp_path, SMALL), "--seeds", "1", "--out", tmp_path / "out", "--json", "--ray")
    text, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    results = json.loads(text)
    assert {cell["status"] for cell in results["cells"]} == {"finished"}
    assert row(results, "plain", "a", "top1")["n"] == 1
    assert settled_in(tmp_path / "out") == ["frozen", "trained", "trained"]


def test_without_ray_its_install_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        compare(read_study([write(tmp_path)]), Asked(1, quick=True), tmp_path / "out", Hands(ray="local"),
                tell=lambda line: None)
    assert caught.value.fix == "pip install 'tutelage[ray]'"


def commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def wait_for(ready, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_how_torch_computes_is_not_changed_by_a_study(study):
    assert torch.get_default_dtype() == torch.float32
