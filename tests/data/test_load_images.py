"""The [data] table and images: upright or as stored, of two sides, of a stated range of values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import folder
from tutelage.data.load import DataSettings, folder_rows, load_data, preparation_of
from tutelage.data.source import digest
from tutelage.errors import DataError, UsageError


def on_its_side(path: Path) -> Path:
    """The same picture, stored turned, with the orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).rotate(90, expand=True).save(path, exif=exif)
    return path


def test_a_folder_is_read_upright_and_as_stored_if_asked(photos):
    plain = load_data(DataSettings("folder", root=str(photos), image_size=8))
    wanted = next(iter(plain.train.batches([torch.arange(20)], draw=None))).inputs
    for path in (photos / "train").rglob("*.png"):
        on_its_side(path)
    seen = {}
    for orientation in ("upright", "as stored"):
        data = load_data(DataSettings("folder", root=str(photos), image_size=8, orientation=orientation))
        seen[orientation] = next(iter(data.train.batches([torch.arange(20)], draw=None))).inputs
        assert data.preprocessing["orientation"] == orientation
        assert ("as stored" in " ".join(data.notes)) == (orientation == "as stored")
    assert torch.equal(seen["upright"], wanted)
    assert not torch.equal(seen["as stored"], wanted)


def test_orientation_and_range_are_part_of_a_folders_digest_and_as_stored_has_the_old_one(photos):
    def sealed(**settings) -> str:
        return load_data(DataSettings("folder", root=str(photos), image_size=8, **settings)).digest

    digests = [sealed(), sealed(orientation="as stored"), sealed(value_range=(0, 1)), sealed(value_range=(0, 2))]
    assert len(set(digests)) == 4
    listing = folder.list_folder(photos)
    splits, _ = folder_rows(DataSettings("folder", root=str(photos)), listing)
    content = folder.folder_fingerprint(folder.contents(listing, 10**6))
    assert sealed(orientation="as stored", split_rule=1) == digest("folder", listing.classes, splits, content,
                                                     "validation 0.1, limit None")


def test_the_orientation_of_a_published_set_changes_no_digest():
    one, other = (load_data(DataSettings("digits", image_size=8, orientation=how)) for how in ("upright", "as stored"))
    assert one.digest == other.digest
    assert one.notes == other.notes == ()


def test_floats_of_a_folder_are_read_by_the_stated_range(tmp_path):
    for split in ("train", "val", "test"):
        for number, label in enumerate(("a", "b")):
            for place in range(2):
                path = tmp_path / split / label / f"{place}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = np.full((8, 8), 100.0 + 100 * number, np.float32)
                values[0, 0] += 8 * place + 16 * len(split)  # no two images are the same
                Image.fromarray(values).save(path)
    settings = DataSettings("folder", root=str(tmp_path), image_size=8, value_range=(0, 400), augment="none")
    for more in ({}, {"on_bad_image": "skip"}):
        data = load_data(replace(settings, **more))
        images = next(iter(data.train.batches([torch.arange(4)], draw=None))).inputs
        assert sorted(set((images[:, :, 4:] * 255).round().flatten().tolist())) == [64, 128]
        assert data.preprocessing["value_range"] == [0, 400]
    with pytest.raises(DataError, match="value_range"):
        next(iter(load_data(replace(settings, value_range=None)).train.batches([torch.arange(4)], draw=None)))


@pytest.mark.parametrize(("name", "size", "shape"), [
    ("digits", (8, 16), (1, 8, 16)), ("fashion_mnist", (32, 64), (1, 32, 64)), ("cifar10", (32, 16), (3, 32, 16)),
    ("folder", (64, 32), (3, 64, 32))])
def test_image_size_may_be_height_and_width(name, size, shape):
    how = preparation_of(DataSettings(name, root="nowhere", image_size=size))
    assert how.shape == shape
    if name == "folder":
        assert how.covers == (73, 37)
    assert preparation_of(DataSettings(name, root="nowhere", image_size=(size[0],) * 2)) == preparation_of(
        DataSettings(name, root="nowhere", image_size=size[0]))
    if name == "digits":
        data = load_data(DataSettings(name, image_size=size))
        assert next(iter(data.train.batches([torch.arange(3)], draw=0))).inputs.shape == (3, *shape)


@pytest.mark.parametrize(("key", "value"), [("image_size", (8, 4)), ("image_size", (5000, 8)), ("value_range", (1, 1)),
                                            ("value_range", (2, 1)), ("value_range", (0, float("nan")))])
def test_sides_and_ranges_that_cannot_be_are_refused(key, value):
    with pytest.raises(UsageError, match=key):
        DataSettings("folder", root="nowhere", **{key: value})
