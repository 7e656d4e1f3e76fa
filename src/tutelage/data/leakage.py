"""The same image in two splits, or under two classes: found by its decoded pixels, and what is done about it.

    "auto"    an image for training and for testing is an error, except in a published set; all else is told
    "error"   each is an error         "warn"    each is told, and kept
    "drop"    an image stays in the last of train, validation and test that has it, and none under two classes is
              trained on; what is left out is told
    "allow"   nothing is looked for
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from tutelage.data import folder
from tutelage.data.assemble import SplitRows
from tutelage.data.images import Range, decode, printable
from tutelage.errors import DataError, ResourceError, UserError
from tutelage.system.files import write
from tutelage.types import Content

Leakage = Literal["auto", "error", "warn", "drop", "allow"]
KEPT_FROM_BYTES = 2**21
"""The hashes of a set of so many bytes are kept for the next start; a smaller one is decoded in a moment."""
NOT_LOOKED = ("whether an image is in two splits, or under two classes, was not looked for, as the files are more than "
              "1 GiB: `tutelage check-data` does it")
_NAMES = {"train": "training", "validation": "validation", "test": "test"}
_PAIRS = (("test", "train"), ("validation", "train"), ("test", "validation"))
_FIX = ('remove the copies, or set leakage = "drop", which leaves them out of training, or "warn", which keeps them')


class Leak(NamedTuple):
    """Images of `split` that `other` has too; where the two are the same, those that lie under two classes.

    `ids` [n] are their rows in `split`; `example` is one of them and its copy.
    """

    split: str
    other: str
    ids: Tensor
    example: tuple[int, int]

    def told(self, rows: int, named: Callable[[int], str]) -> str:
        """The leak in words; `rows` is how many images the split has, `named` says what a row is called."""
        first, second = map(named, self.example)
        count, noun = len(self.ids), _NAMES[self.split]
        if self.split == self.other:
            return f"{count} of {rows} {noun} images lie under more than one class: {first} is {second}"
        kind = _NAMES[self.other]
        are = f"is a {kind} image" if count == 1 else f"are {kind} images"
        return f"{count} of {rows} {noun} images {are} too: {first} is {second}"

    def is_error(self, policy: Leakage, published: bool = False) -> bool:
        """Whether it stops a run."""
        return policy == "error" or (policy == "auto" and not published and (self.split, self.other) == _PAIRS[0])


class Read(NamedTuple):
    """How files are decoded, as `decode` says; upright always, so that an image and its turned copy are the same."""

    max_pixels: int
    value_range: Range | None = None


class Screened(NamedTuple):
    """The splits that are left, what there is to say, and how many images of a split are training images too."""

    splits: dict[str, SplitRows]
    notes: tuple[str, ...] = ()
    also_in_training: Mapping[str, int] = {}


def pixel_hash(image: Image.Image | np.ndarray) -> str:
    """The same for images of equal size and pixels, whatever file they come from."""
    values = np.asarray(image)
    return hashlib.sha256(b"%a" % (values.shape,) + np.ascontiguousarray(values).data).hexdigest()[:32]


def keys_of(hashes: Sequence[str | None]) -> Tensor:
    """A number for each hash, the same for equal ones; each `None` has a number of its own."""
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(text, place) if text is not None else place
                         for place, text in enumerate(hashes)], dtype=torch.int64)


def hashes_of_rows(images: Tensor) -> list[str]:
    """The SHA-256 of each of the images [N, C, H, W] in memory."""
    rows = images.contiguous().numpy().reshape(len(images), -1)
    return [hashlib.sha256(row.data).hexdigest() for row in rows]


def keys_of_rows(images: Tensor) -> Tensor:
    """`keys_of` images [N, C, H, W] in memory."""
    return keys_of(hashes_of_rows(images))


def find_leaks(splits: Mapping[str, SplitRows], keys: Tensor) -> list[Leak]:
    """Every pair of splits that have images in common, and every split with an image under two classes.

    `keys` [ids] has a number for the pixels of each id.
    """
    leaks = []
    for split, other in _PAIRS:
        if split in splits and other in splits:
            own, others = splits[split].ids, splits[other].ids
            ids = own[torch.isin(keys[own], keys[others])]
            if len(ids):
                leaks.append(Leak(split, other, ids, (int(ids[0]), int(others[keys[others] == keys[ids[0]]][0]))))
    for split, rows in splits.items():
        ids = _under_two_classes(rows, keys)
        if len(ids):
            copies = rows.ids[keys[rows.ids] == keys[ids[0]]]
            labels = rows.labels[keys[rows.ids] == keys[ids[0]]]
            known = copies[labels >= 0], labels[labels >= 0]
            leaks.append(Leak(split, split, ids, (int(known[0][0]), int(known[0][known[1] != known[1][0]][0]))))
    return leaks


def judge_leaks(policy: Leakage, splits: Mapping[str, SplitRows], keys: Tensor, named: Callable[[int], str],
                where: object, published: bool = False) -> Screened:
    """Do what the policy says; the first leak that is an error is a DataError."""
    kept, notes = _without_copies(splits, keys, where) if policy == "drop" else (dict(splits), ())
    leaks = find_leaks(kept, keys)
    told = [leak.told(len(kept[leak.split].ids), named) for leak in leaks]
    for leak, text in zip(leaks, told, strict=True):
        if leak.is_error(policy, published):
            what = ("the same image under two classes" if leak.split == leak.other else
                    f"the same image in the {_NAMES[leak.other]} split and in the {_NAMES[leak.split]} split")
            raise DataError(what, where=where, found=text, expected="each image once", fix=_FIX)
    counts = {leak.split: len(leak.ids) for leak in leaks if leak.other == "train" != leak.split}
    return Screened(kept, (*notes, *told), {split: counts.get(split, 0) for split in kept if split != "train"})


def judge_files(policy: Leakage, splits: Mapping[str, SplitRows], listing: folder.Listing,
                contents: Mapping[str, Content], read: Read) -> Screened:
    """`judge_leaks` of the images of a folder, each decoded once; of more than 1 GiB none is."""
    if policy == "allow":
        return Screened(dict(splits))
    images = [listing.images[place] for place in torch.cat([rows.ids for rows in splits.values()]).tolist()]
    if sum(image.size for image in images) > folder.BYTES_HASHED_AT_ONCE:
        return Screened(dict(splits), (NOT_LOOKED,))
    hashes = _hashes_of_files(listing, images, contents, read)
    keys = keys_of([hashes.get(image.path) for image in listing.images])
    return judge_leaks(policy, splits, keys, lambda place: printable(listing.name(listing.images[place])),
                       printable(listing.root))


def _under_two_classes(rows: SplitRows, keys: Tensor) -> Tensor:
    """The ids of the labelled rows whose pixels are also under another label."""
    labelled = rows.labels >= 0
    ids, labels = rows.ids[labelled], rows.labels[labelled]
    if not len(ids):
        return ids
    _, group = keys[ids].unique(return_inverse=True)
    groups = int(group.max()) + 1
    low = torch.full((groups,), 2**62).scatter_reduce(0, group, labels, "amin")
    high = torch.full((groups,), -1).scatter_reduce(0, group, labels, "amax")
    return ids[(low < high)[group]]


def _without_copies(splits: Mapping[str, SplitRows], keys: Tensor,
                    where: object) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
    """The splits without images that a later one has, and without training images under two classes."""
    kept, notes, later = dict(splits), [], torch.empty(0, dtype=torch.int64)
    for split in ("test", "validation", "train"):
        if split not in kept:
            continue
        rows = kept[split]
        gone = torch.isin(keys[rows.ids], later)
        torn = torch.isin(rows.ids, _under_two_classes(rows, keys)) & ~gone if split == "train" else gone & ~gone
        for which, why in ((gone, "that are held out too"), (torn, "that lie under more than one class")):
            if bool(which.any()):
                notes.append(f'leakage = "drop": {int(which.sum())} {_NAMES[split]} images {why} are left out')
        stay = ~(gone | torn)
        lost = set(rows.labels.tolist()) - {-1} - set(rows.labels[stay].tolist())
        if not bool(stay.any()) or (split == "train" and lost):
            raise DataError('no image of a class would be left with leakage = "drop"', where=where,
                            found=f"the {_NAMES[split]} images of {len(lost)} classes are all copies",
                            expected="one image of its own for each class", fix="remove the copies by hand")
        kept[split] = SplitRows(rows.ids[stay], rows.labels[stay])
        later = torch.cat([later, keys[rows.ids]])
    return kept, tuple(notes)


def _hashes_of_files(listing: folder.Listing, images: Sequence[folder.Image], contents: Mapping[str, Content],
                     read: Read) -> dict[Path, str | None]:
    """Path -> the hash of its pixels; what an earlier start has found of the same bytes is taken from its file."""
    bytes_of = {image.path: contents[listing.name(image)].sha256 for image in images}
    keeps = sum(image.size for image in images) >= KEPT_FROM_BYTES
    kept = _cache_file(listing.root)
    known = _read_cache(kept, read) if keeps else {}
    new = {bytes_of[path]: path for path in bytes_of if bytes_of[path] not in known}
    if new:
        found = folder.in_threads(partial(_hash_of_file, read=read), list(new.values()))
        known |= dict(zip(new, found, strict=True))
        if keeps:
            _write_cache(kept, read, {content: known[content] for content in bytes_of.values()})
    return {path: known[content] for path, content in bytes_of.items()}


def _hash_of_file(path: Path, read: Read) -> str | None:
    """The hash of the pixels of a file; `None` of one that cannot be decoded, which is told where it is read."""
    try:
        return pixel_hash(decode(path, 3, read.max_pixels, value_range=read.value_range))
    except UserError:
        return None


def _cache_file(root: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "tutelage" / "pixels" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"


def _read_cache(path: Path, read: Read) -> dict[str, str | None]:
    try:
        held = json.loads(path.read_bytes())
        return held["pixels"] if held["rule"] == _rule(read) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(path: Path, read: Read, pixels: Mapping[str, str | None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({"rule": _rule(read), "pixels": pixels}).encode())
    except (OSError, ResourceError):  # it is decoded again, then
        pass


def _rule(read: Read) -> str:
    """By what the pixels were made: another Pillow may decode otherwise."""
    return f"upright, RGB, values {read.value_range}, at most {read.max_pixels}, Pillow {PIL.__version__}"
