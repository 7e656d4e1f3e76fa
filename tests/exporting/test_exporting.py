"""A file is kept only if, run by itself, it says what the network says."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score
from torch import nn

import tutelage as tl
from tutelage.data.images import Preparation, as_tensor, prepare_image
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, ModelError, SecurityError, UsageError
from tutelage.exporting import formats, verify
from tutelage.exporting.export import Images, export_network
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.int8 import _require_narrow
from tutelage.exporting.module import Choice, Prepare, Student, require_alive, require_whole
from tutelage.models.saved import load_network
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.system.distributed import World

onnx = pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
CPU = World(torch.device("cpu"))
ONNX = Choice("onnx")
DATA = DataSettings("digits", image_size=8)
RECIPE = """
[data]
name = "digits"
batch_size = 64
image_size = 8
[models.resnet8]
arch = "resnet8"
[method]
name = "scratch"
student = "resnet8"
[train]
epochs = 3
lr = 0.05
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a few seconds: a resnet8 that knows most of the digits."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(RECIPE)
    for _ in train_job(make_job(read_recipe(folder / "recipe.toml"), CPU), folder / "out", CPU, lambda: 0):
        pass
    return folder / "out"


@pytest.fixture(scope="module")
def student(run) -> Student:
    network, classes = tl.load(run, "resnet8")
    return Student(network, classes, Preparation(1, 8, 8), "resnet8")


@pytest.fixture(scope="module")
def images() -> Images:
    data = load_data(DATA)
    return Images(data.validation, data.train)


@pytest.fixture(scope="module")
def model(student):
    """The student as ONNX, converted once for all tests that change it."""
    return formats.onnx_model(student, ONNX)


@pytest.fixture
def converted(model, monkeypatch) -> Callable:
    """Conversion to ONNX takes seconds: tests get a copy of the same model, changed as they say."""
    def use(change: Callable = lambda model: None) -> None:
        def make(*_):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            change(copy)
            return copy
        monkeypatch.setattr(formats, "onnx_model", make)
    use()
    return use


def initializer(model, name: str):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def altered(model, name: str, change: Callable) -> None:
    tensor = initializer(model, name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))


def eager(student: Student, rows: torch.Tensor, split: str = "validation") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and the network's logits, without the code under test."""
    source = {"validation": load_data(DATA).validation, "train": load_data(DATA).train}[split]
    (batch,) = source.batches([rows], draw=None)
    with torch.no_grad():
        return batch.inputs.numpy(), batch.labels.numpy(), student.network(batch.inputs).numpy()


