"""Boxes beside the sizes of their images: what is clipped, and what is refused with file and entry."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.box_check import check_boxes
from tutelage.data.box_folder import list_boxes
from tutelage.data.settings import DataSettings

SETTINGS = DataSettings("folder", task="detection")


@pytest.fixture
def plain(boxes_of_kind) -> Path:
    return boxes_of_kind("plain")


def checked(root: Path, box: list | None = None, **more):
    if box is not None:
        held = json.loads((root / "boxes.json").read_text())
        held["boxes"]["s00"] = [["dog", *box]]
        (root / "boxes.json").write_text(json.dumps(held))
    return check_boxes(DataSettings("folder", task="detection", **more), list_boxes(root))


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "plain"])
def test_boxes_of_every_format_become_pixels_of_their_image(kind, boxes_of_kind):
    found = check_boxes(SETTINGS, list_boxes(boxes_of_kind(kind)))
    assert found.problems == ()
    assert found.sizes == ((40, 30),) * 12
    assert [boxes.round(4).tolist() for boxes in found.boxes[:3]] == [[], [[4, 5, 20, 25]],
                                                                     [[4, 5, 20, 25], [0, 0, 40, 30]]]
    assert [classes.tolist() for classes in found.classes[:3]] == [[], [0], [0, 1]]
    assert found.counts([0, 1, 2]).tolist() == [2, 1]
    assert found.clipped == 0


@pytest.mark.parametrize(("box", "clipped"), [
    ([-1, 3, 9, 9], [0, 3, 9, 9]), ([3, 3, 40.9, 30.5], [3, 3, 40, 30]), ([3, 3, 40, 30], [3, 3, 40, 30]),
    ([0, 0, 40.00001, 30], [0, 0, 40, 30]), ([5.5, 3.25, 5.75, 3.5], [5.5, 3.25, 5.75, 3.5])])
def test_what_sticks_out_by_a_pixel_is_clipped(box, clipped, plain):
    found = checked(plain, box)
    assert found.problems == ()
    assert np.allclose(found.boxes[0], [clipped])
    assert found.clipped == int(np.abs(np.array(box) - clipped).max() > 1e-3)
    assert len(found.notes) == found.clipped


@pytest.mark.parametrize(("box", "problem"), [
    ([9, 3, 9, 9], "without an area"), ([9, 3, 8, 9], "without an area"), ([3, 9, 9, 9], "without an area"),
    ([3, 9, 9, 2], "without an area"), ([-2, 3, 9, 9], "outside"), ([3, 3, 41.2, 9], "outside"),
    ([3, 3, 9, 33], "outside"), ([50, 3, 60, 9], "outside"), ([-0.9, 3, -0.1, 9], "outside"),
    ([3, 30, 9, 30.5], "outside"), ([3, 3, 1e300, 9], "outside")])
def test_what_cannot_be_a_box_of_the_image_is_named(box, problem, plain):
    found, = checked(plain, box).problems
    assert problem in found.what
    assert str(found.where).endswith("boxes.json, s00, box 0")
    assert ", ".join(f"{edge:g}" for edge in box) in str(found.found)
    assert found.fix


def test_shares_beyond_the_image_are_refused_by_line(boxes_of_kind):
    root = boxes_of_kind("yolo")
    (root / "labels" / "train" / "s01.txt").write_text("0 0.5 0.5 0.2 0.2\n0 20 15 16 20\n0 0.5 0.5 0 0.2\n")
    first, second = check_boxes(SETTINGS, list_boxes(root)).problems
    assert str(first.where).endswith("labels/train/s01.txt, line 2")
    assert "outside" in first.what
    assert str(second.where).endswith("labels/train/s01.txt, line 3")
    assert "area" in second.what


@pytest.mark.parametrize("kind", ["coco", "voc", "plain"])
def test_an_image_of_another_size_than_its_file_says_is_refused(kind, boxes_of_kind):
    root = boxes_of_kind(kind)
    if kind == "plain":
        held = json.loads((root / "boxes.json").read_text())
        (root / "boxes.json").write_text(json.dumps({**held, "size": [40, 30]}))
    assert check_boxes(SETTINGS, list_boxes(root)).problems == ()
    path = next(root.rglob("s01.png"))
    Image.new("RGB", (80, 60)).save(path)
    problem, = check_boxes(SETTINGS, list_boxes(root)).problems
    assert "an image of another size" in problem.what
    for part in ("s01.png", "80 x 60", "40 x 30"):
        assert part in str(problem)


def test_an_image_that_is_turned_is_told_from_one_of_another_size(boxes_of_kind):
    root = boxes_of_kind("coco")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = next(root.rglob("s01.png"))
    Image.open(path).save(path, exif=exif)
    problem, = check_boxes(SETTINGS, list_boxes(root)).problems
    assert "lies on its side" in problem.what
    assert 'orientation = "as stored"' in str(problem.fix)
    stored = DataSettings("folder", task="detection", orientation="as stored")
    assert check_boxes(stored, list_boxes(root)).problems == ()


def test_images_that_cannot_be_read_are_problems_or_are_left_out(plain):
    (plain / "images" / "s01.png").write_bytes((plain / "images" / "s01.png").read_bytes()[:300])
    (plain / "images" / "s02.png").write_bytes(b"none")
    assert len(checked(plain).problems) == 1  # of the other one the header can be read
    found = checked(plain, on_bad_image="skip")
    assert found.problems == ()
    assert sorted(found.damaged(list_boxes(plain))) == [1, 2]


def test_all_problems_are_told_at_once(plain):
    held = json.loads((plain / "boxes.json").read_text())
    held["boxes"]["s00"] = [["dog", 5, 5, 5, 5], ["dog", 1, 1, 5, 5], ["cat", 0, 0, 99, 9]]
    held["boxes"]["s03"] = [["dog", 5, 5, 4, 9]]
    (plain / "boxes.json").write_text(json.dumps(held))
    assert [str(problem.where).rpartition("boxes.json, ")[2] for problem in checked(plain).problems] == [
        "s00, box 0", "s00, box 2", "s03, box 0"]
