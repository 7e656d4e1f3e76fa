"""Tables to learn numbers from: columns of features, or a column of image files, and columns of targets.

A row is a sample. A column `split` says whose it is, train, validation or test; else rows are held out by their names:
the path of the image, or the number of the row. Features and targets are scaled by the training rows alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage.data.assemble import Maker, SplitRows, assembled, augmentation, held_out
from tutelage.data.images import Preparation, decode, printable
from tutelage.data.memory import moved_to
from tutelage.data.panel_files import ReadTable, read_table
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, Source, digest
from tutelage.data.splits import TEST_SHARE, Cut, names_of_paths
from tutelage.data.stream import CPU
from tutelage.data.table_scaling import TableScaling
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.types import Batch, Inputs

SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class TableAt:
    """Where a table may lie, how images are prepared, and who reads them onto which device."""

    roots: Sequence[Path]
    prepared: Preparation
    workers: int = 0
    device: torch.device = CPU


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """A split of feature rows in memory: `values` [N, F, 1] float32, scaled. Labels are made by `TargetSource`."""

    ids: Tensor
    labels: Tensor
    values: Tensor

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        device = self.values.device
        for entry in plan:
            rows = entry.cpu()
            seen = self.values[moved_to(rows, device)]
            inputs: Inputs = seen if tuple(views) == ("",) else dict.fromkeys(views, seen)
            yield Batch(inputs, moved_to(self.labels[rows], device), moved_to(self.ids[rows], device))


@dataclass(frozen=True, eq=False)
class TargetSource:
    """A split whose labels are {"target": [B, K]}: the scaled `targets` [rows of the table, K] of each id."""

    whole: Source
    targets: Tensor

    @property
    def ids(self) -> Tensor:
        """See `Source`."""
        return self.whole.ids

    @property
    def labels(self) -> Tensor:
        """See `Source`."""
        return self.whole.labels

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        for batch in self.whole.batches(plan, draw=draw, views=views):
            yield batch._replace(labels={"target": self.targets[batch.ids]})


def load_table(settings: DataSettings, place: TableAt, *, seed: int = 0,
               most: Mapping[str, int] | None = None) -> Data:
    """The data of the table that the settings name, the first `most` rows of each split if that is given.

    Raises DataError with line and column for what is no finite number, and for an image that is not there.
    """
    _require_fitting(settings)
    table = read_table(next((root for root in place.roots if root.is_file()), place.roots[0]))
    targets = settings.targets or ()
    numbers = np.stack([table.numbers(name, "targets") for name in targets], 1)
    paths = None if settings.image is None else _images_of(table, settings)
    splits = _splits(table, settings, paths)
    training = splits["train"].ids.numpy()
    mean, std = _scaling(numbers[training])
    names = () if paths is not None else _inputs(table, settings)
    features = np.stack([table.numbers(name, "inputs") for name in names], 1) if names else np.zeros((table.rows, 0))
    of_inputs = _scaling(features[training])
    how = TableScaling(names, *of_inputs, targets, mean, std, place.prepared if paths is not None else None)
    targets_of = torch.from_numpy(((numbers - np.array(mean)) / np.array(std)).astype(np.float32)).to(place.device)
    if settings.limit is not None:
        kept = Cut(settings.split_rule).first(splits["train"].ids, splits["train"].labels, splits["train"].labels,
                                              settings.limit)
        splits["train"] = SplitRows(*(part[kept] for part in splits["train"]))
    if most is not None:
        splits = {split: SplitRows(*(part[:most[split]] for part in rows)) for split, rows in splits.items()}
    rule = f"validation {settings.validation:g}, limit {settings.limit}, split rule {settings.split_rule}"
    content = hashlib.sha256(f"{table.sha256} {how.as_json()}".encode()).hexdigest()
    if paths is None:
        values = torch.from_numpy(how.scaled(features)).to(place.device)
        sources: dict[str, Source] = {split: FeatureSource(rows.ids, rows.labels, values[rows.ids])
                                      for split, rows in splits.items()}
        data = Data(settings.name, targets, how.shape, sources["train"], sources["validation"], sources["test"],
                    how.as_json(), digest(settings.name, targets, splits, content, rule), "none")
    else:
        data = _with_images(settings, place, targets, paths, splits, how, content, rule, seed)
    assert data.test is not None, "split off above"
    return replace(data, train=TargetSource(data.train, targets_of),
                   validation=TargetSource(data.validation, targets_of), test=TargetSource(data.test, targets_of))


def _with_images(settings: DataSettings, place: TableAt, targets: tuple[str, ...], paths: Sequence[Path],
                 splits: Mapping[str, SplitRows], how: TableScaling, content: str, rule: str, seed: int) -> Data:
    """The images of each row, cut and coloured in training as the settings say; by default they stay as they are."""
    shape = place.prepared.shape
    policy = settings.augment or "none"
    assert policy != "jitter", "refused by the settings"
    maker = Maker(partial(_read, paths, place.prepared, settings.max_pixels), shape, len(targets), place.prepared,
                  place.workers, place.device)
    seal = hashlib.sha256(content.encode())
    for path in paths:
        seal.update(f"{path.stat().st_size}\n".encode() + path.read_bytes()[:4096])
    return assembled(settings.name, targets, maker, splits, augmentation(policy, shape, seed=seed, files=True),
                     how.as_json(), seal.hexdigest(), rule, told=False)


def _read(paths: Sequence[Path], how: Preparation, max_pixels: int, place: int) -> Image.Image:
    return decode(paths[place], how.channels, max_pixels, orientation=how.orientation, value_range=how.value_range)


def _require_fitting(settings: DataSettings) -> None:
    if settings.work != "regression":
        raise UsageError("a task that these data are not for", where="[data] task", found=settings.work,
                         expected="regression, which a table is for")
    refused = {"mixup": settings.mixup > 0, "cutmix": settings.cutmix > 0, "only": settings.only,
               "labels": settings.labels, "on_bad_image": settings.on_bad_image != "error"}
    for key, given in refused.items():
        if given:
            raise UsageError("a setting that does not go with numbers to learn", where=f"[data] {key}",
                             found=repr(getattr(settings, key)), fix="leave it out")


def _inputs(table: ReadTable, settings: DataSettings) -> tuple[str, ...]:
    """The columns that are known; targets are none of them."""
    targets = settings.targets or ()
    names = settings.inputs or tuple(name for name in table.columns if name not in (*targets, "split"))
    both = [name for name in names if name in targets]
    if both or not names:
        raise UsageError("a target that is known" if both else "no column that is known", where="[data] inputs",
                         found=", ".join(both) or "none", expected="columns that are no targets")
    return names


def _images_of(table: ReadTable, settings: DataSettings) -> list[Path]:
    """The image of each row, by a path within the folder of the table."""
    assert settings.image is not None, "asked for by the caller"
    folder = table.path.parent
    found = []
    for row, name in enumerate(table.column(settings.image, "image")):
        path = folder / str(name)
        if not path.is_file():
            raise DataError("no such image", where=f"{table.where(row)}, column {printable(settings.image)}",
                            found=printable(name), expected=f"a path within {printable(folder)}")
        if not settings.follow_symlinks and not path.resolve().is_relative_to(folder.resolve()):
            raise SecurityError("an image that lies outside of the table's folder", where=table.where(row),
                                found=printable(name), fix="move it, or set follow_symlinks = true in [data]")
        found.append(path)
    return found


def _splits(table: ReadTable, settings: DataSettings, paths: Sequence[Path] | None) -> dict[str, SplitRows]:
    """The rows of each split, ids being rows of the table."""
    every = torch.arange(table.rows)
    names = None if paths is None else names_of_paths([PurePath(path.relative_to(table.path.parent)) for path in paths])
    cut = Cut(settings.split_rule, names)
    if "split" in table.columns:
        told = []
        for row, name in enumerate(table.columns["split"]):
            if str(name) not in SPLIT_NAMES:
                raise DataError("not a split", where=f"{table.where(row)}, column split", found=repr(name)[:80],
                                expected="train, validation, test")
            told.append(SPLIT_NAMES[str(name)])
        found = {split: every[torch.tensor([one == split for one in told])]
                 for split in ("train", "validation", "test")}
        splits = {split: SplitRows(ids, torch.zeros_like(ids)) for split, ids in found.items() if len(ids)}
        if "train" not in splits:
            raise DataError("no row to train on", where=table.path, found=", ".join(splits), expected="a split train")
    else:
        splits = {"train": SplitRows(every, torch.zeros_like(every))}
    for split, share in {"test": TEST_SHARE, "validation": settings.validation}.items():
        if split not in splits:
            splits["train"], splits[split] = held_out(splits["train"], share, split, cut)
    return splits


def _scaling(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column; 1 where it never changes."""
    mean, std = values.mean(0), values.std(0)
    std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
