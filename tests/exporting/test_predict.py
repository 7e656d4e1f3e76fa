"""A student that left the house sees in image files what the trainer saw in them."""

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
from tutelage.data.images import Preparation
from tutelage.engine.predict import predict as trainers_predictions
from tutelage.errors import DataError, ModelError, SecurityError, UsageError
from tutelage.exporting import formats
from tutelage.exporting.from_run import choice, export_run, open_predictor
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.predict import Classifier, Damaged, Prediction, classify, image_files, open_onnx
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.system.distributed import World

onnx = pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
CPU = World(torch.device("cpu"))
NAMES = ("<b>x</b>", "\U0001f431", "a\nb", "\x1b[31mred")
RECIPE = """
[data]
name = "folder"
root = "{root}"
batch_size = 8
image_size = 16
[models.resnet8]
arch = "resnet8"
[method]
name = "scratch"
student = "resnet8"
[train]
epochs = 2
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of unlike sizes, none of them square; the class shows in their colour."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 4, "test": 6}.items():
        for channel, label in enumerate(("cat", "dog")):
            for number in range(count):
                height, width = 17 + 3 * number, 40 - 2 * number
                pixels = generator.integers(0, 120, (height, width, 3), dtype=np.uint8)
                pixels[:, :, channel] += 60
                (root / split / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(RECIPE.format(root=photos))
    for _ in train_job(make_job(read_recipe(folder / "recipe.toml"), CPU), folder / "out", CPU, lambda: 0):
        pass
    return folder / "out"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("export") / "s.onnx"
    export_run(run, "resnet8", target, choice(target, None, False, False), agreement=0.98, on="test")
    return target


@pytest.fixture(scope="module")
def by_trainer(run, photos) -> dict[str, tuple[str, float]]:
    """File -> label and probability, by the trainer's own data and evaluation."""
    data = make_job(read_recipe(run / "config.toml"), CPU).data
    assert data.test is not None
    network = tl.load(run, "resnet8")[0]
    logits = trainers_predictions(Graph({"n": Frozen()}, []), {"n": network}, data.test, classes=2)["n"]
    files = sorted(str(path) for path in (photos / "test").rglob("*.png"))
    rows = logits.double().softmax(1)
    return {file: (data.classes[int(row.argmax())], float(row.max())) for file, row in zip(files, rows, strict=True)}


def seen(student: Classifier, place: Path) -> dict[str, tuple[str, float]]:
    found = [said for said in classify(image_files(place), student, 0.5) if isinstance(said, Prediction)]
    return {str(said.file): (said.label, said.probability) for said in found}


def same(found: dict[str, tuple[str, float]], wanted: dict[str, tuple[str, float]], within: float) -> None:
    assert {file: label for file, (label, _) in found.items()} == {file: label for file, (label, _) in wanted.items()}
    for file in wanted:
        assert found[file][1] == pytest.approx(wanted[file][1], abs=within)


def test_an_export_sees_what_the_trainer_saw_in_pictures_of_any_size(exported, photos, by_trainer):
    assert len(by_trainer) == 12
    same(seen(open_onnx(exported), photos / "test"), by_trainer, 1e-5)


def test_so_does_the_run_itself_and_its_file_of_weights(run, photos, by_trainer):
    same(seen(open_predictor(run, None), photos / "test"), by_trainer, 1e-5)
    same(seen(open_predictor(run / "models" / "resnet8.safetensors", None), photos / "test"), by_trainer, 1e-5)


@pytest.fixture(scope="module")
def resizing(run, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("export") / "r.onnx"
    export_run(run, "resnet8", target, choice(target, None, False, True), agreement=0.98)
    return target


def test_so_does_a_file_that_resizes_by_itself(resizing, photos, by_trainer):
    student = open_onnx(resizing)
    assert student.resizes
    same(seen(student, photos / "test"), by_trainer, 5e-3)


# The command


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tutelage", *map(str, words)], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_command_names_damaged_files_goes_on_and_ends_with_3(exported, photos, tmp_path):
    good = next((photos / "test").rglob("0.png"))
    (tmp_path / "a.png").write_bytes(good.read_bytes())
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "c.JPG").write_bytes(good.read_bytes())
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    done = command("predict", tmp_path, "--model", exported, "--json", "--confidence", 1)
    assert done.returncode == 3, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.png", "c.JPG"]
    assert lines[0]["label"] == lines[2]["label"] in ("cat", "dog")
    assert lines[0]["below"]
    assert lines[1]["error"]["error"] == "data"


