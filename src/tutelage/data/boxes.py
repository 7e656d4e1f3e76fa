"""Data whose labels are boxes: a folder of images with boxes, or the set `shapes_boxes`, as [data] names it."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tutelage.data import folder, shapes_boxes
from tutelage.data.assemble import KEPT_BYTES, SplitRows, augmentation
from tutelage.data.augment import Augmentation
from tutelage.data.bad_images import without_damaged
from tutelage.data.box_check import CheckedBoxes, check_boxes
from tutelage.data.box_folder import BoxListing, list_boxes
from tutelage.data.box_regions import content_of, read_regions, regions_file
from tutelage.data.box_source import BoxSource, PackedBoxes
from tutelage.data.decoding import fit_factor, fitted_size
from tutelage.data.images import Preparation, as_image, decode, prepare_image, printable
from tutelage.data.leakage import Read, judge_files
from tutelage.data.listed_splits import splits_as_listed
from tutelage.data.masks import QUICK_PAIRS, PairsAt
from tutelage.data.settings import OF_BOXES, DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import Cut
from tutelage.data.stream import StreamSource
from tutelage.data.upright_size import Size
from tutelage.errors import DataError, UsageError, unknown
from tutelage.types import Content, ImageFiles

_REFUSED = ("mixup", "cutmix", "balance", "labels", "only")


@dataclass(frozen=True)
class _Found:
    """What all sets of boxes have: image of each id, its size and its boxes in pixels of it, and classes."""

    names: Sequence[str]
    read: Callable[[int], Tensor]
    sizes: Sequence[Size | None]
    boxes: Sequence[np.ndarray]
    classes: Sequence[np.ndarray]
    regions: Sequence[np.ndarray] | None = None


def load_boxes(settings: DataSettings, place: PairsAt, *, seed: int = 0, quick: bool = False) -> Data:
    """The data of images with boxes that the settings name; the augmentation is drawn from `seed`, splits never are.

    With `quick`, 32 + 16 + 16 made images: of a folder they are written, and read as its own would be.
    """
    _require_fitting(settings)
    if settings.name == "shapes_boxes":
        return _shapes(settings, place, seed, quick)
    if quick:
        return _quick(settings, place, seed)
    return _folder(settings, place, seed)


def box_splits(settings: DataSettings, found: BoxListing) -> dict[str, SplitRows]:
    """The rows of each split, ids being places in the listing; labels are 0, and -1 where nothing is known."""
    labels = torch.tensor([-1 if told is None and settings.unlabelled else 0 for told in found.found],
                          dtype=torch.int64)
    return splits_as_listed(settings, found.listing, labels)


def listed_boxes(settings: DataSettings, root: Path) -> BoxListing:
    """`list_boxes` by the keys of [data]."""
    return list_boxes(root, settings.boxes, follow_symlinks=settings.follow_symlinks, unlabelled=settings.unlabelled)


Labelled = TypeVar("Labelled", "_Found", CheckedBoxes)


def only_objects(settings: DataSettings, found: Labelled) -> Labelled:
    """The same images with the boxes of the classes that `objects` names alone, in the order of the set."""
    if settings.objects is None:
        return found
    for name in settings.objects:
        if name not in found.names:
            raise unknown("class", name, found.names, where="[data] objects", error=DataError)
    kept = [number for number, name in enumerate(found.names) if name in settings.objects]
    numbers = np.full(len(found.names), -1)
    numbers[kept] = np.arange(len(kept))
    there = [numbers[classes] >= 0 for classes in found.classes]
    return replace(found, names=tuple(found.names[number] for number in kept),
                   boxes=tuple(boxes[rows] for boxes, rows in zip(found.boxes, there, strict=True)),
                   classes=tuple(numbers[own[rows]] for own, rows in zip(found.classes, there, strict=True)))


def absent_objects(checked: CheckedBoxes, splits: Mapping[str, SplitRows]) -> tuple[str, ...]:
    """A note for each split without a box of some class."""
    notes = []
    for split, rows in splits.items():
        counts = checked.counts(rows.ids.tolist())
        lacking = [name for name, count in zip(checked.names, counts, strict=True) if not count]
        if lacking:
            notes.append(f"no {split} image has a box of {', '.join(map(printable, lacking[:8]))}"
                         + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""))
    return tuple(notes)


def _require_fitting(settings: DataSettings) -> None:
    """Refuse what cannot be done with boxes."""
    if settings.name not in ("folder", "shapes_boxes") or settings.work not in OF_BOXES:
        raise UsageError(f"the set {settings.name!r} is not one of {settings.work}", where="[data] name",
                         expected='name = "folder" or "shapes_boxes" for detection')
    plain = DataSettings(settings.name)
    refused = [*(["augment"] if settings.augment == "randaugment" else []),
               *(key for key in _REFUSED if vars(settings)[key] != vars(plain)[key])]
    if refused:
        raise UsageError("a setting that does not go with boxes", where=f"[data] {refused[0]}",
                         found=repr(vars(settings)[refused[0]]), fix="leave it out")


def _folder(settings: DataSettings, place: PairsAt, seed: int, kept: bool | None = None) -> Data:
    assert place.root is not None, "a folder has its path"
    found = listed_boxes(settings, place.root)
    listing = found.listing
    folder.require_sound(listing)
    checked = only_objects(settings, check_boxes(settings, found))
    folder.require_sound(replace(listing, problems=checked.problems))
    bad = checked.damaged(found)
    files = found.without(bad)
    contents = folder.contents(files, settings.max_pixels)
    splits, notes = without_damaged(box_splits(settings, found), listing, bad)
    read = Read(settings.max_pixels, settings.value_range)
    splits, leaks, also = judge_files(settings.leakage, splits, listing, contents, read)
    _require_objects(checked, splits, listing)
    contents |= found.contents()
    prepared = _Prepared([image.path for image in listing.images], place.prepared, settings.max_pixels)
    regions = None
    if settings.regions is not None:
        file = regions_file(listing.root, settings.regions)
        regions = read_regions(file, [image.path.relative_to(listing.root) for image in listing.images], checked.sizes)
        contents |= {settings.regions: content_of(file)}
    rows = _Found(checked.names, prepared, checked.sizes, checked.boxes, checked.classes, regions)
    rule = _rule(settings, found)
    data = _made(settings, place, rows, splits, folder.folder_fingerprint(contents), rule, seed, kept)

    def sealed(changed: Mapping[str, Content]) -> str:
        content = folder.folder_fingerprint({name: changed.get(name, was) for name, was in contents.items()})
        return digest(settings.name, rows.names, splits, content, rule)

    def named(where: str) -> str | None:
        return next((listing.name(image) for image in files.images if printable(image.path) == where), None)

    def damaged() -> list[str]:
        unread = folder.damaged(files, settings.max_pixels, settings.value_range)
        return [listing.name(files.images[number]) for number in unread]

    return replace(data, files=ImageFiles(contents, sealed, named, damaged), also_in_training=also,
                   notes=(*listing.notes, *notes, *leaks, *checked.notes, *absent_objects(checked, splits)))


@dataclass(frozen=True)
class _Prepared:
    """Row of a listing -> its image, fitted: [C, H, W] uint8."""

    paths: Sequence[Path]
    how: Preparation
    max_pixels: int

    def __call__(self, row: int) -> Tensor:
        image = decode(self.paths[row], self.how.channels, self.max_pixels, orientation=self.how.orientation,
                       value_range=self.how.value_range)
        return prepare_image(image, self.how)


@dataclass(frozen=True)
class _OfArrays:
    """Row of images in memory -> the image, fitted."""

    images: Tensor
    how: Preparation

    def __call__(self, row: int) -> Tensor:
        return prepare_image(as_image(self.images[row]), self.how)


@dataclass(frozen=True)
class _RowsOfSplit:
    """Row of a split -> its image."""

    read: Callable[[int], Tensor]
    ids: Tensor

    def __call__(self, row: int) -> Tensor:
        return self.read(int(self.ids[row]))


def _made(settings: DataSettings, place: PairsAt, found: _Found, splits: Mapping[str, SplitRows], content: str,
          rule: str, seed: int, kept: bool | None = None) -> Data:
    """The data of these splits: `train` is augmented, the others never are."""
    shape = place.prepared.shape
    policy = settings.augment or "random-resized-crop"
    assert policy != "jitter", "refused by the settings"
    how = augmentation(policy, shape, seed=seed)
    channels, height, width = shape

    def source(rows: SplitRows, how: Augmentation) -> BoxSource:
        stream = StreamSource(rows.ids, rows.labels, _RowsOfSplit(found.read, rows.ids), None, shape, len(found.names),
                              Augmentation(seed), place.workers, place.device)
        fits = len(rows.ids) * channels * height * width <= KEPT_BYTES
        places, into = rows.ids.tolist(), place.prepared.size
        regions = None if found.regions is None else _packed(
            replace(found, boxes=found.regions, classes=[np.zeros(len(one), np.int64) for one in found.regions]),
            places, into)
        return BoxSource(stream, _packed(found, places, into), how, fits if kept is None else kept, regions)

    sources = {split: source(rows, how if split == "train" else Augmentation(seed)) for split, rows in splits.items()}
    return Data(settings.name, tuple(found.names), shape, sources["train"], sources["validation"], sources.get("test"),
                place.prepared.as_json(), digest(settings.name, found.names, splits, content, rule),
                f"images with boxes, {how!r}")


def _packed(found: _Found, places: Sequence[int], into: tuple[int, int]) -> PackedBoxes:
    """The boxes of some images in pixels of what a network receives."""
    boxes, classes, extents = [np.empty((0, 4))], [np.empty(0, np.int64)], []
    for place in places:
        size = found.sizes[place]
        assert size is not None, "an image without a size is damaged, and left out"
        width, height = fitted_size(size, into)
        extents.append((height, width))
        edges = found.boxes[place] * fit_factor(size, into)
        boxes.append(np.minimum(edges, [into[1], into[0]] * 2))
        classes.append(found.classes[place])
    starts = np.cumsum([0, *(len(one) for one in classes[1:])])
    return PackedBoxes(torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
                       torch.from_numpy(np.concatenate(classes)), torch.from_numpy(starts),
                       torch.tensor(extents, dtype=torch.float32).reshape(-1, 2))


def _require_objects(checked: CheckedBoxes, splits: Mapping[str, SplitRows], listing: folder.Listing) -> None:
    if not checked.counts(splits["train"].ids.tolist()).sum():
        raise DataError("no training image has a box", where=printable(listing.root),
                        found=f"{len(splits['train'].ids)} training images, none of them with a box",
                        expected="objects to learn from", fix="add boxes, or raise `limit` in [data]")


def _rule(settings: DataSettings, found: BoxListing) -> str:
    """How rows are chosen and files are read."""
    rule = f"boxes {found.kind}, validation {settings.validation:g}, limit {settings.limit}"
    if settings.test is not None:
        rule += f", test {settings.test}"
    if settings.objects:
        rule += f", objects {settings.objects}"
    if settings.unlabelled:
        rule += ", unlabelled"
    if settings.value_range is not None:
        rule += f", values {settings.value_range[0]:g} to {settings.value_range[1]:g}"
    return f"{rule}, {settings.orientation}, split rule {settings.split_rule}"


def _shapes(settings: DataSettings, place: PairsAt, seed: int, quick: bool) -> Data:
    """The set made in code."""
    made = shapes_boxes.make_shapes_boxes()
    ids = torch.arange(len(made.images)).split(list(shapes_boxes.SPLITS.values()))
    splits = {name: SplitRows(part, torch.zeros_like(part))
              for name, part in zip(shapes_boxes.SPLITS, ids, strict=True)}
    if quick:
        counts = dict(zip(splits, QUICK_PAIRS.values(), strict=True))
        splits = {name: SplitRows(*(part[:counts[name]] for part in rows)) for name, rows in splits.items()}
    train = splits["train"]
    first = Cut(settings.split_rule).first(train.ids, train.labels, train.labels, settings.limit)
    splits["train"] = SplitRows(train.ids[first], train.labels[first])
    content = hashlib.sha256(made.images.numpy().tobytes())
    for boxes, classes in zip(made.boxes, made.classes, strict=True):
        content.update(boxes.tobytes() + classes.tobytes())
    found = _Found(shapes_boxes.CLASSES, _OfArrays(made.images, place.prepared),
                   [(shapes_boxes.SIDE, shapes_boxes.SIDE)] * len(made.images), made.boxes, made.classes)
    rule = f"limit {settings.limit}" + (f", objects {settings.objects}" if settings.objects else "")
    return _made(settings, place, only_objects(settings, found), splits, content.hexdigest(), rule, seed)


def _quick(settings: DataSettings, place: PairsAt, seed: int) -> Data:
    """Made images with boxes, written as the user's own may be, and read by what reads these."""
    names = settings.objects or shapes_boxes.CLASSES
    if place.root is not None and place.root.is_dir():
        listing = listed_boxes(settings, place.root).listing
        folder.require_sound(listing)
        names = listing.classes
    with tempfile.TemporaryDirectory(prefix="tutelage-") as made:
        root = Path(made)
        shapes_boxes.write_shapes_boxes(root, names, QUICK_PAIRS)
        plain = replace(settings, root=made, test=None, boxes=None, unlabelled=False, on_bad_image="error",
                        leakage="allow", value_range=None, regions=None)
        data = _folder(plain, replace(place, root=root, workers=0), seed, kept=True)
        for source in (data.train, data.validation, data.test):
            assert isinstance(source, BoxSource)
            assert len(source.images), "read while the folder is there"
    return replace(data, files=None)
