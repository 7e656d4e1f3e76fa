"""What the bench says is what it measured: its arithmetic, that like is compared with like, and its words."""

import importlib.util
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

import tutelage
from every import every
from toys import SGD, data, everything, models, settings
from tutelage import Computed, Edge, Frozen, Graph, Trained
from tutelage.bench import naive_loop
from tutelage.bench import recipe as benching
from tutelage.bench import rows as benchmarking
from tutelage.bench.floor import floor_of
from tutelage.bench.rows import Row, compare_runs, ratios
from tutelage.cli import main
from tutelage.data import from_tensors
from tutelage.data.augment import Augmentation
from tutelage.engine.autotune import Tuned
from tutelage.engine.precision import Execution
from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, js, kl
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes.recipe import read_recipe
from tutelage.system.distributed import World

CPU = World(torch.device("cpu"))
DUAL = dual_student("t", ["a", "b"], hard=0.5, soft=0.5, peer=0.5)
PLAIN = Tuned({node: Execution() for node in "tab"})
RECIPES = Path(__file__).parents[2] / "recipes"


class Clock:
    """Time that passes only where a step says so."""

    def __init__(self, monkeypatch) -> None:
        self.seconds, self.calls = 0.0, list[str]()
        monkeypatch.setattr(benchmarking, "_now", lambda _device: self.seconds)

    def step(self, name: str, takes: float):
        def run() -> None:
            self.calls.append(name)
            self.seconds += takes
        return run


@pytest.fixture
def tuned_at_once(monkeypatch):
    """No trials: every network in float32, channels first."""
    monkeypatch.setattr(benching, "_tuned", lambda job, _world: Tuned({node: Execution() for node in job.models}))


# --- the arithmetic ------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_over_rounds_of_one_divided_by_the_sum_of_the_others():
    seconds = {"one": [2.0, 12.0, 6.0], "x": [1.0, 2.0, 2.0], "y": [3.0, 2.0, 1.0]}
    row = compare_runs("name", seconds, "one", ["x", "y"], 2.0, note="why")
    assert row == Row("name", "<= 2", 2.0, 0.5, 3.0, reached=True, note="why")
    assert row.as_json() == {"name": "name", "reach": "<= 2", "value": 2.0, "least": 0.5, "most": 3.0,
                             "reached": True, "note": "why"}


@pytest.mark.parametrize(("value", "at_most", "reached"), [
    (1.9, True, True), (2.0, True, True), (2.1, True, False), (1.9, False, False), (2.0, False, True),
    (2.1, False, True)])
def test_a_reach_is_reached_from_its_own_side_and_at_the_mark(value, at_most, reached):
    row = compare_runs("", {"one": [value], "other": [1.0]}, "one", ["other"], 2.0, at_most=at_most)
    assert (row.reached, row.reach) == (reached, "<= 2" if at_most else ">= 2")


def test_steps_take_turns_every_other_round_backwards_after_each_was_warmed_up(monkeypatch):
    clock = Clock(monkeypatch)
    steps = {"a": clock.step("a", 1.0), "b": clock.step("b", 10.0)}
    seconds = ratios(steps, rounds=3, device=CPU.device, repeats=2)
    assert clock.calls == list("ab" "bbaa" "aabb" "bbaa")
    assert seconds == {"a": [1.0] * 3, "b": [10.0] * 3}, "of one step, not of its repeats"


# --- the naive loop is the textbook's ------------------------------------------------------------------------------


