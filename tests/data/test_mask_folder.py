"""Folders of images and masks: layouts, who belongs to whom, splits.json, and what is refused by name."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.mask_folder import MaskListing, holds_masks, list_masks
from tutelage.errors import DataError, SecurityError

MASK = np.zeros((10, 12), np.uint8)


def told(pairs: MaskListing) -> str:
    return "\n".join(map(str, pairs.listing.problems))


def splits(pairs: MaskListing) -> dict[str, int]:
    return dict(Counter(image.split for image in pairs.listing.images))


def test_a_mask_has_the_name_of_its_image_whatever_both_end_in(tmp_path, pair_of_files):
    for place, name in enumerate(("a", "b.v2", "patient 1/slice", "patient 2/slice")):
        pair_of_files(tmp_path, name, MASK, seed=place, suffix="bmp" if place else "webp")
    pairs = list_masks(tmp_path)
    assert not pairs.listing.problems
    assert splits(pairs) == {"all": 4}
    for image, mask in zip(pairs.listing.images, pairs.masks, strict=True):
        assert mask is not None
        assert mask.path == tmp_path / "masks" / image.path.relative_to(tmp_path / "images").with_suffix(".png")
    assert len(pairs.without().images) == 8
    assert len(pairs.without({1}).images) == 6


@pytest.mark.parametrize(("inner", "outer"), [(True, False), (False, True)], ids=["SPLIT/images", "images/SPLIT"])
def test_folders_of_splits_may_be_called_as_those_of_classes(tmp_path, pair_of_files, inner, outer):
    for place, split in enumerate(("Train", "valid", "test")):
        for number in range(3 - place):
            if inner:
                pair_of_files(tmp_path, str(number), MASK, split=split, seed=10 * place + number)
            else:
                pair_of_files(tmp_path, f"{split}/{number}", MASK, seed=10 * place + number)
    pairs = list_masks(tmp_path)
    assert not pairs.listing.problems
    assert splits(pairs) == {"train": 3, "val": 2, "test": 1}
    assert holds_masks(tmp_path)


def test_a_folder_of_classes_is_none_of_masks(photos, tmp_path):
    assert not holds_masks(photos)
    with pytest.raises(DataError, match="no such folder"):
        list_masks(tmp_path / "nowhere")
    problem = told(list_masks(photos))
    assert "no folders of images and masks" in problem
    assert "train, val" in problem or "test, train" in problem


def test_splits_json_names_images_with_or_without_ending_or_by_path(scans):
    names = {"train": ["s00", "s01.png", "images/s02.png", "s03.jpg"], "validation": ["s04"], "test": ["images/s05"]}
    (scans / "splits.json").write_text(json.dumps(names))
    pairs = list_masks(scans)
    assert not pairs.listing.problems
    assert splits(pairs) == {"train": 4, "val": 1, "test": 1}
    assert any("14 .png left out: in no split of splits.json" in note for note in pairs.listing.notes)


@pytest.mark.parametrize(("text", "what"), [
    ('{"train": ["s00", "nobody"], "val": ["s01"]}', "1 name of splits.json without an image"),
    ('{"train": ["s00"], "val": ["s01", "s00"]}', "a name twice"),
    ('{"train": ["s00", "s00.png"]}', "a name twice"),
    ('{"train": ["s00"], "trian": ["s01"]}', "unknown split 'trian'"),
    ('{"train": ["s00"], "training": ["s01"]}', "names the split train twice"),
    ('{"val": ["s00"]}', "no images to train on"),
    ('{"train": "s00"}', "does not say"), ('["s00"]', "does not say"), ('{"train": [1]}', "does not say"),
    ("{", "cannot be read"), ("[" * 100_000, "cannot be read"), ("\xff", "cannot be read"),
    ("{}", "no images to train")])
def test_splits_that_cannot_be_meant_are_refused(scans, text, what):
    (scans / "splits.json").write_text(text, encoding="latin-1")
    problem = told(list_masks(scans))
    assert what in problem, problem
    if "nobody" in text:
        assert "nobody" in problem


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "..\\secret", "images/../../x"])
def test_a_name_in_splits_json_that_leads_out_is_refused(scans, name):
    (scans / "splits.json").write_text(json.dumps({"train": ["s00", name]}))
    problems = list_masks(scans).listing.problems
    assert [type(problem) for problem in problems] == [SecurityError]
    assert "leads out" in str(problems[0])


def test_a_link_that_leads_out_is_refused_for_images_masks_and_folders_unless_followed(tmp_path, scans):
    outside = tmp_path / "outside"
    shutil.move(scans / "masks" / "s03.png", outside / "s03.png") if outside.mkdir() is None else None
    (scans / "masks" / "s03.png").symlink_to(outside / "s03.png")
    problems = list_masks(scans).listing.problems
    assert isinstance(problems[0], SecurityError)
    assert not list_masks(scans, follow_symlinks=True).listing.problems
    shutil.move(scans / "masks", outside / "masks")
    (scans / "masks").symlink_to(outside / "masks")
    assert isinstance(list_masks(scans).listing.problems[0], SecurityError)
    assert not list_masks(scans, follow_symlinks=True).listing.problems


@pytest.mark.parametrize("name", ["splits.json", "classes.txt"])
def test_a_file_of_names_may_not_lie_outside_either(scans, tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"train": ["s00", "s01"]}, indent=1))
    (scans / name).symlink_to(tmp_path / name)
    problem, = list_masks(scans).listing.problems
    assert isinstance(problem, SecurityError)
    assert not list_masks(scans, follow_symlinks=True).listing.problems


def test_what_lacks_its_partner_is_named(scans):
    (scans / "masks" / "s03.png").unlink()
    (scans / "masks" / "s04.png").rename(scans / "masks" / "s04_mask.png")
    problem = told(list_masks(scans))
    assert "2 images without a mask" in problem
    assert "1 mask without an image" in problem
    for name in ("images/s03.png", "images/s04.png", "masks/s04_mask.png"):
        assert name in problem


def test_images_without_a_mask_may_be_trained_on_if_asked_and_never_judge(scans, pair_of_files):
    (scans / "masks" / "s03.png").unlink()
    pairs = list_masks(scans, unlabelled=True)
    assert not pairs.listing.problems
    assert [image.path.name for image, mask in zip(pairs.listing.images, pairs.masks, strict=True)
            if mask is None] == ["s03.png"]
    (scans / "splits.json").write_text(json.dumps({"train": ["s00", "s01"], "test": ["s03"]}))
    assert "1 image without a mask" in told(list_masks(scans, unlabelled=True))
    (scans / "splits.json").write_text(json.dumps({"train": ["s00", "s03"], "test": ["s01"]}))
    assert not list_masks(scans, unlabelled=True).listing.problems


def test_two_files_of_one_name_are_refused(scans):
    shutil.copy(scans / "images" / "s00.png", scans / "images" / "s00.webp")
    shutil.copy(scans / "masks" / "s01.png", scans / "masks" / "s01.bmp")
    assert told(list_masks(scans)).count("two files of one name") == 2


def test_folders_without_images_or_masks_are_refused(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    assert "a folder without images" in told(list_masks(tmp_path))
    (tmp_path / "images" / "notes.txt").write_text("none")
    assert "a folder without images" in told(list_masks(tmp_path))
    (tmp_path / "masks").rmdir()
    assert "no folders of images and masks" in told(list_masks(tmp_path))


def test_a_split_without_masks_and_two_folders_for_one_split_are_refused(tmp_path, pair_of_files):
    pair_of_files(tmp_path, "train/a", MASK)
    pair_of_files(tmp_path, "val/b", MASK)
    shutil.rmtree(tmp_path / "masks" / "val")
    problem = told(list_masks(tmp_path))
    assert "no such folder" in problem
    assert "masks/val" in problem
    shutil.copytree(tmp_path / "images" / "val", tmp_path / "images" / "validation")
    assert "more than one folder for val" in told(list_masks(tmp_path))


def test_what_is_not_used_is_told(scans):
    (scans / "boxes.json").write_text("{}")
    (scans / "images" / "readme.txt").write_text("read me")
    (scans / "masks" / "Thumbs.db").write_bytes(b"\0")
    (scans / "depth").mkdir()
    shutil.copy(scans / "images" / "s00.png", scans / "stray.png")
    notes = "\n".join(list_masks(scans).listing.notes)
    for part in ("boxes.json", "readme.txt", "Thumbs.db", "depth", "stray.png"):
        assert part in notes, notes


def test_classes_txt_is_read_and_not_left_out(scans: Path):
    (scans / "classes.txt").write_text("background\nvessel\n")
    pairs = list_masks(scans)
    assert pairs.lines == ("background", "vessel")
    assert not pairs.listing.notes
    (scans / "classes.txt").write_text("background\n")
    assert "names of classes" in told(list_masks(scans))
