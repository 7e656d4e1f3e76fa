"""Your own images: tensors, or any torch data set of (image, class number)."""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage.data.assemble import Maker, Policy, SplitRows, assembled, augmentation, held_out
from tutelage.data.balance import Balance
from tutelage.data.images import Orientation, Preparation, Range, Sides, as_array, flatten, pair
from tutelage.data.leakage import Leakage, Screened, hashes_of_rows, judge_leaks, keys_of, pixel_hash
from tutelage.data.pixel_modes import GREY, upright
from tutelage.data.source import Data
from tutelage.data.splits import Cut, names_of_hashes
from tutelage.data.stream import CPU
from tutelage.errors import DataError, unknown

Pair = tuple[Tensor, Tensor]
Images = Any
"""A map-style torch data set: `len(images)`, `images[row] -> (image, class number)`."""


def from_tensors(train: Pair, validation: Pair | float = 0.1,
                 test: Pair | None = None, *, classes: Sequence[str] | None = None,
                 augment: Policy = "none", mixup: float = 0.0, cutmix: float = 0.0, name: str = "tensors",
                 seed: int = 0, device: torch.device = CPU, leakage: Leakage = "auto", split_rule: int = 2,
                 balance: Balance = "none") -> Data:
    """Data from images [N, C, H, W] (uint8, or float in [0, 1]) and labels [N] int64 (-1 in train: no label).

    `validation` is a pair like the others, or the share of the training rows to hold out. Without `classes` the
    classes are called "0", "1", ...; the ids count through train, validation and test. `leakage` says what the same
    image in two splits, or under two classes, does: by default a DataError if it is for training and for testing. It,
    `split_rule` and `balance` are those of `DataSettings`.

    >>> data = from_tensors((torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2), validation=0.2)
    >>> len(data.train.ids), len(data.validation.ids), data.classes
    (16, 4, ('0', '1'))
    """
    given = {"train": train, "validation": validation, "test": test}
    pairs = {split: pair for split, pair in given.items() if isinstance(pair, tuple)}
    for split, (images, labels) in pairs.items():
        _check_images(images, labels, tuple(train[0].shape[1:]), train[0].dtype, split)
    labels = {split: pair[1].long().cpu() for split, pair in pairs.items()}
    names = _class_names(classes, labels)
    images = torch.cat([images.cpu() for images, _ in pairs.values()])
    channels, height, width = images.shape[1:]
    maker = Maker(images, (channels, height, width), len(names), device=device)
    how = augmentation(augment, maker.shape, seed=seed, mixup=mixup, cutmix=cutmix)
    content = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
    hashes = hashes_of_rows(images)
    judged = _judged(leakage, labels, _splits(labels, validation, Cut(split_rule, names_of_hashes(hashes))), hashes)
    data = assembled(name, names, maker, judged.splits, how, _as_given(maker.shape), content,
                     _rule(validation, split_rule, balance), balance)
    return replace(data, notes=(*data.notes, *judged.notes), also_in_training=judged.also_in_training)


def from_dataset(train: Images, validation: Images | float = 0.1, test: Images | None = None, *,
                 classes: Sequence[str] | None = None, image_size: Sides | None = None, augment: Policy = "none",
                 mixup: float = 0.0, cutmix: float = 0.0, name: str = "dataset", seed: int = 0,
                 device: torch.device = CPU, workers: int = 0, orientation: Orientation = "upright",
                 value_range: Range | None = None, leakage: Leakage = "auto", split_rule: int = 2,
                 balance: Balance = "none") -> Data:
    """Data from map-style torch data sets of (image, class number).

    An image is a PIL image, cut and scaled to `image_size` (pixels of both sides, or (height, width); default: the
    shorter side of the first), or a tensor [C, H, W], uint8 or float in [0, 1], all of one shape. A PIL image that
    still has an EXIF orientation is turned by it, unless `orientation` is "as stored"; `value_range` is what becomes
    0 .. 255 in one of more than 8 bits a channel. Every row is read once here, for its label and for the
    digest, so the data sets should give the same image whenever they are asked: leave out their random transforms.
    """
    given = {"train": train, "validation": validation, "test": test}
    sets = {split: part for split, part in given.items() if part is not None and not isinstance(part, float)}
    shape, prepared = _form(train, image_size, orientation, value_range)
    joined = _Joined(tuple(sets.values()), prepared)
    labels, content, hashes = {}, hashlib.sha256(), list[str]()
    for split, part in sets.items():
        found = []
        for row in range(len(part)):
            image, label = part[row]
            content.update(_checked(image, shape, prepared, f"{split}, row {row}"))
            hashes.append(_hash_of(image, prepared, f"{split}, row {row}"))
            found.append(_class_number(label, f"{split}, row {row}"))
        labels[split] = torch.tensor(found, dtype=torch.int64)
    names = _class_names(classes, labels)
    maker = Maker(joined, shape, len(names), prepared, workers, device)
    how = augmentation(augment, shape, seed=seed, mixup=mixup, cutmix=cutmix, files=prepared is not None)
    preprocessing = prepared.as_json() if prepared else _as_given(shape)
    judged = _judged(leakage, labels, _splits(labels, validation, Cut(split_rule, names_of_hashes(hashes))), hashes)
    data = assembled(name, names, maker, judged.splits, how, preprocessing, content.hexdigest(),
                     _rule(validation, split_rule, balance), balance)
    return replace(data, notes=(*data.notes, *judged.notes), also_in_training=judged.also_in_training)


