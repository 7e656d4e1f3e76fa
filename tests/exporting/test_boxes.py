"""A detector exported, held against itself and asked for boxes of images of any size."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from every import every
from tutelage.cli.predicting import said_of_files
from tutelage.data.decoding import Preparation, pixels
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data
from tutelage.errors import DataError, ModelError, UsageError
from tutelage.exporting import formats, predict, verify
from tutelage.exporting.boxes import append_suppression, best_placed
from tutelage.exporting.export import Images, export_network
from tutelage.exporting.from_run import open_predictor
from tutelage.exporting.module import Choice, Student
from tutelage.exporting.predict import Damaged, Detector, open_onnx
from tutelage.exporting.predict_boxes import BoxPrediction, box_in_image, detect
from tutelage.exporting.verify import Trial
from tutelage.exporting.verify_boxes import held_against, tried
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.dense_boxes import ABSENT, grid_places
from tutelage.models.dense_boxes import pack_places as pack_boxes
from tutelage.tasks.detection.predicted import detections_of
from tutelage.tasks.detection.task import ANCHOR_DETECTION, DETECTION
from tutelage.tasks.named import data_for

onnx = pytest.importorskip("onnx", reason="the extra tutelage[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra tutelage[onnx] is not installed")
CLASSES = ("disc", "square", "triangle")
FITTED = Preparation(3, (64, 64), (64, 64), fitted=True)
SIZE = (40, 56)


def random_packed(seed: int, batch: int, classes: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    places = grid_places(SIZE, (4, 8))
    return pack_boxes(places, torch.rand(batch, len(places), 4, generator=g) * 3 + 1,
                      torch.randn(batch, len(places), generator=g),
                      torch.randn(batch, len(places), classes, generator=g) * 2 - 1)


def suppression(classes: int, places: int) -> Any:
    """A session of the appended operations alone."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
              (("boxes_in", ("batch", places, 4)), ("scores_in", ("batch", classes, places)),
               ("placed", ("batch", places, 4)), ("scored", ("batch", classes, places)))]
    nodes = [helper.make_node("Identity", [of], [to]) for of, to in (("boxes_in", "placed"), ("scores_in", "scored"))]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:2], values[2:]),
                              opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    append_suppression(model)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_suppression_in_onnx_gives_the_boxes_of_torch_for_any_number_of_images(batch):
    packed = random_packed(batch, batch, 4)
    boxes, scores = best_placed(packed, SIZE)
    found = suppression(4, boxes.shape[1]).run(None, {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()})
    wanted = detections_of(packed, SIZE)
    np.testing.assert_allclose(found[0], wanted[..., :4].numpy(), atol=1e-4)
    np.testing.assert_allclose(found[1], wanted[..., 4].numpy(), atol=1e-6)
    assert np.array_equal(found[2], wanted[..., 5].long().numpy())


def test_images_with_few_boxes_or_none_are_filled_up_in_the_file_too():
    places = torch.tensor([[8.0, 8, 8, 8], [24, 8, 8, 8]])
    logits = torch.tensor([[[3.0, ABSENT], [ABSENT, 2.0]], [[-9.0, -9], [-9, -9]]])
    packed = pack_boxes(places, torch.full((2, 2, 4), 0.5), None, logits)
    boxes, scores = best_placed(packed, (16, 32))
    assert boxes.shape == (2, 100, 4)
    found = suppression(2, 100).run(None, {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()})
    wanted = detections_of(packed, (16, 32))
    np.testing.assert_allclose(np.concatenate([found[0], found[1][..., None], found[2][..., None]], -1), wanted.numpy(),
                               atol=1e-6)


# A whole network


@pytest.fixture(scope="module")
def data() -> Data:
    return data_for(DataSettings("shapes_boxes", task="detection", limit=16))


