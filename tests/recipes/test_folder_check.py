"""`check-data` takes a folder for what it is, and a recipe for the folder that it names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.check import check_folder
from tutelage.data.mask_report import check_mask_folder
from tutelage.errors import UsageError
from tutelage.recipes.folder_check import check_any_folder, task_of_folder

RECIPE = """\
[data]
name = "folder"
task = "segmentation"
root = "scans"
mask_values = { 0 = "background", 1 = "vessel" }
test = "val"

[models.a]
arch = "resnet8"

[method]
name = "scratch"
student = "a"
"""


def noise(path: Path, number: int, highest: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, highest, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number in range(12):
        noise(tmp_path / "scans" / "images" / f"s{number:02}.png", number, 256)
        noise(tmp_path / "scans" / "masks" / f"s{number:02}.png", 100 + number, 2)
    names = [f"s{number:02}" for number in range(12)]
    (tmp_path / "scans" / "splits.json").write_text(json.dumps({"train": names[:10], "val": names[10:]}))
    return tmp_path / "scans"


def test_a_folder_is_checked_as_what_it_is(scans, tmp_path):
    for number in range(6):
        noise(tmp_path / "photos" / "cat" / f"{number}.png", number, 256)
        noise(tmp_path / "photos" / "dog" / f"{number}.png", 50 + number, 256)
    assert check_any_folder(tmp_path / "photos") == check_folder(tmp_path / "photos")
    assert check_any_folder(scans) == check_mask_folder(scans)
    assert check_any_folder(scans).counts == {"train": 10, "validation": 2}


def test_a_recipe_is_checked_by_its_keys(scans, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    report = check_any_folder(recipe)
    assert report.counts == {"train": 9, "validation": 1, "test": 2}
    assert "vessel" in str(report)
    assert report.errors == ()


def test_a_recipe_without_a_folder_is_refused(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[data]\nname = "digits"\n' + RECIPE[RECIPE.index("\n[models"):])
    with pytest.raises(UsageError, match="without a folder"):
        check_any_folder(recipe)


def test_what_lies_there_says_the_task(scans, tmp_path):
    noise(tmp_path / "photos" / "cat" / "1.png", 1, 256)
    (tmp_path / "photos" / "labels.csv").write_text("a,b\n")
    (scans / "about.csv").write_text("a,b\n")
    (tmp_path / "walks").mkdir()
    (tmp_path / "walks" / "Walk_TRAIN.ts").touch()
    places = {"photos": "classification", "scans": "segmentation", "walks": "series", "walks/Walk_TRAIN.ts": "series",
              "walks/Walk": "series", "walks/Run": "classification", "nowhere": "classification"}
    assert {place: task_of_folder(tmp_path / place) for place in places} == places


def test_folders_called_as_splits_may_still_be_classes(tmp_path):
    for name in ("train", "training", "car"):
        noise(tmp_path / name / "1.png", 1, 256)
    assert task_of_folder(tmp_path) == "classification"