def textbook(logits: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """L of `dual_student` as its page has it, row by row in float64."""
    total, temperature = 0.0, 4.0
    for me, other in (("a", "b"), ("b", "a")):
        for row, label in enumerate(labels):
            def soft(node, t=1.0, row=row):
                return log_softmax(logits[node][row].astype(np.float64) / t)

            def divergence(teacher, row=row, me=me, soft=soft):
                p, q = soft(teacher, temperature), soft(me, temperature)
                return temperature**2 * sum(np.exp(p) * (p - q))
            certain = soft("t")
            weight = 1 + sum(np.exp(certain) * certain) / np.log(len(certain))
            total += (0.5 * -soft(me)[label] + 0.5 * weight * divergence("t") + 0.5 * divergence(other)) / len(labels)
    return total


def test_losses_by_hand_are_those_of_the_page():
    generator = torch.Generator().manual_seed(0)
    logits = {node: 3 * torch.randn(6, 5, generator=generator) for node in "tab"}
    labels = torch.arange(6) % 5
    found = naive_loop.loss_by_hand(DUAL)(logits, labels)
    assert float(found) == pytest.approx(textbook({node: x.numpy() for node, x in logits.items()}, labels.numpy()),
                                         rel=1e-6)


def test_a_loss_that_the_textbook_has_not_is_taken_as_it_is_given():
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", js, weight=0.5, temperature=2.0)])
    logits = {"t": torch.tensor([[1.0, 0.0]]), "a": torch.tensor([[0.0, 2.0]])}
    expected = 0.5 * 4 * float(js(logits["a"] / 2, logits["t"] / 2, torch.tensor([0])))
    assert float(naive_loop.loss_by_hand(graph)(logits, torch.tensor([0]))) == pytest.approx(expected)


def test_the_gradient_of_the_naive_loss_reaches_students_alone():
    logits = {node: torch.randn(4, 3).requires_grad_() for node in "tab"}
    naive_loop.loss_by_hand(DUAL)(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert logits["t"].grad is None
    assert every(logits[node].grad is not None for node in "ab")


def test_a_student_alone_learns_from_labels_and_teacher():
    graph = naive_loop.without_peers(DUAL, "b")
    assert list(graph.nodes) == ["t", "b"]
    assert [edge.name for edge in graph.edges] == ["labels->b:cross_entropy", "t->b:kl/4"]


@pytest.mark.parametrize(("graph", "plain"), [
    (DUAL, True), (distill("t", "a"), True), (everything(), False),
    (dual_student("t", ["a", "b"], preset="cautious"), True),
    (Graph({"t": Frozen(), "a": Trained(), "both": Computed(("t", "a"), lambda t, a: t + a)}, [Edge("both", "a", kl)]),
     False), (Graph({"t": Frozen(), "a": Trained()}, [Edge("t.0", "a.0", kl)]), False)],
    ids=["as published", "distill", "everything", "computed weights", "computed logits", "taps"])
def test_only_plain_graphs_have_a_naive_loop(graph, plain):
    assert naive_loop.is_plain(graph) is plain


@pytest.mark.parametrize(("how", "expected"), [
    (Augmentation(), ["ToTensor"]), (Augmentation(padding=4, flip=True), ["RandomCrop", "RandomHorizontalFlip",
                                                                          "ToTensor"]),
    (Augmentation(resized_crop=True, flip=True), ["RandomResizedCrop", "RandomHorizontalFlip", "ToTensor"])])
def test_the_naive_loop_draws_images_by_the_policy_of_the_recipe(how, expected):
    draw = naive_loop.draw_by_pil(how, (3, 32, 32))
    assert [type(step).__name__ for step in draw.transforms] == expected


def test_the_policy_is_read_from_the_training_images():
    assert naive_loop.policy(data().train) == Augmentation(padding=1, flip=True)


@pytest.mark.parametrize("rows", [17, 24, 33])
def test_the_naive_loop_goes_round_few_images_in_whole_batches(rows):
    few = data(rows)  # a quarter is held out
    step = naive_loop.by_hand(DUAL, models(), few, settings(batch_size=6), CPU.device)
    assert every(torch.isfinite(step()) for _ in range(6))


def test_the_naive_loop_leaves_the_given_networks_as_they_are():
    given = models()
    before = {node: [weight.clone() for weight in model.parameters()] for node, model in given.items()}
    naive_loop.by_hand(DUAL, given, data(), settings(), CPU.device)()
    for node, model in given.items():
        for old, new in zip(before[node], model.parameters(), strict=True):
            torch.testing.assert_close(old, new, rtol=0, atol=0)


# --- what is compared is the same work -----------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [DUAL, dual_student("t", ["a", "b"], preset="cautious"),
                                   dual_student("t", ["a", "b"], uncertainty=True, label_weighting="1-w")],
                         ids=["as published", "cautious", "weights of labels"])
