"""`check-data` takes a folder for what it is, and a recipe for the folder that it names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.check import check_folder
from tutelage.data.mask_report import check_mask_folder
from tutelage.errors import UsageError
from tutelage.recipes.folder_check import check_any_folder
from tutelage.recipes.init import look_into

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


def test_init_does_not_take_images_and_masks_for_two_classes(scans):
    with pytest.raises(UsageError, match="images and masks"):
        look_into(scans)
