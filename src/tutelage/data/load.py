"""The data that the [data] table of a recipe names."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image
from torch import Tensor

from tutelage.data import folder, label_files, published
from tutelage.data.assemble import Maker, SplitRows, assembled, augmentation, held_out
from tutelage.data.bad_images import without_damaged
from tutelage.data.balance import named
from tutelage.data.boxes import load_boxes
from tutelage.data.images import (
    Preparation,
    Sides,
    as_image,
    decode,
    pair,
    prepare_image,
    printable,
)
from tutelage.data.leakage import Read, Screened, judge_files, judge_leaks, keys_of_rows
from tutelage.data.load_text import load_text
from tutelage.data.load_users import load_users
from tutelage.data.mask_folder import are_images_and_masks
from tutelage.data.masks import PairsAt, load_masks
from tutelage.data.pairs import load_pairs
from tutelage.data.panel import panel_data, read_panel
from tutelage.data.resize import turned_nothing
from tutelage.data.roots import found_path, homes, root_of, roots_of
from tutelage.data.series import read_set, scaling_by, series_data, splits_of_series
from tutelage.data.settings import OF_BOXES, OF_USERS, PANELS, SERIES, DataSettings
from tutelage.data.shards import shards_of, with_shards
from tutelage.data.source import Data, digest
from tutelage.data.splits import TEST_SHARE, Cut, names_of_paths
from tutelage.data.stream import CPU
from tutelage.data.table import TableAt, load_table
from tutelage.data.text_settings import TASKS_OF_TEXT, TEXTS
from tutelage.errors import DataError, UsageError, UserError
from tutelage.system.random import derive
from tutelage.types import Content, ImageFiles

AS_STORED = "images are read as stored: an EXIF orientation is not applied"
TURNED_NOTHING = ("an earlier version of pre-resize made this folder, and did not turn images by their EXIF: "
                  "photographs may lie on their side; make it again")
QUICK_ROWS = {"train": 64, "validation": 32, "test": 32}


def load_data(settings: DataSettings, *, seed: int = 0, device: torch.device = CPU, quick: bool = False) -> Data:
    """The data that the settings name; the augmentation is drawn from `seed`, the splits never are.

    With `quick`, 64 + 32 + 32 images: of `digits` real ones, of all other sets noise with a little of the class
    in it, in the true shape and number of classes, for which no file is needed; of series `waves`, of users `shop`,
    of text `sentences`.

    >>> data = load_data(DataSettings("digits"))
    >>> data.shape, [len(split.ids) for split in (data.train, data.validation, data.test)]
    ((1, 16, 16), [1296, 143, 358])
    """
    data = _whole(settings, seed, device, quick)
    return data if settings.shards is None else with_shards(data, shards_of(settings.shards, quick=quick), seed)


def _whole(settings: DataSettings, seed: int, device: torch.device, quick: bool) -> Data:
    """The data before any of it is dealt out."""
    if settings.name in OF_USERS or settings.work == "recommendation":
        found = None if quick or settings.name == "shop" else roots_of(settings)
        return load_users(settings, found, seed=seed, device=device)
    if settings.name in TEXTS or settings.work in TASKS_OF_TEXT:
        made = quick or settings.name == "sentences"
        return load_text(settings, None if made else roots_of(settings), homes(), seed=seed, device=device, quick=quick)
    if settings.name in SERIES or settings.work == "series":
        return _series(settings, seed, device, quick)
    if settings.name in PANELS or settings.work == "forecast":
        return _panel(settings, device, quick)
    if settings.name == "table":
        place = TableAt(roots_of(settings), preparation_of(settings), _workers_of(settings, device), device)
        return load_table(settings, place, seed=seed, most=QUICK_ROWS if quick else None)
    if settings.work == "regression":
        raise UsageError("a set without numbers to learn", where="[data] name", found=settings.name,
                         expected='name = "table", with `targets`')
    if settings.work == "segmentation" or settings.name == "shapes":
        root, workers = None if settings.name == "shapes" else root_of(settings), _workers_of(settings, device)
        return load_masks(settings, PairsAt(root, preparation_of(settings), workers, device), seed=seed, quick=quick)
    if settings.work in OF_BOXES or settings.name == "shapes_boxes":
        root, workers = None if settings.name == "shapes_boxes" else root_of(settings), _workers_of(settings, device)
        return load_boxes(settings, PairsAt(root, preparation_of(settings), workers, device), seed=seed, quick=quick)
    if settings.work == "fusion" or settings.name == "pairs":
        given = None if settings.fused is None else found_path(settings.fused)
        root = None if settings.name == "pairs" else root_of(settings)
        return load_pairs(settings, PairsAt(root, preparation_of(settings), 0, device), given, seed=seed, quick=quick)
    if settings.name in ("folder", "imagenet100"):
        return _quick(settings, seed, device) if quick else _folder(settings, seed, device)
    if quick and settings.name != "digits":
        return _quick(settings, seed, device)
    return _arrays(settings, seed, device, quick)


def preparation_of(settings: DataSettings) -> Preparation:
    """How the images of a set become what a network receives."""
    def prepared(channels: int, default: int, scaled: float = 1.0, border: int = 0) -> Preparation:
        height, width = pair(settings.image_size or default)
        pad = border * min(height, width) // 32
        inner = height - 2 * pad, width - 2 * pad
        resize = round(inner[0] * scaled), round(inner[1] * scaled)
        return Preparation(channels, _alike(resize), _alike(inner), pad, settings.orientation, settings.value_range)

    if settings.work == "segmentation":
        return prepared(3, 64 if settings.name == "shapes" else 224)
    if settings.work in OF_BOXES:
        return replace(prepared(3, 64 if settings.name == "shapes_boxes" else 320), fitted=True)
    match settings.name:
        case "digits":
            return prepared(1, 16)
        case "cifar10" | "cifar100":
            return prepared(3, 32)
        case "fashion_mnist":
            return prepared(1, 32, border=2)
        case _:
            return prepared(3, 224, scaled=256 / 224)


def _alike(sides: tuple[int, int]) -> Sides:
    """One number where both are the same."""
    return sides[0] if sides[0] == sides[1] else sides


def _arrays(settings: DataSettings, seed: int, device: torch.device, quick: bool) -> Data:
    """A published set that fits in memory; what has no test split gives up a fixed fifth for one."""
    root = root_of(settings)
    match settings.name:
        case "digits":
            arrays = published.digits()
        case "fashion_mnist":
            arrays = published.fashion_mnist(root, settings.download)
        case _:
            arrays = published.cifar(10 if settings.name == "cifar10" else 100, root, settings.download)
    every = SplitRows(torch.arange(len(arrays.labels)), arrays.labels)
    cut = Cut(settings.split_rule)
    training, test = (SplitRows(*(part[:arrays.training] for part in every)),
                      SplitRows(*(part[arrays.training:] for part in every)))
    if not len(test.ids):
        training, test = held_out(training, TEST_SHARE, "test", cut)
    splits = _with_validation(settings, {"train": training, "test": test}, cut)
    if settings.labels is not None:
        file, _, name = settings.labels.partition(":")
        told = label_files.labels_in_file(found_path(file), name, arrays)
        splits["train"] = SplitRows(splits["train"].ids, told[splits["train"].ids])
    if quick:
        splits = {name: _first(rows, rows.labels, QUICK_ROWS[name], cut) for name, rows in splits.items()}
    prepared = preparation_of(settings)
    content = hashlib.sha256(arrays.images.numpy().tobytes()).hexdigest()
    splits["train"] = _chosen(splits["train"], settings, arrays.classes, arrays.labels, cut, quick)
    if settings.leakage != "allow" and not quick:
        keys = keys_of_rows(arrays.images)
        judged = judge_leaks(settings.leakage, splits, keys, "image {}".format, settings.name, published=True)
    else:
        judged = Screened(splits)
    kept = torch.cat([rows.ids for rows in judged.splits.values()])
    data = _made(settings, arrays.classes, _prepared(arrays.images, prepared, kept), judged.splits, prepared, content,
                 seed, device, quick)
    return replace(data, notes=(*data.notes, *judged.notes), also_in_training=judged.also_in_training)


def _folder(settings: DataSettings, seed: int, device: torch.device) -> Data:
    """A folder of images; what has no test and no validation folder gives up shares for them."""
    listing = _listing(settings)
    folder.require_sound(listing)
    if settings.task is None and are_images_and_masks(listing.classes):
        raise UsageError("a folder of images and masks, and no word of what it is for", where="[data] task",
                         found=", ".join(listing.classes), expected='task = "segmentation"',
                         fix='say so, or task = "classification" if these are two classes')
    if settings.name == "imagenet100" and len(listing.classes) != 100:
        raise DataError("this is not ImageNet-100", where=listing.root, found=f"{len(listing.classes)} classes",
                        expected="100 classes", fix='use name = "folder" for other sets of classes')
    ranges = settings.value_range
    bad = folder.damaged(listing, settings.max_pixels, ranges) if settings.on_bad_image == "skip" else {}
    kept = replace(listing, images=tuple(image for place, image in enumerate(listing.images) if place not in bad))
    contents = folder.contents(kept, settings.max_pixels)
    splits, notes = folder_rows(settings, listing, bad)
    splits, leaks, also = judge_files(settings.leakage, splits, listing, contents, Read(settings.max_pixels, ranges))
    prepared = preparation_of(settings)
    if settings.orientation == "as stored":
        notes += (AS_STORED,)
    elif turned_nothing(listing.root):
        notes += (TURNED_NOTHING,)
    read = partial(_read, [image.path for image in listing.images], prepared, settings.max_pixels)
    data = _made(settings, listing.classes, read, splits, prepared, folder.folder_fingerprint(contents), seed, device)

    def sealed(changed: Mapping[str, Content]) -> str:
        content = folder.folder_fingerprint({name: changed.get(name, was) for name, was in contents.items()})
        return digest(settings.name, listing.classes, splits, content, _rule(settings))

    def named(where: str) -> str | None:
        return next((kept.name(image) for image in kept.images if printable(image.path) == where), None)

    def damaged() -> list[str]:
        return [kept.name(kept.images[place]) for place in folder.damaged(kept, settings.max_pixels, ranges)]

    return replace(data, files=ImageFiles(contents, sealed, named, damaged), also_in_training=also,
                   notes=(*listing.notes, *notes, *leaks, *data.notes))


def _series(settings: DataSettings, seed: int, device: torch.device, quick: bool) -> Data:
    """Series, scaled by all training rows, whatever `limit` and `only` keep of them: both are chosen after that."""
    if settings.name not in SERIES or settings.work != "series":
        raise UsageError("a task that these data are not for", where="[data] task", found=settings.work,
                         expected=f"series with {' or '.join(SERIES)}, and these with no other")
    made = quick or settings.name == "waves"
    found, cut = read_set(settings, [] if made else roots_of(settings)), Cut(settings.split_rule)
    splits = splits_of_series(found, replace(settings, by=None) if made else settings, cut)
    how = scaling_by(found, splits["train"].ids)
    if quick:
        splits = {name: _first(rows, rows.labels, QUICK_ROWS[name], cut) for name, rows in splits.items()}
    splits["train"] = _chosen(splits["train"], settings, found.classes, found.labels, cut, quick)
    return series_data(settings, found, how, splits, rule=_rule(settings), seed=seed, device=device,
                       told=settings.every_class and not quick)


def _panel(settings: DataSettings, device: torch.device, quick: bool) -> Data:
    """Windows of a panel, scaled by the whole training period, whatever `limit` and `only` keep of them."""
    if settings.name not in PANELS or settings.work not in ("forecast", "regression"):
        raise UsageError("a task that these data are not for", where="[data] task", found=settings.work,
                         expected=f"forecast with {' or '.join(PANELS)}, and these with no other")
    panel = read_panel(settings, [] if quick or settings.name == "waves_forecast" else roots_of(settings))
    kept = None
    if settings.only is not None or settings.limit is not None:
        ids = panel_data(replace(settings, limit=None, only=None), panel).train.ids
        chosen = _chosen(SplitRows(ids, torch.zeros_like(ids)), settings, (), torch.zeros(int(ids.max()) + 1).long(),
                         Cut(settings.split_rule), quick)
        kept = chosen.ids
    return panel_data(settings, panel, device=device, most=QUICK_ROWS if quick else None, kept=kept)


def folder_rows(settings: DataSettings, listing: folder.Listing,
                bad: Mapping[int, UserError] = MappingProxyType({})) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
    """The rows of each split of a folder, ids being places in its listing, without the `bad`; and notes of those."""
    cut = Cut(settings.split_rule, names_of_paths([image.path.relative_to(listing.root) for image in listing.images]))
    labels = _folder_labels(listing)
    splits, notes = without_damaged(_folder_splits(settings, listing, labels, cut), listing, bad)
    splits["train"] = _chosen(splits["train"], settings, listing.classes, labels, cut)
    return splits, notes


def _folder_labels(listing: folder.Listing) -> Tensor:
    numbers = {name: number for number, name in enumerate(listing.classes)} | {folder.UNLABELLED: -1}
    return torch.tensor([numbers[image.label] for image in listing.images])


def _folder_splits(settings: DataSettings, listing: folder.Listing, labels: Tensor, cut: Cut) -> dict[str, SplitRows]:
    places: dict[str, list[int]] = {}
    for place, image in enumerate(listing.images):
        places.setdefault(image.split, []).append(place)
    found = {split: SplitRows(torch.tensor(rows), labels[rows]) for split, rows in places.items()}
    splits = {"train": found["all"] if "all" in found else found["train"]}
    if "all" in found:
        splits["train"], splits["test"] = held_out(splits["train"], TEST_SHARE, "test", cut)
    if settings.test == "val" and ("val" not in found or "test" in splits or "test" in found):
        raise DataError("there is no split `val` to test on, or another one too", where="[data] test",
                        found=", ".join(found), expected="val, and no test", fix="leave `test` out")
    held = {"test": "val"} if settings.test == "val" else {"validation": "val", "test": "test"}
    splits |= {name: found[split] for name, split in held.items() if split in found}
    splits = _with_validation(settings, splits, cut)
    if settings.unlabelled and "unlabelled" in found:
        both = zip(splits["train"], found["unlabelled"], strict=True)
        splits["train"] = SplitRows(*(torch.cat(pair) for pair in both))
    return splits


def _quick(settings: DataSettings, seed: int, device: torch.device) -> Data:
    """Noise with a little of the class in it, in the shape of the real data."""
    prepared = preparation_of(settings)
    classes = _quick_classes(settings)
    rows = sum(QUICK_ROWS.values())
    labels = torch.arange(rows) % len(classes)
    generator = torch.Generator().manual_seed(derive("quick", settings.name))
    channels, height, width = prepared.shape
    pattern = torch.rand(len(classes), channels, 4, 4, generator=generator)
    pattern = torch.nn.functional.interpolate(pattern, (height, width))
    noise = torch.rand(rows, channels, height, width, generator=generator)
    images = (127 * (pattern[labels] + noise)).to(torch.uint8)
    parts = torch.arange(rows).split(list(QUICK_ROWS.values()))
    splits = {name: SplitRows(ids, labels[ids]) for name, ids in zip(QUICK_ROWS, parts, strict=True)}
    splits["train"] = _chosen(splits["train"], settings, classes, labels, Cut(settings.split_rule), quick=True)
    return _made(settings, classes, images, splits, prepared, "synthetic", seed, device, quick=True)


def _quick_classes(settings: DataSettings) -> tuple[str, ...]:
    if settings.name == "folder" and settings.root is not None and root_of(settings).is_dir():
        listing = _listing(settings)
        if not listing.classes:
            folder.require_sound(listing)
        return listing.classes
    counts = {"cifar100": 100, "imagenet100": 100}
    return tuple(f"class {number}" for number in range(counts.get(settings.name, 10)))


def _listing(settings: DataSettings) -> folder.Listing:
    return folder.list_folder(root_of(settings), follow_symlinks=settings.follow_symlinks,
                              by_content=settings.images_by == "content")


def _made(settings: DataSettings, classes: Sequence[str], images: Tensor | partial, splits: dict[str, SplitRows],
          prepared: Preparation, content: str, seed: int, device: torch.device, quick: bool = False) -> Data:
    maker = Maker(images, prepared.shape, len(classes), prepared, _workers_of(settings, device), device)
    files = settings.name in ("folder", "imagenet100")
    own = "random-resized-crop" if files else "crop" if settings.name == "digits" else "crop-flip"
    policy = settings.augment or own
    assert policy != "jitter", "refused by the settings"
    how = augmentation(policy, prepared.shape, seed=seed, mixup=settings.mixup,
                       cutmix=settings.cutmix, files=files)
    return assembled(settings.name, classes, maker, splits, how, prepared.as_json(), content, _rule(settings),
                     settings.balance, told=settings.every_class and not quick)


def _rule(settings: DataSettings) -> str:
    """How rows are chosen and files are read; what was done before a setting was added is not told, then as now."""
    rule = f"validation {settings.validation:g}, limit {settings.limit}"
    if settings.name in ("folder", "imagenet100") and settings.orientation == "upright":
        rule += ", upright"
    if settings.value_range is not None:
        rule += f", values {settings.value_range[0]:g} to {settings.value_range[1]:g}"
    if settings.split_rule > 1:
        rule += f", split rule {settings.split_rule}"
    return rule if settings.balance == "none" else f"{rule}, balance {settings.balance}"


def _with_validation(settings: DataSettings, splits: dict[str, SplitRows], cut: Cut) -> dict[str, SplitRows]:
    if "validation" in splits:
        return splits
    train, validation = held_out(splits["train"], settings.validation, "validation", cut)
    return splits | {"train": train, "validation": validation}


def _chosen(rows: SplitRows, settings: DataSettings, classes: Sequence[str], labels: Tensor, cut: Cut,
            quick: bool = False) -> SplitRows:
    """The training rows that the settings ask for; a smoke run may have fewer than there are classes.

    `labels` are the set's own, of each id.
    """
    if settings.only is not None:
        kept = label_files.rows_of(found_path(settings.only), rows.ids)
        lost = sorted(set(rows.labels.tolist()) - set(rows.labels[kept].tolist()) - {-1})
        if lost and settings.every_class:
            raise DataError("classes without a training image", where=f"[data] only = {settings.only}",
                            found=f"no image of {named(lost, classes)}", expected="one of each class at least",
                            fix="add the id of one, or set every_class = false to train without these classes")
        rows = SplitRows(rows.ids[kept], rows.labels[kept])
    there = len(set(rows.labels.tolist()) - {-1})
    if settings.limit is not None and settings.limit < there and cut.rule > 1 and not quick:
        raise UsageError("fewer images than classes: some would have none", where="[data] limit",
                         found=f"limit = {settings.limit}", expected=f"{there} or more, as there are classes")
    return _first(rows, labels[rows.ids], settings.limit, cut)


def _first(rows: SplitRows, own: Tensor, limit: int | None, cut: Cut) -> SplitRows:
    kept = cut.first(rows.ids, rows.labels, own, limit)
    return SplitRows(rows.ids[kept], rows.labels[kept])


def _prepared(images: Tensor, how: Preparation, kept: Tensor) -> Tensor:
    """Images [N, C, H, W] uint8 as files with these pixels would be prepared; resized are those in `kept` alone."""
    if how.covers == how.size == images.shape[2:]:
        return torch.nn.functional.pad(images, [how.pad] * 4)
    prepared = torch.zeros(len(images), *how.shape, dtype=torch.uint8)
    for place in kept.tolist():
        prepared[place] = prepare_image(as_image(images[place]), how)
    return prepared


def _read(paths: list[Path], how: Preparation, max_pixels: int, place: int) -> Image.Image:
    return decode(paths[place], how.channels, max_pixels, orientation=how.orientation, value_range=how.value_range)


def _workers_of(settings: DataSettings, device: torch.device) -> int:
    if settings.workers != "auto":
        return settings.workers
    cores = len(os.sched_getaffinity(0))
    return min(8, cores // 4) if device.type == "cpu" else min(16, cores // 2)