def test_ours_the_naive_loop_and_the_floor_compute_the_same_losses_for_20_steps(graph):
    rows = list(benchmarking.sameness_rows(graph, models(), data(), settings(), PLAIN, CPU))
    assert [row.name for row in rows] == [
        "losses of 20 steps apart, ours and naive", "losses of 20 batches apart, ours cached and naive",
        "losses of 20 steps apart, floor and naive"]
    assert every(row.reached for row in rows), rows
    assert rows[0].value <= 1e-9, "in float64 nothing is left of rounding"
    assert rows[1].value <= 1e-4
    assert rows[2].value <= 1e-9


def test_other_work_is_found_out(monkeypatch):
    right = naive_loop.loss_by_hand
    monkeypatch.setattr(benchmarking, "loss_by_hand",
                        lambda graph: lambda outputs, labels: right(graph)(outputs, labels) * 1.0005)
    assert every(not row.reached for row in benchmarking.sameness_rows(DUAL, models(), data(), settings(), PLAIN, CPU))


def test_another_gradient_under_the_same_first_loss_is_found_out(monkeypatch):
    def leaking(graph: Graph):
        right = naive_loop.loss_by_hand(graph)

        def loss(outputs, labels):
            value = right(outputs, labels)
            return value.detach() + 3 * (value - value.detach())
        return loss
    monkeypatch.setattr(benchmarking, "loss_by_hand", leaking)
    online, _, floor = benchmarking.sameness_rows(DUAL, models(), data(), settings(), PLAIN, CPU)
    assert not online.reached
    assert not floor.reached
    assert online.least == pytest.approx(0, abs=1e-5), "the first losses were equal"


def test_labels_that_a_recipe_mixes_are_compared_unmixed():
    mixed = data()
    mixed = type(mixed)(**{**vars(mixed), "train": type(mixed.train)(**{**vars(mixed.train), "how": Augmentation(
        padding=1, flip=True, mixup=0.5)})})
    assert every(row.reached for row in benchmarking.sameness_rows(DUAL, models(), mixed, settings(), PLAIN, CPU))


def test_untrained_networks_that_blow_rounding_up_are_compared_all_the_same():
    generator = torch.Generator().manual_seed(0)
    photos = from_tensors((torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8, generator=generator),
                           torch.arange(64) % 4), validation=0.25)
    networks = {node: build(Architecture(arch), class_names=photos.classes, channels=1, name=node)
                for node, arch in (("t", "resnet8"), ("a", "resnet8"), ("b", "mobilenetv2"))}
    rows = list(benchmarking.sameness_rows(DUAL, networks, photos, settings(batch_size=16), PLAIN, CPU, steps=5))
    assert every(row.reached for row in rows), rows


# --- the rows ------------------------------------------------------------------------------------------------------


def names(rows) -> list[str]:
    rows = list(rows)
    assert every(0 < row.least <= row.value <= row.most for row in rows)
    return [row.name for row in rows]


def test_the_whole_step_is_held_against_the_floor_the_naive_loop_and_separate_runs():
    rows = list(benchmarking.dual_rows(DUAL, models(), data(), settings(), PLAIN, CPU, 1))
    assert {row.name: row.reach for row in rows} == {
        "whole step, cached teacher / floor": "<= 1.02", "whole step, online teacher / floor": "<= 1.28",
        "all students, online / separate naive runs": "<= 0.38",
        "all students, cached / separate naive runs": "<= 0.3",
        "naive / ours, all float32, online": ">= 1.35", "naive / ours, all float32, cached": ">= 2",
        "naive / floor (what there is to win)": ">= 2.6"}
    kept = {row.name for row in rows if row.note.startswith("1 draw of 36 images")}
    assert kept == {row.name for row in rows if "cached" in row.name}, "cached rows say what the cache took"


