"""Folders of images: what is read, what is left out, and what is refused with its path."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from every import every
from tutelage.data import folder
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, SecurityError, UsageError


def loaded(root: Path, **settings: object):
    return load_data(DataSettings("folder", root=str(root), image_size=8, **settings))


def refused(root: Path, kind: type[Exception] = DataError, **settings: object) -> str:
    with pytest.raises(kind) as caught:
        loaded(root, **settings)
    return str(caught.value)


@pytest.fixture
def flat(tmp_path, image_file):
    """Three classes of twenty images, not split."""
    for label in ("a", "b", "c"):
        for number in range(20):
            image_file(tmp_path / "flat" / label / f"{number:02}.png", seed=ord(label) * 100 + number)
    return tmp_path / "flat"


def test_splits_are_found_and_ids_count_through_them(photos):
    data = loaded(photos)
    assert data.classes == ("cat", "dog")
    assert data.train.ids.tolist() == list(range(20))
    assert data.validation.ids.tolist() == list(range(20, 26))
    assert data.test.ids.tolist() == list(range(26, 30))
    assert data.train.labels.tolist() == [0] * 10 + [1] * 10


def test_without_a_validation_folder_a_share_of_train_is_held_out(photos):
    whole = loaded(photos)
    for path in (photos / "val").rglob("*.png"):
        path.unlink()
    for path in (photos / "val" / "cat", photos / "val" / "dog", photos / "val"):
        path.rmdir()
    data = loaded(photos, validation=0.2)
    held, kept = set(data.validation.ids.tolist()), set(data.train.ids.tolist())
    assert len(held) == 4
    assert not held & kept
    assert held | kept == set(whole.train.ids.tolist())
    assert data.validation.labels.bincount().tolist() == [2, 2]
    assert data.test.ids.tolist() == [20, 21, 22, 23]


def test_a_folder_that_is_not_split_gives_up_a_fifth_for_the_test(flat):
    data = loaded(flat)
    parts = [set(split.ids.tolist()) for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [43, 5, 12]
    assert set.union(*parts) == set(range(60))
    assert data.test.labels.bincount().tolist() == [4, 4, 4]


def splits_by_path(root: Path, **settings: object) -> dict[str, str]:
    """Path within the folder -> the split that it is in."""
    data, listing = loaded(root, **settings), folder.list_folder(root)
    return {listing.name(listing.images[id_]): split for split in ("train", "validation", "test")
            for id_ in getattr(data, split).ids.tolist()}


def test_an_image_more_anywhere_moves_at_most_two_others_and_a_class_more_moves_none_of_another(flat, image_file):
    before = splits_by_path(flat)
    for name in ("0.png", "07x.png", "zz.png", "deeper/1.png"):
        path = image_file(flat / "a" / name, seed=1)
        after = splits_by_path(flat)
        assert len([name for name in before if before[name] != after[name]]) <= 2
        path.unlink()
    for number in range(20):
        image_file(flat / "d" / f"{number}.png", seed=number)
    after = splits_by_path(flat)
    assert {name for name in before if before[name] != after[name]} == set()


def test_the_cut_is_that_of_the_paths_wherever_the_folder_lies(flat, tmp_path):
    before = splits_by_path(flat)
    shutil.copytree(flat, tmp_path / "elsewhere" / "else")
    assert splits_by_path(tmp_path / "elsewhere" / "else") == before


def test_folders_keep_rule_1_where_it_is_asked_for(flat):
    assert loaded(flat, split_rule=1).test.ids.tolist() == [2, 10, 16, 19, 25, 28, 32, 35, 47, 48, 56, 58]
    assert loaded(flat).test.ids.tolist() != loaded(flat, split_rule=1).test.ids.tolist()


def test_a_class_with_one_image_goes_to_training_and_who_has_too_few_is_named_once(flat, image_file):
    image_file(flat / "rare" / "1.png", seed=900)
    for number in range(2):
        image_file(flat / "scarce" / f"{number}.png", seed=901 + number)
    data = loaded(flat)
    assert int((data.train.labels == 3).sum()) == 1
    assert int((data.train.labels == 4).sum()) >= 1
    told = "\n".join(data.notes)
    assert "no validation image judges 2 of 5 classes: rare (1 to train on), scarce (" in told
    assert "no test image judges" in told
    assert told.count("classes of unequal size: 15 training images of") == 1


def test_validation_is_matched_by_class_name(photos):
    for path in (photos / "val" / "cat").iterdir():
        path.unlink()
    (photos / "val" / "cat").rmdir()
    data = loaded(photos)
    assert data.validation.labels.tolist() == [1, 1, 1]


def test_an_unknown_class_in_validation_is_refused(photos, image_file):
    image_file(photos / "val" / "dgo" / "1.png")
    text = refused(photos)
    assert "unknown class 'dgo'" in text
    assert "did you mean 'dog'?" in text
    assert str(photos / "val") in text


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints", "__MACOSX", ".hidden"])
def test_hidden_and_system_folders_are_no_classes(photos, image_file, name):
    before = loaded(photos)
    image_file(photos / "train" / name / "1.png")
    image_file(photos / "train" / "cat" / name / "1.png")
    for junk in (".DS_Store", "Thumbs.db", "._1.png", "notes.txt"):
        (photos / "train" / "cat" / junk).write_bytes(b"junk")
    (photos / "train" / "README.md").write_text("hello")
    data = loaded(photos)
    assert data.classes == before.classes
    assert data.digest == before.digest


def test_images_in_folders_of_a_class_and_in_capitals_belong_to_it(photos, image_file):
    image_file(photos / "train" / "cat" / "more" / "1.PNG")
    image_file(photos / "train" / "cat" / "2.JPeG")
    assert loaded(photos).train.labels.bincount().tolist() == [12, 10]


def test_an_empty_class_is_refused(photos):
    (photos / "train" / "bird").mkdir()
    text = refused(photos)
    assert "a folder without images" in text
    assert str(photos / "train" / "bird") in text


def test_one_class_is_refused(tmp_path, image_file):
    image_file(tmp_path / "train" / "cat" / "1.png")
    assert "too few classes" in refused(tmp_path)


def test_no_images_and_no_folder_are_refused(tmp_path):
    assert "too few classes" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_too_few_images_to_hold_any_out_are_refused(tmp_path, image_file):
    for label in ("a", "b"):
        image_file(tmp_path / label / "1.png")
    assert "too few images to hold out" in refused(tmp_path)


def test_a_folder_without_a_path_is_a_usage_error():
    with pytest.raises(UsageError, match="root"):
        load_data(DataSettings("folder"))


def test_links_inside_are_followed_and_links_out_are_refused(photos, image_file, tmp_path):
    (photos / "train" / "cat" / "link.png").symlink_to(photos / "train" / "dog" / "1.png")
    assert len(loaded(photos).train.ids) == 21
    image_file(tmp_path / "elsewhere" / "1.png")
    link = photos / "train" / "cat" / "out.png"
    link.symlink_to(tmp_path / "elsewhere" / "1.png")
    text = refused(photos, SecurityError)
    assert str(link) in text
    assert "follow_symlinks" in text
    assert len(loaded(photos, follow_symlinks=True).train.ids) == 22
    link.unlink()
    (photos / "train" / "bird").symlink_to(tmp_path / "elsewhere")
    assert "leads out" in refused(photos, SecurityError)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_that_is_a_link_out_is_refused(photos, tmp_path, split):
    (photos / split).rename(tmp_path / "moved")
    (photos / split).symlink_to(tmp_path / "moved")
    assert "leads out" in refused(photos, SecurityError)


def test_a_link_to_nowhere_and_a_link_in_a_circle(photos):
    (photos / "train" / "cat" / "gone.png").symlink_to(photos / "gone.png")
    assert "leads nowhere" in refused(photos)
    (photos / "train" / "cat" / "gone.png").unlink()
    (photos / "train" / "cat" / "circle").symlink_to(photos / "train")
    (photos / "train" / "cat" / "self").symlink_to(photos / "train" / "cat" / "self")
    assert "leads nowhere" in refused(photos)
    (photos / "train" / "cat" / "self").unlink()
    loaded(photos)


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(photos):
    os.mkfifo(photos / "train" / "cat" / "pipe.png")
    text = refused(photos)
    assert "not a regular file" in text
    assert "pipe.png" in text


@pytest.mark.timeout(20)
def test_a_file_that_became_a_pipe_after_loading_is_not_waited_for(photos):
    data = loaded(photos)
    path = photos / "train" / "cat" / "0.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        next(data.train.batches([torch.tensor([0])], draw=0))


def test_a_file_that_vanished_after_loading_is_named(photos):
    data = loaded(photos)
    (photos / "train" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*0\.png[\s\S]*No such file"):
        next(data.train.batches([torch.tensor([0])], draw=0))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\nrubbish"])
def test_what_is_no_image_is_found_at_the_door(photos, content):
    path = photos / "train" / "cat" / "bad.png"
    path.write_bytes(content)
    assert str(path) in refused(photos)


def test_several_problems_are_counted_and_the_gravest_comes_first(photos, tmp_path):
    for number in range(3):
        (photos / "train" / "cat" / f"gone{number}.png").symlink_to(photos / "gone.png")
    (photos / "train" / "cat" / "out.png").symlink_to("/etc/hostname")
    text = refused(photos, SecurityError)
    assert "3 more problems" in text
    assert "check-data" in text


def test_an_image_over_the_cap_is_refused_at_the_door(photos):
    assert "more pixels than allowed" in refused(photos, SecurityError, max_pixels=119)


def test_odd_names_work(photos, image_file):
    for number, name in enumerate([b"caf\xe9", "süß 😀".encode(), b"new\nline", b"x" * 250]):
        image_file(photos / "train" / "cat" / os.fsdecode(name + b".png"), seed=number)
        image_file(photos / "train" / os.fsdecode(name) / "1.png", seed=number + 10)
    data = loaded(photos)
    next(data.train.batches([torch.arange(len(data.train.ids))], draw=0))
    assert "caf\\xe9" in data.classes
    assert every(name.encode().decode() == name for name in data.classes)


def test_the_digest_sees_bytes_names_and_splits_and_not_times(photos):
    before = loaded(photos).digest
    path = photos / "train" / "cat" / "0.png"
    os.utime(path, (1, 1))
    assert loaded(photos).digest == before
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    whole = path.read_bytes()
    path.write_bytes(content)
    assert loaded(photos).digest != before
    path.write_bytes(whole)
    assert loaded(photos).digest == before
    path.rename(path.with_name("00.png"))
    assert loaded(photos).digest != before


def test_unlabelled_images_are_used_when_asked_for_and_move_nothing(photos, image_file):
    before = loaded(photos, validation=0.2)
    for number in range(4):
        image_file(photos / "train" / "_unlabelled" / f"{number}.png", seed=number)
        image_file(photos / "unlabelled" / f"{number}.png", seed=number + 4)
    without, used = loaded(photos), loaded(photos, unlabelled=True)
    assert without.classes == used.classes == ("cat", "dog")
    assert without.train.ids.tolist() == before.train.ids.tolist()
    assert used.train.ids[:20].tolist() == before.train.ids.tolist()
    assert used.train.labels[20:].tolist() == [-1] * 8
    assert used.validation.ids.tolist() == before.validation.ids.tolist()


def test_unlabelled_images_of_validation_never_reach_training(photos, image_file):
    image_file(photos / "val" / "_unlabelled" / "1.png")
    assert "_unlabelled" in refused(photos, unlabelled=True)


def test_palette_cmyk_and_grey_files_train_together(photos):
    for number, mode in enumerate(["CMYK", "L"]):
        Image.new(mode, (9, 9)).save(photos / "train" / "cat" / f"odd{number}.jpg")
    for number, mode in enumerate(["P", "RGBA", "1", "LA"]):
        Image.new(mode, (9, 9)).save(photos / "train" / "cat" / f"odd{number}.png")
    data = loaded(photos)
    assert next(data.train.batches([torch.arange(26)], draw=0)).inputs.shape == (26, 3, 8, 8)


def test_large_sets_are_judged_by_their_heads(photos, monkeypatch):
    monkeypatch.setattr(folder, "BYTES_HASHED_AT_ONCE", 0)
    monkeypatch.setattr(folder, "HEADERS_READ_AT_ONCE", 0)
    before = loaded(photos, max_pixels=119).digest
    (photos / "train" / "cat" / "0.png").write_bytes(b"<html>")
    assert "<html>" in refused(photos)
    assert before != ""


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_may_lack_in_validation_but_a_split_may_not_be_empty(photos, split):
    for path in (photos / split / "cat").iterdir():
        path.unlink()
    loaded(photos)
    for path in (photos / split / "dog").iterdir():
        path.unlink()
    text = refused(photos)
    assert "a folder without images" in text
    assert str(photos / split) in text


def test_the_digest_sees_the_last_byte_of_a_large_file(photos, image_file):
    path = image_file(photos / "train" / "cat" / "large.bmp", size=(64, 64))
    before = loaded(photos).digest
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert loaded(photos).digest != before