def session(path: Path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


# What is written says the same


def test_an_onnx_file_gives_the_networks_logits_at_every_batch_and_its_numbers_are_right(
        student, images, converted, tmp_path):
    target = tmp_path / "new" / "s.onnx"
    report = export_network(student, target, ONNX, images)
    assert json.loads((tmp_path / "new" / "s.onnx.json").read_text()) == report
    assert sorted(path.name for path in target.parent.iterdir()) == ["s.onnx", "s.onnx.json"]
    assert report["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert report["bytes"] == target.stat().st_size

    pixels, labels, wanted = eager(student, torch.arange(len(images.held_out.ids)))
    for size in (1, 2, 7, len(pixels)):
        found = session(target).run(["logits"], {"images": pixels[:size]})[0]
        np.testing.assert_allclose(found, wanted[:size], atol=1e-4)
    checked = report["checked"]
    assert checked["images"] == checked["labelled"] == len(labels)
    assert checked["accuracy_of_network"] == accuracy_score(labels, wanted.argmax(1)) > 0.6
    assert checked["accuracy"] == accuracy_score(labels, wanted.argmax(1))
    assert checked["agreement"] == 1
    assert set(checked["largest_difference_by_batch"]) == {"1", "2", "7"}
    assert 0 < checked["largest_difference"] < 1e-4
    assert 0 < report["latency"]["lower_quartile_ms"] <= report["latency"]["median_ms"]


def test_an_onnx_file_says_what_it_is_and_nothing_of_this_machine(student, images, converted, tmp_path):
    export_network(student, tmp_path / "s.onnx", ONNX, images)
    told = json.loads(session(tmp_path / "s.onnx").get_modelmeta().custom_metadata_map["tutelage"])
    assert told["classes"] == [str(digit) for digit in range(10)]
    assert (told["preprocessing"]["crop"], told["parameters"]) == (8, 77754)
    assert str(Path(tl.__file__).parent).encode() not in (tmp_path / "s.onnx").read_bytes()
    assert b"site-packages" not in (tmp_path / "s.onnx").read_bytes()


def test_torch_export_and_safetensors_are_read_back_to_the_bit(student, images, tmp_path):
    pixels, _, wanted = eager(student, torch.arange(9))
    for name in ("s.pt2", "s.safetensors"):
        report = export_network(student, tmp_path / name, choice(tmp_path / name, None, False, False), images)
        assert report["checked"]["largest_difference"] <= 1e-5
    program = torch.export.load(tmp_path / "s.pt2").module()
    network, classes = load_network(tmp_path / "s.safetensors")
    assert classes == student.classes
    for run in (program, network.eval()):
        np.testing.assert_allclose(run(torch.from_numpy(pixels)).detach().numpy(), wanted, atol=1e-5)
    assert str(Path(tl.__file__).parent).encode() not in (tmp_path / "s.pt2").read_bytes()


@pytest.mark.slow
def test_an_executorch_file_says_what_the_network_says(student, images, tmp_path):
    pytest.importorskip("executorch", reason="the extra tutelage[executorch] is not installed")
    report = export_network(student, tmp_path / "s.pte", Choice("pte"), images)
    assert report["checked"]["agreement"] == 1
    assert report["checked"]["largest_difference"] < 1e-4
    assert (tmp_path / "s.pte").stat().st_size == report["bytes"] > 4 * 77754


@pytest.mark.parametrize(("how", "most"), [
    (Preparation(3, 32, 28, 2), 0.05), (Preparation(3, 8, 8), 0.05), (Preparation(3, 16, 16), 0.05),
    (Preparation(3, 37, 32), 0.05), (Preparation(3, (16, 8), (16, 8)), 0.05),
    (Preparation(3, (18, 37), (16, 32), 1), 0.25)])  # Pillow 13 scales tall images along their height first
def test_the_resize_inside_moves_few_pixels_by_one_level_at_most(how, most):
    generator, differing = np.random.default_rng(0), []
    for height, width in ((37, 61), (8, 8), (16, 16), (9, 12), (33, 300), (96, 64), (1, 7), (16, 32)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        found = Prepare(how)(as_tensor(image)[None].float() / 255)[0] * 255
        gap = (found - prepare_image(image, how)).abs()
        assert gap.max() < 1.001
        differing.append((gap > 0.5).double().mean().item())
    assert max(differing) < most


def test_a_file_that_resizes_takes_pictures_of_any_size(student, images, tmp_path):
    report = export_network(student, tmp_path / "s.onnx", Choice("onnx", resize=True), images)
    assert report["input"]["shape"] == ["batch", 1, "any", "any"]
    generator = np.random.default_rng(1)
    for height, width in ((8, 8), (31, 20), (9, 64)):
        image = Image.fromarray(generator.integers(0, 256, (height, width), dtype=np.uint8))
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        square = image.resize((8, 8), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        with torch.no_grad():
            wanted = student.network(torch.tensor(np.asarray(square)[None, None] / 255, dtype=torch.float32))
        given = np.asarray(image)[None, None].astype(np.float32) / 255
        found = session(tmp_path / "s.onnx").run(["logits"], {"images": given})[0]
        np.testing.assert_allclose(found, wanted.numpy(), atol=0.03)


# 8 bits


def test_int8_is_smaller_and_agrees_with_the_network(student, images, converted, tmp_path):
    report = export_network(student, tmp_path / "s.onnx", Choice("onnx", int8=True), images)
    pixels, _, wanted = eager(student, torch.arange(len(images.held_out.ids)))
    found = session(tmp_path / "s.onnx").run(["logits"], {"images": pixels})[0]
    assert accuracy_score(wanted.argmax(1), found.argmax(1)) >= 0.98
    assert report["checked"]["agreement"] >= 0.98
    assert 1e-3 < report["checked"]["largest_difference"] < 1
    assert report["bytes"] < 0.5 * 4 * student.parameters
    assert report["bound"] == {"agreement": 0.98, "accuracy_lost": 0.01, "alone_or_together": verify.INT8_ALONE}


def test_int8_keeps_pixels_whole_when_it_resizes(student, images, converted, tmp_path):
    report = export_network(student, tmp_path / "s.onnx", Choice("onnx", int8=True, resize=True), images)
    assert report["checked"]["agreement"] >= 0.98
    image = np.zeros((1, 1, 20, 31), np.float32)
    assert session(tmp_path / "s.onnx").run(["logits"], {"images": image})[0].shape == (1, 10)


def test_int8_is_judged_by_agreement_and_not_by_accuracy_alone(student):
    numbers = {"images": 100, "agreement": 0.9, "accuracy": 0.9, "accuracy_of_network": 0.88, "largest_difference": 0.1,
               "relative_difference": 0.01}
    wanted = Choice("onnx", int8=True)
    with pytest.raises(ModelError, match=r"agreement 0\.9000[\s\S]*agreement >= 0\.98"):
        verify.require_faithful(student, wanted, numbers, 0.98)
    assert verify.require_faithful(student, wanted, numbers, 0.9)["agreement"] == 0.9
    with pytest.raises(ModelError):
        verify.require_faithful(student, wanted, {**numbers, "largest_difference": float("nan")}, 0.9)


def test_int8_that_loses_accuracy_is_refused_whatever_agrees(student):
    numbers = {"images": 200, "labelled": 200, "agreement": 0.985, "accuracy": 0.875, "accuracy_of_network": 0.9,
               "largest_difference": 0.1, "relative_difference": 0.01}
    wanted = Choice("onnx", int8=True)
    with pytest.raises(ModelError, match=r"accuracy lost 0\.0250[\s\S]*accuracy lost <= 0\.01"):
        verify.require_faithful(student, wanted, numbers, 0.98)
    assert verify.require_faithful(student, wanted, numbers, 0.98, 0.03)["accuracy_lost"] == 0.03
    few = {**numbers, "labelled": 20, "accuracy": 0.85, "agreement": 0.99}
    verify.require_faithful(student, wanted, few, 0.98)  # one of 20 images is all that it lost


def test_a_file_whose_answer_depends_on_the_batch_is_refused(student):
    images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    wanted = images.flatten(1)
    asked = [verify.Trial(1, images[i:i + 1], wanted[i:i + 1]) for i in range(8)]
    asked += [verify.Trial(7, images[:7], wanted[:7]), verify.Trial(7, images[7:], wanted[7:])]
    answers = [trial.wanted.numpy().copy() for trial in asked]
    assert verify.alone_or_together(asked, answers) == 0
    answers[3] += 0.5
    assert verify.alone_or_together(asked, answers) == pytest.approx(0.5)
    numbers = {"images": 8, "agreement": 1.0, "largest_difference": 0.0, "relative_difference": 0.0,
               "alone_or_together": 0.5}
    for chosen in (ONNX, Choice("onnx", int8=True)):
        with pytest.raises(ModelError, match="alone"):
            verify.require_faithful(student, chosen, numbers, 0.98)


def test_int8_that_left_the_weights_as_they_were_is_refused(model):
    with pytest.raises(ModelError, match=r"0% of its numbers are 8 bits"):
        _require_narrow(model, "here")


# What is broken is not kept


def swapped_rows(model) -> None:
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
    for name in last.input[1:]:
        altered(model, name, lambda rows: rows[[1, 0, *range(2, 10)]])


BROKEN = {
    "wrong normalisation": lambda model: altered(model, "network.mean", lambda mean: mean + 0.2),
    "swapped classes": swapped_rows,
    "not a number": lambda model: altered(model, "network.mean", lambda mean: mean * np.nan),
}


@pytest.mark.parametrize(("how", "int8"), [*((how, False) for how in BROKEN), ("wrong normalisation", True),
                                           ("swapped classes", True)])
def test_a_broken_export_is_caught_and_leaves_nothing(student, images, converted, tmp_path, how, int8):
    converted(BROKEN[how])
    with pytest.raises(ModelError, match="does not say what the network says") as caught:
        export_network(student, tmp_path / "s.onnx", Choice("onnx", int8=int8), images)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_swapped_names_of_classes_are_caught(student, images, converted, tmp_path, monkeypatch):
    other = replace(student, classes=student.classes[::-1])
    plain = formats.about_text
    monkeypatch.setattr(formats, "about_text", lambda _, wanted: plain(other, wanted))
    with pytest.raises(ModelError, match="another classes"):
        export_network(student, tmp_path / "s.onnx", ONNX, images)
    assert list(tmp_path.iterdir()) == []


def test_a_norm_that_lets_nothing_through_is_named(student, images, tmp_path):
    network = deepcopy(student.network)
    network.eval().body.layer2[0].bn2.weight.data.zero_()
    with pytest.raises(ModelError, match=r"gamma of a norm is all zero[\s\S]*body\.layer2\.0\.bn2"):
        export_network(replace(student, network=network), tmp_path / "s.onnx", ONNX, images)
    assert list(tmp_path.iterdir()) == []
    network.body.layer2[0].bn2.weight.data[0] = 1e-3
    require_alive(replace(student, network=network))


@pytest.mark.parametrize(("wanted", "right", "wrong"), [
    (ONNX, 4 * 77754, 3 * 77754), (ONNX, 4 * 77754, 50 * 77754), (Choice("onnx", int8=True), 77754, 77754 // 2)])
def test_a_file_has_the_size_of_its_parameters(student, wanted, right, wrong):
    require_whole(student, wanted, right)
    with pytest.raises(ModelError, match=f"{wrong} bytes for 77754 parameters"):
        require_whole(student, wanted, wrong)


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return odd(x)


@torch.library.custom_op("toys::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_operator_that_onnx_does_not_have_is_named_with_its_layer(student, images, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 10), Odd())).eval()
    with pytest.raises(ModelError, match=r"no operator for toys\.odd[\s\S]*layer '1\.1'"):
        export_network(replace(student, network=network), tmp_path / "s.onnx", ONNX, images)
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_graph_cannot_be_read_is_refused(student):
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ModelError, match="its graph cannot be read"):
        formats.program(replace(student, network=Branching().eval()), Choice("pt2"))


# What lies there already, and what is interrupted


def test_a_target_that_exists_is_kept_unless_forced(student, images, converted, tmp_path):
    target = tmp_path / "s.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists and was kept"):
        export_network(student, target, ONNX, images)
    assert target.read_bytes() == b"mine"
    export_network(student, target, ONNX, images, force=True)
    assert target.read_bytes() != b"mine"
    target.unlink()
    with pytest.raises(UsageError, match=r"s\.onnx\.json"):
        export_network(student, target, ONNX, images)
    with pytest.raises(UsageError, match="the target is a folder"):
        export_network(student, tmp_path, ONNX, images, force=True)


def test_a_forced_export_that_fails_keeps_the_old_file(student, images, converted, tmp_path):
    (tmp_path / "s.onnx").write_bytes(b"mine")
    converted(BROKEN["swapped classes"])
    with pytest.raises(ModelError):
        export_network(student, tmp_path / "s.onnx", ONNX, images, force=True)
    assert (tmp_path / "s.onnx").read_bytes() == b"mine"


KILLED = """
import os, signal, sys
from pathlib import Path
from tutelage.system import files
from tutelage.exporting import verify
from tutelage.exporting.module import Choice
from tutelage.exporting.from_run import export_run

def die(*_): os.kill(os.getpid(), signal.SIGKILL)
where, run, target = sys.argv[1:]
if where == "rerun": verify.rerun = die
else: files._sync_folder = die; files._write_through = lambda path, data: (path.write_bytes(data[:99]), die())
export_run(Path(run), "resnet8", Path(target), Choice("safetensors"), agreement=0.98)
"""


@pytest.mark.parametrize("where", ["rerun", "write"])
def test_an_export_that_is_killed_leaves_no_part_under_the_files_name(run, tmp_path, where):
    done = subprocess.run([sys.executable, "-c", KILLED, where, run, tmp_path / "s.safetensors"], check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s.safetensors").exists()
    assert not (tmp_path / "s.safetensors.json").exists()
    assert where == "write" or list(tmp_path.iterdir()) == []


# What is asked for


@pytest.mark.parametrize(("format_", "package", "extra"), [("onnx", "onnxscript", "onnx"), ("pte", "executorch",
                                                                                            "executorch")])
def test_a_missing_package_is_one_line_with_its_command(student, images, tmp_path, monkeypatch, format_, package,
                                                        extra):
    found = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ModelError) as caught:
        export_network(student, tmp_path / f"s.{format_}", Choice(format_), images)
    assert str(caught.value) == f"a .{format_} file needs {package}: pip install 'tutelage[{extra}]'"


def test_words_that_cannot_be_meant_are_refused(run, student, tmp_path):
    assert choice(Path("a.ONNX"), None, True, False) == Choice("onnx", int8=True)
    assert choice(Path("a.bin"), "pt2", False, True) == Choice("pt2", resize=True)
    with pytest.raises(UsageError, match=r"unknown format 'onxx'[\s\S]*did you mean 'onnx'"):
        choice(Path("a.onxx"), None, False, False)
    with pytest.raises(UsageError, match="8-bit numbers"):
        export_run(run, "resnet8", tmp_path / "s.pt2", Choice("pt2", int8=True), agreement=1)
    with pytest.raises(UsageError, match="cannot resize"):
        export_run(run, "resnet8", tmp_path / "s.pt2", Choice("safetensors", resize=True), agreement=1)
    with pytest.raises(ModelError, match=r"no trained network 'teacher'[\s\S]*resnet8"):
        export_run(run, "teacher", tmp_path / "s.pt2", Choice("pt2"), agreement=1)
    with pytest.raises(UsageError, match="unknown split"):
        export_run(run, "resnet8", tmp_path / "s.pt2", Choice("pt2"), agreement=1, on="dev")
    with pytest.raises(UsageError, match="not a run folder"):
        export_run(tmp_path, "resnet8", tmp_path / "s.pt2", Choice("pt2"), agreement=1)
    with pytest.raises(DataError, match="no image to run"):
        verify.plain_images(load_data(DATA).train, torch.arange(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pt2", ".pte"])
def test_a_program_that_was_not_just_written_is_never_loaded(tmp_path, suffix):
    (tmp_path / f"s{suffix}").write_bytes(b"anything")
    with pytest.raises(SecurityError, match="refused"):
        open_predictor(tmp_path / f"s{suffix}", None)


def test_the_clean_process_refuses_other_bytes_than_were_written(student, model, monkeypatch):
    data = formats.onnx_bytes(model, student, ONNX)
    asked = verify.trials(student, torch.rand(2, 1, 8, 8), ONNX)
    plain = verify.hashlib.sha256
    monkeypatch.setattr(verify.hashlib, "sha256", lambda data: plain(data + b"?"))
    with pytest.raises(ModelError, match="not the file that was just written"):
        verify.rerun(data, ONNX, asked, [])
