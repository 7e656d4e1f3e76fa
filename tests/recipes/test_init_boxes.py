"""`tutelage init` for images with boxes: what lies there says format and classes, and the recipes read it."""

import json
from pathlib import Path

import pytest

from tutelage.data.load import load_data
from tutelage.data.shapes import write_shapes
from tutelage.data.shapes_boxes import write_shapes_boxes
from tutelage.errors import UsageError, UserError
from tutelage.recipes.folder_check import check_any_folder, task_of_folder
from tutelage.recipes.init import write_recipes
from tutelage.recipes.init_boxes import picture_that_fits
from tutelage.recipes.recipe import Recipe, read_recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_shapes_boxes(tmp_path / "photos", ["cat", "dog"], {"train": 24, "val": 6})
    return tmp_path / "photos"


def written(root: Path, to: Path, *, students: tuple[str, ...] = (), reachable: bool = False) -> tuple[Recipe, Recipe,
                                                                                                     str]:
    """The teacher's recipe, that of the students, and what was said."""
    said = write_recipes(root, None, students, to, reachable=lambda: reachable)
    return read_recipe(to / "teacher.toml"), read_recipe(to / "students.toml"), said


def test_the_recipes_are_of_detection_and_read_the_folder(photos, tmp_path):
    teacher, students, said = written(photos, tmp_path)
    assert teacher.data == students.data
    assert students.data.work == "detection"
    assert "30 images with" in said
    assert "(plain), 24 of them for training, 2 classes: cat, dog" in said
    assert load_data(students.data).classes == ("cat", "dog")
    assert load_data(students.data).shape == (3, 64, 64)
    assert teacher.models["teacher"].arch == "fcos:resnet50"
    assert [model.arch for name, model in students.models.items() if name != "teacher"] == ["tiny_fcos", "tiny_fcos"]
    assert not teacher.models["teacher"].pretrained
    own = written(photos, tmp_path / "reached", reachable=True)[0].models["teacher"]
    assert (own.pretrained, own.head) == (True, "new")


def test_what_would_stop_a_run_is_told_and_nothing_is_written(photos, tmp_path):
    held = json.loads((photos / "boxes.json").read_text())
    held["boxes"]["3"] = [["cat", 1, 2, 300, 4]]
    (photos / "boxes.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match="a box outside of its image"):
        written(photos, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_network_for_classes_is_refused(photos, tmp_path):
    with pytest.raises(UserError, match="not a network for detection"):
        written(photos, tmp_path / "to", students=("tiny_fcos", "timm:resnet18"))


def test_the_picture_has_about_the_size_of_the_images():
    assert picture_that_fits([(64, 64)]) == (64, 64)
    assert picture_that_fits([(640, 480)] * 3 + [(10, 10)]) == (320, 448)
    assert picture_that_fits([(10, 3000)]) == (512, 32)
    for width in range(5, 3000, 77):
        tall, wide = picture_that_fits([(width, 500)])
        assert tall % 32 == wide % 32 == 0
        assert max(tall, wide) <= 512


def test_check_data_and_the_task_are_those_of_boxes(photos, tmp_path):
    assert task_of_folder(photos) == "detection"
    report = check_any_folder(photos)
    assert report.counts == {"train": 24, "validation": 6}
    written(photos, tmp_path)
    again = check_any_folder(tmp_path / "students.toml")
    assert again.counts == {"train": 24, "validation": 6}
    assert "64 x 64" in str(again)


def test_a_folder_with_masks_and_boxes_is_what_it_is_said_to_be(tmp_path):
    write_shapes(tmp_path / "both", [0, 1, 2], {"train": 4})
    for part in ("images", "masks"):
        (tmp_path / "both" / "train" / part).rename(tmp_path / "both" / part)
    (tmp_path / "both" / "boxes.json").write_text(json.dumps({"class": "thing", "boxes": {
        str(row): [[4, 4, 24, 28]] for row in range(4)}}))
    (tmp_path / "both" / "splits.json").write_text(json.dumps({"train": ["0", "1", "2"], "val": ["3"]}))
    assert task_of_folder(tmp_path / "both") == "segmentation"
    write_recipes(tmp_path / "both", None, [], tmp_path / "to", reachable=lambda: False, told="detection")
    assert read_recipe(tmp_path / "to" / "students.toml").data.work == "detection"
    assert "with boxes" in check_any_folder(tmp_path / "both", told="detection").text()
    with pytest.raises(UsageError, match="unknown task 'detecton'") as refused:
        task_of_folder(tmp_path / "both", "detecton")
    assert "detection" in str(refused.value)
