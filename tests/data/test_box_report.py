"""What `check-data` says of a folder of images with boxes: counts, sizes of boxes, and everything that is wrong."""

import json
import shutil

import pytest

from tutelage.data.box_report import check_box_folder
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError


def test_a_sound_folder_has_its_splits_classes_and_sizes(boxes_of_kind):
    report = check_box_folder(boxes_of_kind("plain"))
    assert report.findings == ()
    assert report.kind == "plain"
    assert report.counts == {"train": 8, "validation": 2, "test": 2}
    assert report.objects == {"train": {"cat": 5, "dog": 2}, "validation": {"cat": 1, "dog": 1},
                              "test": {"cat": 2, "dog": 1}}
    assert report.empty == {"train": 3, "validation": 1, "test": 0}
    assert report.sizes == {"40 x 30": 12}
    assert report.image_size == (320, 320)
    # by the factor 8 the cats are 128 x 160 pixels, and the dogs the whole of 320 x 240
    assert report.box_sizes["train"] == {"small": 0, "medium": 0, "large": 7}
    text = str(report)
    for part in ("nothing wrong was found", "8 images, 3 of them without an object, 7 boxes", "cat: 5 in train"):
        assert part in text
    held = json.loads(report.as_json())
    assert held["objects"]["train"] == {"cat": 5, "dog": 2}
    assert held["errors"] == []


@pytest.mark.parametrize(("size", "cats", "dogs"), [(64, "small", "medium"), ((40, 500), "small", "medium"),
                                                    (96, "medium", "medium"), (128, "medium", "large")])
def test_sizes_are_those_at_the_size_of_the_picture(size, cats, dogs, boxes_of_kind):
    report = check_box_folder(boxes_of_kind("voc"), DataSettings("folder", task="detection", image_size=size))
    wanted = {"small": 0, "medium": 0, "large": 0}
    wanted[cats] += 5
    wanted[dogs] += 2
    assert report.box_sizes["train"] == wanted


def test_every_error_is_found_and_none_hides_another(boxes_of_kind):
    root = boxes_of_kind("yolo")
    (root / "labels" / "train" / "s01.txt").write_text("0 0.9 0.5 0.4 0.2\n0 0.5 0.5 0 0.2\n")
    (root / "labels" / "train" / "s02.txt").write_text("0 0.9 0.5 0.4 0.2\nx\n7 0.5 0.5 0.1 0.1\n")
    path = root / "images" / "train" / "s04.png"
    path.write_bytes(path.read_bytes()[:700])
    report = check_box_folder(root)
    found = {path: finding.what for finding in report.errors for path in finding.paths}
    assert found == {"labels/train/s01.txt, line 1": "2 x a box outside of its image",
                     "labels/train/s02.txt, line 1": "2 x a box outside of its image",
                     "labels/train/s01.txt, line 2": "a box without an area",
                     "labels/train/s02.txt, line 2": "a line that is no box",
                     "labels/train/s02.txt, line 3": "a box of a class without a name",
                     "images/train/s04.png": "an image cannot be decoded"}
    assert report.counts == {"train": 8, "val": 2, "test": 2}
    with pytest.raises(DataError):
        load_data(DataSettings("folder", task="detection", root=str(root)))


def test_what_is_not_known_is_an_error_and_nothing_more_is_said(tmp_path):
    report = check_box_folder(tmp_path)
    finding, = report.errors
    assert "no files of boxes" in finding.what
    assert report.counts == {}


def test_copies_absent_classes_thin_boxes_and_images_without_a_word_are_told(boxes_of_kind):
    root = boxes_of_kind("plain")
    held = json.loads((root / "boxes.json").read_text())
    held["classes"] = ["cat", "dog", "owl"]
    held["boxes"]["s01"] = [["cat", 3, 3, 3.4, 20]]
    del held["boxes"]["s00"]
    (root / "boxes.json").write_text(json.dumps(held))
    shutil.copy(root / "images" / "s10.png", root / "images" / "s03.png")
    report = check_box_folder(root, DataSettings("folder", task="detection", image_size=64))
    assert [finding.kind for finding in report.errors] == ["leakage"]
    assert [finding.kind for finding in report.warnings] == ["boxes", "absent", "absent", "absent", "thin"]
    text = report.text(every=True)
    for part in ("1 boxes are less than 2 pixels", "without a word of boxes", "1 class has no box in train", "owl"):
        assert part in text


def test_a_recipes_objects_and_format_are_its_own(boxes_of_kind):
    root = boxes_of_kind("plain")
    shutil.copytree(boxes_of_kind("yolo"), root, dirs_exist_ok=True)
    assert "more than one kind" in check_box_folder(root).errors[0].what
    settings = DataSettings("folder", task="detection", boxes="plain", objects=("dog",))
    (root / "splits.json").unlink()
    report = check_box_folder(root, settings)
    assert {*report.objects["train"]} == {"dog"}
    wrong = check_box_folder(root, DataSettings("folder", task="detection", boxes="plain", objects=("cow",)))
    assert "unknown class" in wrong.errors[0].what