def test_one_student_is_not_held_against_separate_runs():
    found = names(benchmarking.dual_rows(distill("t", "a"), models(), data(), settings(), PLAIN, CPU, 1))
    assert every("separate" not in name for name in found)


def test_one_teacher_and_one_student_have_four_rows():
    optimizers = {"a": SGD, "b": partial(torch.optim.Adam, lr=0.01)}
    rows = list(benchmarking.single_rows(DUAL, models(), data(), settings(optimizer=optimizers), PLAIN, CPU, 1))
    assert {row.name: row.reach for row in rows} == {
        "one student, naive / ours online": ">= 2", "one student, naive / ours cached": ">= 2.6",
        "one student, naive / ours online fp32": ">= 1.2", "one student, naive / ours cached fp32": ">= 1.8"}


def test_students_are_counted_from_two_to_eight():
    found = names(benchmarking.student_rows(DUAL, models(), data(), settings(optimizer={"a": SGD, "b": SGD}), PLAIN,
                                            CPU, 1))
    assert found == [f"{count} students, cached / sum of their floors" for count in range(2, 9)]


def test_the_floor_takes_each_student_in_its_own_format():
    seen = {}

    class Looks(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.linear = name, nn.Linear(64, 4)

        def forward(self, images):
            seen[self.name] = (images.is_contiguous(memory_format=torch.channels_last) and images.shape[1] > 1,
                               torch.is_autocast_enabled("cpu"))
            return self.linear(images[:, :1].flatten(1))

    colour = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8)
    photos = from_tensors((colour, torch.arange(48) % 4), validation=0.25)
    choices = {"a": Execution(), "b": Execution(bf16=True, channels_last=True)}
    floor_of({node: Looks(node) for node in "ab"}, photos, settings(), choices, CPU, recorded=False)()
    assert seen == {"a": (False, False), "b": (True, True)}


# --- the command ---------------------------------------------------------------------------------------------------


def bench(recipe: Path, only: list[str], overrides: list[str] = []) -> tuple[dict, list[str]]:  # noqa: B006
    told: list[str] = []
    found = benching.bench_recipe(read_recipe(recipe, overrides), CPU, 1, only, where=recipe, tell=told.append)
    return found, told


SMALL = ["data.image_size=8", "data.batch_size=16", "models.teacher.arch=resnet8", "models.mobilenetv2.arch=resnet8",
         "models.teacher.weights=nowhere"]


def test_the_command_prints_the_rows_and_notes_that_its_json_holds(tuned_at_once):
    found, told = bench(RECIPES / "digits" / "dual_student.toml", ["single"], SMALL)
    assert told[0] == found["machine"]
    assert set(found["notes"]) <= set(told)
    assert len(found["rows"]) == 4
    assert [row["name"] for row in found["rows"]] == [line.split("  ")[0] for line in told[-4:]]
    for row, line in zip(found["rows"], told[-4:], strict=True):
        assert ("NOT reached" in line) is not row["reached"]
        assert row["reach"] in line
    assert json.loads(json.dumps(found)) == found
    assert {"versions", "rounds", "tuned", "peak_bytes"} <= set(found)


@pytest.mark.parametrize(("name", "task"), [("shapes", "segmentation"), ("waves", "series")])
def test_loops_by_hand_are_for_classes_and_a_recipe_of_another_task_is_told_so(tmp_path, name, task):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[data]\nname = "{name}"\n[models.t]\narch = "resnet8"\n[models.s]\narch = "resnet8"\n'
                      '[method]\nname = "distill"\nteacher = "t"\nstudent = "s"\n')
    with pytest.raises(UsageError, match=rf"single is for classification alone[\s\S]*task {task}[\s\S]*--only dual"):
        bench(recipe, ["dual", "single"], [])


