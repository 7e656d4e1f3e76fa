"""A user's own tensors and data sets."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import from_dataset, from_tensors
from tutelage.data.decoding import preparation
from tutelage.errors import DataError


def tensors(rows: int = 30, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    images = torch.randint(0, 256, (rows, 3, 8, 10), dtype=torch.uint8, generator=generator)
    return images, torch.arange(rows) % classes


class Photos(torch.utils.data.Dataset):
    """Rows of (PIL image or tensor, label), as a user has them."""

    def __init__(self, rows: int, kind: str = "image", label: object = None):
        self.rows, self.kind, self.label = rows, kind, label

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple:
        pixels = np.random.default_rng(row).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        image = {"image": Image.fromarray(pixels), "tensor": tensor, "float": tensor / 255, "wrong": "text",
                 "normalised": tensor / 255 - 0.5}[self.kind]
        return image, row % 2 if self.label is None else self.label


def test_tensors_come_back_as_they_were():
    images, labels = tensors()
    data = from_tensors((images, labels), tensors(6), tensors(4))
    batch = next(data.train.batches([torch.tensor([4, 2])], draw=0))
    assert torch.equal(batch.inputs, images[[4, 2]].float() / 255)
    assert batch.labels.tolist() == [1, 2]
    assert data.shape == (3, 8, 10)
    assert data.validation.ids.tolist() == list(range(30, 36))
    assert data.test.ids.tolist() == list(range(36, 40))


def test_floats_stay_as_they_are():
    images, labels = tensors()
    data = from_tensors((images / 255, labels))
    batch = next(data.train.batches([torch.arange(3)], draw=None))
    torch.testing.assert_close(batch.inputs, images[batch.ids] / 255)


def test_a_share_is_held_out_of_the_labelled_rows_only():
    images, labels = tensors()
    labels[::2] = -1
    data = from_tensors((images, labels), 0.2, classes=["a", "b", "c"], augment="crop-flip", mixup=0.5)
    assert len(data.validation.ids) == 3
    assert (data.validation.labels >= 0).all()
    assert not set(data.validation.ids.tolist()) & set(data.train.ids.tolist())
    assert next(data.train.batches([torch.arange(5)], draw=0)).labels.shape == (5, 3)


def test_tensors_are_cut_by_rule_1_as_they_were_before():
    images = torch.arange(60 * 64).remainder(256).to(torch.uint8).view(60, 1, 8, 8)  # four of them, again and again
    labels = torch.tensor([0] * 5 + [1] * 15 + [2] * 40)
    before, now = (from_tensors((images, labels), 0.2, split_rule=rule, leakage="allow") for rule in (1, 2))
    assert before.validation.ids.tolist() == [0, 9, 13, 17, 20, 23, 28, 34, 42, 48, 55, 59]
    assert before.digest == "6f2a4ed006fc7e29d18b96832ca874fb8a05dec52c37a08137698122f51b7d2c"
    assert now.validation.ids.tolist() != before.validation.ids.tolist()
    assert now.digest != before.digest


def test_a_class_of_one_row_is_trained_on_and_the_rest_is_told():
    labels = torch.tensor([0] * 30 + [1] * 30 + [2])
    images = torch.arange(61, dtype=torch.uint8)[:, None, None, None].expand(61, 1, 8, 8)
    data = from_tensors((images, labels), 0.5)
    assert 60 in data.train.ids.tolist()
    assert data.notes == ("no validation image judges 1 of 3 classes: 2 (1 to train on)",
                          "classes of unequal size: 15 training images of 0, 1 of 2; "
                          "docs/recipes.md has what can be done")


def test_too_few_rows_to_hold_any_out_are_refused():
    labels = torch.arange(2)
    with pytest.raises(DataError, match="too few images to hold out some for validation"):
        from_tensors((torch.zeros(2, 1, 8, 8, dtype=torch.uint8), labels), 0.4)


@pytest.mark.parametrize(("label", "split"), [(-100, "train"), (3, "train"), (-1, "test")])
def test_a_label_out_of_range_is_told_with_its_row(label, split):
    images, labels = tensors()
    wrong = labels.clone()
    wrong[7] = label
    given = {"train": (images, labels), "test": (images, labels)} | {split: (images, wrong)}
    with pytest.raises(DataError, match=rf"label out of range\n.*{split}, row 7\n.*{label}"):
        from_tensors(given["train"], 0.2, given["test"], classes=["a", "b", "c"])


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf")])
def test_values_outside_the_unit_range_are_refused_with_their_row(value):
    images, labels = tensors()
    images = images / 255
    images[5, 0, 0, 0] = value
    with pytest.raises(DataError, match=r"outside \[0, 1\][\s\S]*image 5"):
        from_tensors((images, labels))


def test_shapes_and_types_that_do_not_fit_are_refused():
    images, labels = tensors()
    for wrong in ((images[0], labels), (images, labels[:5]), (images, labels.float()), (images.int(), labels)):
        with pytest.raises(DataError):
            from_tensors(wrong)
    with pytest.raises(DataError, match="validation"):
        from_tensors((images, labels), (images[:, :1], labels))


def test_the_digest_sees_every_pixel_and_label():
    images, labels = tensors()
    digest = from_tensors((images, labels)).digest
    assert from_tensors((images, labels), seed=5, augment="crop").digest == digest
    images[29, 2, 7, 9] ^= 1
    assert from_tensors((images, labels)).digest != digest


@pytest.mark.parametrize(("kind", "shape"), [("image", (3, 10, 10)), ("tensor", (3, 10, 12)), ("float", (3, 10, 12))])
@pytest.mark.parametrize("augment", ["none", "crop-flip", "random-resized-crop", "randaugment"])
def test_data_sets_of_images_and_of_tensors(kind, shape, augment):
    data = from_dataset(Photos(20, kind), 0.2, Photos(3, kind), augment=augment, workers=0, leakage="allow")
    assert data.shape == shape
    assert [len(split.ids) for split in (data.train, data.validation, data.test)] == [16, 4, 3]
    batch = next(data.train.batches([torch.arange(6)], draw=0))
    assert batch.inputs.shape == (6, *shape)
    assert batch.inputs.max() > 0.5
    assert batch.labels.tolist() == [int(number) % 2 for number in batch.ids]
    again = next(data.train.batches([torch.tensor([5])], draw=0))
    assert torch.equal(again.inputs[0], batch.inputs[5])


def test_the_rows_of_a_data_set_are_in_their_places():
    data = from_dataset(Photos(20, "tensor"), Photos(5, "tensor"), Photos(3, "tensor"), leakage="allow")
    for split, start in ((data.train, 0), (data.validation, 20), (data.test, 25)):
        batch = next(split.batches([torch.tensor([2, 0])], draw=None))
        assert batch.ids.tolist() == [start + 2, start]
        assert torch.equal((batch.inputs[0] * 255).round().byte(), Photos(5, "tensor")[2][0])


def test_images_of_a_data_set_are_scaled_as_asked():
    assert from_dataset(Photos(20), image_size=24).shape == (3, 24, 24)


@pytest.mark.parametrize(("kind", "label", "told"), [
    ("wrong", None, "do not begin with an image"), ("normalised", None, r"outside \[0, 1\]"),
    ("image", "cat", r"no class number[\s\S]*row 0[\s\S]*'cat'"), ("image", 1.5, "no class number"),
    ("image", -100, r"out of range")])
def test_rows_that_cannot_be_used_are_told(kind, label, told):
    with pytest.raises(DataError, match=told):
        from_dataset(Photos(20, kind, label), classes=["a", "b"])


@pytest.mark.parametrize("place", [0, 17, 60])
def test_a_row_more_anywhere_moves_at_most_one_other_to_or_from_validation(place):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (61, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(61) % 4

    def held(rows: torch.Tensor) -> set[bytes]:
        data = from_tensors((images[rows], labels[rows]), validation=0.2)
        return {images[rows][row].numpy().tobytes() for row in data.validation.ids.tolist()}

    before = held(torch.tensor([row for row in range(61) if row != place]))
    after = held(torch.arange(61))
    more = images[place].numpy().tobytes()
    assert len((before ^ after) - {more}) <= 1
    assert len(before) > 8


def test_the_order_of_the_rows_changes_nothing_of_what_is_held_out():
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 2
    one = from_tensors((images, labels), validation=0.25)
    other = from_dataset([(image, int(label)) for image, label in zip(images, labels, strict=True)], validation=0.25)
    again = from_tensors((images.flip(0), labels.flip(0)), validation=0.25)
    assert {images[row].numpy().tobytes() for row in one.validation.ids.tolist()} == {
        images[39 - row].numpy().tobytes() for row in again.validation.ids.tolist()}
    assert len(other.validation.ids) == len(one.validation.ids)
class Turned(torch.utils.data.Dataset):
    """Pictures of two to one, stored on their side; their EXIF says so."""

    def __init__(self, orientation: int = 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        self.files = []
        for row in range(20):
            pixels = np.random.default_rng(row).integers(0, 256, (16, 8, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", exif=exif)
            self.files.append(file.getvalue())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        return Image.open(io.BytesIO(self.files[row])), row % 2


def test_images_of_a_data_set_are_turned_by_the_orientation_that_they_still_have():
    seen, stored = (from_dataset(Turned(), 0.2, image_size=(8, 16), orientation=how)
                    for how in ("upright", "as stored"))
    assert seen.shape == (3, 8, 16)
    ids = seen.train.ids[:3]
    batch = next(iter(seen.train.batches([torch.arange(3)], draw=None))).inputs
    for image, row in zip(batch, ids.tolist(), strict=True):
        wanted = np.rot90(np.asarray(Turned()[row][0]), -1)
        assert np.array_equal((image * 255).round().numpy().transpose(1, 2, 0), wanted)
    assert not torch.equal(next(iter(stored.train.batches([torch.arange(3)], draw=None))).inputs, batch)
    assert seen.digest != stored.digest
    assert seen.preprocessing["orientation"] == "upright"


def test_images_without_orientation_have_the_digest_that_they_always_had():
    one, other = (from_dataset(Turned(1), 0.2, image_size=8, orientation=how) for how in ("upright", "as stored"))
    assert one.digest == other.digest


def test_grey_images_of_sixteen_bits_are_one_channel():
    images = [(Image.fromarray(np.full((8, 8), 257 * row, np.uint16)), row % 2) for row in range(20)]
    data = from_dataset(images, 0.2)
    assert data.shape == (1, 8, 8)
    batch = next(iter(data.train.batches([torch.arange(16)], draw=None)))
    assert [round(float(image.max() * 255)) for image in batch.inputs] == batch.ids.tolist()


def test_tensors_that_are_not_square_say_how_a_file_would_become_one():
    how = preparation(from_tensors((torch.zeros(20, 4, 8, 12, dtype=torch.uint8), torch.arange(20) % 2)).preprocessing)
    assert how.shape == (4, 8, 12)
    assert preparation({"channels": 4, "height": 8, "width": 12, "range": [0.0, 1.0]}).shape == (4, 8, 12), "as before"
