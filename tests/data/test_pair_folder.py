"""Folders of registered pairs: layouts, who belongs to whom, sets, day and night, and what is refused by name."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.pair_folder import PairListing, holds_pairs, list_pairs
from tutelage.errors import DataError


def put(path: Path, size: tuple[int, int] = (24, 20), value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(len(str(path)) + value).integers(0, 40, size[::-1])
    Image.fromarray((grain + value).astype(np.uint8)).save(path)
    return path


def put_pair(root: Path, name: str, folders: tuple[str, str] = ("infrared", "visible"), value: int = 90) -> None:
    for number, folder in enumerate(folders):
        put(root / folder / f"{name}.{'png' if number else 'bmp'}", value=value + number)


def told(pairs: PairListing) -> str:
    return "\n".join(map(str, pairs.listing.problems))


def splits(pairs: PairListing) -> dict[str, int]:
    return dict(Counter(image.split for image in pairs.listing.images))


def test_both_images_of_a_pair_have_one_name_whatever_they_end_in(tmp_path):
    for number, name in enumerate(("a", "b.v2", "road/1", "street/1")):
        put_pair(tmp_path, name, value=10 * number)
    pairs = list_pairs(tmp_path)
    assert not told(pairs)
    assert splits(pairs) == {"all": 4}
    for visible, infrared in zip(pairs.listing.images, pairs.infrared, strict=True):
        inside = visible.path.relative_to(tmp_path / "visible").with_suffix(".bmp")
        assert infrared.path == tmp_path / "infrared" / inside
    assert len(pairs.files().images) == 8
    assert holds_pairs(tmp_path)


@pytest.mark.parametrize("inner", [True, False], ids=["SPLIT/ir", "ir/SPLIT"])
def test_splits_are_folders_above_or_below(tmp_path, inner):
    for place, split in enumerate(("Train", "valid", "test")):
        for number in range(3 - place):
            if inner:
                put_pair(tmp_path / split, str(number), ("ir", "vi"))
            else:
                put_pair(tmp_path, f"{split}/{number}", ("IR", "Vis"))
    pairs = list_pairs(tmp_path)
    assert not told(pairs)
    assert splits(pairs) == {"train": 3, "val": 2, "test": 1}


def test_sets_lie_side_by_side_and_names_tell_day_and_night(tmp_path):
    put_pair(tmp_path / "MSRS", "00001D")
    put_pair(tmp_path / "MSRS", "00002N")
    put_pair(tmp_path / "TNO", "1")
    pairs = list_pairs(tmp_path)
    assert pairs.listing.classes == ("MSRS day", "MSRS night", "TNO")
    assert pairs.numbers() == [0, 1, 2]
    assert list_pairs(tmp_path / "TNO").listing.classes == ("",)


def test_a_file_says_which_pair_is_of_which_split(tmp_path):
    for name in ("a", "b", "c", "d"):
        put_pair(tmp_path, name)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a.png", "b"], "test": ["c"]}))
    pairs = list_pairs(tmp_path)
    assert splits(pairs) == {"train": 2, "test": 1}
    assert [one.path.stem for one in pairs.infrared] == ["a", "b", "c"]


def test_an_image_without_a_partner_is_named(tmp_path):
    put_pair(tmp_path, "a")
    put(tmp_path / "visible" / "lonely.png")
    put(tmp_path / "infrared" / "cold.png")
    found = told(list_pairs(tmp_path))
    assert "1 visible image without the infrared one" in found
    assert "lonely.png" in found
    assert "1 infrared image without the visible one" in found
    assert "cold.png" in found


def test_two_files_of_one_name_and_an_empty_folder_are_problems(tmp_path):
    put_pair(tmp_path, "a")
    put(tmp_path / "visible" / "a.bmp")
    assert "two files of one name" in told(list_pairs(tmp_path))
    (tmp_path / "other" / "infrared").mkdir(parents=True)
    (tmp_path / "other" / "visible").mkdir()
    assert "a folder without images" in told(list_pairs(tmp_path / "other"))


def test_folders_without_a_split_beside_some_that_are(tmp_path):
    put_pair(tmp_path / "train", "1")
    put_pair(tmp_path / "TNO", "2")
    assert "folders that are of no split" in told(list_pairs(tmp_path))
    put_pair(tmp_path / "new" / "test", "1")
    assert "no pairs to train on" in told(list_pairs(tmp_path / "new"))


def test_a_folder_of_classes_is_none_of_pairs(photos, tmp_path):
    assert not holds_pairs(photos)
    assert "no folders of infrared and visible images" in told(list_pairs(photos))
    with pytest.raises(DataError, match="no such folder of pairs"):
        list_pairs(tmp_path / "nowhere")


def test_a_link_that_leads_out_is_refused(tmp_path):
    put_pair(tmp_path / "own", "a")
    put(tmp_path / "secret.png")
    for folder in ("infrared", "visible"):
        (tmp_path / "own" / folder / "b.png").symlink_to(tmp_path / "secret.png")
    assert "a link leads out" in told(list_pairs(tmp_path / "own"))
    assert not told(list_pairs(tmp_path / "own", follow_symlinks=True))


def test_a_fused_image_is_found_by_its_whole_name_or_by_its_last_part(tmp_path):
    root, fused = tmp_path / "root", tmp_path / "fused"
    for split, name in (("train", "1"), ("train", "2"), ("test", "3")):
        put_pair(root / split, name)
    put(fused / "train" / "1.png")
    put(fused / "2.png")
    put(fused / "3.bmp")
    pairs = list_pairs(root, fused=fused)
    assert not told(pairs)
    assert [path.name for path in pairs.fused] == ["1.png", "2.png", "3.bmp"]
    (fused / "2.png").unlink()
    found = told(list_pairs(root, fused=fused))
    assert "1 image without a fused image" in found
    assert "2.png" in found
    assert "no such folder of fused images" in told(list_pairs(root, fused=tmp_path / "nowhere"))