@pytest.mark.parametrize(("name", "arch"), [("shapes", "unet"), ("shapes_boxes", "tiny_fcos")])
def test_a_step_of_another_task_is_measured_beside_the_floor_of_its_students(tmp_path, monkeypatch, tuned_at_once,
                                                                            name, arch):
    recipe = tmp_path / "recipe.toml"
    nodes = "".join(f'[models.{node}]\narch = "{arch}"\noptions = {{ width = 2, depth = 1 }}\n' for node in "tab")
    recipe.write_text(f'[data]\nname = "{name}"\nbatch_size = 4\nimage_size = 32\n{nodes}'
                      '[method]\nname = "dual_student"\nteacher = "t"\nstudents = ["a", "b"]\n')
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    found, _ = bench(recipe, ["dual"], [])
    assert [row["name"] for row in found["rows"]] == ["whole step, cached teacher / floor",
                                                      "whole step, online teacher / floor"]
    # How long a step takes is the machine's affair, and a loaded one has no bound: that it was measured is asked here.
    assert every(0 < row["least"] <= row["value"] <= row["most"] < math.inf for row in found["rows"])


def test_a_small_number_is_not_printed_as_nothing():
    assert [benching._short(number) for number in (0.0, 3e-7, 0.004, 0.38, 12.3)] == [
        "0.00", "3e-07", "4e-03", "0.38", "12.30"]


def test_the_command_writes_what_it_prints_as_json(tmp_path, capsys, monkeypatch, tuned_at_once):
    rows = [Row("one", "<= 1", 0.5, 0.25, 1.5, True), Row("two", ">= 2", 1.0, 1.0, 1.0, False, "why")]
    monkeypatch.setattr(benchmarking, "sameness_rows", lambda *_: rows)
    words = [word for override in SMALL for word in ("--set", override)]
    to = tmp_path / "bench.json"
    monkeypatch.setattr(sys, "argv", ["tutelage", "bench", str(RECIPES / "digits" / "dual_student.toml"), "--only",
                                      "same", "--rounds", "1", "--json", "--to", str(to), *words])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert not stop.value.code
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(to.read_text())
    assert printed["rows"] == [row.as_json() for row in rows]


def test_an_unknown_group_of_rows_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown group of rows 'dul'") as error:
        bench(RECIPES / "digits" / "dual_student.toml", ["dul"])
    assert "did you mean 'dual'" in error.value.block()
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", ["mutual", "scratch"])
def test_a_recipe_without_a_teacher_is_refused(name):
    with pytest.raises(UsageError, match="one frozen teacher") as error:
        bench(RECIPES / "digits" / f"{name}.toml", ["dual"])
    assert "0 frozen networks" in error.value.block()


@pytest.mark.parametrize("name", ["akd", "wavelet"])
def test_a_recipe_that_no_naive_loop_can_follow_is_refused(name):
    with pytest.raises(UsageError, match="one frozen teacher"):
        bench(RECIPES / "digits" / f"{name}.toml", ["dual"])


def test_images_and_weights_that_are_missing_are_replaced_and_that_is_said(tmp_path, monkeypatch, tuned_at_once):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.setattr(benchmarking, "sameness_rows", lambda *_: [Row("a row", "<= 1", 1.0, 1.0, 1.0, True)])
    found, told = bench(RECIPES / "cifar100" / "dual_student.toml", ["same"],
                        ["models.teacher.arch=resnet8", "models.mobilenetv2.arch=resnet8"])
    notes = "\n".join(found["notes"])
    assert "the images are noise" in notes
    assert "teacher has random weights" in notes
    assert [row["name"] for row in found["rows"]] == ["a row"]
    assert set(found["notes"]) <= set(told)


