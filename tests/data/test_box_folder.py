"""Folders of images with boxes: four formats that say the same, what is left out, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from every import every
from tutelage.data.box_folder import BoxListing, kinds_of_boxes, list_boxes
from tutelage.errors import DataError, SecurityError

KINDS = ("coco", "voc", "yolo", "plain")
CATS = [[4.0, 5.0, 20.0, 25.0], [0.0, 0.0, 40.0, 30.0]]


def told(listing: BoxListing) -> str:
    return "\n".join(map(str, listing.listing.problems))


def in_pixels(listing: BoxListing) -> dict[str, tuple[str, list, list]]:
    """Name of each image -> its split, its boxes in pixels, its classes by name."""
    found = {}
    for image, own in zip(listing.listing.images, listing.found, strict=True):
        boxes, classes = np.empty((0, 4)), []
        if own is not None:
            boxes = own.boxes * ([40, 30, 40, 30] if own.relative else 1)
            classes = [listing.listing.classes[number] for number in own.classes]
        found[image.path.stem] = (image.split, np.round(boxes, 6).tolist(), classes)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_the_same(kind, boxes_of_kind):
    listing = list_boxes(boxes_of_kind(kind))
    assert told(listing) == ""
    assert listing.kind == kind
    assert listing.listing.classes == ("cat", "dog")
    found = in_pixels(listing)
    assert [split for split, *_ in found.values()] == ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    for number in range(12):
        _, boxes, classes = found[f"s{number:02}"]
        assert boxes == CATS[:number % 3]
        assert classes == ["cat", "dog"][:number % 3]
    assert every(path.suffix in (".json", ".xml", ".txt", ".yaml") for path in listing.files)
    assert {*listing.contents()} == {str(path.relative_to(listing.listing.root)) for path in listing.files}


def test_the_format_is_seen_or_said_and_two_need_a_word(boxes_of_kind, tmp_path):
    assert kinds_of_boxes(boxes_of_kind("voc")) == ["voc"]
    root = boxes_of_kind("yolo")
    shutil.copytree(boxes_of_kind("plain"), root, dirs_exist_ok=True)
    problem = told(list_boxes(root))
    assert "more than one kind" in problem
    assert "yolo, plain" in problem
    assert 'boxes = "coco"' in problem
    assert list_boxes(root, "yolo").kind == "yolo"
    assert "no files of boxes as voc has them" in told(list_boxes(root, "voc"))
    (tmp_path / "empty").mkdir()
    assert "no files of boxes" in told(list_boxes(tmp_path / "empty"))
    with pytest.raises(DataError, match="no such folder"):
        list_boxes(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", KINDS)
def test_without_splits_all_images_are_one(kind, tmp_path, boxes_of_kind):
    root = boxes_of_kind(kind)
    if kind == "plain":
        (root / "splits.json").unlink()
    elif kind == "voc":
        shutil.rmtree(root / "ImageSets")
    else:
        for split in ("val", "test"):
            for part in ("images", "labels") if kind == "yolo" else ("",):
                for path in (root / part / split).iterdir():
                    path.rename(root / part / "train" / path.name)
                (root / part / split).rmdir()
        if kind == "yolo":
            for part in ("images", "labels"):
                for path in (root / part / "train").iterdir():
                    path.rename(root / part / path.name)
                (root / part / "train").rmdir()
        else:
            held = [json.loads((root / "annotations" / f"instances_{split}.json").read_text())
                    for split in ("train", "val", "test")]
            shutil.rmtree(root / "annotations")
            (root / "train").rename(root / "images")
            whole = {key: [row for one in held for row in one[key]] for key in ("images", "annotations")}
            (root / "instances_default.json").write_text(json.dumps({**held[0], **whole}))
    listing = list_boxes(root)
    assert told(listing) == ""
    assert [image.split for image in listing.listing.images] == ["all"] * 12
    assert sum(len(own.boxes) for own in listing.found if own is not None) == 12


@pytest.mark.parametrize(("kind", "gone"), [("voc", "Annotations/s01.xml"), ("yolo", "labels/train/s01.txt"),
                                           ("plain", "s01"), ("coco", "s01")])
def test_an_image_of_which_nothing_is_said_has_no_objects_or_is_unlabelled(kind, gone, boxes_of_kind):
    root = boxes_of_kind(kind)
    if kind == "plain":
        held = json.loads((root / "boxes.json").read_text())
        del held["boxes"][gone]
        (root / "boxes.json").write_text(json.dumps(held))
    elif kind == "coco":
        file = root / "annotations" / "instances_train.json"
        held = json.loads(file.read_text())
        held["images"] = [image for image in held["images"] if image["file_name"] != "s01.png"]
        held["annotations"] = [one for one in held["annotations"] if one["image_id"] != 999]
        file.write_text(json.dumps(held))
    else:
        (root / gone).unlink()
    listing = list_boxes(root)
    assert told(listing) == ""
    notes = "\n".join(listing.listing.notes)
    if kind == "coco":
        assert "in no file of annotations" in notes
        assert "s01" not in in_pixels(listing)
    else:
        assert "without a word of boxes" in notes
        assert in_pixels(listing)["s01"] == ("train", [], [])
    wanted = list_boxes(root, unlabelled=True)
    bare = [image.path.stem for image, own in zip(wanted.listing.images, wanted.found, strict=True) if own is None]
    assert "s01" in bare
    if kind == "yolo":  # here images without objects have no file either, and some are in val and test
        assert "to be tested on without a word of boxes" in told(wanted)
    else:
        assert told(wanted) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_leads_out_is_refused_unless_followed(kind, boxes_of_kind, tmp_path):
    root = boxes_of_kind(kind)
    first = list_boxes(root)
    for path in (first.files[-1], first.listing.images[0].path):
        outside = tmp_path / f"outside{path.suffix}"
        shutil.move(path, outside)
        path.symlink_to(outside)
        assert every(isinstance(problem, SecurityError) for problem in list_boxes(root).listing.problems[:1])
        assert "leads out" in told(list_boxes(root))
        assert told(list_boxes(root, follow_symlinks=True)) == ""
        path.unlink()
        shutil.move(outside, path)


OUT = ["../s00.png", "/etc/passwd", "a/../../s00.png", "..\\s00.png", "s\0.png", ""]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in KINDS for text in OUT
                                            if text or kind in ("coco", "plain")])
def test_names_that_lead_out_are_refused(kind, text, boxes_of_kind):
    root = boxes_of_kind(kind)
    shutil.copy(next(root.rglob("s00.png")), root.parent / "s00.png")
    if kind == "coco":
        file = root / "annotations" / "instances_train.json"
        held = json.loads(file.read_text())
        held["images"][3]["file_name"] = text
        file.write_text(json.dumps(held))
    elif kind == "voc":
        (root / "ImageSets" / "Main" / "train.txt").write_text(f"s01\n{text}\n")
    elif kind == "yolo":
        (root / "images" / "train.txt").write_text(f"images/train/s01.png\n{text}\n")
        (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train.txt\n")
    else:
        held = json.loads((root / "boxes.json").read_text())
        held["boxes"][text] = []
        (root / "boxes.json").write_text(json.dumps(held))
    problem = list_boxes(root).listing.problems[-1]
    if kind == "plain" and text in ("s\0.png", ""):
        assert isinstance(problem, DataError)
    else:
        assert isinstance(problem, SecurityError), problem
    assert "leads out" in str(problem) or kind == "plain"


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_without_a_file_is_named_with_its_entry(kind, boxes_of_kind):
    root = boxes_of_kind(kind)
    if kind == "yolo":
        (root / "images" / "train.txt").write_text("./images/train/s01.png\nimages/train/gone.png\n")
        (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train.txt\n")
        where = "images/train.txt, line 2"
    else:
        next(root.rglob("s04.png")).unlink()
        where = {"coco": "instances_train.json, images[4]", "voc": "train.txt, line 5",
                 "plain": "boxes.json, s04"}[kind]
    problem = told(list_boxes(root))
    assert "a name of an image without a file" in problem
    assert where in problem


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_two_places_is_refused(kind, boxes_of_kind):
    root = boxes_of_kind(kind)
    if kind == "coco":
        file = root / "annotations" / "instances_train.json"
        held = json.loads(file.read_text())
        held["images"].append({**held["images"][0], "id": 1})
        file.write_text(json.dumps(held))
    elif kind == "voc":
        with (root / "ImageSets" / "Main" / "test.txt").open("a") as file:
            file.write("s03\n")
    elif kind == "yolo":
        (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: [images/val, images/train]\n")
    else:
        held = json.loads((root / "boxes.json").read_text())
        held["boxes"]["images/s00.png"] = []
        (root / "boxes.json").write_text(json.dumps(held))
    assert "an image that is listed twice" in told(list_boxes(root))


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_boxes_in_one_image_are_refused_at_once(kind, boxes_of_kind, monkeypatch):
    root = boxes_of_kind(kind)
    for module in ("box_rows", "box_voc"):
        monkeypatch.setattr(f"tutelage.data.{module}.MOST_BOXES", 1)
    problem = list_boxes(root).listing.problems[-1]
    assert isinstance(problem, SecurityError)
    assert "more boxes in one image than allowed" in str(problem)


def test_a_folder_without_any_box_is_refused(boxes_of_kind):
    root = boxes_of_kind("yolo")
    shutil.rmtree(root / "labels")
    assert "no image has a box" in told(list_boxes(root))


def test_problems_end_somewhere(boxes_of_kind, monkeypatch):
    monkeypatch.setattr("tutelage.data.box_rows.MOST_PROBLEMS", 3)
    root: Path = boxes_of_kind("yolo")
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("cat\n" * 5)
    assert len(list_boxes(root).listing.problems) == 3