@dataclass(frozen=True)
class _Joined:
    """The image of an id, where the ids count through several data sets."""

    sets: tuple[Images, ...]
    prepared: Preparation | None

    def __call__(self, number: int) -> Image.Image | Tensor:
        starts = [sum(len(part) for part in self.sets[:place]) for place in range(len(self.sets))]
        place = bisect_right(starts, number) - 1
        image = self.sets[place][number - starts[place]][0]
        if self.prepared is None or not isinstance(image, Image.Image):
            return image
        return _flat(image, self.prepared, f"row {number}")


def _form(images: Images, image_size: Sides | None, orientation: Orientation,
          value_range: Range | None) -> tuple[tuple[int, int, int], Preparation | None]:
    """The shape of what a network will receive, and how an image becomes that; tensors stay as they are."""
    if len(images) == 0:
        raise DataError("a data set without rows", where="train")
    first = images[0][0]
    if isinstance(first, Image.Image):
        size = image_size or min(first.size)
        prepared = Preparation(1 if first.mode in GREY else 3, size, size, 0, orientation, value_range)
        return prepared.shape, prepared
    if not isinstance(first, Tensor) or first.ndim != 3:
        raise DataError("a data set whose rows do not begin with an image", where="train, row 0",
                        found=tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__,
                        expected="a PIL image or a tensor [channels, height, width]",
                        fix="add torchvision.transforms.v2.PILToTensor() to its transform")
    if image_size is not None and tuple(first.shape[1:]) != pair(image_size):
        raise DataError("tensors are not scaled to `image_size`", where="train, row 0", found=tuple(first.shape),
                        fix="let the data set give PIL images, or tensors of that size")
    channels, height, width = first.shape
    return (channels, height, width), None


def _checked(image: Image.Image | Tensor, shape: tuple[int, int, int], prepared: Preparation | None,
             where: str) -> bytes:
    """The bytes of an image that may be used, for the digest."""
    if isinstance(image, Tensor) != (prepared is None):
        raise DataError("some rows are PIL images and some are tensors", where=where, fix="make them all alike")
    if not isinstance(image, Tensor):
        assert prepared is not None, "refused above"
        stored = as_array(image).tobytes()
        return stored if prepared.orientation == "as stored" or upright(image) is image else stored + b"upright"
    if tuple(image.shape) != shape:
        raise DataError("an image of another shape than the first", where=where, found=tuple(image.shape),
                        expected=shape, fix="let the data set give PIL images, or scale them in its transform")
    _check_range(image[None], where)
    return image.contiguous().numpy().tobytes()


def _class_number(label: object, where: str) -> int:
    if isinstance(label, Tensor) and label.numel() == 1:
        label = label.item()
    if isinstance(label, (int, np.integer)):
        return int(label)
    raise DataError("a label that is no class number", where=where, found=repr(label),
                    expected="a whole number")


