"""`tutelage analyse complexity`: who supervises whom in a run, and each number of the table taken by hand."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from every import every
from tutelage import Computed, Edge, Ema, Ensemble, Frozen, Graph, Trained
from tutelage.analysis.ntk import hard_targets, ntk, soft_targets, supervision_complexity
from tutelage.analysis.supervision import AnalysisSettings, analyse, supervisors
from tutelage.cli import commands, main
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.engine.train import load as load_run
from tutelage.errors import UserError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.taps import logits_of
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

RECIPE = """\
[data]
name = "digits"
image_size = 8
batch_size = 8

[models.t]
arch = "resnet_stages"
weights = "teacher.safetensors"
options = { first = 1, second = 1, third = 1, width = 2 }

[models.a]
arch = "resnet_stages"
options = { first = 1, second = 1, third = 1, width = 2 }

[models.b]
arch = "resnet_stages"
options = { first = 1, second = 1, third = 1, width = 3 }

[method]
name = "dual_student"
teacher = "t"
students = ["a", "b"]

[train]
epochs = 1
precision = "exact"
"""
# Not channels last: some builds of torch 2.15 write beyond a tensor in a 1x1 convolution of two channels so laid out.
FEW = AnalysisSettings(images=12)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three steps on real digits: two students and their teacher."""
    folder = tmp_path_factory.mktemp("runs")
    spec = Architecture("resnet_stages", options={"first": 1, "second": 1, "third": 1, "width": 2})
    save_file(build(spec, class_names=list("0123456789"), channels=1, name="t", seed=5).body.state_dict(),
              folder / "teacher.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "listen_to_signals", list)
        patch.setattr(sys, "argv", ["tutelage", "train", str(folder / "recipe.toml"), "--out", str(folder / "run"),
                                    "--set", "data.limit=24", "--json"])
        with pytest.raises(SystemExit) as stop:
            main.main()
    assert not stop.value.code
    return folder / "run"


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tutelage", "analyse", "complexity", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err
    return call


def test_supervisors_are_the_other_networks_at_the_end_of_its_edges_also_through_computed_nodes():
    nodes = {"t": Frozen(), "u": Frozen(), "a": Trained(), "b": Trained(), "slow": Ema("a"),
             "both": Ensemble(("t", "b")), "own": Computed(("a", "u"), lambda one, other: one + other)}
    edges = [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy), Edge("both", "a", kl),
             Edge("slow", "a", kl), Edge("slow", "b", kl), Edge("own", "b", kl), Edge("own", "a", kl)]
    graph = Graph(nodes, edges)
    assert supervisors(graph, "a") == ["t", "b", "slow", "u"]
    assert supervisors(graph, "b") == ["slow", "a", "u"]


def test_each_row_is_the_complexity_of_its_targets_under_the_students_kernel(run):
    found, _ = analyse(run, AnalysisSettings(images=24, weights="end", temperatures=(2.0,)), "a")
    data = load_data(DataSettings("digits", image_size=8, limit=24))
    batch = next(iter(data.train.batches([torch.arange(24)], draw=None)))  # the order of rows does not matter
    student, peer = load_run(run, "a")[0].eval(), load_run(run, "b")[0].eval()
    kernel = ntk(student, batch.inputs)
    with torch.no_grad():
        told = soft_targets(logits_of(peer(batch.inputs)), 2.0)
    labels, teacher, mutual, shuffled = found.rows
    assert [(row.targets, row.temperature) for row in found.rows] == [
        ("labels", None), ("t", 2.0), ("b", 2.0), ("labels, shuffled", None)]
    assert {row.student for row in found.rows} == {"a"}
    for row, targets in ((labels, hard_targets(batch.labels, 10)), (mutual, told)):
        expected = supervision_complexity(targets, kernel)
        assert (row.complexity, row.adjusted) == pytest.approx((expected.value, expected.adjusted), rel=1e-6)
        assert row.right == pytest.approx(float((targets.argmax(1) == batch.labels).double().mean()))
    assert labels.right == 1
    assert shuffled.right < 0.5
    assert teacher.complexity != mutual.complexity


