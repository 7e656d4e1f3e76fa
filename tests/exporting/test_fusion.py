"""Networks that fuse: trained, evaluated, shown, exported for any size, and asked for images of two folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tutelage as tl
from every import every
from tutelage.cli.predicting import said_of_files
from tutelage.cli.results import evaluation_text, export_text
from tutelage.data.decoding import Preparation
from tutelage.data.made_pairs import write_pairs
from tutelage.errors import ModelError, UsageError
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.predict import Damaged, Fuser, open_onnx
from tutelage.exporting.predict_fused import fused_by_tiles, pairs_of_files
from tutelage.exporting.verify import Trial
from tutelage.exporting.verify_images import compared_images
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.reporting.build import make_document
from tutelage.reporting.document import Gallery, Section
from tutelage.system.distributed import World

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
pytest.importorskip("torchmetrics", reason="the extra tutelage[fusion] is not installed")
CPU = World(torch.device("cpu"))
RECIPE = """
[data]
name = "pairs"
fused = "means"
crop = 24
batch_size = 8
limit = 16
[models.teacher]
arch = "fused_files"
[models.student]
arch = "fusion_dense"
options = { width = 3, depth = 1 }
[method]
name = "image_kd"
teacher = "teacher"
student = "student"
[train]
epochs = 2
lr = 0.05
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
def measured(run) -> tuple[dict, dict]:
    return evaluate_run(run, "test", CPU)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("export") / "student.onnx"
    told = export_run(run, "student", target, choice(target, None, False, False), agreement=0.98)
    assert "pairs of images of any size" in export_text(told, target)
    return target


@pytest.fixture
def pairs(tmp_path) -> Path:
    write_pairs(tmp_path / "pairs", {"new": 3}, side=40)
    return tmp_path / "pairs" / "new"


def fused_by_hand(network: torch.nn.Module, infrared: np.ndarray, visible: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        sources = torch.from_numpy(np.stack([infrared, visible])[None].astype(np.float32)) / 255
        return (network(sources)[0, 0] * 255).round().numpy()


def test_an_evaluation_has_all_scores_and_what_each_costs(run, measured):
    metrics, cost = measured
    assert metrics["nodes"].keys() == {"teacher", "student"}
    student = metrics["nodes"]["student"]
    assert student.keys() >= {"qabf", "ssim", "mi", "en", "sd", "vif", "teacher_psnr", "teacher_ssim", "by_set"}
    assert "teacher_psnr" not in metrics["nodes"]["teacher"]
    assert student["teacher_psnr"] > 10
    assert cost["nodes"]["teacher"]["parameters"] == 0
    text = evaluation_text(metrics, cost)
    assert "PSNR to the teacher" in text
    assert "night" in text
    kept = (run / "evaluation" / "test" / "evidence.safetensors").read_bytes()
    assert b"evidence.student.qabf" in kept
    assert b"evidence.student.image" not in kept


def galleries(section: Section) -> list[Gallery]:
    own = [item for item in section.items if isinstance(item, Gallery)]
    return own + [gallery for part in section.parts for gallery in galleries(part)]


def test_a_report_shows_infrared_visible_teacher_and_student(run, measured):
    shown = [gallery for section in make_document([run]).sections for gallery in galleries(section)]
    assert len(shown) == 5
    assert every([list(picture.lines) for picture in gallery.pictures]
                 == [["infrared"], ["visible"], ["teacher"], ["student"]] for gallery in shown)
    assert every(picture.png.startswith(b"\x89PNG") for gallery in shown for picture in gallery.pictures)
    scores = [sample["score"] for sample in measured[0]["shown"]]
    assert scores == sorted(scores)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (37, 90)])
def test_an_onnx_file_fuses_images_of_any_size(run, exported, size):
    network = tl.load(run, "student")[0].eval()
    images = torch.rand(2, 2, *size)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(["fused"], {"images": images.numpy()})[0], network(images), atol=1e-5)
    about = json.loads(exported.with_name("student.onnx.json").read_text())
    assert about["input"]["shape"] == ["batch", 2, "any", "any"]
    assert about["output"]["shape"] == ["batch", 1, "any", "any"]


def test_weights_alone_are_exported_and_what_cannot_be_is_refused(run, tmp_path):
    target = tmp_path / "student.safetensors"
    export_run(run, "student", target, choice(target, None, False, False), agreement=0.98)
    assert isinstance(open_predictor(target, None), Fuser)
    for int8, resize in ((True, False), (False, True)):
        other = tmp_path / "student.onnx"
        with pytest.raises(UsageError, match="takes images of any size"):
            export_run(run, "student", other, choice(other, None, int8, resize), agreement=0.98)
        assert not other.exists()


