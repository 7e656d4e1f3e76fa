"""Sets of series: splits, scaling from training rows alone, padding with a mask, subjects, and the real archives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from every import every
from tutelage.data.load import load_data
from tutelage.data.series import jittered
from tutelage.data.settings import DataSettings
from tutelage.data.splits import hold_groups
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.system.random import derive, normal


def some(count=40, channels=2, shortest=3, longest=6, seed=0, subjects=8, classes=2):
    """Arrays of series of unlike length; beyond its length a series is full of nines."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(shortest, longest + 1, count)
    x = draw.normal(5, 3, (count, channels, longest))
    for row, length in enumerate(lengths):
        x[row, :, length:] = 9e9
    return {"x": x, "y": np.arange(count) % classes, "lengths": lengths,
            "subject": (np.arange(count) // classes) % subjects}


def saved(folder, name="set.npz", **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder / name


def loaded(root, **words):
    return load_data(DataSettings("series", root=str(root), **words))


def whole(source, draw=None, views=("",)):
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=draw, views=views)
    return batch


def splits(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def test_values_are_scaled_by_the_training_rows_and_padded_with_zeros_behind_a_mask(tmp_path):
    arrays = some()
    data = loaded(saved(tmp_path, **arrays))
    training = [arrays["x"][row, :, :arrays["lengths"][row]] for row in data.train.ids.tolist()]
    steps = np.concatenate(training, axis=1)
    mean, std = steps.mean(1), steps.std(1)
    assert np.allclose(data.preprocessing["mean"], mean)
    assert np.allclose(data.preprocessing["std"], std)
    assert data.shape == (2, 6)
    assert json.loads(json.dumps(data.preprocessing)) == data.preprocessing
    for source in splits(data).values():
        view = whole(source).inputs[""]
        for place, row in enumerate(source.ids.tolist()):
            length = int(arrays["lengths"][row])
            expected = np.zeros((2, 6))
            expected[:, :length] = (arrays["x"][row, :, :length] - mean[:, None]) / std[:, None]
            assert np.allclose(view["values"][place].numpy(), expected, atol=1e-5)
            assert view["mask"][place].tolist() == [True] * length + [False] * (6 - length)
    assert view["values"].dtype == torch.float32


def test_series_of_one_length_are_a_plain_tensor(tmp_path):
    arrays = some(shortest=6)
    batch = whole(loaded(saved(tmp_path, **arrays)).train)
    assert isinstance(batch.inputs, torch.Tensor)
    assert batch.inputs.shape[1:] == (2, 6)
    named = whole(loaded(saved(tmp_path, **arrays)).train, views=("a", "b")).inputs
    assert list(named) == ["a", "b"]
    assert torch.equal(named["a"], batch.inputs)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_held_out_has_no_part_in_what_is_trained_on(tmp_path, split):
    arrays = some()
    before = loaded(saved(tmp_path, **arrays))
    row = int(splits(before)[split].ids[0])
    arrays["x"][row, 0, 1] += 1e6
    after = loaded(saved(tmp_path, **arrays))
    assert before.preprocessing == after.preprocessing
    for name, source in splits(before).items():
        one, other = whole(source), whole(splits(after)[name])
        assert torch.equal(one.ids, other.ids)
        same = torch.equal(one.inputs[""]["values"], other.inputs[""]["values"])
        assert same == (name != split)
    assert before.digest != after.digest


def test_the_longest_of_all_splits_gives_the_length(tmp_path):
    saved(tmp_path, "a_TRAIN.npz", x=np.random.default_rng(0).normal(size=(20, 1, 4)), y=np.arange(20) % 2)
    saved(tmp_path, "a_TEST.npz", x=np.random.default_rng(1).normal(size=(4, 1, 7)), y=np.arange(4) % 2)
    data = loaded(tmp_path)
    assert [len(source.ids) for source in splits(data).values()] == [18, 2, 4]
    assert data.shape == (1, 7)
    assert every(whole(source).inputs[""]["mask"].shape[1] == 7 for source in splits(data).values())
    assert int(whole(data.train).inputs[""]["mask"].sum()) == 18 * 4


def test_a_channel_that_never_changes_is_moved_to_zero(tmp_path):
    arrays = some(shortest=6)
    arrays["x"][:, 1] = 0.1
    assert float(whole(loaded(saved(tmp_path, **arrays)).train).inputs[:, 1].abs().max()) < 1e-12


def test_whole_subjects_are_held_out(tmp_path):
    arrays = some(count=100, subjects=10)
    data = loaded(saved(tmp_path, **arrays), by="subject", validation=0.2)
    whose = {name: set(arrays["subject"][source.ids.numpy()].tolist()) for name, source in splits(data).items()}
    assert sum(map(len, whose.values())) == len(set.union(*whose.values())) == 10
    assert [len(source.ids) for source in splits(data).values()] == [60, 20, 20]
    assert data.digest != loaded(saved(tmp_path, **arrays), validation=0.2).digest


def test_a_test_split_of_its_own_stays_and_must_have_other_subjects(tmp_path):
    train, test = some(count=60, subjects=6), some(count=20, subjects=2, seed=1)
    saved(tmp_path, "train.npz", **train)
    saved(tmp_path, "test.npz", **{**test, "subject": test["subject"] + 100})
    data = loaded(tmp_path, by="subject")
    assert data.test.ids.tolist() == list(range(60, 80))
    assert len(set(train["subject"][data.validation.ids.numpy()].tolist())) == 1
    saved(tmp_path, "test.npz", **test)
    with pytest.raises(DataError, match=r"subjects in the files of two [\s\S]*0, 1 \(2 in all\) in train and test"):
        loaded(tmp_path, by="subject")
    assert len(loaded(tmp_path).test.ids) == 20


def test_too_few_subjects_and_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"too few subjects to hold out some for validation[\s\S]*1 subjects"):
        loaded(saved(tmp_path, **some(subjects=2)), by="subject")
    unknown = some()
    del unknown["subject"]
    with pytest.raises(UsageError, match="do not say whose they are"):
        loaded(saved(tmp_path, **unknown), by="subject")


def test_no_class_loses_its_last_subject():
    groups, labels = torch.arange(8) // 2, torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    for purpose in map(str, range(20)):
        held = hold_groups(torch.arange(4), groups, labels, 0.25, purpose)
        assert held is not None
        assert int(held.sum()) == 2
        assert not bool(held[6:].any())
    assert hold_groups(torch.arange(2), torch.tensor([0, 1]), torch.tensor([0, 1]), 0.5, "test") is None


def test_where_all_subjects_are_too_large_the_smallest_goes():
    groups = torch.tensor([0] * 5 + [1] * 3 + [2] * 4)
    held = hold_groups(torch.arange(3), groups, torch.zeros(12, dtype=torch.int64), 0.01, "test")
    assert held is not None
    assert groups[held].tolist() == [1] * 3


@pytest.mark.parametrize(("change", "words"), [
    ({"y": np.array([0, 1, 2, 0])}, r"a class that no training series has[\s\S]*npz, x, row 2[\s\S]*2 \(1 series\)"),
    ({"y": np.array([0, 1, -1, 0])}, "series without a label in test"),
    ({"x": np.ones((4, 3, 5))}, r"unlike numbers of channels[\s\S]*found     3[\s\S]*2, as in"),
])
def test_a_test_file_that_does_not_go_with_the_training_file_is_refused(tmp_path, change, words):
    saved(tmp_path, "train.npz", **some())
    saved(tmp_path, "test.npz", **{"x": np.ones((4, 2, 5)), "y": np.array([0, 1, 0, 1]), **change})
    with pytest.raises(DataError, match=words):
        loaded(tmp_path)


def test_series_without_a_label_are_left_out_of_training_or_kept_if_asked_for(tmp_path):
    arrays = some(shortest=6)
    arrays["y"][::4] = -1
    data = loaded(saved(tmp_path, **arrays))
    assert sum(len(source.ids) for source in splits(data).values()) == 30
    more = loaded(saved(tmp_path, **arrays), unlabelled=True)
    assert int((more.train.labels == -1).sum()) == 10
    assert sorted(more.test.ids.tolist()) == sorted(data.test.ids.tolist())


def test_the_names_of_classes_are_in_the_order_of_their_numbers(tmp_path):
    arrays = some(classes=4)
    arrays["y"] = np.array([2, 10, -3, 1])[arrays["y"]]
    data = loaded(saved(tmp_path, **arrays))
    assert data.classes == ("-3", "1", "2", "10")
    numbers = [int(data.classes[label]) for label in data.train.labels.tolist()]
    assert numbers == arrays["y"][data.train.ids.numpy()].tolist()


def test_what_is_scaled_does_not_depend_on_a_limit(tmp_path):
    path = saved(tmp_path, **some())
    few, every_row = loaded(path, limit=6), loaded(path)
    assert len(few.train.ids) == 6
    assert few.preprocessing == every_row.preprocessing


def test_numbers_that_float32_cannot_hold_are_refused(tmp_path):
    arrays = some(shortest=6)
    arrays["x"][int(loaded(saved(tmp_path, **arrays)).test.ids[0]), 0, 0] = 1e60
    with pytest.raises(DataError, match="too far from those of training"):
        loaded(saved(tmp_path, **arrays))
    arrays["x"][:, 0] *= 1e200
    with pytest.raises(DataError, match="too large to be scaled"):
        loaded(saved(tmp_path, **arrays))


def test_one_long_series_among_many_is_refused_before_all_are_padded(tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.data.series.LARGEST_PADDED", 40 * 2 * 6 * 4 - 1)
    with pytest.raises(SecurityError, match="too large at one length"):
        loaded(saved(tmp_path, **some()))


def test_a_link_out_of_the_folder_is_refused_unless_it_is_trusted(tmp_path):
    saved(tmp_path / "elsewhere", "secret.npz", **some())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a_TRAIN.npz").symlink_to(tmp_path / "elsewhere" / "secret.npz")
    for root in (tmp_path / "mine", tmp_path / "mine" / "a"):
        with pytest.raises(SecurityError, match="leads out of the folder of series"):
            loaded(root)
        assert len(loaded(root, follow_symlinks=True).classes) == 2


def test_several_sets_in_a_folder_are_told_apart_by_name(tmp_path, monkeypatch):
    for name in ("a", "b"):
        saved(tmp_path, f"{name}_TRAIN.npz", **some(seed=ord(name)))
        saved(tmp_path, f"{name}_TEST.npz", **some(count=6))
    with pytest.raises(DataError, match=r"several files for [\s\S]*a_TEST\.npz, b_TEST\.npz[\s\S]*FOLDER/NAME"):
        loaded(tmp_path)
    assert len(loaded(tmp_path / "a").test.ids) == len(loaded(tmp_path / "b_TRAIN.npz").test.ids) == 6
    assert loaded(tmp_path / "a").digest != loaded(tmp_path / "b").digest
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    assert loaded("a").digest == loaded(tmp_path / "a").digest


@pytest.mark.parametrize("root", ["nothing", "nothing/at/all"])
def test_nothing_there_is_refused(tmp_path, root):
    with pytest.raises(DataError, match="no series here"):
        loaded(tmp_path / root)


def test_a_path_is_needed_and_a_file_of_another_kind_refused(tmp_path):
    with pytest.raises(UsageError, match=r"needs its path[\s\S]*\[data\] root"):
        load_data(DataSettings("series"))
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(DataError, match=r"not a file of series[\s\S]*\.ts, \.npz, \.csv"):
        loaded(tmp_path / "x.txt")


@pytest.mark.parametrize(("words", "where"), [
    ({"image_size": 32}, "image_size"), ({"mixup": 0.2}, "mixup"), ({"augment": "crop"}, "augment"),
    ({"leakage": "drop"}, "leakage"), ({"labels": "x.npy"}, "labels"),
])
def test_keys_that_series_have_none_of_are_refused(words, where):
    with pytest.raises(UsageError, match=rf"\[data\] {where}"):
        DataSettings("series", root="x", **words)


@pytest.mark.parametrize("words", [{"by": "subject"}, {"augment": "jitter"}])
def test_keys_that_images_have_none_of_are_refused(words):
    with pytest.raises(UsageError):
        DataSettings("digits", **words)


@pytest.mark.parametrize(("name", "task"), [("digits", "series"), ("waves", "classification"),
                                            ("series", "segmentation")])
def test_a_task_that_the_data_are_not_for_is_refused(name, task):
    with pytest.raises(UsageError, match=r"\[data\] task"):
        load_data(DataSettings(name, task=task, root="x"))


def test_jitter_is_a_function_of_seed_draw_view_and_id_and_leaves_padding_alone(tmp_path):
    path = saved(tmp_path, **some())
    data = load_data(DataSettings("series", root=str(path), augment="jitter"), seed=3)
    plain, drawn = whole(data.train).inputs[""], whole(data.train, draw=1).inputs[""]
    ids = data.train.ids
    numbers = normal(derive(3, "jitter", 1, ""), ids, 2 + 2 * 6)
    expected = (1 + 0.1 * numbers[:, :2, None]) * plain["values"] + 0.05 * numbers[:, 2:].view(-1, 2, 6)
    assert torch.allclose(drawn["values"], expected * plain["mask"][:, None])
    (turned,) = data.train.batches([torch.tensor([5, 0])], draw=1)
    assert torch.equal(turned.inputs[""]["values"], drawn["values"][[5, 0]])
    other = whole(data.train, draw=1, views=("", "a")).inputs
    assert torch.equal(other[""]["values"], drawn["values"])
    assert not torch.equal(other["a"]["values"], drawn["values"])
    assert torch.equal(whole(data.test, draw=1).inputs[""]["values"], whole(data.test).inputs[""]["values"])
    assert data.augmentation != load_data(DataSettings("series", root=str(path), augment="jitter")).augmentation


def test_jitter_leaves_the_mean_and_adds_the_noise_that_it_says():
    values = torch.ones(2000, 1, 8)
    made = jittered(values, torch.arange(2000), key=1)
    assert abs(float(made.mean()) - 1) < 0.01
    assert abs(float(made.std()) - (0.1**2 + 0.05**2) ** 0.5) < 0.01


def test_a_smoke_run_needs_no_files():
    data = load_data(DataSettings("series", root="nowhere", by="subject"), quick=True)
    assert [len(source.ids) for source in splits(data).values()] == [64, 30, 32]
    assert data.shape == (2, 64)


@pytest.fixture
def archives(real_data: Path) -> Path:
    if not (real_data / "ucr_uea").is_dir():
        pytest.skip("TUTELAGE_DATA has no folder ucr_uea")
    return real_data / "ucr_uea"


@pytest.mark.parametrize(("name", "shape", "classes", "train", "test"), [
    ("GunPoint", (1, 150), 2, 50, 150), ("ItalyPowerDemand", (1, 24), 2, 67, 1029), ("ArrowHead", (1, 251), 3, 36, 175),
    ("BasicMotions", (6, 100), 4, 40, 40), ("JapaneseVowels", (12, 29), 9, 270, 370)])
def test_the_real_archives_are_read(archives, name, shape, classes, train, test):
    data = loaded(archives / name)
    assert (data.shape, len(data.classes)) == (shape, classes)
    assert (len(data.train.ids) + len(data.validation.ids), len(data.test.ids)) == (train, test)
    assert isinstance(whole(data.test).inputs, torch.Tensor) == (name != "JapaneseVowels")


def test_the_vowels_have_the_lengths_and_values_of_their_file(archives):
    lines = (archives / "JapaneseVowels_TRAIN.ts").read_text().splitlines()
    lines = lines[lines.index("@data") + 1:]
    data = loaded(archives / "JapaneseVowels")
    batch = whole(data.train)
    mean, std = (torch.tensor(data.preprocessing[key])[:, None] for key in ("mean", "std"))
    for place, row in enumerate(batch.ids.tolist()):
        *channels, label = lines[row].split(":")
        values = torch.tensor([[float(word) for word in channel.split(",")] for channel in channels])
        length = values.shape[1]
        assert data.classes[batch.labels[place]] == label
        assert int(batch.inputs[""]["mask"][place].sum()) == length
        assert torch.allclose(batch.inputs[""]["values"][place, :, :length] * std + mean, values, atol=1e-5)
    assert [len(line.split(":")[0].split(",")) for line in lines[:4]] == [20, 26, 22, 20]
