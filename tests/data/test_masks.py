"""The [data] table and masks: folders of images and masks, the set `shapes`, and what is refused at the door."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from every import every
from tutelage.data.load import load_data
from tutelage.data.mask_source import MaskSource
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, Source
from tutelage.errors import DataError, SecurityError, UsageError

ALL = torch.arange


def settings(root: Path, **more) -> DataSettings:
    given = {"image_size": (10, 12), "augment": "none", **more}
    return DataSettings("folder", task="segmentation", root=str(root), **given)


def whole(source: Source | None, draw: int | None = None):
    assert source is not None
    return next(iter(source.batches([ALL(len(source.ids))], draw=draw)))


def files(data: Data, source: Source | None) -> list[str]:
    assert source is not None
    assert data.files is not None
    names = [name for name in data.files.contents if "images" in Path(name).parts]
    return [names[place] for place in source.ids.tolist()]


def test_images_and_masks_of_a_folder_are_read_pixel_by_pixel(scans):
    data = load_data(settings(scans))
    assert data.classes == ("background", "foreground")
    assert data.shape == (3, 10, 12)
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [15, 1, 4]
    for source in (data.train, data.validation, data.test):
        batch = whole(source)
        assert batch.labels.dtype == torch.int64
        assert source.labels.tolist() == [0] * len(source.ids)
        for row, name in enumerate(files(data, source)):
            image = np.asarray(Image.open(scans / name)).transpose(2, 0, 1) / 255
            assert np.abs(batch.inputs[row].numpy() - image).max() < 1e-6
            mask = Image.open(scans / name.replace("images", "masks"))
            assert batch.labels[row].tolist() == np.asarray(mask).tolist()


def test_images_are_prepared_as_those_of_classes_are_and_say_so(scans):
    data = load_data(settings(scans, image_size=8))
    assert data.preprocessing == {"channels": 3, "resize": 8, "crop": 8, "pad": 0, "orientation": "upright",
                                  "interpolation": "bilinear, antialiased", "alpha": "on white", "range": [0.0, 1.0]}
    image = Image.open(scans / files(data, data.train)[0])
    wanted = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, box=(1, 0, 11, 10))).transpose(2, 0, 1)
    assert np.abs(whole(data.train).inputs[0].numpy() * 255 - wanted).max() < 1e-3
    assert any("the central part is used" in note and "20 of 20" in note for note in data.notes)
    assert "central part" not in "\n".join(load_data(settings(scans)).notes)


def test_masks_of_0_and_255_palettes_and_ignored_values(tmp_path, pair_of_files):
    rng = np.random.default_rng(0)
    for number in range(12):
        pair_of_files(tmp_path, str(number), 255 * rng.integers(0, 2, (10, 12), dtype=np.uint8), seed=number)
    data = load_data(settings(tmp_path))
    assert data.classes == ("background", "foreground")
    assert whole(data.train).labels.unique().tolist() == [0, 1]
    named = load_data(settings(tmp_path, mask_values={"0": "background", "255": "polyp"}))
    assert named.classes == ("background", "polyp")
    assert torch.equal(whole(named.train).labels, whole(data.train).labels)
    assert not named.notes
    for number in range(12):
        pair_of_files(tmp_path, str(number), rng.choice([0, 1, 2, 255], (10, 12)).astype(np.uint8), seed=number)
    with pytest.raises(DataError, match="which class is which value"):
        load_data(settings(tmp_path))
    data = load_data(settings(tmp_path, ignore=255))
    assert data.classes == ("background", "class 1", "class 2")
    assert whole(data.train).labels.unique().tolist() == [-1, 0, 1, 2]
    assert len({load_data(settings(tmp_path, ignore=some)).digest for some in (255, (2, 255))}) == 2


def test_classes_txt_names_the_values(scans):
    (scans / "classes.txt").write_text("background\nvessel\n")
    assert load_data(settings(scans)).classes == ("background", "vessel")
    (scans / "classes.txt").write_text("background\nvessel\nbone\n")
    data = load_data(settings(scans))
    assert data.classes == ("background", "vessel", "bone")
    assert any("no train mask has a pixel of bone" in note for note in data.notes)


def test_val_is_the_test_split_where_the_recipe_says_so_and_validation_is_cut_from_train(scans):
    names = [f"s{number:02}" for number in range(20)]
    (scans / "splits.json").write_text(json.dumps({"train": names[:16], "val": names[16:]}))
    usual = load_data(settings(scans))
    assert [len(part.ids) for part in (usual.train, usual.validation)] == [16, 4]
    assert usual.test is None
    tested = load_data(settings(scans, test="val", validation=0.25))
    assert [len(part.ids) for part in (tested.train, tested.validation)] == [12, 4]
    assert files(tested, tested.test) == files(usual, usual.validation)
    assert not set(files(tested, tested.validation)) & set(files(tested, tested.test))
    assert usual.digest != tested.digest
    (scans / "splits.json").write_text(json.dumps({"train": names[:16], "val": names[16:18], "test": names[18:]}))
    with pytest.raises(DataError, match="no split `val` to test on"):
        load_data(settings(scans, test="val"))


def test_a_folder_of_classes_may_be_tested_on_its_val_too(photos):
    shutil.rmtree(photos / "test")
    data = load_data(DataSettings("folder", root=str(photos), image_size=8, test="val"))
    assert data.test is not None
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [18, 2, 6]


def test_the_cut_is_of_names_and_every_seed_has_the_same(scans, pair_of_files):
    before = load_data(settings(scans))
    again = load_data(settings(scans), seed=7)
    assert before.digest == again.digest
    held = set(files(before, before.test)) | set(files(before, before.validation))
    pair_of_files(scans, "more", np.zeros((10, 12), np.uint8), seed=99)
    after = load_data(settings(scans))
    assert len(held - set(files(after, after.test)) - set(files(after, after.validation))) <= 2


def test_the_digest_covers_images_masks_and_which_value_is_which_class(scans):
    first = load_data(settings(scans, mask_values={"0": "a", "1": "b"}))
    seals = {first.digest, load_data(settings(scans, mask_values={"0": "a", "1": "c"})).digest,
             load_data(settings(scans, mask_values={"0": "a", "1": "b"}, validation=0.2)).digest}
    for folder in ("images", "masks"):
        path = scans / folder / "s05.png"
        was = path.read_bytes()
        image = np.array(Image.open(path))
        image.flat[7] ^= 1
        Image.fromarray(image).save(path)
        changed = load_data(settings(scans, mask_values={"0": "a", "1": "b"}))
        seals.add(changed.digest)
        assert first.files is not None
        assert changed.files is not None
        name = f"{folder}/s05.png"
        assert first.files.sealed({name: changed.files.contents[name]}) == changed.digest
        assert first.files.named(str(path)) == name
        path.write_bytes(was)
    assert len(seals) == 5
    assert load_data(settings(scans, mask_values={"0": "a", "1": "b"})).digest == first.digest


def test_images_without_masks_are_trained_on_if_asked(scans):
    for name in ("s02", "s03", "s04"):
        (scans / "masks" / f"{name}.png").unlink()
    with pytest.raises(DataError, match="3 images without a mask"):
        load_data(settings(scans))
    data = load_data(settings(scans, unlabelled=True))
    batch = whole(data.train)
    assert sorted(Path(files(data, data.train)[row]).stem for row in (data.train.labels < 0).nonzero()[:, 0]) == [
        "s02", "s03", "s04"]
    for row, label in enumerate(data.train.labels.tolist()):
        assert bool((batch.labels[row] == -1).all()) == (label == -1)


def test_a_limit_keeps_a_part_of_what_a_larger_one_keeps(scans):
    small, large = (load_data(settings(scans, limit=limit)) for limit in (4, 9))
    assert (len(small.train.ids), len(large.train.ids)) == (4, 9)
    assert set(small.train.ids.tolist()) < set(large.train.ids.tolist())
    assert len(load_data(settings(scans)).test.ids) == 4


# What is refused.


def broken(scans: Path, **more) -> DataError | SecurityError:
    with pytest.raises((DataError, SecurityError)) as error:
        load_data(settings(scans, **more))
    return error.value


def test_a_mask_of_another_size_is_refused_with_both_names_and_sizes(scans):
    Image.new("L", (12, 11)).save(scans / "masks" / "s05.png")
    told = str(broken(scans))
    assert "a mask of another size than its image" in told
    for part in ("masks/s05.png", "images/s05.png", "12 x 11", "12 x 10"):
        assert part in told


def test_a_mask_beside_an_image_that_is_turned_is_told_from_one_of_another_size(scans):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = scans / "images" / "s05.png"
    Image.open(path).save(path, exif=exif)
    told = str(broken(scans))
    assert "lies on its side" in told
    assert "as stored" in told
    data = load_data(settings(scans, orientation="as stored"))
    assert data.preprocessing["orientation"] == "as stored"
    mask = np.asarray(Image.open(scans / "masks" / "s05.png"))
    Image.fromarray(mask).rotate(-90, expand=True).save(scans / "masks" / "s05.png")
    upright = load_data(settings(scans))
    row = files(upright, upright.train).index("images/s05.png")
    assert whole(upright.train).labels.shape == (15, 10, 12)
    assert row >= 0


def test_a_mask_that_is_turned_by_its_own_exif_is_read_upright(scans):
    wanted = load_data(settings(scans))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("images", "masks"):
        path = scans / name / "s05.png"
        Image.open(path).rotate(90, expand=True).save(path, exif=exif)
    assert torch.equal(whole(load_data(settings(scans)).train).labels, whole(wanted.train).labels)
    assert torch.equal(whole(load_data(settings(scans)).train).inputs, whole(wanted.train).inputs)


@pytest.mark.parametrize(("names", "value"), [({"0": "a", "1": "b"}, 2), ({"0": "a", "1": "b", "2": "c"}, 255)])
def test_a_value_of_no_class_is_refused_with_file_and_value(scans, names, value):
    mask = np.zeros((10, 12), np.uint8)
    mask[3, 4] = value
    Image.fromarray(mask).save(scans / "masks" / "s05.png")
    told = str(broken(scans, mask_values=names))
    assert "masks/s05.png" in told
    assert f"found     {value}" in told
    data = load_data(settings(scans, mask_values=names, ignore=value))
    assert int((torch.cat([whole(part).labels for part in (data.train, data.validation, data.test)]) == -1).sum()) == 1


def test_damaged_masks_and_bombs_are_refused_by_name_and_left_out_if_asked(scans, pair_of_files):
    noise = np.random.default_rng(0).integers(0, 2, (200, 200), dtype=np.uint8)
    path = pair_of_files(scans, "s05", noise, seed=5)
    path.write_bytes(path.read_bytes()[:900])
    assert "masks/s05.png" in str(broken(scans))
    for number in range(20, 140):
        pair_of_files(scans, f"s{number:03}", np.eye(10, 12, dtype=np.uint8), seed=number)
    data = load_data(settings(scans, on_bad_image="skip"))
    assert data.files is not None
    assert data.files.damaged() == []
    assert any("damaged images are left out" in note and "s05" in note for note in data.notes)
    assert sum(len(part.ids) for part in (data.train, data.validation, data.test)) == 139
    assert every(Path(name).stem != "s05" for name in data.files.contents)
    Image.new("1", (3000, 3000)).save(path)
    for more in ({}, {"on_bad_image": "skip"}):
        assert isinstance(broken(scans, max_pixels=10**6, **more), SecurityError)


def test_a_damaged_image_stops_when_it_is_read_as_in_folders_of_classes_and_is_named(scans):
    data = load_data(settings(scans))
    assert data.files is not None
    for folder in ("images", "masks"):
        path = scans / folder / Path(files(data, data.train)[0]).name
        whole_file = path.read_bytes()
        path.write_bytes(whole_file[:60])
        with pytest.raises(DataError) as error:
            whole(load_data(settings(scans)).train if folder == "images" else data.train)
        assert data.files.named(str(error.value.where)) == f"{folder}/{path.name}"
        assert data.files.damaged() == [f"{folder}/{path.name}"]
        path.write_bytes(whole_file)


def test_jpeg_masks_are_refused_but_for_two_stated_values(scans):
    for path in (scans / "masks").iterdir():
        mask = np.kron(np.asarray(Image.open(path))[::5, ::4], np.ones((5, 4), np.uint8)) * 255
        Image.fromarray(mask).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    assert "does not keep values exactly" in str(broken(scans))
    data = load_data(settings(scans, mask_values={"0": "background", "255": "polyp"}))
    assert whole(data.train).labels.unique().tolist() == [0, 1]
    assert "does not keep" in str(broken(scans, mask_values={"0": "a", "128": "b", "255": "c"}))


def test_a_mask_that_is_a_pipe_or_no_image_is_not_waited_for(scans):
    (scans / "masks" / "s05.png").unlink()
    os.mkfifo(scans / "masks" / "s05.png")
    broken(scans)
    (scans / "masks" / "s05.png").unlink()
    (scans / "masks" / "s05.png").write_bytes(b"not an image")
    assert "s05.png" in str(broken(scans))


def test_the_same_image_for_training_and_for_testing_is_an_error(scans):
    names = [f"s{number:02}" for number in range(20)]
    (scans / "splits.json").write_text(json.dumps({"train": names[:14], "val": names[14:17], "test": names[17:]}))
    shutil.copy(scans / "images" / "s18.png", scans / "images" / "s03.png")
    told = str(broken(scans))
    assert "the same image in the training split and in the test split" in told
    assert "s18.png" in told
    assert "s03.png" in told
    data = load_data(settings(scans, leakage="warn"))
    assert data.also_in_training == {"validation": 0, "test": 1}
    dropped = load_data(settings(scans, leakage="drop"))
    assert len(dropped.train.ids) == 13


@pytest.mark.parametrize("more", [{"mixup": 0.2}, {"cutmix": 1.0}, {"augment": "randaugment"}, {"balance": "sqrt"},
                                  {"only": "ids.npy"}])
def test_settings_that_do_not_go_with_masks_are_refused_by_their_key(scans, more):
    with pytest.raises(UsageError, match="does not go with masks") as error:
        load_data(settings(scans, **more))
    assert f"[data] {next(iter(more))}" in str(error.value)


@pytest.mark.parametrize("more", [
    {"mask_values": {"a": "b"}}, {"mask_values": {"0": "b", "70000": "c"}}, {"mask_values": {"0": "b"}},
    {"mask_values": {"0": "b", "1": "b"}}, {"mask_values": {"-1": "b", "1": "c"}}, {"ignore": -1}, {"ignore": 70000},
    {"mask_values": {"0": "b", "1": "c"}, "ignore": 1}, {"mask_values": {"0": "b", "01": "c"}}])
def test_keys_of_masks_that_cannot_be_meant_are_refused(scans, more):
    with pytest.raises(UsageError):
        settings(scans, **more)


@pytest.mark.parametrize("more", [{"mask_values": {"0": "b", "1": "c"}}, {"ignore": 3}, {"test": "val"}])
def test_keys_of_masks_are_for_folders_of_masks(more):
    with pytest.raises(UsageError):
        DataSettings("digits", **more)


def test_other_sets_are_not_for_segmentation_and_shapes_for_nothing_else():
    for name, task in (("digits", "segmentation"), ("shapes", "classification")):
        with pytest.raises(UsageError, match="is not one of"):
            load_data(DataSettings(name, task=task))


# The set `shapes`, and smoke runs.


def test_shapes_need_no_file_and_any_size():
    data = load_data(DataSettings("shapes"))
    assert data.classes == ("background", "disc", "square")
    assert data.shape == (3, 64, 64)
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [400, 100, 200]
    assert every(len(set(part.ids.tolist())) == len(part.ids) for part in (data.train, data.validation, data.test))
    small = load_data(replace(DataSettings("shapes"), image_size=(32, 48), limit=10))
    assert whole(small.train).labels.shape == (10, 32, 48)


@pytest.mark.parametrize("name", ["shapes", "folder"])
def test_a_smoke_run_needs_no_file_of_the_user(tmp_path, name):
    where = {} if name == "shapes" else {"root": str(tmp_path / "nowhere"), "task": "segmentation"}
    data = load_data(DataSettings(name, image_size=(24, 32), **where), quick=True)
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [32, 16, 16]
    batch = whole(data.train, draw=0)
    assert batch.inputs.shape == (32, 3, 24, 32)
    assert batch.labels.unique().tolist() == list(range(len(data.classes)))
    assert data.digest == load_data(DataSettings(name, image_size=(24, 32), **where), quick=True).digest


def test_a_smoke_run_has_the_classes_of_the_recipe_or_of_the_folder(scans, tmp_path):
    names = {"0": "a", "7": "b", "9": "c", "300": "d", "301": "d", "500": "e", "600": "f"}
    data = load_data(DataSettings("folder", task="segmentation", root=str(tmp_path / "nowhere"), image_size=16,
                                  mask_values=names, ignore=1, limit=24), quick=True)
    assert data.classes == ("a", "b", "c", "d", "e", "f")
    assert len(data.train.ids) == 24
    assert whole(data.train).labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    (scans / "classes.txt").write_text("background\nvessel\nbone\n")
    assert load_data(settings(scans), quick=True).classes == ("background", "vessel", "bone")


def test_a_split_too_large_to_keep_is_read_for_each_batch_with_the_same_bits(scans, monkeypatch):
    kept = load_data(settings(scans, augment=None))
    monkeypatch.setattr("tutelage.data.masks.KEPT_BYTES", 0)
    read = load_data(settings(scans, augment=None, workers=0))
    assert isinstance(kept.train, MaskSource)
    assert isinstance(read.train, MaskSource)
    assert (kept.train.kept, read.train.kept) == (True, False)
    plan = [torch.tensor([3, 1, 4]), torch.tensor([1, 5])]
    batches = [source.batches(plan, draw=3, views=("", "a")) for source in (kept.train, read.train)]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert every(torch.equal(one.inputs[view], other.inputs[view]) for view in ("", "a"))
        assert torch.equal(one.ids, other.ids)


def test_the_real_kvasir_needs_three_keys(real_data):
    if not (real_data / "kvasir_seg").is_dir():
        pytest.skip("there is no kvasir_seg in TUTELAGE_DATA")
    data = load_data(DataSettings("folder", task="segmentation", root="kvasir_seg", test="val", image_size=96))
    assert data.classes == ("background", "foreground")
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [790, 88, 120]
    labels = whole(data.test).labels
    assert 0.1 < (labels == 1).float().mean() < 0.2