@pytest.mark.parametrize("way", ["run", "onnx"])
def test_two_folders_become_one_of_fused_images(run, exported, pairs, tmp_path, way):
    student = open_onnx(exported) if way == "onnx" else open_predictor(run, "student")
    said = list(said_of_files(pairs / "infrared", student, None, tmp_path / "to", False, pairs / "visible"))
    network = tl.load(run, "student")[0].eval()
    assert [one.fused.name for one in said] == ["00000D.png", "00001N.png", "00002D.png"]
    for one in said:
        found = np.asarray(Image.open(one.fused))
        wanted = fused_by_hand(network, *(np.asarray(Image.open(path)) for path in (one.infrared, one.visible)))
        assert np.abs(found - wanted).max() <= 1
    with pytest.raises(UsageError, match="was kept"):
        list(said_of_files(pairs, student, None, tmp_path / "to", False))
    assert len(list(said_of_files(pairs, student, None, tmp_path / "to", True))) == 3


def test_the_colour_of_the_visible_image_is_kept(exported, pairs, tmp_path):
    path = pairs / "visible" / "00000D.png"
    grey = np.asarray(Image.open(path)).astype(int)
    colour = np.stack([grey + 30, grey, grey - 30], -1).clip(0, 255).astype(np.uint8)
    Image.fromarray(colour).save(path)
    first, *_ = said_of_files(pairs, open_onnx(exported), None, tmp_path / "to", False)
    assert first.coloured
    found, given = Image.open(first.fused), Image.open(path)
    assert found.mode == "RGB"
    for one, other in zip(found.convert("YCbCr").split()[1:], given.convert("YCbCr").split()[1:], strict=True):
        assert np.median(np.abs(np.asarray(one).astype(int) - np.asarray(other))) <= 1


def test_what_cannot_be_fused_is_told_and_stops_nothing(exported, pairs, tmp_path):
    (pairs / "infrared" / "00000D.png").unlink()
    (pairs / "visible" / "00001N.png").write_text("no image")
    said = list(said_of_files(pairs, open_onnx(exported), None, tmp_path / "to", False))
    assert [type(one).__name__ for one in said] == ["Damaged", "FusedPrediction", "Damaged"]
    assert isinstance(said[2], Damaged)
    assert "without the infrared one" in str(said[2])


def test_a_folder_is_needed_to_write_to_and_two_to_read(exported, pairs, tmp_path):
    student = open_onnx(exported)
    with pytest.raises(UsageError, match="need a folder to go to"):
        said_of_files(pairs, student, None, None, False)
    with pytest.raises(UsageError, match="no confidence"):
        said_of_files(pairs, student, 0.5, tmp_path, False)
    with pytest.raises(UsageError, match="two folders"):
        pairs_of_files(pairs / "visible", None)
    with pytest.raises(UsageError, match="are no pairs"):
        pairs_of_files(pairs / "visible", pairs / "infrared" / "00001N.png")


def test_large_images_are_fused_tile_by_tile_as_if_at_once(run):
    student = open_predictor(run, "student")
    assert isinstance(student, Fuser)
    sources = np.random.default_rng(0).random((1, 2, 150, 130), np.float32)
    np.testing.assert_allclose(fused_by_tiles(sources, student, 50), student.fuse(sources)[0, 0], atol=1e-6)


def test_a_file_that_says_something_else_is_seen():
    wanted = torch.rand(3, 1, 8, 8)
    asked = [Trial(7, torch.rand(3, 2, 8, 8), wanted),
             Trial(7, torch.rand(3, 2, 5, 8), wanted[:, :, :5], shortened=True)]
    same = compared_images(asked, [trial.wanted.numpy() for trial in asked])
    assert (same["agreement"], same["largest_difference"], same["images"]) == (1, 0, 3)
    off = compared_images(asked, [asked[0].wanted.numpy(), asked[1].wanted.numpy() + 0.1])
    assert off["agreement"] == pytest.approx(8 / 13)
    assert off["relative_difference"] == pytest.approx(0.1)
    with pytest.raises(ModelError, match="another shape"):
        compared_images(asked, [asked[0].wanted.numpy()[:, :, 1:], asked[1].wanted.numpy()])


def test_an_onnx_file_needs_no_torch(exported, pairs, tmp_path):
    code = ("import sys; sys.modules['torch'] = None; from pathlib import Path; "
            "from tutelage.cli.predicting import said_of_files; from tutelage.exporting.predict import open_onnx; "
            f"print(len([*said_of_files(Path({str(pairs)!r}), open_onnx(Path({str(exported)!r})), None, "
            f"Path({str(tmp_path / 'to')!r}), False)]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ),
                          check=True)
    assert done.stdout.strip() == "3"


def test_a_student_is_prepared_as_its_data_were(run):
    student = open_predictor(run, "student")
    assert student.prepared == Preparation(2, (64, 64), (64, 64), 0, "upright")
