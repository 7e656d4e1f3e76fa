"""Networks for series: exported for any length, and asked for the classes of series in files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tutelage as tl
from tutelage.data.series_scaling import SeriesScaling, padded_series, series_scaling
from tutelage.data.waves import WAVE_CLASSES
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.exporting import formats, verify
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.module import Choice, Student, about
from tutelage.exporting.predict import Damaged, SeriesClassifier, open_onnx
from tutelage.exporting.predict_series import SeriesPrediction, classify_series, files_of_series
from tutelage.exporting.recurrent import whole_units
from tutelage.models.series import series_cnn, series_gru
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.system.distributed import World

onnx = pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
CPU = World(torch.device("cpu"))
RECIPE = """
[data]
name = "waves"
batch_size = 32
[models.gru]
arch = "series_gru"
options = { width = 6, depth = 2, pool = "last" }
[models.cnn]
arch = "series_cnn"
options = { width = 3 }
[method]
name = "mutual"
students = ["gru", "cnn"]
[train]
epochs = 2
lr = 0.01
optimizer = "adamw"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(RECIPE)
    for _ in train_job(make_job(read_recipe(folder / "recipe.toml"), CPU), folder / "out", CPU, lambda: 0):
        pass
    return folder / "out"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("export")
    for node in ("gru", "cnn"):
        export_run(run, node, folder / f"{node}.onnx", Choice("onnx"), agreement=0.98, on="test")
    return {node: folder / f"{node}.onnx" for node in ("gru", "cnn")}


