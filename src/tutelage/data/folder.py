"""Folders of images, one folder a class: what lies in them, and whether it may be used.

    root/train/CLASS/*  [root/val/CLASS/*]  [root/test/CLASS/*]  [root/unlabelled/*]      or      root/CLASS/*

`val` may also be called `validation` or `valid`. A class folder may have folders of its own. Images of a class
called `_unlabelled`, and those in `root/unlabelled`, have no label. Hidden and system folders are left out.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tutelage.data.images import EXTENSIONS, Range, decode, header, open_regular, printable, require_image
from tutelage.errors import DataError, SecurityError, UserError, unknown
from tutelage.types import Content

UNLABELLED = "_unlabelled"
HEADERS_READ_AT_ONCE = 20_000
"""Of larger sets the size of an image is looked at when it is read, and no sooner."""
BYTES_HASHED_AT_ONCE = 2**30
"""Of larger sets only the path, the size and the first 4096 bytes of each file enter the digest."""
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information")
_VALIDATION_NAMES = ("val", "validation", "valid")


class Image(NamedTuple):
    """One image file: of which split, of which class, where, and how many bytes."""

    split: str
    label: str
    path: Path
    size: int


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, before any file is opened.

    `images` are sorted by path within each split, the splits in the order train (with `all`, for a folder that
    is not split), val, test, unlabelled. `classes` are those of train. `ignored` are paths that were left out;
    `problems` are the errors that forbid its use.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    ignored: tuple[Path, ...]
    problems: tuple[UserError, ...]

    def name(self, image: Image) -> str:
        """The path of an image within the folder."""
        return str(image.path.relative_to(self.root))


def list_folder(root: Path, *, follow_symlinks: bool = False) -> Listing:
    """Everything below `root`, nothing opened; what is wrong is collected, not raised.

    A link that leads out of `root` is refused unless `follow_symlinks`.
    """
    if not root.is_dir():
        raise DataError("no such folder of images", where=printable(root), expected="train/CLASS/*.jpg or CLASS/*.jpg",
                        fix="give the folder as `root` in [data], or set TUTELAGE_DATA to where it lies")
    root = root.resolve()
    walk = _Walk(root, follow_symlinks, [], [])
    images: list[Image] = []
    classes: tuple[str, ...] = ()
    for split, folder in _splits(root, walk).items():
        found = _class_folders(folder, walk) if split != "unlabelled" else {UNLABELLED: folder}
        if not classes:
            classes = tuple(sorted(name for name in found if name != UNLABELLED))
        allowed = {*classes, UNLABELLED} if split in ("all", "train", "unlabelled") else set(classes)
        unknown_names = sorted(set(found) - allowed)
        walk.problems.extend(unknown("class", name, classes, where=printable(folder), error=DataError)
                             for name in unknown_names)
        for name in sorted(found):
            files = sorted(walk.files(found[name], (found[name].resolve(),)), key=lambda file: os.fsencode(file[0]))
            images += [Image("unlabelled" if name == UNLABELLED else split, name, path, size) for path, size in files]
            if not files and name != UNLABELLED and split in ("all", "train"):
                walk.problems.append(_empty(found[name]))
        if split in ("val", "test") and not any(image.split == split for image in images):
            walk.problems.append(_empty(folder))
    walk.problems.extend(_too_few(root, classes))
    # Those without a label come last, so that using them or not moves no other row.
    images.sort(key=lambda image: image.split == "unlabelled")
    return Listing(root, classes, tuple(images), tuple(walk.ignored), tuple(walk.problems))


def require_sound(listing: Listing) -> None:
    """Raise the first of the problems, the gravest first, and say how many there are."""
    _raise_first(listing.problems, listing.root)


def contents(listing: Listing, max_pixels: int) -> dict[str, Content]:
    """Look at every file once: path within the folder -> what was seen.

    Each must be a regular file that begins as an image does and (in sets of up to 20 000 files) has a header that
    can be read and no more than `max_pixels`. Of sets above 1 GiB the content is the size and the first 4 KiB.
    """
    whole = sum(image.size for image in listing.images) <= BYTES_HASHED_AT_ONCE
    headers = len(listing.images) <= HEADERS_READ_AT_ONCE
    inspect = partial(_inspect, max_pixels=max_pixels, whole=whole, headers=headers)
    seen = in_threads(inspect, [image.path for image in listing.images])
    _raise_first([error for error in seen if isinstance(error, UserError)], listing.root)
    return {listing.name(image): Content(image.size, str(content))
            for image, content in zip(listing.images, seen, strict=True)}


def folder_fingerprint(found: Mapping[str, Content]) -> str:
    """The SHA-256 over path and content of each file, in this order."""
    total = hashlib.sha256()
    for path, content in found.items():
        name = os.fsencode(path)
        total.update(b"%d %s %d %s\n" % (len(name), name, content.bytes, content.sha256.encode()))
    return total.hexdigest()


def damaged(listing: Listing, max_pixels: int, value_range: Range | None = None) -> dict[int, UserError]:
    """Decode every image, on all cores: the place in `images` of each that cannot be used -> what is wrong with it."""
    look = partial(_decoded, max_pixels=max_pixels, value_range=value_range)
    seen = in_threads(look, [image.path for image in listing.images])
    return {place: error for place, error in enumerate(seen) if error is not None}


def in_threads(function: Callable, values: Sequence) -> list:
    """The function of each value, in order; reading files and decoding images leave the interpreter free."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, values, chunksize=64))


