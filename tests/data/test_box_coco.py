"""Annotations of COCO: where they and their images may lie, what is left out, and what is refused by entry."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.data.box_coco import coco_files
from tutelage.data.box_folder import list_boxes


@pytest.fixture
def coco(boxes_of_kind) -> Path:
    return boxes_of_kind("coco")


def told(root: Path) -> str:
    return "\n".join(map(str, list_boxes(root).listing.problems))


def changed(root: Path, change: Callable[[dict], None], split: str = "train") -> Path:
    file = root / "annotations" / f"instances_{split}.json"
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))
    return root


def test_classes_are_in_the_order_of_their_ids_in_whatever_order_they_are_listed(coco):
    assert list_boxes(coco).listing.classes == ("cat", "dog")
    for split in ("train", "val", "test"):
        changed(coco, lambda held: held["categories"].append({"id": -1, "name": "owl"}), split)
    listing = list_boxes(coco)
    assert listing.listing.classes == ("owl", "cat", "dog")
    assert {number for own in listing.found if own is not None for number in own.classes.tolist()} == {1, 2}


def test_files_are_known_by_their_names_and_others_are_no_annotations(coco):
    held = (coco / "annotations" / "instances_train.json").read_text()
    for name in ("captions_train.json", "person_keypoints_train.json", "image_info_test2017.json"):
        (coco / "annotations" / name).write_text(held)
    for old, new in (("train", "train2017"), ("val", "val2017")):
        (coco / "annotations" / f"instances_{old}.json").rename(coco / "annotations" / f"instances_{new}.json")
        (coco / old).rename(coco / new)
    assert {path.name: split for path, split in coco_files(coco).items()} == {
        "instances_train2017.json": "train", "instances_val2017.json": "val", "instances_test.json": "test"}
    assert told(coco) == ""


def test_each_split_may_have_its_file_beside_its_images(coco):
    for split in ("train", "val", "test"):
        (coco / "annotations" / f"instances_{split}.json").rename(coco / split / "_annotations.coco.json")
    (coco / "val").rename(coco / "valid")
    (coco / "annotations").rmdir()
    listing = list_boxes(coco)
    assert told(coco) == ""
    assert [image.split for image in listing.listing.images] == ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    assert "without" not in "\n".join(listing.listing.notes)


@pytest.mark.parametrize("place", ["images/train", "images"])
def test_images_may_lie_in_other_usual_places(coco, place):
    (coco / place).mkdir(parents=True)
    for path in (coco / "train").iterdir():
        path.rename(coco / place / path.name)
    assert told(coco) == ""


def test_other_json_beside_folders_of_classes_is_none_of_ours(tmp_path, image_file):
    for label in ("cat", "dog"):
        image_file(tmp_path / label / "1.png")
    (tmp_path / "annotations.json").write_text('{"made": "today"}')
    assert coco_files(tmp_path) == {}


def test_crowds_and_ignored_boxes_are_left_out_and_told(coco):
    def mark(held: dict) -> None:
        held["annotations"][0]["iscrowd"] = 1
        held["annotations"][1]["ignore"] = 1
        held["annotations"][2]["iscrowd"] = 1
    listing = list_boxes(changed(coco, mark))
    assert not listing.listing.problems
    notes = "\n".join(listing.listing.notes)
    assert "2 boxes of crowds (iscrowd) left out" in notes
    assert "1 boxes that say `ignore` left out" in notes
    assert sum(len(own.boxes) for own in listing.found if own is not None) == 9


@pytest.mark.parametrize(("change", "problem", "where"), [
    (lambda held: held["annotations"][2].update(category_id=4), "a box of a class without a name", "annotations[2]"),
    (lambda held: held["annotations"][2].update(category_id=[3]), "a box of a class without a name", "annotations[2]"),
    (lambda held: held["annotations"][2].update(image_id=4), "a box of an image that is not listed", "annotations[2]"),
    (lambda held: held["annotations"][2].update(bbox=[1, 2, 3]), "a box that is none", "annotations[2]"),
    (lambda held: held["annotations"][2].update(bbox=[1, 2, 3, None]), "a box that is none", "annotations[2]"),
    (lambda held: held["annotations"][2].update(bbox=[1, 2, 3, 10**400]), "a box that is none", "annotations[2]"),
    (lambda held: held["annotations"][2].pop("bbox"), "a box that is none", "annotations[2]"),
    (lambda held: held["images"][1].update(id=1000), "an image without an id", "images[1]"),
    (lambda held: held["images"][1].pop("file_name"), "an image without an id", "images[1]"),
    (lambda held: held["categories"].append({"id": 3, "name": "owl"}), "categories without an id", "categories"),
    (lambda held: held["categories"].append({"id": 4, "name": "cat"}), "two classes of one name", "categories"),
    (lambda held: held["categories"].append({"id": 4}), "names of classes", "categories"),
    (lambda held: held.pop("categories"), "no annotations as COCO has them", "categories"),
    (lambda held: held.update(images={}), "no annotations as COCO has them", "images"),
    (lambda held: held.update(annotations=[3]), "no annotations as COCO has them", "annotations"),
])
def test_what_is_wrong_is_named_by_its_entry(change, problem, where, coco):
    text = told(changed(coco, change))
    assert problem in text
    assert f"instances_train.json, {where}" in text


@pytest.mark.parametrize("name", ["a" * 5000 + ".png", "\ud800.png", "s\n01.png"])
def test_names_that_no_file_can_have_are_told(name, coco):
    for place in (0, 3):
        text = told(changed(coco, lambda held, place=place: held["images"][place].update(file_name=name)))
        assert "a name of an image without a file" in text
    changed(coco, lambda held: held["categories"][0].update(name="\ud800"))
    assert "names of classes" in told(coco)


def test_1e999_is_no_number(coco):
    file = coco / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace("16.0", "1e999", 1))
    assert "a box that is none" in told(coco)


def test_two_files_for_one_split_and_splits_of_other_classes_are_refused(coco):
    shutil.copy(coco / "annotations" / "instances_train.json", coco / "annotations" / "instances_train2014.json")
    assert "which is meant" in told(coco)
    (coco / "annotations" / "instances_train2014.json").unlink()
    changed(coco, lambda held: held["categories"].pop(), "val")
    assert "two splits of other classes" in told(coco)


def test_images_that_are_nowhere_are_told_with_the_places_that_were_looked_at(coco):
    shutil.rmtree(coco / "train")
    problem = told(coco)
    assert "no image that this file names was found" in problem
    assert "s00.png" in problem