WITHOUT_TORCH = """
import sys
from tutelage.exporting.predict import classify, image_files, open_onnx
from pathlib import Path
student = open_onnx(Path(sys.argv[1]))
assert len(list(classify(image_files(Path(sys.argv[2])), student, 0.5))) == 12
outside = {name.split(".")[0] for name, module in sys.modules.items()
           if "site-packages" in str(getattr(module, "__file__", "") or "")}
import json; print(json.dumps(sorted(outside)))
"""


def test_an_onnx_file_needs_onnxruntime_numpy_and_pillow_only(exported, photos):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, exported, photos / "test"], capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    loaded = {name for name in listed(done.stdout) if not name.startswith("_")}
    assert {"onnxruntime", "numpy", "PIL"} <= loaded <= {"onnxruntime", "numpy", "PIL"} | EDITABLE


EDITABLE = {"editables", "sitecustomize", "distutils-precedence"}


def listed(text: str) -> list[str]:
    return json.loads(text)


# Words and files from elsewhere


def tiny(path: Path, classes: tuple[str, ...] = NAMES) -> Path:
    """An ONNX file without a network: the logits are the means over rows of a 4 x 1 image."""
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("ReduceMean", ["images"], ["logits"], axes=[1, 2], keepdims=0)], "g",
        [make.make_tensor_value_info("images", 1, ["b", 1, 4, 4])], [make.make_tensor_value_info("logits", 1, None)])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=9)
    student = Student(torch.nn.Identity(), classes, Preparation(1, 4, 4), "n")
    path.write_bytes(formats.onnx_bytes(model, student, Choice("onnx")))
    return path


@pytest.mark.parametrize(("column", "shown"), list(enumerate(["<b>x</b>", "\U0001f431", "a\\nb", "\\x1b[31mred"])))
def test_class_names_cannot_speak_to_the_terminal(tmp_path, column, shown):
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:, column] = 255
    Image.fromarray(pixels).save(tmp_path / "i.png")
    (found,) = classify([tmp_path / "i.png"], open_onnx(tiny(tmp_path / "m.onnx")), 0.4)
    assert isinstance(found, Prediction)
    assert found.label == NAMES[column]
    assert f"  {shown}  " in str(found)
    assert found.probability == pytest.approx(np.e / (np.e + 3))
    assert not found.below
    assert json.loads(found.as_json())["label"] == NAMES[column]


def test_below_is_below_the_confidence(tmp_path):
    Image.new("L", (9, 5)).save(tmp_path / "i.png")
    student = open_onnx(tiny(tmp_path / "m.onnx"))
    (found,) = classify([tmp_path / "i.png"], student, 0.25)
    assert not found.below
    (found,) = classify([tmp_path / "i.png"], student, 0.26)
    assert found.below
    assert str(found).endswith("below the confidence asked for")


def test_more_files_than_a_batch_stay_in_order(tmp_path):
    for number in range(40):
        path = tmp_path / f"{number:02d}.png"
        Image.new("L", (5, 5)).save(path) if number % 7 else path.write_bytes(b"broken")
    found = list(classify(image_files(tmp_path), open_onnx(tiny(tmp_path / "m.onnx")), 0.5))
    assert [said.file.name for said in found] == [f"{number:02d}.png" for number in range(40)]
    assert [isinstance(said, Damaged) for said in found] == [number % 7 == 0 for number in range(40)]
    assert "not an image that can be read" in str(found[0])