def _check_images(images: Tensor, labels: Tensor, shape: tuple[int, ...], kind: torch.dtype, split: str) -> None:
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or images.dtype != kind or len(images) == 0:
        raise DataError("images that do not fit", where=split, found=f"{tuple(images.shape)}, {images.dtype}",
                        expected=f"[N, channels, height, width], as in train: {shape}, {kind}")
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point():
        raise DataError("labels that do not fit", where=split, found=f"{tuple(labels.shape)}, {labels.dtype}",
                        expected=f"{len(images)} whole numbers, one for each image")
    _check_range(images, split)


def _check_range(images: Tensor, where: str) -> None:
    """Bytes, or floats in [0, 1]: a network normalises by itself, and a second time would not be seen."""
    if images.dtype == torch.uint8:
        return
    expected = "uint8, or float in [0, 1] without normalisation"
    if not images.is_floating_point():
        raise DataError("images of a type whose range is not known", where=where, found=images.dtype,
                        expected=expected)
    good = ((images >= 0) & (images <= 1)).flatten(1).all(1)
    if not good.all():
        row = int((~good).nonzero()[0])
        raise DataError("image values outside [0, 1]", where=f"{where}, image {row}", expected=expected,
                        found=f"{float(images[row].min()):g} .. {float(images[row].max()):g}",
                        fix="divide by 255, and leave normalisation to the network")


def _class_names(classes: Sequence[str] | None, labels: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of the classes, after a look at every label."""
    count = int(labels["train"].max()) + 1 if classes is None else len(classes)
    if count < 2 or (classes is not None and len(set(classes)) < count):
        raise DataError("too few classes", found=classes or f"labels up to {count - 1}",
                        expected="at least two, each with a name of its own")
    for split, numbers in labels.items():
        lowest = -1 if split == "train" else 0
        wrong = ((numbers < lowest) | (numbers >= count)).nonzero().flatten().tolist()
        if wrong:
            raise DataError("a label out of range", where=f"{split}, row {wrong[0]}",
                            found=f"{int(numbers[wrong[0]])} (and {len(wrong) - 1} more rows like it)",
                            expected=f"0 .. {count - 1}" + (", or -1 for no label" if lowest < 0 else ""))
    return tuple(classes) if classes is not None else tuple(str(number) for number in range(count))


def _rule(validation: object, split_rule: int, balance: Balance) -> str:
    cut = f"{validation}" + (f", split rule {split_rule}" if split_rule > 1 else "")
    how = "" if balance == "none" else f", balance {balance}"
    return f"validation {cut if isinstance(validation, float) else 'given'}{how}"


def _splits(labels: Mapping[str, Tensor], validation: object, cut: Cut) -> dict[str, SplitRows]:
    """The ids count through train, validation and test; a share is held out of train."""
    splits, count = {}, 0
    for split, numbers in labels.items():
        splits[split] = SplitRows(torch.arange(count, count + len(numbers)), numbers)
        count += len(numbers)
    if isinstance(validation, float):
        splits["train"], splits["validation"] = held_out(splits["train"], validation, "validation", cut)
    return splits


def _judged(leakage: Leakage, labels: Mapping[str, Tensor], splits: dict[str, SplitRows],
            hashes: Sequence[str]) -> Screened:
    """What is left of the splits, and what is said of images that are in two of them."""
    if leakage not in get_args(Leakage):
        raise unknown("choice", leakage, get_args(Leakage), where="leakage")

    def named(number: int) -> str:
        for split, those in labels.items():
            if number < len(those):
                return f"row {number} of {split}"
            number -= len(those)
        raise AssertionError(number)

    return (Screened(splits) if leakage == "allow" else
            judge_leaks(leakage, splits, keys_of(hashes), named, "the images"))


def _hash_of(image: Image.Image | Tensor, prepared: Preparation | None, where: str) -> str:
    if isinstance(image, Tensor):
        return pixel_hash(image.numpy())
    assert prepared is not None, "images come with their preparation"
    return pixel_hash(_flat(image, prepared, where))


def _flat(image: Image.Image, prepared: Preparation, where: str) -> Image.Image:
    """An image in grey or RGB, turned as its orientation says if that is wanted."""
    image = upright(image) if prepared.orientation == "upright" else image
    return flatten(image, prepared.channels, where, prepared.value_range)


def _as_given(shape: tuple[int, int, int]) -> dict[str, object]:
    """The preprocessing of tensors: theirs is not known; a file is cut and scaled to them."""
    channels, height, width = shape
    sides = height if height == width else (height, width)
    return Preparation(channels, sides, sides).as_json()
