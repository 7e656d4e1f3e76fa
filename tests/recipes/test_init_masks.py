"""`tutelage init` for images and masks: what the masks hold says the classes, and the recipes train as they are."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.load import load_data
from tutelage.errors import UserError
from tutelage.recipes.init import write_recipes
from tutelage.recipes.init_masks import size_that_fits
from tutelage.recipes.recipe import Recipe, read_recipe


def scans(root: Path, values: list[int], *, count: int = 12, height: int = 24, width: int = 24,
          suffix: str = "png") -> Path:
    """Images of noise; a mask has a stripe of each of the values."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.array(values, np.uint8)[np.arange(height) * len(values) // height][:, None].repeat(width, 1)
        for folder, drawn, end in (("images", pixels, "png"), ("masks", mask, suffix)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(root / folder / f"{number}.{end}")
    return root


def written(root: Path, to: Path, *, teacher: str | None = None, students: tuple[str, ...] = (),
            reachable: bool = False) -> tuple[Recipe, Recipe, str]:
    """The teacher's recipe, that of the students, and what was said."""
    said = write_recipes(root, teacher, students, to, reachable=lambda: reachable)
    return read_recipe(to / "teacher.toml"), read_recipe(to / "students.toml"), said


@pytest.mark.parametrize(("values", "suffix", "keys", "classes"), [
    ([0, 255], "png", {}, ("background", "foreground")),
    ([0, 1, 2], "png", {}, ("background", "class 1", "class 2")),
    ([0, 1, 2, 255], "png", {"ignore": 255}, ("background", "class 1", "class 2")),
    ([0, 128, 255], "png", {"mask_values": {"0": "background", "128": "class 128", "255": "class 255"}},
     ("background", "class 128", "class 255")),
    ([3, 7], "png", {"mask_values": {"3": "class 3", "7": "class 7"}}, ("class 3", "class 7")),
    ([0, 255], "jpg", {"mask_values": {"0": "background", "255": "foreground"}}, ("background", "foreground")),
], ids=["two", "several", "ignored", "gaps", "no zero", "lossy"])
def test_the_classes_are_those_of_the_reader_and_what_it_cannot_know_is_written(values, suffix, keys, classes,
                                                                               tmp_path) -> None:
    root = scans(tmp_path / "scans", values, suffix=suffix)
    teacher, students, said = written(root, tmp_path)
    assert teacher.data == students.data
    assert students.data.work == "segmentation"
    tables = tomllib.loads((tmp_path / "students.toml").read_text(encoding="utf-8"))["data"]
    assert {key: tables[key] for key in ("ignore", "mask_values") if key in tables} == keys
    assert load_data(students.data).classes == classes
    assert f"{len(classes)} classes" in said


def test_a_comment_names_the_values_that_need_no_word(tmp_path: Path) -> None:
    written(scans(tmp_path / "scans", [0, 255]), tmp_path)
    text = (tmp_path / "teacher.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "mask_values" in line)
    (tmp_path / "teacher.toml").write_text(text.replace(line, line.removeprefix("# ").replace("foreground", "polyp")))
    assert load_data(read_recipe(tmp_path / "teacher.toml").data).classes == ("background", "polyp")


def test_names_in_a_file_are_kept_beside_a_value_that_does_not_count(tmp_path: Path) -> None:
    root = scans(tmp_path / "scans", [0, 1, 255])
    (root / "classes.txt").write_text("sky\nroad\n", encoding="utf-8")
    recipe, _, said = written(root, tmp_path)
    assert (recipe.data.ignore, recipe.data.mask_values) == (255, None)
    assert load_data(recipe.data).classes == ("sky", "road")
    assert "255" in said


@pytest.mark.parametrize("spoil", ["size", "values", "no mask"])
def test_what_would_stop_a_run_is_told_and_nothing_is_written(spoil: str, tmp_path: Path) -> None:
    root = scans(tmp_path / "scans", [0, 255] if spoil != "values" else [*range(0, 240, 6)], height=40)
    if spoil == "size":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "3.png")
    elif spoil == "no mask":
        (root / "masks" / "3.png").unlink()
    with pytest.raises(UserError, match={"size": "another size", "values": "which value", "no mask": "without a mask"}[
            spoil]):
        written(root, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_the_networks_are_those_that_are_named(tmp_path: Path) -> None:
    root, students = scans(tmp_path / "scans", [0, 255]), ("torchvision:lraspp_mobilenet_v3_large", "unet")
    for reachable in (True, False):
        teacher, recipe, _ = written(root, tmp_path / str(reachable), teacher="torchvision:deeplabv3_resnet50",
                                     students=students, reachable=reachable)
        own = teacher.models["teacher"]
        assert (own.pretrained, own.head, own.stem) == (reachable, "new" if reachable else "strict", "as-is")
        assert list(recipe.models) == ["teacher", "lraspp_mobilenet_v3_large", "unet"]
        assert {arch.stem for arch in recipe.models.values()} == {"as-is"}


def test_a_network_for_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a network for segmentation"):
        written(scans(tmp_path / "scans", [0, 255]), tmp_path / "to", students=("unet", "timm:resnet18"))
    assert not (tmp_path / "to").exists()


def test_given_splits_are_used(tmp_path: Path) -> None:
    root = scans(tmp_path / "scans", [0, 255], count=20)
    splits = {"train": [str(number) for number in range(15)], "val": [str(number) for number in range(15, 20)]}
    (root / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    _, _, said = written(root, tmp_path)
    assert "20 images and masks, 15 of them for training" in said


def test_the_size_has_the_proportions_of_most_images() -> None:
    assert size_that_fits({(1280, 720): 5, (30, 40): 1}) == (160, 288)
    assert size_that_fits({(480, 640): 2}) == (256, 192)
    assert size_that_fits({(100, 100): 3, (100, 130): 2}) == 96
    assert size_that_fits({(33, 30): 1}) == 32
    for width in range(20, 2000, 37):
        size = size_that_fits({(width, 300): 1})
        assert max(size if isinstance(size, tuple) else (size,)) <= 4 * 224