def test_data_in_other_files_are_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"0" * 64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked.bin").symlink_to("../secret.bin")
    for place in ("../secret.bin", str(tmp_path / "secret.bin"), "linked.bin"):
        path = tiny(tmp_path / "in" / "m.onnx")
        model = onnx.load(path)
        tensor = model.graph.initializer.add(name="w", data_type=1, dims=[4],
                                             data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(SecurityError, match="reads data from other files"):
            open_onnx(path)


def test_a_class_called_location_is_no_external_data(tmp_path):
    assert open_onnx(tiny(tmp_path / "m.onnx", ("location", "\n\x08location"))).classes[1] == "\n\x08location"


def test_models_from_elsewhere_are_refused(tmp_path):
    path = tiny(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    for name, words in {"foreign": "not written by `tutelage export`", "noise": "not an ONNX model",
                        "absent": "no such model"}.items():
        with pytest.raises(ModelError, match=words):
            open_onnx(tmp_path / f"{name}.onnx")
    with pytest.raises(UsageError, match="not a model to predict with"):
        open_predictor(tmp_path / "m.txt", None)


def test_a_run_with_several_networks_wants_a_name(run, tmp_path):
    (tmp_path / "models").mkdir()
    weights = (run / "models" / "resnet8.safetensors").read_bytes()
    for node in ("a", "b"):
        (tmp_path / "models" / f"{node}.safetensors").write_bytes(weights)
    with pytest.raises(UsageError, match=r"say which network[\s\S]*a, b[\s\S]*--node a"):
        open_predictor(tmp_path, None)
    with pytest.raises(UsageError, match="no trained network 'c'"):
        open_predictor(tmp_path, "c")
    assert open_predictor(tmp_path, "b").classes == ("cat", "dog")


def test_there_must_be_an_image(tmp_path):
    with pytest.raises(DataError, match="no image in this folder"):
        image_files(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        image_files(tmp_path / "x.png")


def test_a_missing_onnxruntime_is_one_line_with_its_command(tmp_path, monkeypatch):
    path = tiny(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError) as caught:
        open_onnx(path)
    assert str(caught.value) == "an .onnx file needs onnxruntime: pip install 'tutelage[onnx]'"


def test_files_are_images_by_their_content_or_by_their_name(tmp_path):
    image = Image.new("L", (9, 5))
    for name, kind in {"a.jfif": "JPEG", "b": "PNG", "c.dat": "TIFF", "d.GIF": "GIF", "e.txt": "WEBP"}.items():
        image.save(tmp_path / name, kind)
    (tmp_path / "f.png").write_text("no image, but called like one")
    (tmp_path / "g.heic.bak").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (tmp_path / "h.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "notes.txt").write_text("no image")
    os.mkfifo(tmp_path / "pipe")
    found = list(classify(image_files(tmp_path), open_onnx(tiny(tmp_path / "m.onnx")), 0.5))
    assert [said.file.name for said in found] == ["a.jfif", "b", "c.dat", "d.GIF", "e.txt", "f.png", "g.heic.bak"]
    assert [isinstance(said, Prediction) for said in found] == [True] * 5 + [False] * 2


@pytest.mark.parametrize("orientation", ["upright", "as stored"])
def test_a_file_is_turned_as_the_network_has_learned_it(tmp_path, orientation):
    pixels, exif = np.zeros((4, 4), np.uint8), Image.Exif()
    pixels[0] = 255  # the first row; turned a quarter clockwise it is the last column
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    rows = Classifier(("0", "1", "2", "3"), Preparation(1, 4, 4, orientation=orientation),
                      lambda images: images[:, 0].mean(2 if orientation == "as stored" else 1))
    (found,) = classify([tmp_path / "i.png"], rows, 0.4)
    assert isinstance(found, Prediction)
    assert found.label == ("0" if orientation == "as stored" else "3")


def test_an_export_made_before_reads_files_as_stored_and_says_so(tmp_path):
    path = tiny(tmp_path / "m.onnx")
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"orientation": "upright"', '"orientation": "as stored"')
    onnx.save(model, path)
    assert open_onnx(path).prepared.orientation == "as stored"
    Image.new("L", (4, 4)).save(tmp_path / "i.png")
    done = command("predict", tmp_path / "i.png", "--model", path)
    assert done.returncode == 0, done.stderr
    assert "as stored" in done.stderr
    assert "as stored" not in command("predict", tmp_path / "i.png", "--model", tiny(tmp_path / "n.onnx")).stderr