def test_start_and_end_are_other_weights_and_every_student_has_its_rows(run):
    start, _ = analyse(run, FEW)
    end, _ = analyse(run, AnalysisSettings(images=12, weights="end"))
    assert [row.student for row in start.rows] == ["a"] * 6 + ["b"] * 6
    assert [row.targets for row in start.rows[:6]] == ["labels", "t", "t", "b", "b", "labels, shuffled"]
    assert every(one.complexity != other.complexity for one, other in zip(start.rows, end.rows, strict=True))
    assert [row.right for row in start.rows] == [row.right for row in end.rows]


def test_softer_targets_are_easier(run):
    rows = analyse(run, FEW, "a")[0].rows
    assert rows[1].complexity > rows[2].complexity
    assert rows[3].complexity > rows[4].complexity


def test_an_analysis_is_a_function_of_its_settings(run):
    assert analyse(run, FEW, "a") == analyse(run, FEW, "a")
    other = analyse(run, AnalysisSettings(images=12, seed=1), "a")[0]
    assert other.rows[0].complexity != analyse(run, FEW, "a")[0].rows[0].complexity


def test_the_exact_kernel_can_be_asked_for(run):
    shared, exact = (analyse(run, AnalysisSettings(kernel, images=6), "a")[0] for kernel in ("shared", "exact"))
    assert [row.targets for row in shared.rows] == [row.targets for row in exact.rows]
    assert every(one.complexity != other.complexity for one, other in zip(shared.rows, exact.rows, strict=True))


def test_a_kernel_with_more_images_than_parameters_can_tell_apart_is_said_to_be_singular(run, monkeypatch):
    from tutelage.analysis import supervision
    monkeypatch.setattr(supervision, "ntk", lambda network, images, kind: torch.ones(12, 12, dtype=torch.float64))
    _, notes = analyse(run, FEW, "a")
    assert any("the kernel of a is singular" in note for note in notes)


def test_the_command_prints_a_table_and_json(run, command):
    code, out, _ = command(run, "--images", 12, "--node", "b", "--temperatures", "1,2.5")
    assert code == 0
    for words in ("shared kernel, weights of the start, 12 images of train", "labels, shuffled", "2.5", "adjusted"):
        assert words in out
    code, out, _ = command(run, "--images", 12, "--node", "b", "--json")
    told = json.loads(out)
    assert code == 0
    assert [row["targets"] for row in told["rows"]] == ["labels", "t", "t", "a", "a", "labels, shuffled"]
    assert told["settings"]["images"] == 12


@pytest.mark.parametrize(("words", "code", "says"), [
    (["--node", "c"], 2, ["unknown trained network 'c'"]),
    (["--node", "t"], 2, ["unknown trained network 't'"]),
    (["--kernel", "exakt"], 2, ["unknown kernel 'exakt'", "did you mean 'exact'?"]),
    (["--weights", "middle"], 2, ["unknown weights 'middle'"]),
    (["--on", "tset"], 2, ["unknown split 'tset'", "did you mean 'test'?"]),
    (["--temperatures", "0"], 2, ["a number above 0", "--temperatures"]),
    (["--temperatures", "nan"], 2, ["a number above 0"]),
    (["--temperatures", "a"], 2, ["not numbers between commas"]),
    (["--images", "25"], 3, ["fewer labelled images of train", "--images 24"]),
])
def test_what_is_asked_wrongly_is_told_in_one_block(run, command, words, code, says):
    found, _, errors = command(run, *words)
    assert (found, errors[:6]) == (code, "error["), errors
    for part in says:
        assert part in errors


def test_a_place_that_is_no_run_is_refused(tmp_path, command):
    code, _, errors = command(tmp_path)
    assert code == 2
    assert "not a run folder" in errors
    with pytest.raises(UserError, match="too few images"):
        AnalysisSettings(images=0)