def test_images_that_are_there_are_used_and_nothing_is_said_of_noise(tuned_at_once, monkeypatch):
    monkeypatch.setattr(benchmarking, "sameness_rows", lambda *_: [])
    found, _ = bench(RECIPES / "digits" / "dual_student.toml", ["same"], SMALL)
    assert every("noise" not in note for note in found["notes"])


def test_rows_that_need_no_recipe_build_no_network(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(benching, "_job", never)
    monkeypatch.setattr(benchmarking, "augmentation_rows", lambda *_: [])
    assert bench(RECIPES / "digits" / "mutual.toml", ["augmentation"])[0]["rows"] == []


def test_cross_entropy_of_the_naive_loop_takes_the_mean_over_all_rows_as_ours_does():
    graph = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)])
    loss = naive_loop.loss_by_hand(graph)({"a": torch.zeros(2, 4)}, torch.tensor([1, -1]))
    assert float(loss) == pytest.approx(np.log(4) / 2)


# --- the other tools -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", RECIPES.parent / "benchmarks" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_peer_is_divided_by_ours_round_by_round(peers):
    seconds = {"plain loop": [3.0, 4.0, 9.0], "ours online": [1.0, 2.0, 2.0], "ours cached": [1.0, 4.0, 3.0]}
    online, cached = peers.table(seconds)
    assert (online["value"], online["least"], online["most"], online["reached"]) == (3.0, 2.0, 4.5, True)
    assert (cached["value"], cached["least"], cached["most"], cached["reached"]) == (3.0, 1.0, 3.0, True)
    assert (online["reach"], cached["reach"]) == (2.0, 2.6)


def test_what_is_the_same_program_as_another_is_measured_once(peers):
    class Tool:
        def __init__(self, name: str, choices: str) -> None:
            self.name, self.facts, self.open = name, {"choices": choices}, True

        def close(self) -> None:
            self.open = False

    tools = [Tool("ours online", "bf16"), Tool("ours cached", "fp32"), Tool("ours online fp32", "fp32"),
             Tool("ours cached fp32", "fp32")]
    kept, same = peers.distinct(tools)
    assert kept == tools[:3]
    assert same == {"ours cached fp32": "ours cached"}
    assert [tool.open for tool in tools] == [True, True, True, False]


def test_a_tool_that_cannot_be_had_is_left_out_and_that_is_said(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "HOME", tmp_path)
    monkeypatch.delenv("MDISTILLER", raising=False)
    monkeypatch.setenv("REPDISTILLER", str(tmp_path / "nowhere"))
    python = tmp_path / "bench-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no network")
    monkeypatch.setattr(peers.subprocess, "run", lambda *_, **__: failed)
    skipped: dict[str, str] = {}
    assert peers.environment(skipped) == python
    why = "not installed: ERROR: no network"
    assert skipped == {"torchdistill": why, "Lightning": why, "Transformers": why,
                       "mdistiller": "no source: set MDISTILLER to the folder of a clone",
                       "RepDistiller": "no source: set REPDISTILLER to the folder of a clone"}


def test_the_environment_of_the_tools_sees_this_package_however_it_is_installed(peers, tmp_path):
    peers.show_packages(tmp_path)
    look = ("import sys, site; from importlib.util import find_spec; before = find_spec('tutelage'); "
            "site.addsitedir(sys.argv[1]); print(before, find_spec('tutelage').origin)")
    said = subprocess.run([sys.executable, "-I", "-S", "-c", look, str(tmp_path)], capture_output=True, text=True,
                          check=True).stdout.split()
    assert said == ["None", tutelage.__file__]


def test_a_tool_whose_losses_differ_is_told_apart(peers):
    class Tool:
        def __init__(self, name: str, losses: list[float]) -> None:
            self.name, self.losses = name, losses

        def ask(self, command: str, steps: int) -> list[float]:
            assert (command, steps) == ("check", 2)
            return self.losses

    found = peers.check([Tool("plain loop", [1.0, 2.0]), Tool("timm", [1.0, 2.5])], 2)
    assert found == {"plain loop": 0.0, "timm": 0.5}
