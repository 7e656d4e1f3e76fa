"""Series of one or several channels, of like or unlike length: files -> splits, scaled by what is trained on.

The reader of files is `series_files`. All series of a set are padded to the longest of all splits; where lengths
differ, a view is {"values": [B, C, L], "mask": [B, L]}, else it is the tensor of values alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from tutelage.data.assemble import SplitRows, held_out
from tutelage.data.balance import notes_on_classes
from tutelage.data.layout import is_hidden
from tutelage.data.memory import moved_to
from tutelage.data.series_files import SERIES_SUFFIXES, SPLITS, SeriesFile, read_series_file, split_of_name
from tutelage.data.series_scaling import SeriesScaling as SeriesScaling
from tutelage.data.series_scaling import padded_series
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, digest
from tutelage.data.splits import TEST_SHARE, Cut, hold_groups, names_of_hashes
from tutelage.data.stream import CPU
from tutelage.data.waves import write_waves
from tutelage.errors import DataError, SecurityError, UsageError, UserError
from tutelage.system.random import derive, normal
from tutelage.types import Batch, Inputs, View

LARGEST_PADDED = 2**33
"""Bytes of all series at one length; more are refused."""
SCALING, NOISE = 0.1, 0.05
"""Standard deviations of the factor of a channel and of the noise, of series with standard deviation 1."""


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """The series of all splits, one after another: `values` [channels, steps] each, `labels` [N] int64, -1 for none."""

    classes: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    labels: Tensor
    subjects: tuple[str, ...] | None
    splits: Mapping[str, Tensor]

    @property
    def lengths(self) -> Tensor:
        """[N] int64."""
        return torch.tensor([series.shape[1] for series in self.values])


@dataclass(frozen=True, eq=False)
class SeriesSource:
    """A split in memory: `values` [N, C, L] float32, 0 in the padding, and `mask` [N, L], or None where none is padded.

    With a `seed`, every draw scales each channel a little and adds noise.
    """

    ids: Tensor
    labels: Tensor
    values: Tensor
    mask: Tensor | None
    seed: int | None = None

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        device = self.values.device
        for entry in plan:
            rows = entry.cpu()
            ids = moved_to(self.ids[rows], device)
            made = {view: self._view(moved_to(rows, device), ids, draw, view) for view in views}
            plain = made.get("")
            inputs: Inputs = plain if len(made) == 1 and isinstance(plain, Tensor) else made
            yield Batch(inputs, moved_to(self.labels[rows], device), ids)

    def _view(self, rows: Tensor, ids: Tensor, draw: int | None, view: str) -> View:
        values = self.values[rows]
        if draw is not None and self.seed is not None:
            values = jittered(values, ids, derive(self.seed, "jitter", draw, view))
        if self.mask is None:
            return values
        mask = self.mask[rows]
        return {"values": values.masked_fill(~mask[:, None], 0), "mask": mask}


def jittered(values: Tensor, ids: Tensor, key: int) -> Tensor:
    """Values [B, C, L], each channel times a factor near 1 and with noise, from (key, id): Um et al. 2017."""
    channels, length = values.shape[1:]
    numbers = normal(key, ids, channels * (1 + length))
    factor, noise = 1 + SCALING * numbers[:, :channels, None], NOISE * numbers[:, channels:].view_as(values)
    return factor * values + noise


def find_series_files(given: Path, *, follow_symlinks: bool = False) -> dict[str, Path]:
    """Split -> its file; "all" for a file of no split. Empty where nothing is there."""
    if given.is_dir():
        folder, prefix, suffix = given, None, ""
    else:
        folder, prefix, suffix = given.parent, given.name, ""
        if given.is_file():
            if given.suffix.lower() not in SERIES_SUFFIXES:
                raise DataError("not a file of series", where=given, found=given.suffix or "no suffix",
                                expected=", ".join(SERIES_SUFFIXES))
            (prefix, split), suffix = split_of_name(given.stem), given.suffix
            if split != "train":
                return {"all": given}
        elif not folder.is_dir():
            return {}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        about, split = split_of_name(path.stem)
        if path.suffix.lower() not in SERIES_SUFFIXES or is_hidden(path.name) or not path.is_file():
            continue
        if prefix is None or (about == prefix and split != "all" and suffix in ("", path.suffix)):
            found.setdefault(split, []).append(path)
    return {split: _allowed(paths, split, folder, follow_symlinks) for split, paths in found.items()
            if split != "all" or "train" not in found}


def read_set(settings: DataSettings, roots: Sequence[Path]) -> SeriesSet:
    """The series that the settings name, of the first of `roots` where there are any; the made ones without roots."""
    if not roots:
        with TemporaryDirectory() as folder:
            write_waves(Path(folder))
            return read_set(settings, [Path(folder)])
    for root in roots:
        files = find_series_files(root, follow_symlinks=settings.follow_symlinks)
        if files:
            break
    else:
        raise DataError("no series here", where=roots[0], expected=f"a file ({', '.join(SERIES_SUFFIXES)}), a folder "
                        "with NAME_TRAIN and NAME_TEST, or FOLDER/NAME of these", fix="mend [data] root")
    read: dict[str, SeriesFile] = {}
    for split, path in files.items():
        parts = read_series_file(path)
        if list(parts) != ["all"] and len(files) > 1:
            raise DataError("a file of several splits beside others", where=path, found=", ".join(parts),
                            expected="one file for all splits, or one for each")
        read |= {split if name == "all" else name: part for name, part in parts.items()}
    return joined(read)


def joined(files: Mapping[str, SeriesFile]) -> SeriesSet:
    """One set of the files of all splits, after a look at what they have in common."""
    order = [split for split in ("all", *SPLITS) if split in files]
    if order[0] not in ("all", "train"):
        raise DataError("no file for training", where=files[order[0]].where, found=", ".join(order),
                        expected="a file whose name ends with _TRAIN", fix="name it so, or give one file as root")
    first = files[order[0]]
    taught = {label for label in first.labels if label}
    classes = first.classes or _sorted(taught)
    for split in order:
        _require_alike(files[split], first, split, taught)
    if len(taught) < 2:
        raise DataError("too few classes", where=first.where, found=", ".join(sorted(taught)) or "none",
                        expected="two or more")
    numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
    labels = torch.tensor([numbers[label] for split in order for label in files[split].labels])
    counts = [len(files[split].values) for split in order]
    subjects = [files[split].subjects for split in order]
    known = None if None in subjects else tuple(name for some in subjects for name in some or ())
    return SeriesSet(classes, tuple(series for split in order for series in files[split].values), labels, known,
                     dict(zip(order, torch.arange(sum(counts)).split(counts), strict=True)))


def splits_of_series(found: SeriesSet, settings: DataSettings, cut: Cut) -> dict[str, SplitRows]:
    """Train, validation and test; what the files do not hold is cut off, by classes or by whole subjects."""
    splits = {split: SplitRows(ids, found.labels[ids]) for split, ids in found.splits.items()}
    training = splits.pop("all") if "all" in splits else splits.pop("train")
    if not settings.unlabelled:
        training = SplitRows(*(part[training.labels >= 0] for part in training))
    if settings.by == "subject":
        _require_subjects(found, splits, training)
    for split, share in {"test": TEST_SHARE, "validation": settings.validation}.items():
        if split not in splits:
            training, splits[split] = (_subjects_held_out(training, found, share, split) if settings.by == "subject"
                                       else _held_out(training, share, split, cut))
    return {"train": training, **{split: splits[split] for split in ("validation", "test") if split in splits}}


def scaling_by(found: SeriesSet, training: Tensor) -> SeriesScaling:
    """The scaling by the series of these ids [n] alone; a channel that never changes is only moved to 0."""
    there = [found.values[place].astype(np.float64) for place in training.tolist()]
    count = sum(series.shape[1] for series in there)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum((series.sum(1) for series in there), np.zeros(len(there[0]))) / count
        squares = sum((np.square(series - mean[:, None]).sum(1) for series in there), np.zeros(len(mean)))
        std = np.sqrt(squares / count)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError("numbers that are too large to be scaled", found=f"channel {int((~np.isfinite(std)).argmax())}",
                        fix="give them in another unit")
    std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)
    lengths = found.lengths
    return SeriesScaling(tuple(mean.tolist()), tuple(std.tolist()), int(lengths.max()),
                         bool((lengths != lengths[0]).any()))


def scaled_series(values: Sequence[np.ndarray], how: SeriesScaling) -> tuple[Tensor, Tensor | None]:
    """Series [C, steps] -> values [N, C, L] float32, 0 in the padding, and their mask [N, L] if `how` has one."""
    made, mask = padded_series(values, how)
    return torch.from_numpy(made), None if mask is None else torch.from_numpy(mask)


def series_data(settings: DataSettings, found: SeriesSet, how: SeriesScaling, splits: Mapping[str, SplitRows], *,
                rule: str, seed: int, device: torch.device = CPU, told: bool = True) -> Data:
    """The `Data` of these splits; training rows alone are jittered, if that is wanted."""
    channels = len(how.mean)
    if 4 * len(found.values) * channels * how.length > LARGEST_PADDED:
        raise SecurityError("series that are too large at one length", expected=f"{LARGEST_PADDED} bytes at most",
                            found=f"{len(found.values)} series of {channels} channels, the longest of {how.length}",
                            fix="cut long series into windows")
    seeds = {"train": seed} if settings.augment == "jitter" else {}
    sources = {}
    for split, rows in splits.items():
        values, mask = scaled_series([found.values[place] for place in rows.ids.tolist()], how)
        sources[split] = SeriesSource(rows.ids, rows.labels, values.to(device),
                                      None if mask is None else mask.to(device), seeds.get(split))
    if settings.by is not None:
        rule += f", by {settings.by}"
    notes = notes_on_classes(found.classes, {split: rows.labels for split, rows in splits.items()},
                             ("series", "series")) if told else ()
    return Data(settings.name, found.classes, (channels, how.length), sources["train"], sources["validation"],
                sources.get("test"), how.as_json(), digest(settings.name, found.classes, splits, _content(found), rule),
                f"jitter, seed {seed}" if seeds else "none", balance=settings.balance, notes=notes)


def _content(found: SeriesSet) -> str:
    seal = hashlib.sha256()
    for series in found.values:
        seal.update(f"{series.shape}\n".encode())
        seal.update(np.ascontiguousarray(series, dtype=np.float64).tobytes())
    return seal.hexdigest()


def _allowed(paths: Sequence[Path], split: str, folder: Path, follow_symlinks: bool) -> Path:
    """The one file of a split, which does not lie elsewhere."""
    if len(paths) > 1:
        raise DataError(f"several files for {'training' if split == 'all' else split}", where=folder,
                        found=", ".join(path.name for path in paths), expected="one",
                        fix="give FOLDER/NAME as [data] root, for NAME_TRAIN and NAME_TEST in it")
    target = paths[0].resolve()
    if not follow_symlinks and not target.is_relative_to(folder.resolve()):
        raise SecurityError("a link leads out of the folder of series", where=paths[0], found=f"-> {target}",
                            expected=f"inside {folder}",
                            fix="remove it, or set follow_symlinks = true in [data] if you trust it")
    return paths[0]


def _require_alike(file: SeriesFile, first: SeriesFile, split: str, taught: set[str]) -> None:
    if file.channels != first.channels:
        raise DataError("files of unlike numbers of channels", where=file.where, found=file.channels,
                        expected=f"{first.channels}, as in {first.where}")
    strange = [place for place, label in zip(file.places, file.labels, strict=True) if label and label not in taught]
    unlabelled = [place for place, label in zip(file.places, file.labels, strict=True) if not label]
    if strange:
        names = sorted({label for label in file.labels if label} - taught)
        raise DataError("a class that no training series has", where=f"{file.where}, {strange[0]}",
                        found=f"{', '.join(names[:10])} ({len(strange)} series)", expected=", ".join(sorted(taught)),
                        fix="mend the label, or add series of it to train")
    if unlabelled and split not in ("all", "train"):
        raise DataError(f"series without a label in {split}", where=f"{file.where}, {unlabelled[0]}",
                        found=f"{len(unlabelled)} series", fix="leave them out")


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Names in the order of their numbers where all are whole numbers, else of their letters."""
    whole = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if whole else sorted(names))