def logits_of_run(run: Path, node: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tl.load(run, node)[0].eval()(values=torch.from_numpy(values), mask=torch.from_numpy(mask)).numpy()


@pytest.mark.parametrize("node", ["gru", "cnn"])
def test_an_onnx_file_takes_any_number_of_series_of_any_length(exported, run, node):
    session = onnxruntime.InferenceSession(exported[node], providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["values", "mask"]
    generator = np.random.default_rng(0)
    for rows, length in ((1, 64), (2, 64), (7, 17), (3, 150), (2, 1)):
        values = generator.normal(size=(rows, 2, length)).astype(np.float32)
        mask = np.arange(length) < generator.integers(1, length + 1, (rows, 1))
        found = session.run(["logits"], {"values": values, "mask": mask})[0]
        np.testing.assert_allclose(found, logits_of_run(run, node, values, mask), atol=1e-4)
        noisy = np.where(mask[:, None], values, 1e6).astype(np.float32)  # the padding says nothing
        np.testing.assert_allclose(session.run(["logits"], {"values": noisy, "mask": mask})[0], found, atol=1e-4)


def test_a_file_says_how_it_is_fed_and_how_it_was_tried(exported):
    report = json.loads(exported["gru"].with_name("gru.onnx.json").read_text())
    assert (report["task"], report["classes"], report["preprocessing"]["kind"]) == (
        "series", list(WAVE_CLASSES), "series")
    assert report["input"] == {"name": "values", "shape": ["batch", 2, "length"], "type": "float32"}
    assert report["mask"] == {"name": "mask", "shape": ["batch", "length"], "type": "bool"}
    checked = report["checked"]
    assert checked["images"] == checked["labelled"] == 150
    assert checked["agreement"] >= 0.999 - 1 / 150
    assert checked["agreement_at_half_length"] >= 0.999 - 1 / 150
    model = onnx.load(exported["gru"])
    assert sum(node.op_type == "GRU" for node in model.graph.node) == 4  # two layers, each in both directions
    assert "Loop" not in {node.op_type for node in model.graph.node}


def series_student(network: nn.Module, masked: bool, **changed: object) -> Student:
    scaling = SeriesScaling((0.0, 0.0), (1.0, 1.0), 20, masked)
    return replace(Student(network.eval(), tuple("abcd"), scaling, "n", "series"), **changed)


def test_series_of_one_length_have_no_mask_and_may_still_be_of_another():
    network = series_gru(4, 2, width=3)
    student = series_student(network, masked=False)
    assert "mask" not in about(student, Choice("onnx"))
    model = formats.onnx_model(student, Choice("onnx"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows, length in ((1, 20), (5, 9), (2, 33)):
        values = torch.rand(rows, 2, length)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(["logits"], {"values": values.numpy()})[0], network(values).numpy(),
                                       atol=1e-5)


def test_series_are_tried_at_two_lengths_and_both_must_agree():
    torch.manual_seed(0)
    student = series_student(series_cnn(4, 2, width=1), masked=True)
    values, mask = torch.rand(9, 2, 20), torch.arange(20) < torch.arange(12, 21)[:, None]
    asked = verify.trials(student, {"values": values, "mask": mask}, Choice("onnx"))
    assert {trial.given["values"].shape[2] for trial in asked if trial.shortened} == {10}
    assert sum(len(trial.wanted) for trial in asked if trial.shortened) == 9
    answers = [trial.wanted.numpy().copy() for trial in asked]
    labels = torch.arange(9) % 4
    numbers = verify.compared(asked, answers, labels)
    assert (numbers["images"], numbers["agreement"], numbers["agreement_at_half_length"]) == (9, 1, 1)
    verify.require_faithful(student, Choice("onnx"), numbers, 0.98)
    shortened = next(answer for trial, answer in zip(asked, answers, strict=True) if trial.shortened)
    shortened[:] = -shortened  # other choices, at the short length alone
    numbers = verify.compared(asked, answers, labels)
    assert numbers["agreement"] == 1
    for bits in (False, True):
        with pytest.raises(ModelError, match="agreement at half length >= "):
            verify.require_faithful(student, Choice("onnx", int8=bits), {**numbers, "relative_difference": 0}, 0.98)


class Lstm(nn.Module):
    """A recurrent network that is not exported."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.LSTM(2, 4, batch_first=True)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.units(values.transpose(1, 2))[0][:, -1]


@pytest.mark.parametrize(("network", "kind", "format_"), [(Lstm(), "LSTM", "onnx"), (Lstm(), "LSTM", "pt2"),
                                                         (series_gru(4, 2, width=3), "GRU", "pt2")])
def test_a_recurrent_layer_that_a_format_cannot_hold_is_named(network, kind, format_):
    with pytest.raises(ModelError, match=rf"no {kind} for series of any length[\s\S]*layer '(units|layer1\.forwards)'"):
        formats.program(series_student(network, masked=False), Choice(format_))


def test_units_are_kept_whole_in_a_copy():
    network = series_gru(4, 2, width=3, depth=2).eval()
    values, mask = torch.rand(3, 2, 11), torch.arange(11) < torch.tensor([[11], [4], [1]])
    copied = whole_units(network)
    assert "WholeGru" not in {type(module).__name__ for module in network.modules()}
    assert torch.equal(copied(values, mask), network(values, mask))
    plain = series_cnn(4, 2)
    assert whole_units(plain) is plain
    units = nn.GRU(2, 3, num_layers=2, bidirectional=True, bias=False)  # time first, as torch has it by default
    steps, start = torch.rand(5, 4, 2), torch.rand(4, 4, 3)
    for given in ((steps,), (steps, start)):
        for found, wanted in zip(whole_units(units)(*given), units(*given), strict=True):
            assert torch.equal(found, wanted)


def test_8_bits_of_units_that_stay_wide_are_refused_and_of_convolutions_are_made(run, tmp_path):
    with pytest.raises(ModelError, match="left weights of this network as they were"):
        export_run(run, "gru", tmp_path / "gru.onnx", Choice("onnx", int8=True), agreement=0.5)
    assert list(tmp_path.iterdir()) == []


# Series of files


def write_files(folder: Path) -> list[np.ndarray]:
    """The same six series in each kind of file, without a label where it may be left out."""
    generator = np.random.default_rng(0)
    series = [generator.normal(size=(2, steps)) for steps in (64, 41, 50, 3, 64, 1)]
    lines = [":".join(",".join(map(repr, channel.tolist())) for channel in one) for one in series]
    (folder / "plain.ts").write_text("@classLabel false\n@data\n" + "\n".join(lines))
    (folder / "named.ts").write_text("@classLabel true a b\n@data\n" + "\n".join(f"{line}:?" for line in lines))
    rows = [f"{number},{x!r},{y!r}" for number, one in enumerate(series) for x, y in one.T.tolist()]
    (folder / "plain.csv").write_text("series,x,y\n" + "\n".join(rows))
    longest = max(one.shape[1] for one in series)
    padded = np.stack([np.pad(one, ((0, 0), (0, longest - one.shape[1]))) for one in series])
    np.savez(folder / "plain.npz", x=padded, lengths=np.array([one.shape[1] for one in series]))
    return series


@pytest.mark.parametrize("node", ["gru", "cnn"])
def test_every_kind_of_file_gets_the_classes_of_the_network_with_labels_or_without(exported, run, tmp_path, node):
    series = write_files(tmp_path)
    how = series_scaling(json.loads(exported[node].with_name(f"{node}.onnx.json").read_text())["preprocessing"])
    wanted = []
    for one in series:  # each alone, scaled by hand
        values = ((one - np.array(how.mean)[:, None]) / np.array(how.std)[:, None]).astype(np.float32)[None]
        logits = logits_of_run(run, node, values, np.ones((1, one.shape[1]), bool))[0].astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum()
        wanted.append((WAVE_CLASSES[chances.argmax()], chances.max()))
    for student in (open_onnx(exported[node]), open_predictor(run, node)):
        files = files_of_series(tmp_path)
        assert [path.name for path in files] == ["named.ts", "plain.csv", "plain.npz", "plain.ts"]
        for path in files:
            found = list(classify_series([path], student, 0.5))
            assert every_is_prediction(found)
            assert [said.label for said in found] == [label for label, _ in wanted]
            assert [said.probability for said in found] == pytest.approx([chance for _, chance in wanted], abs=1e-4)
            assert [said.below for said in found] == [chance < 0.5 for _, chance in wanted]


def every_is_prediction(found: list) -> bool:
    return [type(said) for said in found] == [SeriesPrediction] * 6


def test_series_without_a_mask_run_at_their_own_length(tmp_path):
    lengths = []

    def logits(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        assert mask is None
        lengths.append(values.shape)
        return values.sum(2)

    student = SeriesClassifier(("a", "b"), SeriesScaling((1.0, 0.0), (2.0, 1.0), 5, masked=False), logits)
    (tmp_path / "x.ts").write_text("@classLabel false\n@data\n5,5:0,0\n1,1:1,1\n3,3,3:0,0,0")
    found = list(classify_series([tmp_path / "x.ts"], student, 0.99))
    assert lengths == [(2, 2, 2), (1, 2, 3)]
    assert [said.label for said in found] == ["a", "b", "a"]
    assert found[0].probability == pytest.approx(np.e**4 / (np.e**4 + 1))
    assert [said.series for said in found] == ["line 3", "line 4", "line 5"]
    assert str(found[1]).endswith("below the confidence asked for")


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path):
    student = SeriesClassifier(("a", "b"), SeriesScaling((0.0, 0.0), (1.0, 1.0), 5, masked=True),
                               lambda values, mask: values.sum(2))
    (tmp_path / "a.ts").write_text("@classLabel false\n@data\n1,2,3")
    (tmp_path / "b.ts").write_text("@classLabel false\n@data\n1,x:2,3")
    (tmp_path / "c.ts").write_text("@classLabel false\n@data\n1,2:2,3")
    (tmp_path / "notes.txt").write_text("no series")
    found = list(classify_series(files_of_series(tmp_path), student, 0.5))
    assert [type(said) for said in found] == [Damaged, Damaged, SeriesPrediction]
    assert "another number of channels" in str(found[0])
    with pytest.raises(DataError, match="not a file of series"):
        files_of_series(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such file"):
        files_of_series(tmp_path / "x.ts")


def test_a_scaling_comes_back_from_its_json_and_nonsense_is_refused():
    how = SeriesScaling((0.5, -1.0), (1.0, 2.0), 7, masked=True)
    told = how.as_json()
    assert series_scaling(json.loads(json.dumps(told))) == how
    for key, value in {"kind": "images", "mean": [1.0], "std": [1.0, 0.0], "length": 0, "masked": 1}.items():
        with pytest.raises(DataError, match="preprocessing cannot be read"):
            series_scaling({**told, key: value})
    values, mask = padded_series([np.array([[1.5], [1.0]])], how)
    assert values[0, :, 0].tolist() == [1, 1]
    assert mask is not None
    assert mask.tolist() == [[True] + [False] * 6]


# The command


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tutelage", *map(str, words)], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_command_classifies_series_and_writes_no_masks(exported, tmp_path):
    write_files(tmp_path)
    done = command("predict", tmp_path / "plain.npz", "--model", exported["gru"], "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["series"] for line in lines] == [f"row {number}" for number in range(6)]
    assert {line["label"] for line in lines} <= set(WAVE_CLASSES)
    done = command("predict", tmp_path / "plain.npz", "--model", exported["gru"], "--to", tmp_path / "masks")
    assert done.returncode == 2
    assert "makes no masks" in done.stderr


WITHOUT_TORCH = """
import sys
from pathlib import Path
from tutelage.cli.predicting import said_of_files
from tutelage.exporting.predict import open_onnx
print(*said_of_files(Path(sys.argv[2]), open_onnx(Path(sys.argv[1])), 0.5, None, False), sep="\\n")
assert "torch" not in sys.modules
"""


def test_series_of_an_onnx_file_need_no_torch(exported, tmp_path):
    write_files(tmp_path)
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, exported["cnn"], tmp_path], capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 24


def test_series_are_not_resized(run, tmp_path):
    with pytest.raises(UsageError, match="series are not resized"):
        export_run(run, "cnn", tmp_path / "a.onnx", choice(tmp_path / "a.onnx", None, False, True), agreement=1)
