"""The same image in two splits or under two classes: found by its pixels, and refused, told, left out or allowed."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from every import every
from tutelage.data import folder, from_dataset, from_tensors, leakage
from tutelage.data.assemble import SplitRows
from tutelage.data.check import check_folder
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError


def loaded(root: Path, **settings: object):
    return load_data(DataSettings("folder", root=str(root), image_size=8, **settings))


def copied(photos: Path, source: str, target: str) -> Path:
    """Whatever the file is called and however it holds the pixels: BMP, of the same pixels."""
    Image.open(photos / source).save((photos / target).with_suffix(".bmp"))
    return photos


@pytest.fixture
def leaking(photos) -> Path:
    """One test image and one validation image that are training images too, and one training image in both classes."""
    copied(photos, "train/cat/0.png", "test/cat/copy")
    copied(photos, "train/dog/1.png", "val/dog/copy")
    return copied(photos, "train/cat/2.png", "train/dog/other")


def test_what_is_in_no_two_places_says_nothing(photos):
    data = loaded(photos)
    assert data.notes == ()
    assert data.also_in_training == {"validation": 0, "test": 0}


def test_an_image_for_training_and_for_testing_is_an_error_that_names_both(photos):
    with pytest.raises(DataError) as caught:
        loaded(copied(photos, "train/cat/0.png", "test/dog/copy"))
    assert "1 of 5 test images is a training image too: test/dog/copy.bmp is train/cat/0.png" in str(caught.value)
    assert 'leakage = "drop"' in str(caught.value)


@pytest.mark.parametrize(("target", "told", "count"), [
    ("val/cat/copy", "1 of 7 validation images is a training image too: val/cat/copy.bmp is train/cat/0.png", 1),
    ("train/dog/copy", "2 of 21 training images lie under more than one class: train/cat/0.png is train/dog/copy.bmp",
     0)])
def test_other_leaks_are_told_and_kept(photos, target, told, count):
    data = loaded(copied(photos, "train/cat/0.png", target))
    assert data.notes == (told,)
    assert data.also_in_training == {"validation": count, "test": 0}


def test_validation_and_test_may_not_share_images_in_silence(photos):
    assert loaded(copied(photos, "val/cat/0.png", "test/cat/copy")).notes == (
        "1 of 5 test images is a validation image too: test/cat/copy.bmp is val/cat/0.png",)


@pytest.mark.parametrize("target", ["val/cat/copy", "train/dog/copy", "test/cat/copy"])
def test_each_is_an_error_where_that_is_asked_for(photos, target):
    with pytest.raises(DataError, match="the same image"):
        loaded(copied(photos, "train/cat/0.png", target), leakage="error")


def test_each_is_told_and_kept_where_that_is_asked_for(leaking):
    data = loaded(leaking, leakage="warn")
    assert len(data.notes) == 3
    assert len(data.train.ids) == 21
    assert data.also_in_training == {"validation": 1, "test": 1}


def test_what_is_allowed_is_not_looked_for(leaking, monkeypatch):
    monkeypatch.setattr(leakage, "decode", lambda *args, **kwargs: pytest.fail("decoded"))
    data = loaded(leaking, leakage="allow")
    assert data.notes == ()
    assert data.also_in_training == {}


def test_copies_are_left_out_of_training_where_that_is_asked_for(leaking):
    whole, data = loaded(leaking, leakage="warn"), loaded(leaking, leakage="drop")
    names = [listed.path.name for listed in folder.list_folder(leaking).images]
    gone = sorted(names[place] for place in set(whole.train.ids.tolist()) - set(data.train.ids.tolist()))
    assert gone == ["0.png", "1.png", "2.png", "other.bmp"]
    assert torch.equal(data.validation.ids, whole.validation.ids)
    assert torch.equal(data.test.ids, whole.test.ids)
    assert data.also_in_training == {"validation": 0, "test": 0}
    assert data.notes == ('leakage = "drop": 2 training images that are held out too are left out',
                          'leakage = "drop": 2 training images that lie under more than one class are left out')
    assert data.digest != whole.digest


def test_a_class_that_would_lose_every_image_is_refused(photos):
    for number in range(10):
        shutil.copy(photos / "train" / "dog" / f"{number}.png", photos / "test" / "dog" / f"again{number}.png")
    with pytest.raises(DataError, match=r'no image of a class would be left with leakage = "drop"'):
        loaded(photos, leakage="drop")


def test_a_turned_copy_is_the_same_image(photos):
    image = Image.open(photos / "train" / "cat" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(photos / "test" / "cat" / "turned.png", exif=exif)
    with pytest.raises(DataError, match=r"turned\.png is train"):
        loaded(photos)


def test_a_grey_image_is_the_same_in_another_mode_and_not_in_another_shape(photos):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8))
    grey.save(photos / "train" / "cat" / "grey.png")
    Image.frombytes("L", (12, 10), grey.tobytes()).save(photos / "test" / "cat" / "grey.png")
    assert loaded(photos).notes == ()
    grey.convert("RGB").save(photos / "test" / "cat" / "grey.png")
    with pytest.raises(DataError, match="the same image"):
        loaded(photos)


def test_a_split_that_is_cut_by_rule_is_looked_through_too(tmp_path, image_file):
    for label, number in itertools.product(("a", "b"), range(20)):
        image_file(tmp_path / label / f"{number}.png", seed=7)
    with pytest.raises(DataError, match="the same image in the training split and in the test split"):
        loaded(tmp_path)


def test_a_copy_of_a_training_image_that_is_damaged_is_not_taken_for_one(photos):
    for split in ("train", "test"):
        path = photos / split / "cat" / "1.png"
        path.write_bytes(path.read_bytes()[:150])
    assert loaded(photos).notes == ()


def test_images_without_a_label_count_for_training_where_they_are_used(photos):
    (photos / "unlabelled").mkdir()
    copied(photos, "test/cat/0.png", "unlabelled/copy")
    assert loaded(photos).notes == ()
    with pytest.raises(DataError, match="is a training image too"):
        loaded(photos, unlabelled=True)


def test_a_smoke_run_does_not_look(leaking):
    settings = DataSettings("folder", root=str(leaking), image_size=8, leakage="error")
    assert load_data(settings, quick=True).notes == ()


def test_of_more_than_a_gibibyte_train_says_that_it_did_not_look_and_check_data_does(leaking, monkeypatch):
    monkeypatch.setattr(folder, "BYTES_HASHED_AT_ONCE", 1000)
    data = loaded(leaking)
    assert data.notes == (leakage.NOT_LOOKED,)
    assert data.also_in_training == {}
    report = check_folder(leaking)
    assert [finding.count for finding in report.warnings if finding.kind == "leakage"] == [1, 1, 2]
    assert report.errors == ()


def test_what_was_decoded_is_kept_for_the_next_start_by_what_the_files_hold(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(leakage, "KEPT_FROM_BYTES", 0)
    decoded, plain = [], leakage.decode

    def counted(path, *args, **kwargs):
        decoded.append(path)
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(leakage, "decode", counted)
    loaded(photos)
    assert len(decoded) == 30
    loaded(photos)
    assert len(decoded) == 30
    held = photos / "test" / "cat" / "0.png"
    before = held.stat()
    shutil.copy(photos / "train" / "cat" / "0.png", held)
    os.utime(held, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="the same image"):
        loaded(photos)
    assert len(decoded) == 30
    file, = (tmp_path / "cache").rglob("*.json")
    assert len(json.loads(file.read_text())["pixels"]) == 30
    file.write_text("{rubbish")
    with pytest.raises(DataError, match="the same image"):
        loaded(photos)


def test_a_cache_that_cannot_be_written_is_done_without(photos, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(leakage, "KEPT_FROM_BYTES", 0)
    assert loaded(photos).notes == ()


def pictures(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Listed(torch.utils.data.Dataset):
    def __init__(self, images: torch.Tensor, as_image: bool):
        self.images, self.as_image = images, as_image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple:
        image = self.images[row]
        return Image.fromarray(image.permute(1, 2, 0).numpy()) if self.as_image else image, row % 2


@pytest.mark.parametrize(("kind", "scale"), [
    ("tensors", 1), ("tensors", 255), ("data set of tensors", 1), ("data set of tensors", 255),
    ("data set of images", 1)])
def test_data_from_python_are_looked_through(kind, scale):
    train, test = pictures(20), pictures(6, seed=1)
    test[4] = train[3]
    parts = [part if scale == 1 else part / scale for part in (train, test)]
    more = pictures(4, seed=2)
    others = (more if scale == 1 else more / scale, torch.arange(4) % 2)

    def made(**options):
        if kind == "tensors":
            first, second = ((part, torch.arange(len(part)) % 2) for part in parts)
            return from_tensors(first, others, second, **options)
        return from_dataset(*(Listed(part, "images" in kind) for part in (parts[0], others[0], parts[1])), **options)

    with pytest.raises(DataError, match="row 4 of test is row 3 of train"):
        made()
    assert made(leakage="warn").also_in_training == {"validation": 0, "test": 1}
    assert made(leakage="allow").notes == ()
    assert 3 not in made(leakage="drop").train.ids.tolist()


def test_rows_of_training_that_are_held_out_for_validation_too_are_told():
    data = from_tensors((pictures(10).repeat(3, 1, 1, 1), torch.arange(30) % 2), validation=0.2, split_rule=1)
    assert "validation images are training images too: row" in data.notes[0]
    assert data.also_in_training == {"validation": 6}


def test_a_published_set_keeps_its_test_images_and_says_how_many_are_for_training_too(monkeypatch):
    from tutelage.data import published

    whole = published.digits()
    images = whole.images.clone()
    images[1500:1510] = images[:10]
    monkeypatch.setattr(published, "digits", lambda: whole._replace(images=images, training=1500))
    data = load_data(DataSettings("digits"))
    held = set(range(10)) - set(data.train.ids.tolist())
    assert data.also_in_training["test"] == 10 - len(held)
    assert f"{10 - len(held)} of 297 test images are training images too: image 15" in " ".join(data.notes)
    assert len(load_data(DataSettings("digits", leakage="drop")).test.ids) == 297
    with pytest.raises(DataError, match="the same image"):
        load_data(DataSettings("digits", leakage="error"))


def test_leaks_are_those_that_a_plain_loop_finds():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        keys = torch.randint(0, 12, (24,), generator=generator)
        labels = torch.randint(-1, 3, (24,), generator=generator)
        parts = dict(zip(("train", "validation", "test"), torch.randperm(24, generator=generator).split([12, 6, 6]),
                         strict=True))
        splits = {name: SplitRows(ids, labels[ids]) for name, ids in parts.items()}
        found = {(leak.split, leak.other): set(leak.ids.tolist()) for leak in leakage.find_leaks(splits, keys)}
        expected = {}
        for one, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
            expected[one, other] = {i for i in parts[one].tolist() if keys[i] in [keys[j] for j in parts[other]]}
        for name, ids in parts.items():
            known = [i for i in ids.tolist() if labels[i] >= 0]
            expected[name, name] = {i for i in known if any(keys[i] == keys[j] and labels[i] != labels[j]
                                                            for j in known)}
        assert found == {pair: ids for pair, ids in expected.items() if ids}
        assert every(keys[leak.example[0]] == keys[leak.example[1]] for leak in leakage.find_leaks(splits, keys))