def _held_out(rows: SplitRows, share: float, purpose: str, cut: Cut) -> tuple[SplitRows, SplitRows]:
    try:
        return held_out(rows, share, purpose, cut)
    except UserError as error:
        raise DataError(f"too few series to hold out some for {purpose}", found=f"{len(rows.ids)} series",
                        expected=error.expected and error.expected.replace("image", "series"),
                        fix=f"add series, or give {purpose} a file of its own") from None


def _subjects_held_out(rows: SplitRows, found: SeriesSet, share: float, purpose: str) -> tuple[SplitRows, SplitRows]:
    assert found.subjects is not None, "asked for by _require_subjects"
    own = [found.subjects[place] for place in rows.ids.tolist()]
    names = sorted(set(own))
    numbers = {name: number for number, name in enumerate(names)}
    groups = torch.tensor([numbers[name] for name in own])
    hashes = names_of_hashes([hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in names])
    held = hold_groups(hashes, groups, rows.labels, share, purpose)
    if held is None:
        raise DataError(f"too few subjects to hold out some for {purpose}", where='[data] by = "subject"',
                        found=f"{len(names)} subjects", expected="one that may go, while every class keeps a series of "
                        "another", fix=f"add subjects, or give {purpose} a file of its own")
    judged = held & (rows.labels >= 0)
    return SplitRows(rows.ids[~held], rows.labels[~held]), SplitRows(rows.ids[judged], rows.labels[judged])


def _require_subjects(found: SeriesSet, splits: Mapping[str, SplitRows], training: SplitRows) -> None:
    if found.subjects is None:
        raise UsageError("these series do not say whose they are", where="[data] by", found='"subject"',
                         expected="`subject` in every .npz file, or a column `subject` in every CSV file",
                         fix="add it, or leave `by` out")
    seen: dict[str, str] = {}
    for split, rows in {"train": training, **splits}.items():
        own = {found.subjects[place] for place in rows.ids.tolist()}
        both = sorted(own & set(seen))
        if both:
            raise DataError("subjects in the files of two splits", where='[data] by = "subject"',
                            found=f"{', '.join(both[:10])} ({len(both)} in all) in {seen[both[0]]} and {split}",
                            expected="each in one of them",
                            fix="give one file, which is cut by subject, or leave `by` out")
        seen |= dict.fromkeys(own, split)
