"""Images that are not square, of files and of tensors of any number of bands: trained, measured, exported, asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tutelage as tl
from every import every
from tutelage.data import from_tensors
from tutelage.data.decoding import preparation
from tutelage.errors import ModelError
from tutelage.exporting.export import Images, export_network
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.predict import Classifier, Prediction, classify, image_files, open_onnx
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.reporting.write import write_report
from tutelage.system.distributed import World

pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
CPU = World(torch.device("cpu"))
RECIPE = """
[data]
name = "folder"
root = "{root}"
batch_size = 8
image_size = [8, 24]
[models.resnet8]
arch = "resnet8"
[method]
name = "scratch"
student = "resnet8"
[train]
epochs = 1
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Wide pictures, some of them stored on their side with an EXIF orientation; the class shows in their colour."""
    root, exif = tmp_path_factory.mktemp("photos"), Image.Exif()
    exif[0x0112] = 6
    generator = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4, "test": 4}.items():
        for channel, label in enumerate(("cat", "dog")):
            for number in range(count):
                pixels = generator.integers(0, 120, (20 + number, 70 - number, 3), dtype=np.uint8)
                pixels[:, :, channel] += 60
                image = Image.fromarray(pixels)
                (root / split / label).mkdir(parents=True, exist_ok=True)
                path = root / split / label / f"{number}.png"
                image.rotate(90, expand=True).save(path, exif=exif) if number % 2 else image.save(path)
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(RECIPE.format(root=photos))
    for _ in train_job(make_job(read_recipe(folder / "recipe.toml"), CPU), folder / "out", CPU, lambda: 0):
        pass
    return folder / "out"


def seen(student: Classifier, place: Path) -> list[float]:
    found = list(classify(image_files(place), student, 0.5))
    assert every(isinstance(said, Prediction) for said in found)
    return [said.probability for said in found]


def test_a_run_of_wide_images_is_measured_reported_exported_and_asked(run, photos, tmp_path):
    recipe = read_recipe(run / "config.toml")
    assert recipe.data.image_size == (8, 24)
    data = make_job(recipe, CPU).data
    assert data.shape == (3, 8, 24)
    assert "nodes" in evaluate_run(run, "test", CPU)[0]
    assert write_report([run], tmp_path / "report.html") > 0
    own = seen(open_predictor(run, None), photos / "test")
    with torch.no_grad():
        batch = next(iter(data.test.batches([torch.arange(len(data.test.ids))], draw=None)))
        logits = tl.load(run, "resnet8")[0].eval()(batch.inputs)
    np.testing.assert_allclose(own, logits.double().softmax(1).max(1).values, atol=1e-5)
    for name, resize, within in (("s.onnx", False, 1e-5), ("r.onnx", True, 0.02), ("s.safetensors", False, 1e-5),
                                 ("s.pt2", False, 1e-5), ("r.pt2", True, 0.02)):
        report = export_run(run, "resnet8", tmp_path / name, choice(tmp_path / name, None, False, resize),
                            agreement=0.98)
        assert preparation(report["preprocessing"]).size == (8, 24)
        assert report["input"]["shape"][2:] == (["any", "any"] if resize else [8, 24])
        if not name.endswith(".pt2"):
            student = open_onnx(tmp_path / name) if name.endswith("onnx") else open_predictor(tmp_path / name, None)
            np.testing.assert_allclose(seen(student, photos / "test"), own, atol=within)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_tensors_of_any_bands_are_exported_and_files_are_refused_where_they_have_none(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, channels, 8, 12), dtype=torch.uint8, generator=generator)
    data = from_tensors((images, torch.arange(24) % 2), validation=0.25)
    assert preparation(data.preprocessing).shape == (channels, 8, 12)
    network = build(Architecture("resnet8", head="new"), class_names=("a", "b"), channels=channels).eval()
    for parameter in network.parameters():  # a branch that was never trained is no network to export
        torch.nn.init.uniform_(parameter, 0.01, 0.1, generator=generator)
    student = Student(network, ("a", "b"), preparation(data.preprocessing), "n")
    report = export_network(student, tmp_path / "s.onnx", Choice("onnx", resize=True),
                            Images(data.validation, data.train))
    assert report["checked"]["agreement"] == 1
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    asked = classify([tmp_path / "a.png"], open_onnx(tmp_path / "s.onnx"), 0.5)
    if channels == 1:
        assert every(isinstance(said, Prediction) for said in asked)
        return
    with pytest.raises(ModelError, match=f"{channels} channels") as caught:
        list(asked)
    assert caught.value.exit_code == 4
