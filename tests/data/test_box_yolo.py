"""Labels of YOLO: where they may lie, what data.yaml says, and what is refused by line."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.box_folder import list_boxes


@pytest.fixture
def yolo(boxes_of_kind) -> Path:
    return boxes_of_kind("yolo")


def told(root: Path) -> str:
    return "\n".join(map(str, list_boxes(root).listing.problems))


def splits_of(root: Path) -> list[str]:
    return [image.split for image in list_boxes(root).listing.images]


WANTED = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.mark.parametrize("yaml", [
    "names: [cat, dog]\npath: .\ntrain: images/train\nval: images/val/\ntest: ./images/test\n",
    "names: [cat, dog]\npath: /home/me/set\ntrain: ../images/train\nval: ../images/val\ntest: ../images/test\n",
    "names: [cat, dog]\npath: images\ntrain: train\nval: [val]\ntest: images/test\n"])
def test_data_yaml_says_where_images_are_however_it_is_written(yaml, yolo):
    (yolo / "data.yaml").write_text(yaml)
    assert told(yolo) == ""
    assert splits_of(yolo) == WANTED


def test_only_the_splits_of_data_yaml_are_used(yolo):
    (yolo / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    assert splits_of(yolo) == ["train"] * 8


def test_each_split_may_have_its_images_and_labels(yolo):
    for split in ("train", "val", "test"):
        for part in ("images", "labels"):
            (yolo / split).mkdir(exist_ok=True)
            (yolo / part / split).rename(yolo / split / part)
    for part in ("images", "labels"):
        (yolo / part).rmdir()
    assert told(yolo) == ""
    assert splits_of(yolo) == WANTED
    assert sum(len(own.boxes) for own in list_boxes(yolo).found if own is not None) == 12


def test_names_may_stand_in_classes_txt_and_must_stand_somewhere(yolo):
    (yolo / "data.yaml").unlink()
    assert "numbers of classes without names" in told(yolo)
    (yolo / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert list_boxes(yolo).listing.classes == ("cat", "dog")
    (yolo / "classes.txt").write_text("cat\nhound\n")
    assert list_boxes(yolo).listing.classes == ("cat", "hound")
    (yolo / "classes.txt").write_text("cat\n\n")
    problem = told(yolo)
    assert "a box of a class without a name" in problem
    assert "labels/train/s02.txt, line 2" in problem


def test_a_list_of_images_is_read(yolo):
    (yolo / "train.txt").write_text("\n".join(f"./images/train/s0{number}.png" for number in range(5)) + "\n\n")
    (yolo / "data.yaml").write_text("names: [cat, dog]\ntrain: train.txt\nval: images/val\n")
    assert told(yolo) == ""
    assert splits_of(yolo) == ["train"] * 5 + ["val"] * 2


@pytest.mark.parametrize("place", ["/etc", "../../outside", "images/../../x", "a/../b"])
def test_data_yaml_may_not_lead_out(place, yolo):
    (yolo.parent / "outside").mkdir()
    (yolo / "data.yaml").write_text(f"names: [cat, dog]\ntrain: {place}\n")
    assert "leads out of the folder" in told(yolo)


def test_a_place_that_is_not_there_is_told(yolo):
    (yolo / "data.yaml").write_text("names: [cat, dog]\ntrain: images/training\n")
    assert "without a folder or list of images" in told(yolo)
    assert "data.yaml, train" in told(yolo)


def test_an_outline_becomes_the_box_around_it(yolo):
    (yolo / "labels" / "train" / "s01.txt").write_text("0 0.1 0.2 0.5 0.2 0.4 0.9 0.2 0.6\n1 0.5 0.5 0.25 0.5\n")
    listing = list_boxes(yolo)
    boxes = next(own.boxes for image, own in zip(listing.listing.images, listing.found, strict=True)
                 if image.path.stem == "s01" and own is not None)
    assert np.allclose(boxes, [[0.1, 0.2, 0.5, 0.9], [0.375, 0.25, 0.625, 0.75]])
    assert "of 1 outlines the boxes around them are taken" in listing.listing.notes


@pytest.mark.parametrize(("line", "problem"), [
    ("0 0.5 0.5 0.2", "no box"), ("0 0.5 0.5 0.2 0.2 0.9", "no box"), ("0 0.5 0.5 0.2 x", "no box"),
    ("0 0.5 0.5 nan 0.2", "no box"), ("0 0.5 inf 0.2 0.2", "no box"), ("0 0.5 0.5 0_1 0.2", "no box"),
    ("cat 0.5 0.5 0.2 0.2", "without a name"), ("2 0.5 0.5 0.2 0.2", "without a name"),
    ("-1 0.5 0.5 0.2 0.2", "without a name"), ("0.0 0.5 0.5 0.2 0.2", "without a name"),
    ("9" * 5000 + " 0.5 0.5 0.2 0.2", "without a name"), ("\u0660 0.5 0.5 0.2 0.2", "without a name"), ("0", "no box")])
def test_what_is_wrong_is_named_by_its_line(line, problem, yolo):
    (yolo / "labels" / "train" / "s01.txt").write_text(f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    found = told(yolo)
    assert problem in found
    assert "labels/train/s01.txt, line 3" in found


def test_a_file_of_a_million_boxes_is_not_held(yolo, monkeypatch):
    path = yolo / "labels" / "train" / "s01.txt"
    path.write_text("0 0.5 0.5 0.2 0.2\n" * 20_000)
    assert "more boxes in one image than allowed" in told(yolo)
    monkeypatch.setattr("tutelage.data.box_yolo.LABELS_AT_MOST", 1000)
    assert "too large to read" in told(yolo)


def test_images_without_a_folder_called_images_have_their_labels_beside_them(yolo):
    for split in ("train", "val"):
        (yolo / split).mkdir()
        for part in ("images", "labels"):
            for path in (yolo / part / split).iterdir():
                path.rename(yolo / split / path.name)
    for part in ("images", "labels"):
        shutil.rmtree(yolo / part)
    (yolo / "data.yaml").write_text("names: [cat, dog]\ntrain: train\nval: val\n")
    listing = list_boxes(yolo)
    assert told(yolo) == ""
    assert sum(own is not None for own in listing.found) == 6
