"""The [data] table and boxes: folders of images with boxes, the set `shapes_boxes`, and what is refused at the door."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from every import every
from tutelage.data.decoding import fit_factor, preparation
from tutelage.data.images import read_image
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, Source
from tutelage.errors import DataError, SecurityError, UsageError


def settings(root: Path, **more) -> DataSettings:
    given = {"image_size": (24, 48), "augment": "none", **more}
    return DataSettings("folder", task="detection", root=str(root), **given)


def whole(source: Source | None, draw: int | None = None):
    assert source is not None
    return next(iter(source.batches([torch.arange(len(source.ids))], draw=draw)))


def files(data: Data, source: Source | None) -> list[str]:
    assert source is not None
    assert data.files is not None
    names = [name for name in data.files.contents if name.endswith(".png")]
    return [names[place] for place in source.ids.tolist()]


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "plain"])
def test_every_format_gives_the_same_batches(kind, boxes_of_kind):
    root = boxes_of_kind(kind)
    data = load_data(settings(root))
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 24, 48)
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [8, 2, 2]
    batch = whole(data.train)
    factor = fit_factor((40, 30), (24, 48))
    assert factor == 0.8
    assert batch.labels["boxes"].shape == (8, 2, 4)
    for row, name in enumerate(files(data, data.train)):
        count = int(Path(name).stem[1:]) % 3
        wanted = torch.tensor([[4, 5, 20, 25], [0, 0, 40, 30.0]])[:count] * factor
        assert torch.allclose(batch.labels["boxes"][row, :count], wanted, atol=1e-5)
        assert batch.labels["classes"][row].tolist() == [0, 1][:count] + [-1] * (2 - count)
        image = read_image(root / name, preparation(data.preprocessing))
        assert torch.equal((batch.inputs[row] * 255).round().to(torch.uint8), image)
    assert data.train.labels.tolist() == [0] * 8


def test_an_image_is_fitted_and_the_rest_is_grey(boxes_of_kind):
    root = boxes_of_kind("plain")
    data = load_data(settings(root))
    assert data.preprocessing == {"kind": "boxes", "channels": 3, "size": [24, 48], "place": "upper left", "fill": 114,
                                  "interpolation": "bilinear, antialiased", "alpha": "on white",
                                  "orientation": "upright", "range": [0.0, 1.0]}
    image = Image.open(root / files(data, data.train)[0])
    wanted = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    found = whole(data.train).inputs[0] * 255
    assert np.abs(found[:, :, :32].numpy() - wanted).max() < 1e-3
    assert bool((found[:, :, 32:] == 114).all())


def test_without_splits_shares_are_cut_by_name_and_every_seed_has_the_same(boxes_of_kind):
    root = boxes_of_kind("plain")
    (root / "splits.json").unlink()
    data, again = load_data(settings(root)), load_data(settings(root), seed=7)
    assert data.digest == again.digest
    assert sum(len(part.ids) for part in (data.train, data.validation, data.test)) == 12
    ids = [number for part in (data.train, data.validation, data.test) for number in part.ids.tolist()]
    assert sorted(ids) == [*range(12)]


def test_val_is_the_test_split_where_the_recipe_says_so(boxes_of_kind):
    root = boxes_of_kind("plain")
    names = [f"s{number:02}" for number in range(12)]
    (root / "splits.json").write_text(json.dumps({"train": names[:8], "val": names[8:]}))
    data = load_data(settings(root, test="val", validation=0.25))
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [6, 2, 4]
    assert [Path(name).stem for name in files(data, data.test)] == names[8:]


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "plain"])
def test_the_digest_covers_images_boxes_and_names(kind, boxes_of_kind):
    root = boxes_of_kind(kind)
    first = load_data(settings(root))
    assert first.files is not None
    seals = {first.digest, load_data(settings(root, limit=7)).digest}
    file = {"coco": "annotations/instances_train.json", "voc": "Annotations/s01.xml", "yolo": "labels/train/s01.txt",
            "plain": "boxes.json"}[kind]
    for path in (root / file, next(root.rglob("s01.png"))):
        was, name = path.read_bytes(), str(path.relative_to(root))
        path.write_bytes(was + b"\n")
        changed = load_data(settings(root))
        assert changed.files is not None
        seals.add(changed.digest)
        assert first.files.sealed({name: changed.files.contents[name]}) == changed.digest
        path.write_bytes(was)
    assert len(seals) == 4
    assert load_data(settings(root)).digest == first.digest
    assert first.files.named(str(next(root.rglob("s01.png")))) is not None


def test_images_of_which_nothing_is_said_are_negatives_or_unlabelled(boxes_of_kind):
    root = boxes_of_kind("plain")
    held = json.loads((root / "boxes.json").read_text())
    for name in ("s02", "s05"):
        del held["boxes"][name]
    (root / "boxes.json").write_text(json.dumps(held))
    data = load_data(settings(root))
    assert any("2 images without a word of boxes count as without objects" in note for note in data.notes)
    assert data.train.labels.tolist() == [0] * 8
    unlabelled = load_data(settings(root, unlabelled=True))
    assert unlabelled.train.labels.tolist() == [0, 0, -1, 0, 0, -1, 0, 0]
    classes = whole(unlabelled.train).labels["classes"]
    assert [row.unique().tolist() for row in classes[[2, 5]]] == [[-2], [-2]]
    assert -2 not in classes[[0, 1, 3, 4, 6, 7]].tolist()
    assert unlabelled.digest != data.digest


def test_a_limit_keeps_a_part_and_one_without_boxes_is_refused(boxes_of_kind):
    root = boxes_of_kind("plain")
    small, large = (load_data(settings(root, limit=limit)) for limit in (4, 6))
    assert set(small.train.ids.tolist()) < set(large.train.ids.tolist())
    names = [f"s{number:02}" for number in range(12)]
    (root / "splits.json").write_text(json.dumps({"train": names[0::3], "val": names[1::3]}))
    with pytest.raises(DataError, match="no training image has a box"):
        load_data(settings(root))


def test_objects_are_the_classes_that_count(boxes_of_kind):
    root = boxes_of_kind("plain")
    data = load_data(settings(root, objects=("dog",)))
    assert data.classes == ("dog",)
    classes = whole(data.train).labels["classes"]
    assert classes.shape == (8, 1)
    assert classes[:, 0].tolist() == [-1, -1, 0] * 2 + [-1, -1]
    assert data.digest != load_data(settings(root)).digest
    with pytest.raises(DataError, match="unknown class") as error:
        load_data(settings(root, objects=("dgo",)))
    assert "dog" in str(error.value)
    made = load_data(DataSettings("shapes_boxes", objects=("triangle", "disc")), quick=True)
    assert made.classes == ("disc", "triangle")


def test_objects_keep_each_box_with_its_class(boxes_of_kind):
    data = load_data(settings(boxes_of_kind("plain"), objects=("cat",)))
    boxes, classes = (whole(data.train).labels[name] for name in ("boxes", "classes"))
    assert torch.allclose(boxes[classes == 0], torch.tensor([4, 5, 20, 25.0]) * 0.8)


def test_what_a_split_lacks_is_told(boxes_of_kind):
    notes = "\n".join(load_data(settings(boxes_of_kind("plain"))).notes)
    assert "no validation image has a box of dog" not in notes
    assert "no test image has a box of cat" not in notes
    root = boxes_of_kind("yolo")
    (root / "data.yaml").write_text("names: [cat, dog, owl]\n")
    notes = "\n".join(load_data(settings(root)).notes)
    assert "no train image has a box of owl" in notes


# What is refused.


def broken(root: Path, **more) -> DataError | SecurityError:
    with pytest.raises((DataError, SecurityError)) as error:
        load_data(settings(root, **more))
    return error.value


def test_a_bad_box_stops_a_run_with_file_entry_rule_and_fix(boxes_of_kind):
    root = boxes_of_kind("yolo")
    (root / "labels" / "train" / "s01.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.9 0.5 0.4 0.2\n")
    told = str(broken(root))
    for part in ("a box outside of its image", "labels/train/s01.txt, line 2", "within 40 x 30 pixels", "fix"):
        assert part in told


def test_damaged_images_are_refused_by_name_and_left_out_if_asked(tmp_path, image_file, boxes_of_kind):
    root = boxes_of_kind("plain")
    held, splits = (json.loads((root / name).read_text()) for name in ("boxes.json", "splits.json"))
    for number in range(12, 120):
        splits["train"].append(f"s{number:03}")
        image_file(root / "images" / f"s{number:03}.png", size=(40, 30), seed=number)
        held["boxes"][f"s{number:03}"] = [["cat", 1, 1, 9, 9]]
    (root / "splits.json").write_text(json.dumps(splits))
    (root / "boxes.json").write_text(json.dumps(held))
    path = root / "images" / "s04.png"
    path.write_bytes(path.read_bytes()[:700])
    data = load_data(settings(root))
    assert data.files is not None
    assert data.files.damaged() == ["images/s04.png"]
    with pytest.raises(DataError, match="cannot be decoded"):
        whole(data.train)
    data = load_data(settings(root, on_bad_image="skip"))
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [115, 2, 2]
    assert any("damaged images are left out" in note and "s04" in note for note in data.notes)
    assert data.files is not None
    assert data.files.damaged() == []
    Image.new("1", (3000, 3000)).save(path)
    for more in ({}, {"on_bad_image": "skip"}):
        assert isinstance(broken(root, max_pixels=10**6, **more), SecurityError)


def test_the_same_image_for_training_and_for_testing_is_an_error(boxes_of_kind):
    root = boxes_of_kind("plain")
    shutil.copy(root / "images" / "s10.png", root / "images" / "s03.png")
    assert "the same image in the training split and in the test split" in str(broken(root))
    assert load_data(settings(root, leakage="warn")).also_in_training == {"validation": 0, "test": 1}
    assert len(load_data(settings(root, leakage="drop")).train.ids) == 7


@pytest.mark.parametrize("more", [{"mixup": 0.2}, {"cutmix": 1.0}, {"augment": "randaugment"}, {"balance": "sqrt"},
                                  {"only": "ids.npy"}])
def test_settings_that_do_not_go_with_boxes_are_refused_by_their_key(more, tmp_path):
    with pytest.raises(UsageError, match="does not go with boxes") as error:
        load_data(settings(tmp_path, **more))
    assert f"[data] {next(iter(more))}" in str(error.value)


def test_the_key_of_the_format_is_for_folders_of_boxes_alone():
    with pytest.raises(UsageError, match="a key of images with boxes"):
        DataSettings("folder", boxes="coco")
    with pytest.raises(UsageError, match="a key of images with boxes"):
        DataSettings("shapes_boxes", boxes="coco")
    with pytest.raises(UsageError, match="is not one of detection"):
        load_data(DataSettings("digits", task="detection"))
    with pytest.raises(UsageError, match="is not one of"):
        load_data(DataSettings("shapes_boxes", task="classification"))


# Without a file.


def test_the_made_set_is_data_and_augmented(boxes_of_kind):
    data = load_data(DataSettings("shapes_boxes"), seed=3)
    assert (data.classes, data.shape) == (("disc", "square", "triangle"), (3, 64, 64))
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [400, 100, 200]
    first, again, other = (next(iter(data.train.batches([torch.arange(20)], draw=draw))) for draw in (0, 0, 1))
    assert torch.equal(first.labels["boxes"], again.labels["boxes"])
    assert not torch.equal(first.labels["boxes"], other.labels["boxes"])
    assert first.labels["boxes"].shape == (20, 4, 4)
    plain = load_data(DataSettings("shapes_boxes", augment="none"))
    assert plain.digest == data.digest
    assert load_data(DataSettings("shapes_boxes", limit=50)).digest != data.digest
    quick = load_data(DataSettings("shapes_boxes"), quick=True)
    assert [len(part.ids) for part in (quick.train, quick.validation, quick.test)] == [32, 16, 16]


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "plain", None])
def test_a_quick_run_reads_made_images_of_the_folders_classes(kind, boxes_of_kind, tmp_path):
    root = boxes_of_kind(kind) if kind else tmp_path / "nowhere"
    data = load_data(settings(root, unlabelled=True, test="val") if kind == "plain" else settings(root), quick=True)
    assert data.classes == (("cat", "dog") if kind else ("disc", "square", "triangle"))
    assert [len(part.ids) for part in (data.train, data.validation, data.test)] == [32, 16, 16]
    assert {*range(len(data.classes))} <= set(whole(data.train, 0).labels["classes"].unique().tolist())
    assert whole(data.test).inputs.shape == (16, 3, 24, 48)
    assert data.files is None


def test_a_quick_run_of_some_objects_has_them(boxes_of_kind, tmp_path):
    for root in (boxes_of_kind("plain"), tmp_path / "nowhere"):
        assert load_data(settings(root, objects=("dog",)), quick=True).classes == ("dog",)


def test_workers_change_nothing(boxes_of_kind):
    data = load_data(settings(boxes_of_kind("voc"), augment="random-resized-crop"))
    one = data.train
    other = replace(one, stream=replace(one.stream, workers=1), kept=False)  # pyright: ignore[reportCallIssue]
    for a, b in zip(one.batches([torch.tensor([1, 2])], draw=1), other.batches([torch.tensor([1, 2])], draw=1),
                    strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert every(torch.equal(a.labels[name], b.labels[name]) for name in ("boxes", "classes"))


@pytest.mark.parametrize(("name", "classes", "counts", "boxes"), [
    ("bccd", ("Platelets", "RBC", "WBC"), (205, 87, 72), 4886), ("kvasir_seg", ("polyp",), (790, 88, 120), 1069)])
def test_real_sets_are_read(name, classes, counts, boxes, real_data):
    if not (real_data / name).is_dir():
        pytest.skip(f"{name} is not there")
    data = load_data(settings(real_data / name, test="val" if name == "kvasir_seg" else None))
    assert data.classes == classes
    parts = data.train, data.validation, data.test
    assert tuple(len(part.ids) for part in parts) == counts
    assert sum(len(part.packed.boxes) for part in parts) == boxes