@dataclass(frozen=True)
class _Walk:
    """A walk through the folders of `root` that notes what it leaves out and what it must refuse."""

    root: Path
    follow_symlinks: bool
    ignored: list[Path]
    problems: list[UserError]

    def entries(self, folder: Path) -> Iterator[os.DirEntry]:
        """What lies in a folder and is neither hidden, nor the system's, nor a link that leads out."""
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            self.problems.append(DataError("a folder cannot be read", where=printable(folder), found=error.strerror,
                                           fix="restore its permissions, or remove it"))
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                self.ignored.append(Path(entry.path))
            elif not entry.is_symlink() or self._may_follow(Path(entry.path)):
                yield entry

    def files(self, folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, int]]:
        """The image files in a folder and the folders in it, each with its size in bytes."""
        for entry in self.entries(folder):
            path = Path(entry.path)
            if entry.is_dir():
                if path.resolve() not in above:  # a link to a folder around it would never end
                    yield from self.files(path, (*above, path.resolve()))
            elif path.suffix.lower() not in EXTENSIONS:
                self.ignored.append(path)
            elif entry.is_file():
                yield path, entry.stat().st_size
            else:
                self.problems.append(DataError("not a regular file", where=printable(path), expected="an image file",
                                               fix="remove it from the folder of images"))

    def may_enter(self, folder: Path) -> bool:
        """Whether it is a folder, and not a link that leads out."""
        return folder.is_dir() and (not folder.is_symlink() or self._may_follow(folder))

    def _may_follow(self, path: Path) -> bool:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            self.problems.append(DataError("a link that leads nowhere", where=printable(path),
                                           fix="remove it, or restore what it points to"))
            return False
        if self.follow_symlinks or target.is_relative_to(self.root):
            return True
        self.problems.append(SecurityError("a link leads out of the folder of images", where=printable(path),
                                           found=f"-> {printable(target)}", expected=f"inside {printable(self.root)}",
                                           fix="remove it, or set follow_symlinks = true in [data] if you trust it"))
        return False


def _splits(root: Path, walk: _Walk) -> dict[str, Path]:
    """Split -> its folder; the one split of a folder that is not split is called `all`."""
    names = ("train", *_VALIDATION_NAMES, "test", "unlabelled")
    found = {name: root / name for name in names if walk.may_enter(root / name)}
    if "train" not in found:
        return {"all": root}
    validation = [name for name in _VALIDATION_NAMES if name in found]
    if len(validation) > 1:
        raise DataError("more than one validation folder", where=printable(root), found=", ".join(validation),
                        fix="keep one of them")
    return {"val" if name in validation else name: path for name, path in found.items()}


def _class_folders(folder: Path, walk: _Walk) -> dict[str, Path]:
    """Class name -> its folder. A name that is not UTF-8 becomes text in which the odd bytes are escaped."""
    found = {}
    for entry in walk.entries(folder):
        if entry.is_dir():
            found[os.fsencode(entry.name).decode("utf-8", "backslashreplace")] = Path(entry.path)
        else:
            walk.ignored.append(Path(entry.path))
    return found


def _empty(folder: Path) -> DataError:
    return DataError("a folder without images", where=printable(folder), expected=", ".join(EXTENSIONS),
                     fix="put images there, or remove the folder, or convert its images to one of these formats")


def _too_few(root: Path, classes: tuple[str, ...]) -> list[UserError]:
    if len(classes) >= 2:
        return []
    return [DataError("too few classes", where=printable(root), found=f"{len(classes)} class folders",
                      expected="at least two", fix="give the folder that holds train/, or the class folders")]


def _inspect(path: Path, max_pixels: int, whole: bool, headers: bool) -> str | UserError:
    try:
        with open_regular(path) as file:
            head = file.read(4096)
            require_image(head, path)
            content = hashlib.sha256(head)
            if whole:
                while part := file.read(2**20):
                    content.update(part)
        if headers:
            header(path, max_pixels)
    except UserError as error:
        return error
    return content.hexdigest()


def _decoded(path: Path, max_pixels: int, value_range: Range | None) -> UserError | None:
    try:
        decode(path, 3, max_pixels, value_range=value_range)
    except UserError as error:
        return error
    return None


def _raise_first(problems: list[UserError] | tuple[UserError, ...], root: Path) -> None:
    if not problems:
        return
    first = min(problems, key=lambda problem: not isinstance(problem, SecurityError))
    if len(problems) > 1:
        more = f"this and {len(problems) - 1} more problems; `tutelage check-data {printable(root)}` lists them"
        first.found = more if first.found is None else f"{first.found} ({more})"
    raise type(first)(first.what, where=first.where, found=first.found, expected=first.expected, fix=first.fix)
