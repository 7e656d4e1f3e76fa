"""Which folder is a split and which a class, and the layouts that are refused with those that are understood."""

from pathlib import Path

import pytest
from PIL import Image

from tutelage.data.folder import Listing, list_folder, require_sound
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError


@pytest.fixture
def made(tmp_path, image_file):
    """A folder with images at these paths, all of other pixels."""
    def make(*paths: str, each: int = 1) -> Path:
        for number, path in enumerate(paths):
            for copy in range(each):
                image_file(tmp_path / "photos" / path / f"{copy}.png", seed=1000 * number + copy)
        return tmp_path / "photos"
    return make


def problem(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        require_sound(list_folder(root))
    return str(caught.value)


def splits(listing: Listing) -> dict[str, set[str]]:
    assert listing.problems == ()
    return {split: {image.label for image in listing.images if image.split == split}
            for split in dict.fromkeys(image.split for image in listing.images)}


@pytest.mark.parametrize(("word", "split"), [("validation", "val"), ("valid", "val"), ("dev", "val"), ("eval", "val"),
                                             ("VAL", "val"), ("testing", "test"), ("holdout", "test"),
                                             ("Test", "test")])
@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
def test_splits_go_by_the_words_people_use_in_any_case(made, word, split, train):
    root = made(*(f"{folder}/{label}" for folder in (train, word) for label in ("cat", "dog")))
    assert splits(list_folder(root)) == {"train": {"cat", "dog"}, split: {"cat", "dog"}}


def test_images_without_a_label_go_by_either_spelling(made):
    root = made("train/cat", "train/dog", "Unlabeled")
    assert splits(list_folder(root)) == {"train": {"cat", "dog"}, "unlabelled": {"_unlabelled"}}


def test_images_without_a_label_may_lie_beside_classes(made):
    assert splits(list_folder(made("cat", "dog", "unlabelled"))) == {"all": {"cat", "dog"},
                                                                     "unlabelled": {"_unlabelled"}}


@pytest.mark.parametrize(("first", "second", "purpose"), [
    ("val", "dev", "validation"), ("train", "training", "training"), ("test", "TEST", "testing")])
def test_two_folders_for_one_split_are_refused(made, first, second, purpose):
    others = ("train",) if "train" not in (first, second) else ()
    text = problem(made(*(f"{folder}/{label}" for folder in (first, second, *others) for label in ("cat", "dog"))))
    assert f"more than one folder for {purpose}" in text
    assert first in text
    assert second in text


@pytest.mark.parametrize("folder", ["extra", "Test_set"])
def test_a_folder_beside_the_splits_is_named_and_its_images_counted(made, folder):
    listing = list_folder(made("train/cat", "train/dog", f"{folder}/cat", f"{folder}/dog", each=2))
    assert splits(listing) == {"train": {"cat", "dog"}}
    assert listing.notes == (f"1 folder left out: beside the folders of the splits, 4 images in it ({folder})",)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_to_judge_by_without_one_to_train_on_is_refused(made, split):
    text = problem(made(f"{split}/cat", f"{split}/dog"))
    assert "no folder for training" in text
    assert split in text
    assert "FOLDER/train/CLASS" in text
    assert "no folder for training" in problem(made("cat", "dog", f"{split}/cat", f"{split}/dog"))


@pytest.mark.parametrize("layout", [("cat/train", "cat/test", "dog/train", "dog/test"),
                                    ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"),
                                    ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog", "fold2/bird"),
                                    ("training_set/cat", "training_set/dog", "test_set/cat", "test_set/dog"),
                                    ("train/cat/day", "train/cat/night", "train/dog/day", "train/dog/night")])
def test_classes_with_the_same_folders_in_them_are_no_classes(made, layout):
    text = problem(made(*layout))
    assert "a layout that is not understood" in text
    assert "FOLDER/CLASS/*.jpg" in text


def test_a_class_with_splits_in_it_is_refused_where_the_others_have_none(made):
    assert "not understood" in problem(made("images/train", "images/val", "pictures"))


@pytest.mark.parametrize("layout", [("cat/day", "cat/night", "cat", "dog/day", "dog/night", "dog"),
                                    ("cat/images", "dog/images"), ("cat/young", "cat/old", "dog/brown", "dog/black")])
def test_classes_may_have_folders_of_their_own(made, layout):
    assert splits(list_folder(made(*layout))) == {"all": {"cat", "dog"}}


@pytest.mark.parametrize("layout", [("train", "car", "bus"), ("train", "test", "car"), ("Dev", "car"),
                                    ("train/steam", "car/red", "bus/red")])
def test_a_class_that_has_the_name_of_a_split_is_a_class_beside_others(made, layout):
    listing = list_folder(made(*layout))
    assert splits(listing) == {"all": {path.partition("/")[0] for path in layout}}
    assert "taken for classes" in listing.notes[0]


def test_a_class_called_train_of_another_format_is_a_class_too(tmp_path):
    for label in ("train", "car"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "1.tif")
    assert splits(list_folder(tmp_path)) == {"all": {"train", "car"}}


@pytest.mark.parametrize(("layout", "where"), [(("train",), "train"), (("train/cat", "train/dog", "test"), "test"),
                                               (("train", "test"), "train"), (("",), "")])
def test_images_that_lie_directly_in_a_split_are_told_as_that(made, layout, where):
    root = made(*layout, each=10)
    text = problem(root)
    assert text.startswith("10 images, but no class folders")
    assert str(root / where) in text


@pytest.mark.parametrize("layout", ["archive", "a/b"])
@pytest.mark.parametrize("inside", [("train/cat", "train/dog"), ("cat", "dog")])
def test_a_folder_around_the_folder_is_seen_through(made, layout, inside):
    root = made(*(f"{layout}/{path}" for path in inside))
    (root / "readme.txt").write_text("hello")
    text = problem(root)
    assert f"give the folder {root / layout}" in text


def test_a_split_in_a_folder_of_its_own_name_is_seen_through(made):
    root = made("train/train/cat", "train/train/dog", "test/cat")
    assert f"give the folder {root / 'train' / 'train'}" in problem(root)


def test_a_layout_that_is_refused_leaves_nothing_to_train_on_also_in_a_smoke_run(made):
    root = made("cat/train", "cat/test", "dog/train", "dog/test")
    with pytest.raises(DataError, match="not understood"):
        load_data(DataSettings("folder", root=str(root)), quick=True)


def test_runs_made_before_keep_the_names_they_knew(made):
    root = made("train/cat", "train/dog", "dev/cat", "dev/dog", "val/cat")
    listing = list_folder(root, by_content=False)
    assert splits(listing) == {"train": {"cat", "dog"}, "val": {"cat"}}
