"""`benchmarks/same.py` tells a commit that computes the same from one that does not, on a package of a page."""

import importlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tutelage.recipes.recipe import read_recipe
from tutelage.recipes.teachers import with_teachers

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
TOY = '''
import json, pathlib, struct, sys, time

WEIGHTS, LOSS, TOP1, BF16, LOGITS = "aa", 0.5, 0.75, False, b"1234"
EDGE, LAYOUT, SLOW, FORGETS = "labels->net", "old", 1.0, False

def scores(top1):
    pairs = {"net|teacher": 0.5}
    nodes = {"net": {"top1": top1}, "teacher": {"top1": 1.0}}
    return {**nodes, "agreement": pairs} if LAYOUT == "old" else {
        "nodes": nodes, "pairs": {pair: {"agreement": share} for pair, share in pairs.items()}}

def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))

def train(run, sets, resumed=False):
    if not resumed:
        write(run / "sets.json", sets)
        write(run / "tuning.json", {"choices": {"net": {"bf16": BF16}}, "compiled_losses": False, "seconds": {}})
        if "given" in str(run):
            time.sleep(60)
    weights = WEIGHTS + " forgot" * (resumed and FORGETS)
    write(run / "checkpoints/step-00000004/manifest.json", {"files": {"net": {"sha256": weights}}})
    if "train.checkpoint_steps=4" in sets and not resumed and "whole" not in str(run):
        time.sleep(60)
    epoch = {"event": "epoch", "epoch": 1, "losses": {EDGE: LOSS}, "metrics": scores(0.5), "seconds": time.time()}
    write(run / "records.jsonl", json.dumps(epoch) + "\\n" + json.dumps({"event": "finished"}) + "\\n")
    write(run / "FINISHED", {"step": 4, "weights": {"net": weights}, "metrics": scores(0.5)})

command, *words = sys.argv[1:]
if command == "train" and words[0] == "--resume":
    run = pathlib.Path(words[1])
    train(run, json.loads((run / "sets.json").read_text()), resumed=True)
elif command == "train":
    train(pathlib.Path(words[2]), words[4::2])
elif command == "evaluate":
    place = pathlib.Path(words[0]) / "evaluation" / words[2]
    write(place / "metrics.json", {"on": "test", "nodes": {"net": {"top1": TOP1}}, "pairs": {}})
    header = json.dumps({"logits.net": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (place / "logits.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + LOGITS)
elif command == "graph":
    print(json.dumps({"nodes": ["net"], "edges": [EDGE], "table": f"drawn at {time.time()}"}))
elif command == "compare":
    train(pathlib.Path(words[words.index("--out") + 1]) / "runs/net", [])
    print(json.dumps({"rows": [{"method": "a", "mean": TOP1}], "tables": [time.time()],
                      "cells": [{"method": "a", "seconds": time.time()}]}))
elif command == "bench":
    print(json.dumps({"rows": [{"name": "losses", "reach": ">= 4", "value": 4 / SLOW},
                               {"name": "step", "reach": "<= 1.1", "value": SLOW}]}))
'''
EXAMPLE = '''
from tutelage import Tensor
class Network:
    def named_parameters(self): return []
    def state_dict(self): return {"weight": Tensor()}
models, scores = {"net": Network()}, {"net": {"top1": 0.5}}
'''
PACKAGE = "class Tensor:\n    def tolist(self): return [1.0]\n"
RECIPE = '[models.net]\narch = "small"\n'
ITEMS = ["graph", "digits/*", "killed", "handed_over", "cached", "given/*", "study", "examples/*", "speed/losses"]
"""All but those that start torch."""


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("same_facts")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, and what `same.py` has found of it so far."""
    root = tmp_path_factory.mktemp("toy")
    files = {"src/tutelage/__init__.py": PACKAGE, "src/tutelage/__main__.py": TOY, "examples/01_net.py": EXAMPLE,
             "recipes/digits/study.toml": "[study]\n", "recipes/digits/feature_only.toml": RECIPE,
             "recipes/digits/teacher.toml": RECIPE,
             "recipes/digits/dual_student.toml": RECIPE + '[models.t]\nweights = "../../runs/demo-teacher"\n',
             ".gitignore": "/out/\n__pycache__/\n"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "benchmarks").mkdir()
    for path in BENCHMARKS.glob("same*.py"):
        text = path.read_text()
        (root / "benchmarks" / path.name).write_text(text.replace("TURNS, LIMIT = 5,", "TURNS, LIMIT = 1,"))
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "as it was"], ["tag", "before"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=root, check=True)
    return root


def judged(toy: Path, only: list[str], *changes: tuple[str, str]) -> tuple[int, str, dict[str, list[str]]]:
    """The exit code, the answer and all differences by item, for the toy package with some words replaced."""
    text = TOY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (toy / "src/tutelage/__main__.py").write_text(text)
    words = [word for pattern in only for word in ("--only", pattern)]
    done = subprocess.run([sys.executable, "benchmarks/same.py", "before", *words], cwd=toy, capture_output=True,
                          text=True)
    assert not done.stderr
    (where,) = (line for line in done.stdout.splitlines() if line.startswith("HEAD"))
    found = json.loads((Path(where.split(" in ")[1]) / "differences.json").read_bytes())
    return done.returncode, done.stdout, found


def found_of_base(toy: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (toy / "out/same").glob("base-*/facts/*.json")}


def test_other_texts_and_another_layout_of_the_same_scores_are_no_difference(toy: Path) -> None:
    code, said, found = judged(toy, ITEMS, ('"old"', '"new"'), ("drawn at", "made at"))
    assert found == {name: [] for name in (
        "teacher/demo-teacher", "graph", "digits/teacher", "digits/dual_student", "digits/feature_only", "killed",
        "handed_over", "cached", "given/mixed", "given/layers", "given/compiled", "study", "examples/01_net",
        "speed/losses")}
    assert (code, said.splitlines()[-1]) == (0, "nothing differs")
    assert said.count(" same\n") == len(found)


def test_whatever_differs_is_named(toy: Path) -> None:
    code, said, found = judged(
        toy, ["graph", "digits/teacher", "study"], ('"aa"', '"bb"'), ("0.5, 0.75", "0.5000000000000001, 0.76"),
        ('"1234"', '"1235"'), ("False, b", "True, b"), ('"labels->net"', '"labels->other"'))
    assert code == 1
    assert said.splitlines()[-1] == "3 of 3 items differ"
    assert found["graph"][0] == 'digits/dual_student, edges, 0: "labels->net" -> "labels->other"'
    assert 'exact, ., FINISHED, weights, net: "aa" -> "bb"' in found["digits/teacher"]
    assert "auto, ., tuning, choices, net, bf16: false -> true" in found["digits/teacher"]
    assert "exact, ., epochs, 0, losses, labels->net: missing in HEAD" in found["digits/teacher"]
    assert "exact, ., evaluation/test, nodes, net, top1: 0.75 -> 0.76" in found["digits/teacher"]
    assert any("evaluation/test, logits, logits.net: " in told for told in found["digits/teacher"])
    assert "results, rows, a, mean: 0.75 -> 0.76" in found["study"]


def test_the_last_bit_of_a_loss_is_a_difference_and_base_is_trained_once(toy: Path) -> None:
    before = found_of_base(toy)
    code, _, found = judged(toy, ["digits/teacher"], ("0.5, 0.75", "0.5000000000000001, 0.75"))
    assert code == 1
    assert found["digits/teacher"] == [
        f"{way}, ., epochs, 0, losses, labels->net: 0.5 -> 0.5000000000000001" for way in ("exact", "auto")]
    assert before.items() <= found_of_base(toy).items()


def test_a_run_that_goes_on_to_other_weights_is_wrong(toy: Path) -> None:
    code, _, found = judged(toy, ["killed", "handed_over"], ("1.0, False", "1.0, True"))
    assert code == 1
    assert found["killed"][0].startswith("HEAD, killed and resumed: ., FINISHED, weights, net")
    assert 'run, ., FINISHED, weights, net: "aa" -> "aa forgot"' in found["handed_over"]


def test_what_is_slower_by_more_than_a_share_differs(toy: Path) -> None:
    code, _, found = judged(toy, ["speed/overhead"], ("1.0, F", "1.04, F"))
    assert code == 1
    assert found["speed/overhead"] == ["losses: 4.0% slower [4.0%, 4.0%] in 3 turns",
                                       "step: 4.0% slower [4.0%, 4.0%] in 3 turns"]


def test_what_is_new_and_what_only_one_side_has_is_a_note(toy: Path) -> None:
    extra = toy / "recipes/digits/extra.toml"
    extra.write_text(RECIPE)
    code, said, _ = judged(toy, ["digits/teacher", "graph"], ('"on": "test",', '"on": "test", "extra": 1,'))
    extra.unlink()
    assert code == 0
    assert "note: only in HEAD: extra\n" in said
    assert "note: only in HEAD: digits/extra\n" in said


def test_a_command_that_fails_is_a_difference_with_its_error(toy: Path) -> None:
    code, _, found = judged(toy, ["graph"], ('"graph":\n', '"graph":\n    sys.exit("error[recipe]: no")\n'))
    assert code == 1
    assert found["graph"][0].startswith("HEAD failed: error[recipe]: no")


def test_an_unknown_item_is_refused_with_those_there_are(toy: Path) -> None:
    done = subprocess.run([sys.executable, "benchmarks/same.py", "before", "--only", "nothing"], cwd=toy,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "speed/losses" in done.stderr


def test_both_layouts_of_scores_are_one(same: ModuleType) -> None:
    old = {"a": {"top1": 0.5}, "b": {"top1": 0.25}, "agreement": {"a|b": 0.75}}
    new = {"nodes": {"a": {"top1": 0.5}, "b": {"top1": 0.25}}, "pairs": {"a|b": {"agreement": 0.75}}}
    assert same.scores_of(old) == same.scores_of(new) == same.scores_of({**new, "pairs": {"a|b": 0.75}}) == new
    assert same.scores_of({"a": {"top1": 1.0}}) == same.scores_of({"nodes": {"a": {"top1": 1.0}}})
    assert same.scores_of({"nodes": {"top1": 1.0}}) == {"nodes": {"nodes": {"top1": 1.0}}, "pairs": {}}


def test_numbers_are_the_same_to_the_last_bit_and_what_is_missing_differs(same: ModuleType) -> None:
    assert same.compare({"a": [1.0, math.nan]}, {"a": [1.0, math.nan]}) == ([], [])
    assert same.compare({"a": [1.0]}, {"a": [math.nextafter(1.0, 2.0)]})[0] == ["a, 0: 1.0 -> 1.0000000000000002"]
    assert same.compare({"a": {"b": 1}}, {"a": {"c": 1}}) == (["a, b: missing in HEAD"], ["a, c"])
    assert same.compare([1, 2], [1, 2, 3])[0]
    assert same.compare({"a": {"b": 1}}, {"a": None})[0]


def test_rows_of_a_study_have_no_order(same: ModuleType) -> None:
    rows = [{"method": "a", "node": node, "seed": 0, "p": p} for node, p in (("x", 0.5), ("y", 0.25))]
    found = same.study_facts({"nodes": ["x", "y"], "mcnemar": rows, "machine": "this"})
    assert found == same.study_facts({"nodes": ["y", "x"], "mcnemar": rows[::-1], "machine": "that"})
    assert found["mcnemar"]["a x 0"]["p"] == 0.5
    scores = [{"key": "dice", "title": "Dice"}, {"key": "iou", "title": "IoU"}]
    assert same.study_facts({"scores": scores}) == {"scores": {of["key"]: of for of in scores}}
    with pytest.raises(ValueError, match="one name"):
        same.study_facts({"mcnemar": [rows[0], rows[0]]})


def test_slower_is_slower_whichever_way_a_row_counts(same: ModuleType) -> None:
    def turns(speed: float, time: float) -> list[dict]:
        return [{"rows": [{"name": "speed", "reach": ">= 4", "value": speed}, {"name": "time", "reach": "<= 1.1",
                                                                             "value": time}]}] * 3

    found = same.slowdowns(turns(4.0, 1.0), turns(3.2, 1.25))
    assert found == {"speed": pytest.approx([0.25] * 3), "time": pytest.approx([0.25] * 3)}
    assert len(same.too_slow(found, 0.2)) == 2
    assert not same.too_slow(same.slowdowns(turns(3.2, 1.25), turns(4.0, 1.0)), 0.03)
    with pytest.raises(ValueError, match="missing in HEAD"):
        same.slowdowns(turns(4.0, 1.0), [{"rows": []}] * 3)


def test_a_tensor_counts_with_its_name_type_shape_and_bytes(same: ModuleType) -> None:
    def file(shape: list[int], data: bytes) -> bytes:
        header = json.dumps({"__metadata__": {"a": "b"},
                             "x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
        return struct.pack("<Q", len(header)) + header + data

    one = same.tensor_facts(file([1], b"1234"))
    assert list(one) == ["x"]
    assert one == same.tensor_facts(file([1], b"1234"))
    assert one != same.tensor_facts(file([1, 1], b"1234"))
    assert one != same.tensor_facts(file([1], b"1235"))


def test_the_teachers_are_those_that_the_recipes_name_by_recipe(same: ModuleType, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    items = importlib.import_module("same_items")
    recipes = BENCHMARKS.parent / "recipes"
    side = items.Side("HEAD", tmp_path)
    side.tree.mkdir()
    (side.tree / "recipes").symlink_to(recipes)
    asked = [items.Item(name, lambda place: {}, (name,)) for name in ("snapshot_teacher", "snapshot_teacher_of_two")]
    needed = ["demo-teacher-after2", "demo-teacher-after3", "demo-teacher-after5", "digits-early", "demo-teacher"]
    assert items.teachers_of(side, asked) == needed
    monkeypatch.chdir(side.tree)
    for name in needed:
        recipe, sets = items.TEACHERS[name]
        run = Path("runs", name)
        run.mkdir(parents=True)
        (run / "config.toml").write_text(read_recipe(recipes / f"digits/{recipe}.toml", [items.EXACT, *sets]).text())
        (run / "FINISHED").write_text("{}")
    for recipe in ("snapshot_teacher", "snapshot_teacher_of_two"):
        found = with_teachers(read_recipe(recipes / f"digits/{recipe}.toml")).models.values()
        assert {Path(arch.weights).name for arch in found if arch.weights} <= set(needed)
