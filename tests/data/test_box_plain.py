"""boxes.json: one class or several, and what is refused by the name of the image."""

import json
from pathlib import Path

import pytest

from tutelage.data.box_folder import list_boxes


@pytest.fixture
def plain(boxes_of_kind) -> Path:
    return boxes_of_kind("plain")


def told(root: Path) -> str:
    return "\n".join(map(str, list_boxes(root).listing.problems))


def write(root: Path, held: object) -> Path:
    (root / "boxes.json").write_text(json.dumps(held))
    return root


def test_one_class_is_named_once(plain):
    write(plain, {"class": "polyp", "boxes": {"s01": [[1, 2, 30, 20.5]], "images/s02.png": []}, "size": [40, 30],
                  "format": "xyxy pixels at this size"})
    listing = list_boxes(plain)
    assert told(plain) == ""
    assert listing.listing.classes == ("polyp",)
    assert [own.boxes.tolist() for own in listing.found if own is not None] == [[[1, 2, 30, 20.5]], []]
    assert {own.size for own in listing.found if own is not None} == {(40, 30)}
    assert "10 images without a word of boxes count as without objects" in "\n".join(listing.listing.notes)


def test_classes_may_be_listed_in_their_order(plain):
    write(plain, {"classes": ["owl", "dog"], "boxes": {"s01": [["dog", 1, 2, 30, 20]]}})
    listing = list_boxes(plain)
    assert listing.listing.classes == ("owl", "dog")
    assert listing.found[1] is not None
    assert listing.found[1].classes.tolist() == [1]
    write(plain, {"classes": ["owl"], "boxes": {"s01": [["owl", 1, 2, 30, 20], ["dog", 1, 2, 30, 20]]}})
    assert "boxes.json, s01, box 1" in told(plain)


@pytest.mark.parametrize("row", [[1, 2, 3], ["cat", 1, 2, 3], ["cat", 1, 2, 3, "4"], ["cat", 1, 2, 3, True], "cat",
                                 None, [], ["cat", 1, 2, 3, 4, 5], ["cat", 1, 2, 3, None], ["cat", [1, 2, 3, 4]]])
def test_a_box_that_is_none_is_named(row, plain):
    problem = told(write(plain, {"boxes": {"s01": [["cat", 1, 2, 30, 20], row]}}))
    assert "a box that is none" in problem
    assert "boxes.json, s01, box 1" in problem


@pytest.mark.parametrize("name", [3, "", " ", None, ["cat"]])
def test_a_box_without_a_name_is_named(name, plain):
    assert "a box of a class without a name" in told(write(plain, {"boxes": {"s01": [["cat", 1, 2, 30, 20],
                                                                                    [name, 1, 2, 3, 4]]}}))


@pytest.mark.parametrize(("held", "problem"), [
    ([], "does not say which boxes"), ({"boxes": []}, "does not say"), ({"boxes": {"s01": {}}}, "does not say"),
    ({"boxes": {}, "klass": "a"}, "unknown key"), ({"boxes": {}, "class": "a", "classes": ["a"]}, "one class and"),
    ({"boxes": {}, "class": 3}, "names of classes"), ({"boxes": {}, "classes": "a"}, "no image has a box"),
    ({"boxes": {}, "classes": ["a", "a"]}, "two classes of one name"), ({"boxes": {}, "size": [0, 3]}, "a size"),
    ({"boxes": {}, "size": 3}, "a size that is none"), ({"boxes": {"gone": []}}, "without a file")])
def test_what_cannot_be_meant_is_refused(held, problem, plain):
    assert problem in told(write(plain, held))


def test_a_name_twice_is_refused(plain):
    (plain / "boxes.json").write_text('{"boxes": {"s01": [["cat", 1, 2, 3, 4]], "s01": []}}')
    assert "'s01' twice" in told(plain)


def test_boxes_of_images_in_no_split_are_not_used(plain):
    (plain / "splits.json").write_text(json.dumps({"train": ["s01", "s02"], "val": ["s04"]}))
    listing = list_boxes(plain)
    assert told(plain) == ""
    assert [image.path.stem for image in listing.listing.images] == ["s01", "s02", "s04"]
    assert "in no split of splits.json" in "\n".join(listing.listing.notes)


def test_marks_in_names_are_only_marks(plain):
    (plain / "images" / "s01.png").rename(plain / "images" / "s{0}%d.png")
    (plain / "splits.json").unlink()
    write(plain, {"boxes": {"s{0}%d": [["cat", 1, 2, 30, 20]]}})
    listing = list_boxes(plain)
    assert "s{0}%d, box 0" in next(own.where(0) for own in listing.found if own is not None)
