"""The [data] table: what each name gives, what it needs, and what is said when that is missing."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, Source
from tutelage.errors import DataError, UsageError
from tutelage.types import Batch


def parts(data: Data) -> list[set[int]]:
    return [set(split.ids.tolist()) for split in (data.train, data.validation, data.test) if split is not None]


def everything(source: Source) -> Batch:
    return next(source.batches([torch.arange(len(source.ids))], draw=None))


def test_digits_are_split_without_overlap_and_the_same_for_every_seed():
    data, other = load_data(DataSettings("digits")), load_data(DataSettings("digits"), seed=7)
    assert [len(part) for part in parts(data)] == [1296, 143, 358]
    assert set.union(*parts(data)) == set(range(1797))
    assert parts(data) == parts(other)
    assert data.digest == other.digest
    one, another = (next(found.train.batches([torch.arange(8)], draw=0)) for found in (data, other))
    assert not torch.equal(one.inputs, another.inputs)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load_data(DataSettings("digits"))
    batch = everything(data.test)
    assert batch.labels.tolist() == bunch.target[data.test.ids.numpy()].tolist()
    means = torch.nn.functional.avg_pool2d(batch.inputs, 2)[:, 0] * 16
    assert (means - torch.from_numpy(bunch.images[data.test.ids.numpy()])).abs().mean() < 1.5
    assert batch.inputs.min() == 0
    assert batch.inputs.max() == 1


def test_digits_are_never_flipped_by_default():
    data = load_data(DataSettings("digits"))
    assert not data.train.how.flip
    assert data.train.how.padding == 2
    assert data.train.how.seed == 0


def test_the_validation_share_and_the_limit_are_as_asked():
    whole, some = (load_data(DataSettings("digits", validation=0.25, limit=limit)) for limit in (None, 100))
    assert len(whole.validation.ids) == 361  # a quarter of 1439, to within the rounding of ten classes
    assert len(some.train.ids) == 100
    assert parts(some)[0] < parts(whole)[0]
    assert parts(some)[1:] == parts(whole)[1:]
    assert some.digest != whole.digest


def test_evaluation_splits_are_never_augmented():
    data = load_data(DataSettings("digits", augment="crop-flip", mixup=0.5))
    rows = [torch.arange(8)]
    for split in (data.validation, data.test):
        assert torch.equal(next(split.batches(rows, draw=0)).inputs, next(split.batches(rows, draw=None)).inputs)
        assert next(split.batches(rows, draw=0)).labels.dtype == torch.int64


@pytest.mark.parametrize(("name", "shape", "classes"), [
    ("digits", (1, 16, 16), 10), ("cifar10", (3, 32, 32), 10), ("cifar100", (3, 32, 32), 100),
    ("fashion_mnist", (1, 32, 32), 10), ("imagenet100", (3, 64, 64), 100), ("folder", (3, 64, 64), 10)])
@pytest.mark.parametrize("augment", [None, "randaugment"])
def test_quick_needs_no_files(name, shape, classes, augment, monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "nothing"))
    size = 64 if shape[1] == 64 else None
    data = load_data(DataSettings(name, root="nowhere", image_size=size, augment=augment), quick=True)
    assert data.shape == shape
    assert len(data.classes) == classes
    assert [len(part) for part in parts(data)] == [64, 32, 32]
    batch = next(data.train.batches([torch.arange(8)], draw=0))
    assert batch.inputs.shape == (8, *shape)
    assert batch.inputs.dtype == torch.float32
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1


def test_quick_takes_the_classes_of_a_folder_that_is_there(photos):
    data = load_data(DataSettings("folder", root=str(photos), image_size=8), quick=True)
    assert data.classes == ("cat", "dog")
    assert len(data.train.ids) == 64


@pytest.mark.parametrize(("name", "files"), [("cifar10", "data_batch_1"), ("cifar100", "meta"),
                                             ("fashion_mnist", "t10k-labels-idx1-ubyte")])
def test_missing_files_are_named_with_the_place_and_the_fix(name, files, tmp_path):
    with pytest.raises(DataError) as caught:
        load_data(DataSettings(name, root=str(tmp_path)))
    error = caught.value
    assert files in error.found
    assert str(tmp_path) in error.where
    assert "download = true" in error.fix
    assert "root = " in error.fix


def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def no_network(self: CIFAR10) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded[\s\S]*Name or service[\s\S]*copy the files"):
        load_data(DataSettings("cifar10", root=str(tmp_path), download=True))


def test_imagenet100_must_have_a_hundred_classes(photos):
    with pytest.raises(DataError, match=r"not ImageNet-100[\s\S]*2 classes"):
        load_data(DataSettings("imagenet100", root=str(photos)))


def test_a_relative_root_is_looked_for_under_the_data_folder(photos, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(photos.parent))
    assert load_data(DataSettings("folder", root="photos", image_size=8)).classes == ("cat", "dog")


def test_training_images_may_have_other_labels_and_what_is_held_out_keeps_those_of_the_set(tmp_path, monkeypatch):
    plain = load_data(DataSettings("digits", limit=50))
    told = np.full(1797, 3)
    told[plain.train.ids[:5]] = -1
    np.savez(tmp_path / "people.npz", first=told, short=told[:5])
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    other = load_data(DataSettings("digits", limit=50, labels="people.npz:first"))
    assert other.train.ids.tolist() == plain.train.ids.tolist()
    assert other.train.labels.tolist() == [-1] * 5 + [3] * 45
    assert other.validation.labels.tolist() == plain.validation.labels.tolist()
    assert other.test.labels.tolist() == plain.test.labels.tolist()
    assert other.digest != plain.digest


@pytest.mark.parametrize(("labels", "complaint"), [
    ("no.npy", "cannot read"), ("people.npz", "which numbers"), ("people.npz:second", "cannot read"),
    ("people.npz:short", "not the labels of these images"), ("people.npz:real", "whole numbers"),
    ("people.npz:eleven", "labels of other classes"), ("one.npy:first", "which numbers"), ("text.npy", "cannot read")])
def test_labels_that_cannot_be_meant_are_refused(tmp_path, labels, complaint):
    told = np.zeros(1797, int)
    np.savez(tmp_path / "people.npz", short=told[:5], real=told / 2, eleven=told + 10)
    np.save(tmp_path / "one.npy", told)
    (tmp_path / "text.npy").write_text("0 1 2")
    with pytest.raises(DataError, match=complaint):
        load_data(DataSettings("digits", labels=str(tmp_path / labels)))


def test_the_rows_to_train_on_may_be_chosen_by_their_ids(tmp_path):
    whole = load_data(DataSettings("digits"))
    wanted = whole.train.ids[[5, 900, 17]]
    np.save(tmp_path / "rows.npy", wanted.numpy())
    some = load_data(DataSettings("digits", only=str(tmp_path / "rows.npy"), every_class=False))
    assert some.train.ids.tolist() == sorted(wanted.tolist())
    assert some.train.labels.tolist() == [int(whole.train.labels[whole.train.ids == id_]) for id_ in some.train.ids]
    assert parts(some)[1:] == parts(whole)[1:]


def hashes(data: Data) -> list[str]:
    return [hashlib.sha256(split.ids.numpy().tobytes()).hexdigest()[:16]
            for split in (data.train, data.validation, data.test)]


@pytest.mark.parametrize(("settings", "quick", "digest", "ids"), [
    ({}, False, "4dc1a58e2df0121d", ["fce2c8dafddcfdf1", "ca834a66321b28b7", "06045b8d6820fc79"]),
    ({"limit": 100}, False, "b907b0626a72b9cf", ["80631e767510bc16", "ca834a66321b28b7", "06045b8d6820fc79"]),
    ({"validation": 0.25}, False, "e220a5429d75d872", ["9b73086c4c4eaf20", "a334a169ad565bc4", "06045b8d6820fc79"]),
    ({}, True, "7438b0eb9bba7dae", ["ee635072ed165ddc", "ef33a20148fb6039", "d53f09e508224efc"])])
def test_rule_1_gives_runs_made_before_the_rows_and_the_digest_they_had(settings, quick, digest, ids):
    data = load_data(DataSettings("digits", **settings, split_rule=1), quick=quick)
    assert data.digest[:16] == digest
    assert hashes(data) == ids
    now = load_data(DataSettings("digits", **settings), quick=quick)
    assert now.digest != data.digest
    assert hashes(now) != ids


def test_rows_that_leave_a_class_without_any_are_refused_with_its_name_unless_that_is_meant(tmp_path):
    whole = load_data(DataSettings("digits"))
    np.save(tmp_path / "rows.npy", whole.train.ids[(whole.train.labels != 3) & (whole.train.labels != 8)].numpy())
    with pytest.raises(DataError, match=r"classes without a training image[\s\S]*no image of 3, 8\n[\s\S]*every_class"):
        load_data(DataSettings("digits", only=str(tmp_path / "rows.npy")))
    some = load_data(DataSettings("digits", only=str(tmp_path / "rows.npy"), every_class=False))
    assert some.train.labels.bincount()[[3, 8]].tolist() == [0, 0]
    assert some.notes == ()


def test_fewer_rows_than_classes_are_refused_with_both_numbers():
    assert sorted(load_data(DataSettings("digits", limit=10)).train.labels.tolist()) == list(range(10))
    with pytest.raises(UsageError, match=r"\[data\] limit\n[\s\S]*limit = 9\n[\s\S]*10 or more"):
        load_data(DataSettings("digits", limit=9))
    assert len(load_data(DataSettings("digits", limit=9, split_rule=1)).train.ids) == 9


def test_a_class_that_other_labels_name_once_keeps_its_row_within_a_limit(tmp_path):
    plain = load_data(DataSettings("digits", limit=30))
    far = next(id_ for id_ in load_data(DataSettings("digits")).train.ids.tolist() if id_ not in plain.train.ids)
    told = np.zeros(1797, int)
    told[far] = 9
    np.save(tmp_path / "told.npy", told)
    data = load_data(DataSettings("digits", limit=30, labels=str(tmp_path / "told.npy")))
    assert data.train.labels.bincount().tolist() == [29, *[0] * 8, 1]
    assert data.notes[0] == "no training image teaches 8 of 10 classes: 1, 2, 3, 4, 5, 6, 7, 8"


@pytest.mark.parametrize("ids", [[-1], [0.5], [], [[0, 1]]])
def test_rows_that_cannot_be_meant_are_refused(tmp_path, ids):
    np.save(tmp_path / "rows.npy", np.array(ids))
    with pytest.raises(DataError):
        load_data(DataSettings("digits", only=str(tmp_path / "rows.npy")))
    np.save(tmp_path / "rows.npy", load_data(DataSettings("digits")).test.ids[:2].numpy())
    with pytest.raises(DataError, match="not the ids of training images"):
        load_data(DataSettings("digits", only=str(tmp_path / "rows.npy")))


def test_folders_have_no_labels_but_their_own():
    with pytest.raises(UsageError, match=r"\[data\] labels"):
        DataSettings("folder", root="x", labels="y.npy")


@pytest.mark.parametrize(("field", "value"), [("validation", 0.0), ("batch_size", 0), ("mixup", -1.0), ("limit", 0),
                                              ("image_size", 3), ("workers", -1), ("cutmix", float("nan"))])
def test_settings_out_of_range_are_refused_with_the_field(field, value):
    with pytest.raises(UsageError, match=rf"\[data\] {field}"):
        DataSettings("digits", **{field: value})


def test_a_name_that_is_nearly_right_is_suggested():
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="cifar10"):
        TypeAdapter(DataSettings).validate_python({"name": "cifer10"})


def test_importing_the_package_is_light():
    code = ("import sys; import tutelage.data; from tutelage.data.load import load_data; "
            "print([name for name in ('torchvision', 'sklearn', 'scipy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "counts", "name_of_class_3"), [
    pytest.param("cifar10", [45_000, 5_000, 10_000], "cat", marks=pytest.mark.slow),
    ("cifar100", [45_000, 5_000, 10_000], "bear"),
    ("fashion_mnist", [54_000, 6_000, 10_000], "Dress")])
def test_published_sets_are_read_row_by_row_as_torchvision_gives_them(real_data, name, counts, name_of_class_3):
    from torchvision import datasets

    kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}
    data = load_data(DataSettings(name, root=str(real_data)))
    assert [len(part) for part in parts(data)] == counts
    assert sum(counts) == len(set.union(*parts(data)))
    assert data.classes[3] == name_of_class_3
    train, test = (kinds[name](str(real_data), train=first) for first in (True, False))
    for split, reference, start in ((data.train, train, 0), (data.validation, train, 0), (data.test, test, len(train))):
        rows = torch.tensor([0, 17, len(split.ids) - 1])
        batch = next(split.batches([rows], draw=None))
        for image, label, number in zip(batch.inputs, batch.labels, batch.ids, strict=True):
            expected, wanted = reference[int(number) - start]
            pixels = torch.from_numpy(np.array(expected))
            pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
            pixels = torch.nn.functional.pad(pixels, [(32 - pixels.shape[1]) // 2] * 4)
            assert torch.equal((image * 255).round().byte(), pixels)
            assert int(label) == wanted


def test_a_damaged_file_of_a_published_set_is_never_opened(real_data, tmp_path):
    shutil.copytree(real_data / "cifar-100-python", tmp_path / "cifar-100-python")
    with (tmp_path / "cifar-100-python" / "test").open("r+b") as file:
        file.seek(1000)
        file.write(b"evil")
    with pytest.raises(DataError, match=r"damaged[\s\S]*cifar-100-python"):
        load_data(DataSettings("cifar100", root=str(tmp_path)))


@pytest.mark.parametrize(("root", "counts"), [("flowers5", [2934, 736]), ("caltech101", [1818, 202, 1010])])
def test_real_folders_are_read(real_data, root, counts):
    data = load_data(DataSettings("folder", root=str(real_data / root), image_size=32))
    assert [len(part) for part in parts(data)] == counts
    batch = next(data.train.batches([torch.arange(4)], draw=0))
    assert batch.inputs.shape == (4, 3, 32, 32)
