"""A network that says a class of each pixel: exported, and asked for masks of images of any size."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tutelage as tl
from tutelage.data.decoding import Preparation
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.exporting import formats, predict, verify
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.predict import Classifier, Damaged, classify, open_onnx
from tutelage.exporting.predict_masks import (
    MaskPrediction,
    mask_files,
    mask_png,
    palette,
    parts_of,
    predicted_mask,
    segment,
)
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.system.distributed import World
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.series import SERIES

onnx = pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
CPU = World(torch.device("cpu"))
PLUGINS = ("map_toys",)
CLASSES = ("background", "disc", "square")
RECIPE = """
[data]
name = "shapes"
image_size = 32
batch_size = 16
limit = 128
[models.a]
arch = "map_toys:small_map"
[method]
name = "scratch"
student = "a"
[train]
epochs = 3
lr = 0.05
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(folder / "recipe.toml", plugins=PLUGINS)
    for _ in train_job(make_job(recipe, CPU), folder / "out", CPU, lambda: 0):
        pass
    return folder / "out"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("export") / "a.onnx"
    export_run(run, "a", target, choice(target, None, False, False), agreement=0.98, on="test", plugins=PLUGINS)
    return target


@pytest.fixture(scope="module")
def network(run) -> torch.nn.Module:
    return tl.load(run, "a", plugins=PLUGINS)[0].eval()


@pytest.fixture(scope="module")
def held_out(run) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of the test split, without the code under test."""
    source = make_job(read_recipe(run / "config.toml", plugins=PLUGINS), CPU).data.test
    assert source is not None
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=None)
    return batch.inputs.numpy(), batch.labels.numpy()


def maps_of(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """The network's logits, as large as the images."""
    with torch.no_grad():
        return F.interpolate(network(torch.from_numpy(images)), images.shape[2:], mode="bilinear",
                             align_corners=False).numpy()


def test_an_onnx_file_gives_maps_as_large_as_the_images_at_every_batch(exported, network, held_out):
    images, masks = held_out
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    wanted = maps_of(network, images)
    for size in (1, 2, 7, len(images)):
        found = session.run(["logits"], {"images": images[:size]})[0]
        assert found.shape == (size, 3, 32, 32)
        np.testing.assert_allclose(found, wanted[:size], atol=1e-4)
    report = json.loads(exported.with_name("a.onnx.json").read_text())
    assert (report["task"], report["classes"]) == ("segmentation", list(CLASSES))
    assert report["output"] == {"name": "logits", "shape": ["batch", 3, 32, 32], "type": "float32"}
    checked = report["checked"]
    assert (checked["images"], checked["pixels"]) == (len(images), masks.size) == (200, 200 * 32 * 32)
    said = wanted.argmax(1)
    assert checked["agreement"] >= 0.999
    assert report["bound"]["agreement"] == 0.999
    assert checked["accuracy_of_network"] == pytest.approx((said == masks).mean())
    dice = [2 * ((said == k) & (masks == k)).sum() / ((said == k).sum() + (masks == k).sum()) for k in (1, 2)]
    assert checked["dice_of_network"] == pytest.approx(np.mean(dice))
    assert checked["mark"] is None


def test_other_formats_hold_maps_too_and_so_do_8_bits(run, tmp_path, monkeypatch):
    # The process in which a file is tried finds the plugin as the user's own would be found.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for name, int8 in (("a.pt2", False), ("a.safetensors", False), ("a.onnx", True)):
        report = export_run(run, "a", tmp_path / name, choice(tmp_path / name, None, int8, False), agreement=0.9,
                            accuracy_lost=0.05, plugins=PLUGINS)
        assert report["task"] == "segmentation"
        assert report["checked"]["agreement"] >= (0.9 if int8 else 0.999)
    assert open_predictor(tmp_path / "a.safetensors", None, PLUGINS).task == "segmentation"


def student(**changed: object) -> Student:
    return replace(Student(torch.nn.Identity(), CLASSES, Preparation(3, 4, 4), "a", "segmentation"), **changed)


def test_a_file_that_says_another_class_of_too_many_pixels_is_refused():
    maps = torch.zeros(10, 3, 10, 10)
    maps[:, 0], maps[:, 2] = 1, 1 - 1e-5  # two classes that are nearly as likely
    labels = torch.zeros(10, 10, 10, dtype=torch.int64)
    asked = [verify.Trial(size, torch.zeros(len(part), 3, 10, 10), part) for size in (1, 2, 7)
             for part in maps.split(size)]
    answers = [trial.wanted.numpy().copy() for trial in asked]
    numbers = verify.compared(asked, answers, labels, CLASSES)
    assert (numbers["pixels"], numbers["agreement"], numbers["accuracy"], numbers["dice"]) == (1000, 1, 1, None)
    verify.require_faithful(student(), Choice("onnx"), numbers, 0.98)
    for wrong in (1, 2):
        answers[-1][0, 2, 0, :wrong] = 1 + 1e-5
        numbers = verify.compared(asked, answers, labels, CLASSES)
        assert numbers["agreement"] == pytest.approx(1 - wrong / 1000)
        if wrong == 1:
            verify.require_faithful(student(), Choice("onnx"), numbers, 0.98)
    with pytest.raises(ModelError, match=r"expected  agreement of pixels >= 0\.999\n"):
        verify.require_faithful(student(), Choice("onnx"), numbers, 0.98)


