"""Sizes as images are read, pixels of each class, and what of it forbids the use of a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.mask_check import check_masks
from tutelage.data.mask_folder import list_masks
from tutelage.data.settings import DataSettings

SETTINGS = DataSettings("folder", task="segmentation", mask_values={"0": "a", "2": "b", "3": "b"}, ignore=(9,))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_pixels_are_counted_by_class_and_ignored_ones_by_none(one):
    Image.new("RGB", (4, 2)).save(one / "images" / "x.png")
    Image.fromarray(np.array([[0, 0, 0, 2], [3, 3, 9, 9]], np.uint8)).save(one / "masks" / "x.png")
    checked = check_masks(SETTINGS, list_masks(one))
    assert checked.pixels_of([0]).tolist() == [3, 3]
    assert checked.pixels_of([]).tolist() == [0, 0]
    assert dict(checked.sizes) == {(4, 2): 1}
    assert checked.problems == ()
    assert checked.told


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_size_of_an_image_is_that_which_reading_it_gives(one, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (4, 2)).save(one / "images" / f"x.{suffix}", exif=exif)
    turned = orientation > 4
    Image.new("L", (2, 4) if turned else (4, 2)).save(one / "masks" / "x.png")
    assert check_masks(SETTINGS, list_masks(one)).problems == ()
    Image.new("L", (4, 2) if turned else (2, 4)).save(one / "masks" / "x.png")
    problem, = check_masks(SETTINGS, list_masks(one)).problems
    assert "size" in problem.what or "on its side" in problem.what
    assert ("on its side" in problem.what) == turned


def test_what_cannot_be_read_can_be_left_out_only_where_the_recipe_says_so(one):
    for name in ("x", "y"):
        Image.new("RGB", (4, 2)).save(one / "images" / f"{name}.png")
        Image.new("L", (4, 2)).save(one / "masks" / f"{name}.png")
    (one / "masks" / "y.png").write_bytes(b"GIF89a")
    (one / "images" / "x.png").write_bytes(b"BM no image")
    pairs = list_masks(one)
    strict = check_masks(SETTINGS, pairs)
    assert len(strict.problems) == 2
    lenient = check_masks(DataSettings("folder", task="segmentation", on_bad_image="skip", mask_values={
        "0": "a", "1": "b"}), pairs)
    assert lenient.problems == ()
    assert sorted(lenient.damaged(pairs)) == [0, 1]
