"""Data whose labels are masks: a folder of images and masks, or the set `shapes`, as the [data] table names it."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.data import folder, shapes
from tutelage.data.assemble import KEPT_BYTES, SplitRows, augmentation
from tutelage.data.augment import Augmentation
from tutelage.data.bad_images import without_damaged
from tutelage.data.images import Preparation, as_image, decode, prepare_image, printable
from tutelage.data.leakage import Read, judge_files
from tutelage.data.listed_splits import splits_as_listed
from tutelage.data.mask_check import CheckedMasks, check_masks, other_size
from tutelage.data.mask_folder import MaskListing, list_masks
from tutelage.data.mask_source import MaskSource
from tutelage.data.mask_values import NO_CLASS, MaskClasses, declared, prepared_mask, read_mask
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import Cut
from tutelage.data.stream import CPU, StreamSource
from tutelage.errors import UsageError
from tutelage.types import Content, ImageFiles

QUICK_PAIRS = {"train": 32, "val": 16, "test": 16}


@dataclass(frozen=True)
class PairsAt:
    """Where pairs of images and masks lie, how they are prepared, and who reads them onto which device."""

    root: Path | None
    prepared: Preparation
    workers: int = 0
    device: torch.device = CPU


def load_masks(settings: DataSettings, place: PairsAt, *, seed: int = 0, quick: bool = False) -> Data:
    """The data of images and masks that the settings name; the augmentation is drawn from `seed`, splits never are.

    With `quick`, 32 + 16 + 16 made images: of a folder they are written, and read as its own would be.
    """
    _require_fitting(settings)
    if settings.name == "shapes":
        return _shapes(settings, place, seed, quick)
    if quick:
        return _quick(settings, place, seed)
    return _folder(settings, place, seed)


def mask_splits(settings: DataSettings, pairs: MaskListing) -> dict[str, SplitRows]:
    """The rows of each split, ids being places in the listing; labels are 0, and -1 without a mask."""
    labels = torch.tensor([-1 if mask is None else 0 for mask in pairs.masks], dtype=torch.int64)
    return splits_as_listed(settings, pairs.listing, labels)


def _require_fitting(settings: DataSettings) -> None:
    """Refuse what cannot be done with masks."""
    if settings.name not in ("folder", "shapes") or settings.work != "segmentation":
        raise UsageError(f"the set {settings.name!r} is not one of {settings.work}", where="[data] name",
                         expected='name = "folder" or "shapes" for segmentation')
    refused = {"augment": settings.augment == "randaugment", "mixup": settings.mixup > 0,
               "cutmix": settings.cutmix > 0, "balance": settings.balance != "none", "labels": settings.labels,
               "only": settings.only}
    for key, given in refused.items():
        if given:
            raise UsageError("a setting that does not go with masks", where=f"[data] {key}",
                             found=repr(getattr(settings, key)), fix="leave it out")


def _folder(settings: DataSettings, place: PairsAt, seed: int, kept: bool | None = None) -> Data:
    assert place.root is not None, "a folder has its path"
    pairs = list_masks(place.root, follow_symlinks=settings.follow_symlinks, unlabelled=settings.unlabelled)
    listing = pairs.listing
    folder.require_sound(listing)
    read = Read(settings.max_pixels, settings.value_range)
    checked = check_masks(settings, pairs)
    listing = replace(listing, problems=checked.problems, classes=checked.classes.names)
    folder.require_sound(listing)
    bad = checked.damaged(pairs)
    files = pairs.without(bad).images
    contents = folder.contents(replace(listing, images=tuple(files)), settings.max_pixels)
    splits, notes = without_damaged(mask_splits(settings, pairs), listing, bad)
    splits, leaks, also = judge_files(settings.leakage, splits, listing, contents, read)
    reader = FilesOfPairs(pairs, place.prepared, checked.classes, settings.max_pixels)
    rule = _rule(settings, checked.classes)
    data = _made(settings, place, checked.classes.names, reader, splits, folder.folder_fingerprint(contents), rule,
                 seed, kept)

    def sealed(changed: Mapping[str, Content]) -> str:
        content = folder.folder_fingerprint({name: changed.get(name, was) for name, was in contents.items()})
        return digest(settings.name, checked.classes.names, splits, content, rule)

    def named(where: str) -> str | None:
        return next((listing.name(image) for image in files if printable(image.path) == where), None)

    def damaged() -> list[str]:
        again = check_masks(replace(settings, on_bad_image="skip"), pairs)
        return [listing.name(image) for image in files if image.path in again.unread]

    return replace(data, files=ImageFiles(contents, sealed, named, damaged), also_in_training=also,
                   notes=(*listing.notes, *notes, *leaks, *checked.notes(place.prepared.size),
                          *absent_classes(checked, splits)))


@dataclass(frozen=True)
class FilesOfPairs:
    """Row of a listing -> its image and, as one channel more, its mask: [C + 1, H, W] uint8, prepared."""

    pairs: MaskListing
    prepared: Preparation
    classes: MaskClasses
    max_pixels: int

    def __call__(self, row: int) -> Tensor:
        """The pair; whatever is wrong with one of its files is an error that names it."""
        how, path = self.prepared, self.pairs.listing.images[row].path
        image = decode(path, how.channels, self.max_pixels, orientation=how.orientation, value_range=how.value_range)
        mask = self.pairs.masks[row]
        if mask is None:
            numbers = np.full(how.size, NO_CLASS, np.uint8)
        else:
            values = read_mask(mask.path, self.max_pixels, how.orientation)
            numbers = self.classes.of(values, mask.path)
            if numbers.shape[::-1] != image.size:
                raise other_size(mask.path, numbers.shape[::-1], path, image.size)
            numbers = prepared_mask(numbers, how)
        return torch.cat([prepare_image(image, how), torch.from_numpy(numbers)[None]])


@dataclass(frozen=True)
class _RowsOf:
    """Row of a split -> its pair."""

    pair: Callable[[int], Tensor]
    ids: Tensor

    def __call__(self, row: int) -> Tensor:
        return self.pair(int(self.ids[row]))


@dataclass(frozen=True)
class _ArraysOfPairs:
    images: Tensor
    masks: Tensor
    prepared: Preparation

    def __call__(self, row: int) -> Tensor:
        image = prepare_image(as_image(self.images[row]), self.prepared)
        return torch.cat([image, torch.from_numpy(prepared_mask(self.masks[row].numpy(), self.prepared))[None]])


def _made(settings: DataSettings, place: PairsAt, classes: Sequence[str], pair: Callable[[int], Tensor],
          splits: Mapping[str, SplitRows], content: str, rule: str, seed: int, kept: bool | None = None) -> Data:
    """The data of these splits: `train` is augmented, the others never are."""
    shape = place.prepared.shape
    policy = settings.augment or "random-resized-crop"
    assert policy != "jitter", "refused by the settings"
    how = augmentation(policy, shape, seed=seed)
    channels, height, width = shape

    def source(rows: SplitRows, how: Augmentation) -> MaskSource:
        stream = StreamSource(rows.ids, rows.labels, _RowsOf(pair, rows.ids), None, (channels + 1, height, width),
                              len(classes), Augmentation(seed), place.workers, place.device)
        fits = len(rows.ids) * (channels + 1) * height * width <= KEPT_BYTES
        return MaskSource(stream, how, fits if kept is None else kept)

    sources = {split: source(rows, how if split == "train" else Augmentation(seed)) for split, rows in splits.items()}
    return Data(settings.name, tuple(classes), shape, sources["train"], sources["validation"], sources.get("test"),
                place.prepared.as_json(), digest(settings.name, classes, splits, content, rule),
                f"images with masks, {how!r}")


def _rule(settings: DataSettings, classes: MaskClasses) -> str:
    """How rows are chosen and files are read."""
    values = ", ".join(f"{value}: {number}" for value, number in classes.numbers.items())
    rule = f"masks {values}, ignored {sorted(classes.ignored)}"
    rule += f", validation {settings.validation:g}, limit {settings.limit}"
    if settings.test is not None:
        rule += f", test {settings.test}"
    if settings.value_range is not None:
        rule += f", values {settings.value_range[0]:g} to {settings.value_range[1]:g}"
    return f"{rule}, {settings.orientation}, split rule {settings.split_rule}"


def absent_classes(checked: CheckedMasks, splits: Mapping[str, SplitRows]) -> tuple[str, ...]:
    """A note for each split whose masks have no pixel of some class."""
    notes = []
    for split, rows in splits.items():
        pixels = checked.pixels_of(rows.ids.tolist())
        lacking = [name for name, count in zip(checked.classes.names, pixels, strict=True) if not count]
        if lacking:
            notes.append(f"no {split} mask has a pixel of {', '.join(lacking[:8])}"
                         + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""))
    return tuple(notes)


def _shapes(settings: DataSettings, place: PairsAt, seed: int, quick: bool) -> Data:
    """The set made in code."""
    made = shapes.make_shapes()
    ids = torch.arange(len(made.images)).split(list(shapes.SPLITS.values()))
    splits = {name: SplitRows(part, torch.zeros_like(part)) for name, part in zip(shapes.SPLITS, ids, strict=True)}
    if quick:
        counts = dict(zip(splits, QUICK_PAIRS.values(), strict=True))
        splits = {name: SplitRows(*(part[:counts[name]] for part in rows)) for name, rows in splits.items()}
    train = splits["train"]
    first = Cut(settings.split_rule).first(train.ids, train.labels, train.labels, settings.limit)
    splits["train"] = SplitRows(train.ids[first], train.labels[first])
    content = hashlib.sha256(made.images.numpy().tobytes() + made.masks.numpy().tobytes()).hexdigest()
    return _made(settings, place, shapes.CLASSES, _ArraysOfPairs(made.images, made.masks, place.prepared), splits,
                 content, f"limit {settings.limit}", seed)


def _quick(settings: DataSettings, place: PairsAt, seed: int) -> Data:
    """Made images and masks, written as the user's own may be, and read by what reads these."""
    values = _quick_values(settings, place)
    with tempfile.TemporaryDirectory(prefix="tutelage-") as made:
        root = Path(made)
        shapes.write_shapes(root, list(values.values()), QUICK_PAIRS)
        own = {str(value): name for name, value in values.items()}
        plain = replace(settings, root=made, test=None, mask_values=own, unlabelled=False, on_bad_image="error",
                        leakage="allow", value_range=None)
        data = _folder(plain, replace(place, root=root, workers=0), seed, kept=True)
        for source in (data.train, data.validation, data.test):
            assert isinstance(source, MaskSource)
            assert len(source.pairs), "read while the folder is there"
    return replace(data, files=None)


def _quick_values(settings: DataSettings, place: PairsAt) -> dict[str, int]:
    """The name of each class and a value of it: of the recipe, or of the folder if it is there; else of two."""
    classes = declared(settings.mask_values, None, settings.ignored, False)
    if classes is None and place.root is not None and place.root.is_dir():
        pairs = list_masks(place.root, follow_symlinks=settings.follow_symlinks, unlabelled=settings.unlabelled)
        folder.require_sound(pairs.listing)
        classes = check_masks(settings, pairs).classes
    if classes is None:
        return {"background": 0, "foreground": 255}
    return {classes.names[number]: value for value, number in classes.numbers.items()}