def test_dice_that_falls_refuses_8_bits_where_accuracy_hardly_does():
    numbers = {"images": 9, "pixels": 9000, "labelled": 9000, "agreement": 0.99, "accuracy": 0.985,
               "accuracy_of_network": 0.99, "dice": 0.2, "dice_of_network": 0.7, "largest_difference": 0.1,
               "relative_difference": 0.01}
    with pytest.raises(ModelError, match=r"accuracy lost 0\.5"):
        verify.require_faithful(student(), Choice("onnx", int8=True), numbers, 0.98)
    verify.require_faithful(student(), Choice("onnx", int8=True), {**numbers, "dice": 0.695}, 0.98)


def test_of_large_maps_fewer_images_are_run():
    assert verify.most_images(student()) == verify.IMAGES
    assert verify.most_images(student(prepared=Preparation(3, 1024, 1024))) == 2**27 // (3 * 2**20)
    assert verify.most_images(student(prepared=Preparation(3, 8192, 8192))) == verify.FEW


# Masks of files


def pictures(folder: Path, sizes: tuple[tuple[int, int], ...]) -> dict[str, np.ndarray]:
    """Noise of these sizes (height, width): name -> pixels [height, width, 3]."""
    generator, made = np.random.default_rng(0), {}
    folder.mkdir()
    for number, size in enumerate(sizes):
        made[f"{number}.png"] = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(made[f"{number}.png"]).save(folder / f"{number}.png")
    return made


def test_masks_have_the_size_of_their_images_and_the_classes_of_the_network(exported, run, network, tmp_path):
    made = pictures(tmp_path / "images", ((32, 32), (64, 64), (80, 80)))
    by_onnx, by_run = open_onnx(exported), open_predictor(run, None, PLUGINS)
    for number, student in enumerate((by_onnx, by_run)):
        images = [tmp_path / "images" / name for name in made]
        masks = mask_files(images, tmp_path / "images", tmp_path / str(number))
        found = list(segment(images, student, 0.5, masks))
        for said, (name, pixels) in zip(found, made.items(), strict=True):
            assert isinstance(said, MaskPrediction)
            side = len(pixels)
            small = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
            wanted = maps_of(network, small.transpose(2, 0, 1)[None].astype(np.float32) / 255)[0]
            places = (np.arange(side) + 0.5) * 32 / side  # the nearest pixel of the network's map
            wanted_mask = wanted.argmax(0)[places.astype(int)[:, None], places.astype(int)]
            assert said.mask is not None
            with Image.open(said.mask) as file:
                assert (said.mask.name, file.mode, file.size) == (name, "P", (side, side))
                mask = np.asarray(file)
            assert (mask == wanted_mask).mean() > 0.999
            assert said.shares == pytest.approx({CLASSES[k]: (mask == k).mean() for k in np.unique(mask)})
            assert list(said.shares.values()) == sorted(said.shares.values(), reverse=True)
            chances = np.exp(wanted) / np.exp(wanted).sum(0)
            assert said.probability == pytest.approx(chances.max(0).mean(), abs=1e-4)


def reads_red(images: np.ndarray) -> np.ndarray:
    """Class 1 where an image is red, else class 0."""
    return np.stack([np.full_like(images[:, 0], 0.5), images[:, 0]], 1)


def red_half(height: int, width: int, across: bool) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[(slice(None), slice(width // 2, None)) if across else (slice(height // 2, None),)] = 255
    return image


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 96), (96, 32), (50, 120), (33, 32), (7, 40)])
@pytest.mark.parametrize("resizes", [False, True])
def test_every_part_of_an_image_is_seen_whatever_its_proportions(height, width, resizes):
    student = Classifier(("no", "red"), Preparation(3, 16, 16), reads_red, task="segmentation")
    if resizes:  # as a file that scales by itself
        student = replace(student, resizes=True, logits=lambda images: reads_red(
            F.interpolate(torch.from_numpy(images), (16, 16), mode="area").numpy()))
    for across in (True, False):
        image = red_half(height, width, across)
        mask, probability = predicted_mask(Image.fromarray(image), student)
        assert mask.shape == (height, width)
        assert (mask == (image[..., 0] > 0)).mean() > 0.9
        assert 0.5 < probability < 1
        far = [slice(-2, None)] * 2
        assert (mask[tuple(far)] == 1).all()
        assert (mask[:2, :2] == 0).all()


def test_parts_cover_an_image_once():
    for height, width in ((10, 10), (10, 25), (25, 10), (11, 10), (3, 100)):
        seen = np.zeros((height, width), int)
        for part, (left, upper, right, lower) in parts_of(height, width, Preparation(3, 8, 8)):
            assert part[0] <= left < right <= part[2] <= width
            assert part[1] <= upper < lower <= part[3] <= height
            assert part[3] - part[1] == part[2] - part[0] == min(height, width)
            seen[upper:lower, left:right] += 1
        assert (seen == 1).all()
    assert len(parts_of(480, 640, Preparation(3, (48, 64), (48, 64)))) == 1
    with pytest.raises(DataError, match="too long for its width"):
        parts_of(1, 65, Preparation(3, 8, 8))