@pytest.fixture(scope="module")
def student(data) -> Student:
    options = {"width": 8, "depth": 1, "strides": [8, 16]}
    network = build(Architecture("tiny_fcos", options=options), class_names=CLASSES, seed=1)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith("head.classes.bias"):
                tensor.fill_(-1.0)  # some things are likely enough to be told
    return Student(network.eval(), CLASSES, FITTED, "a", DETECTION.name)


@pytest.fixture(scope="module")
def exported(student, data, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("export") / "a.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "IMAGES", 14)  # rather than 200
        patch.setattr(verify, "FEW", 4)
        export_network(student, target, Choice("onnx"), Images(data.test, data.train, "test"))
    return target


def test_an_onnx_file_says_the_boxes_of_the_network_and_what_it_gives(exported, student, data):
    report = json.loads(exported.with_name("a.onnx.json").read_text())
    assert report["task"] == "detection"
    assert report["outputs"]["boxes"]["shape"] == ["batch", 100, 4]
    assert report["preprocessing"]["kind"] == "boxes"
    assert report["bound"] == {"pixels": 1.0, "scores": 1e-3, "same": 0.999}
    checked = report["checked"]
    assert checked["boxes"] > 100
    assert checked["same"] >= 0.999
    assert checked["map"] == pytest.approx(checked["map_of_network"], abs=1e-3)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (batch,) = data.test.batches([torch.arange(5)], draw=None)
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": batch.inputs.numpy()})
    with torch.no_grad():
        wanted = detections_of(student.network(batch.inputs), (64, 64))
    said = torch.cat([torch.from_numpy(boxes), torch.from_numpy(scores)[..., None],
                      torch.from_numpy(classes)[..., None].float()], -1)
    assert held_against(said, wanted)["same"] >= 0.999


def test_a_torch_file_gives_places_and_predicts_what_the_onnx_file_predicts(exported, student, data, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(2):
        (batch,) = data.test.batches([torch.tensor([number])], draw=None)
        pixels = (batch.inputs[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((128, 128), 0).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "a.safetensors").write_bytes(formats.weights_bytes(student))
    by_torch = open_predictor(tmp_path / "a.safetensors", None)
    by_onnx = open_onnx(exported)
    assert isinstance(by_torch, Detector)
    assert isinstance(by_onnx, Detector)
    for one, other in zip(*(said_of_files(tmp_path / "images", student, 0.2, None, False)
                            for student in (by_torch, by_onnx)), strict=True):
        assert isinstance(one, BoxPrediction)
        assert isinstance(other, BoxPrediction)
        assert one.boxes
        assert one.size == (128, 128)
        assert [box.label for box in one.boxes] == [box.label for box in other.boxes]
        for a, b in zip(one.boxes, other.boxes, strict=True):
            assert a.box == pytest.approx(b.box, abs=0.1)
            assert a.score == pytest.approx(b.score, abs=1e-3)


WITHOUT_TORCH = """
import sys
from pathlib import Path
from tutelage.cli.predicting import said_of_files
from tutelage.exporting.predict import open_onnx
found = said_of_files(Path(sys.argv[2]), open_onnx(Path(sys.argv[1])), None, Path(sys.argv[3]), False)
print(*(one.as_json() for one in found), sep="\\n")
assert "torch" not in sys.modules
"""


def test_boxes_of_an_onnx_file_need_no_torch(exported, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "z.png").write_bytes(b"broken")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, exported, tmp_path / "images", tmp_path / "drawn"],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["width"], first["height"]) == (90, 60)
    assert first["picture"] == str(tmp_path / "drawn" / "a.png")
    assert second["error"]["error"] == "data"
    with Image.open(tmp_path / "drawn" / "a.png") as picture:
        assert picture.size == (90, 60)


# Each part alone


def student_of(*rows: tuple[float, ...], how: Preparation = FITTED) -> Detector:
    """Says the same of each image."""
    said = np.array([[*rows, (0.0, 0, 0, 0, 0, -1)]], np.float32)
    return Detector(CLASSES, how, lambda images: np.repeat(said, len(images), 0))


def test_boxes_are_those_of_the_image_as_it_came(tmp_path):
    Image.new("RGB", (640, 480), (9, 9, 9)).save(tmp_path / "a.png")
    student = student_of((0, 10, 32, 40, 0.9, 2), (32, 0, 64, 64, 0.5, 0), (0, 0, 9, 9, 0.2, 1),
                         (0, 50, 64, 64, 0.8, 1))  # the last in the grey below the image
    (found,) = detect([tmp_path / "a.png"], student, 0.3)
    assert isinstance(found, BoxPrediction)
    assert [(box.box, box.label) for box in found.boxes] == [((0.0, 100.0, 320.0, 400.0), "triangle"),
                                                             ((320.0, 0.0, 640.0, 480.0), "disc")]
    told = json.loads(found.as_json())
    assert told["boxes"][0] == {"box": [0.0, 100.0, 320.0, 400.0], "label": "triangle", "score": 0.9}
    assert told["picture"] is None
    assert "triangle 90.0% at 0, 100, 320, 400; disc 50.0%" in str(found)


def test_a_box_comes_back_to_where_it_was_in_images_of_any_proportion():
    for size, how in (((100, 30), FITTED), ((30, 100), FITTED), ((640, 480), replace(FITTED, crop=(48, 64))),
                      ((90, 60), Preparation(3, 70, 64, pad=2))):
        marks = np.zeros((size[1], size[0], 3), np.uint8)
        left, top, right, lower = size[0] * 2 // 5, size[1] * 2 // 5, size[0] * 3 // 5, size[1] * 3 // 5
        marks[top:lower, left:right] = 255
        seen = np.argwhere(pixels(Image.fromarray(marks), how)[0] > 127)
        (upper, first), (last_row, last) = seen.min(0), seen.max(0)  # what lies around is darker
        found = box_in_image(np.array([first, upper, last + 1, last_row + 1], np.float64), size, how)
        scale = max(size) / 60
        assert found == pytest.approx((left, top, right, lower), abs=scale)


def test_pictures_are_written_beside_each_other_and_none_is_lost(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "a.png")
    student = student_of((10, 10, 40, 40, 0.9, 1))
    (found,) = said_of_files(tmp_path / "in", student, None, tmp_path / "out", False)
    assert isinstance(found, BoxPrediction)
    assert found.picture == tmp_path / "out" / "a.png"
    drawn = np.asarray(Image.open(io.BytesIO(found.picture.read_bytes())))
    assert drawn[25, 10].tolist() == [213, 94, 0]
    with pytest.raises(UsageError, match="a picture exists and was kept"):
        said_of_files(tmp_path / "in", student, None, tmp_path / "out", False)
    with pytest.raises(UsageError, match="a picture would take the place of an image"):
        said_of_files(tmp_path / "in", student, None, tmp_path / "in", True)


def test_what_is_no_answer_of_a_detector_is_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for said in (np.zeros((1, 3), np.float32), np.full((1, 2, 6), 7, np.float32)):
        student = Detector(CLASSES, FITTED, lambda images, said=said: said)
        with pytest.raises(ModelError, match="no boxes of its classes"):
            list(detect([tmp_path / "a.png"], student, 0.3))
    (tmp_path / "a.png").write_bytes(b"")
    (found,) = detect([tmp_path / "a.png"], student_of(), 0.3)
    assert isinstance(found, Damaged)


def suppressed(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Boxes of 14 images as a network would say them, and true ones that some of these find."""
    wanted = detections_of(random_packed(seed, 14, 3), SIZE)
    truth = torch.cat([wanted[:, ::3, :4], wanted[:, ::3, 5:]], -1)
    return wanted, truth


def trials_of(wanted: Tensor) -> list[Trial]:
    return [Trial(size, torch.zeros(len(part), 3, 8, 8), part) for size in (1, 2, 7) for part in wanted.split(size)]


def test_a_file_whose_boxes_move_or_whose_scores_change_is_refused(student):
    wanted, truth = suppressed()
    asked = trials_of(wanted)
    same = [trial.wanted.numpy().copy() for trial in asked]
    numbers, bound = tried(student, Choice("onnx"), asked, same, truth, 0.01)
    assert (numbers["same"], numbers["largest_difference"], numbers["agreement"]) == (1, 0, 1)
    assert set(bound) == {"pixels", "scores", "same"}
    for column, by, kept in ((0, 0.9, True), (2, 1.1, False), (4, 9e-4, True), (4, 2e-3, False)):
        moved = [answer.copy() for answer in same]
        for answer in moved:
            answer[..., column] += by * (answer[..., 5] >= 0)
        if kept:
            tried(student, Choice("onnx"), asked, moved, truth, 0.01)
        else:
            with pytest.raises(ModelError, match=r"boxes equal to 1 pixel, scores to 0\.001"):
                tried(student, Choice("onnx"), asked, moved, truth, 0.01)
    lost = [answer.copy() for answer in same]
    for answer in lost:
        answer[:, 0] = [0, 0, 0, 0, 0, -1]
    with pytest.raises(ModelError, match="was not kept"):
        tried(student, Choice("onnx"), asked, lost, truth, 0.01)
    same[0][0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="finite numbers"):
        tried(student, Choice("onnx"), asked, same, truth, 0.01)


def test_an_image_alone_says_what_it_says_in_a_batch(student):
    wanted, truth = suppressed()
    asked = trials_of(wanted)
    answers = [trial.wanted.numpy().copy() for trial in asked]
    for trial, answer in zip(asked, answers, strict=True):
        if trial.size == 1:
            answer[..., 4] *= 0.9
    with pytest.raises(ModelError, match="an image alone as in a batch"):
        tried(student, Choice("onnx", int8=True), asked, answers, truth, 0.01)


def test_8_bits_are_judged_by_the_average_precision_that_they_lose(student):
    wanted, truth = suppressed()
    asked = trials_of(wanted)
    moved = [trial.wanted.numpy().copy() for trial in asked]
    for answer in moved:
        answer[..., 2:4] += 4 * (answer[..., 5:] >= 0)
    choice = Choice("onnx", int8=True)
    with pytest.raises(ModelError, match=r"mAP lost <= 0\.01"):
        tried(student, choice, asked, moved, truth, 0.01)
    numbers, bound = tried(student, choice, asked, moved, truth, 1.0)
    assert bound == {"map_lost": 1.0}
    assert numbers["map"] < numbers["map_of_network"] - 0.01
    with pytest.raises(DataError, match="no object"):
        tried(student, choice, asked, moved, torch.full_like(truth, -1), 0.01)


def test_what_comes_before_suppression_is_suppressed_before_it_is_compared(student):
    packed = random_packed(5, 14, 3)
    student = replace(student, prepared=Preparation(3, SIZE, SIZE, fitted=True))
    wanted, truth = suppressed(5)
    asked = trials_of(wanted)
    answers = [part.numpy() for size in (1, 2, 7) for part in packed.split(size)]
    numbers, _ = tried(student, Choice("pt2"), asked, answers, truth, 0.01)
    assert (numbers["same"], numbers["map"]) == (1, numbers["map_of_network"])
    with pytest.raises(ModelError, match="another shape"):
        tried(student, Choice("onnx"), asked, answers, truth, 0.01)


def test_the_names_of_the_tasks_that_give_boxes_are_those_of_the_tasks():
    assert (DETECTION.name, ANCHOR_DETECTION.name) == predict.BOXES
    assert every(Student(torch.nn.Identity(), CLASSES, FITTED, "a", name).detects for name in predict.BOXES)


def test_a_detector_does_not_resize():
    with pytest.raises(UsageError, match="does not resize"):
        formats.require_possible(Choice("onnx", resize=True), boxes=True)