def test_a_mask_is_a_palette_file_of_class_numbers():
    mask = np.arange(256).reshape(16, 16)
    made = Image.open(io.BytesIO(mask_png(mask, 256)))
    assert made.mode == "P"
    assert np.array_equal(np.asarray(made), mask)
    assert made.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # as in PASCAL VOC
    assert palette()[255 * 3:] == [224, 224, 192]
    wide = Image.open(io.BytesIO(mask_png(mask + 100, 400)))
    assert np.array_equal(np.asarray(wide), mask + 100)


def test_masks_are_named_as_their_images_and_take_the_place_of_none(tmp_path):
    folder, to = tmp_path / "images", tmp_path / "masks"
    names = ["a.jpg", "b.png", "in/a.png"]
    folder.mkdir()
    images = [folder / name for name in names]
    assert [str(mask.relative_to(to)) for mask in mask_files(images, folder, to).values()] == [
        "a.png", "b.png", "in/a.png"]
    both = [folder / "a.jpg", folder / "a.png"]
    assert [mask.name for mask in mask_files(both, folder, to).values()] == ["a.jpg.png", "a.png.png"]
    assert mask_files([folder / "a.jpg"], folder / "a.jpg", to) == {folder / "a.jpg": to / "a.png"}
    (folder / "b.png").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(UsageError, match="take the place of an image"):
            mask_files([folder / "b.png"], folder, folder, force)
    to.mkdir()
    (to / "b.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists and was kept"):
        mask_files([folder / "b.png"], folder, to)
    assert mask_files([folder / "b.png"], folder, to, force=True) == {folder / "b.png": to / "b.png"}
    with pytest.raises(UsageError, match="not a folder for masks"):
        mask_files([folder / "b.png"], folder, to / "b.png", force=True)


def test_a_link_in_the_place_of_a_mask_is_replaced_and_not_followed(tmp_path):
    pictures(tmp_path / "images", ((8, 8),))
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "0.png").symlink_to(tmp_path / "mine")
    student = Classifier(("no", "red"), Preparation(3, 8, 8), reads_red, task="segmentation")
    image = tmp_path / "images" / "0.png"
    assert len(list(segment([image], student, 0.5, {image: tmp_path / "masks" / "0.png"}))) == 1
    assert (tmp_path / "mine").read_bytes() == b"mine"
    with Image.open(tmp_path / "masks" / "0.png") as mask:
        assert mask.size == (8, 8)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["0.png"]


def test_maps_are_no_answers_for_a_whole_image(tmp_path):
    pictures(tmp_path / "images", ((8, 8),))
    student = Classifier(("no", "red"), Preparation(3, 8, 8), reads_red)
    with pytest.raises(ModelError, match="no logits of classes"):
        list(classify([tmp_path / "images" / "0.png"], student, 0.5))


def test_the_names_of_tasks_are_those_of_the_tasks():
    assert [task.name for task in (CLASSIFICATION, SEGMENTATION, SERIES)] == [
        predict.CLASSES, predict.MASKS, predict.SERIES]


def test_series_are_not_resized():
    with pytest.raises(UsageError, match="series are not resized"):
        formats.require_possible(Choice("onnx", resize=True), series=True)


# The command


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tutelage", *map(str, words)], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_command_writes_masks_tells_shares_and_names_damaged_files(exported, tmp_path):
    pictures(tmp_path / "images", ((40, 30), (32, 32)))
    (tmp_path / "images" / "z.png").write_bytes(b"broken")
    done = command("predict", tmp_path / "images", "--model", exported, "--to", tmp_path / "masks", "--json")
    assert done.returncode == 3, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["0.png", "1.png", "z.png"]
    assert lines[0]["mask"] == str(tmp_path / "masks" / "0.png")
    assert sum(lines[0]["shares"].values()) == pytest.approx(1)
    assert lines[2]["error"]["error"] == "data"
    with Image.open(tmp_path / "masks" / "0.png") as mask:
        assert mask.size == (30, 40)
    again = command("predict", tmp_path / "images", "--model", exported, "--to", tmp_path / "masks")
    assert again.returncode == 2
    assert "exists and was kept" in again.stderr


WITHOUT_TORCH = """
import sys
from pathlib import Path
from tutelage.cli.predicting import said_of_files
from tutelage.exporting.predict import open_onnx
print(*said_of_files(Path(sys.argv[2]), open_onnx(Path(sys.argv[1])), 0.5, Path(sys.argv[3]), False), sep="\\n")
assert "torch" not in sys.modules
"""


def test_masks_of_an_onnx_file_need_no_torch(exported, tmp_path):
    pictures(tmp_path / "images", ((20, 30),))
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, exported, tmp_path / "images", tmp_path / "masks"],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    assert "background" in done.stdout
    assert Damaged.__name__ not in done.stdout
    assert (tmp_path / "masks" / "0.png").exists()
