"""Folders of images, one folder a class: what lies in them, and whether it may be used.

`layout` says which folder is what. A class folder may have folders of its own. Images of a class called `_unlabelled`,
and those in `root/unlabelled`, have no label. What is an image is judged by its content. What is not used is told:
`left_out`.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tutelage.data.images import Range, decode, header, open_regular, printable, require_image
from tutelage.data.layout import (
    LAYOUTS,
    SUFFIXES,
    count_images,
    find_layout,
    is_hidden,
    is_image_file,
    require_understood,
    too_few,
)
from tutelage.data.left_out import BY_NAME, HIDDEN, LeftOut, kinds_left_out, unread
from tutelage.errors import DataError, SecurityError, UserError, unknown
from tutelage.types import Content

UNLABELLED = "_unlabelled"
HEADERS_READ_AT_ONCE = 20_000
"""Of larger sets the size of an image is looked at when it is read, and no sooner."""
BYTES_HASHED_AT_ONCE = 2**30
"""Of larger sets only the path, the size and the first 4096 bytes of each file enter the digest."""
OURS = (".pre-resize.json", "lock")
"""What `pre_resize` writes beside its images."""
_VALIDATION_BEFORE = ("val", "validation", "valid")


class Image(NamedTuple):
    """One image file: of which split, of which class, where, and how many bytes."""

    split: str
    label: str
    path: Path
    size: int


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, before any image is decoded.

    `images` are sorted by path within each split, the splits in the order train (with `all`, for a folder that
    is not split), val, test, unlabelled. `classes` are those of train. `left_out` is what is not used;
    `problems` are the errors that forbid its use; `remarks` are worth knowing.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[UserError, ...]
    remarks: tuple[str, ...] = ()

    def name(self, image: Image) -> str:
        """The path of an image within the folder."""
        return str(image.path.relative_to(self.root))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, a line for each reason, and what else is worth knowing."""
        lines = list(self.remarks)
        for what, (first, *others) in kinds_left_out(self.left_out):
            lines.append(f"{what} ({'such as ' if others else ''}{printable(first.relative_to(self.root))})")
        return tuple(lines)


def list_folder(root: Path, *, follow_symlinks: bool = False, by_content: bool = True) -> Listing:
    """Everything below `root`, no image decoded; what is wrong is collected, not raised.

    A link that leads out of `root` is refused unless `follow_symlinks`. Without `by_content` a file is an image by its
    suffix and a split by the four names that there were once, as runs made before judged.
    """
    if not root.is_dir():
        raise DataError("no such folder of images", where=printable(root), expected=LAYOUTS,
                        fix="give the folder as `root` in [data], or set TUTELAGE_DATA to where it lies")
    root = root.resolve()
    walk = Walk(root, follow_symlinks, by_content, [], [])
    images: list[Image] = []
    classes: tuple[str, ...] = ()
    try:
        splits, remarks = _splits(root, walk) if by_content else (_splits_before(root, walk), ())
        for split, folder in splits.items():
            found = _class_folders(folder, walk, splits)
            if not classes:
                classes = tuple(sorted(name for name in found if name != UNLABELLED))
                if by_content:
                    require_understood(folder, {name: found[name] for name in classes})
            images += _images_of(split, folder, found, classes, walk)
    except DataError as problem:  # what is meant is not known: there is nothing more to say
        return Listing(root, (), (), tuple(walk.left_out), (*walk.problems, problem))
    if len(classes) < 2:
        training = splits.get("train", root)
        walk.problems.insert(0, too_few(training, classes, walk.beside(training)))
    # Those without a label come last, so that using them or not moves no other row.
    images.sort(key=lambda image: image.split == "unlabelled")
    ours = [root / name for name in OURS] if (root / OURS[0]).exists() else []
    left_out = tuple(one for one in walk.left_out if one.path not in ours)
    return Listing(root, classes, tuple(images), left_out, tuple(walk.problems), remarks)


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
class Walk:
    """A walk through the folders of `root` that notes what it leaves out and what it must refuse."""

    root: Path
    follow_symlinks: bool
    by_content: bool
    left_out: list[LeftOut]
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
            if is_hidden(entry.name):
                self.left_out.append(LeftOut(Path(entry.path), "hidden", HIDDEN))
            elif not entry.is_symlink() or self.may_follow(Path(entry.path)):
                yield entry

    def files(self, folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, int]]:
        """The image files in a folder and the folders in it, each with its size in bytes."""
        for entry in self.entries(folder):
            path = Path(entry.path)
            if entry.is_dir():
                if path.resolve() not in above:  # a link to a folder around it would never end
                    yield from self.files(path, (*above, path.resolve()))
            elif not self.takes(path):
                self.left_out.append(LeftOut(path, "file", BY_NAME) if is_image_file(path) else unread(path))
            elif entry.is_file():
                yield path, entry.stat().st_size
            else:
                self.problems.append(DataError("not a regular file", where=printable(path), expected="an image file",
                                               fix="remove it from the folder of images"))

    def takes(self, path: Path) -> bool:
        """Whether a file is an image; one that has only the name of one is taken too, and refused when it is read."""
        return is_image_file(path) if self.by_content else path.suffix.lower() in SUFFIXES

    def leave(self, path: Path, reason: str) -> None:
        """Note a file that lies where no image is expected."""
        image = self.takes(path)
        self.left_out.append(LeftOut(path, "file", reason) if image else unread(path))

    def beside(self, folder: Path) -> int:
        """How many images lie directly in a folder, where none is expected."""
        return sum(told.path.parent == folder and told.reason in _BESIDE for told in self.left_out)

    def may_enter(self, folder: Path) -> bool:
        """Whether it is a folder, and not a link that leads out."""
        return folder.is_dir() and (not folder.is_symlink() or self.may_follow(folder))

    def may_follow(self, path: Path) -> bool:
        """Whether a link leads to something inside, or may lead out; if neither, that is a problem."""
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


_BESIDE = ("beside the class folders, in none of them", "beside the folders of the splits, in none of them")


def _splits(root: Path, walk: Walk) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Split -> its folder, and remarks; what lies beside the splits is noted as left out."""
    layout = find_layout(root)
    splits = {split: folder for split, folder in layout.splits.items() if split == "all" or walk.may_enter(folder)}
    if "all" not in splits:
        for folder in layout.beside:
            count = "a link" if folder.is_symlink() else f"{count_images(folder) or 'no'} images in it"
            walk.left_out.append(LeftOut(folder, "folder", f"beside the folders of the splits, {count}"))
        for entry in os.scandir(root):
            if is_hidden(entry.name):
                walk.left_out.append(LeftOut(Path(entry.path), "hidden", HIDDEN))
            elif not entry.is_symlink() and entry.is_file():
                walk.leave(Path(entry.path), _BESIDE[1])
    taken = ", ".join(printable(folder.name) for folder in layout.taken)
    remarks = (f"taken for classes, not for splits, because the folders beside have images too: {taken}",)
    return splits, remarks if taken else ()


def _splits_before(root: Path, walk: Walk) -> dict[str, Path]:
    """`_splits` as runs made before had it: by other names, and what lies beside is not looked at."""
    names = ("train", *_VALIDATION_BEFORE, "test", "unlabelled")
    found = {name: root / name for name in names if walk.may_enter(root / name)}
    if "train" not in found:
        return {"all": root}
    validation = [name for name in _VALIDATION_BEFORE if name in found]
    if len(validation) > 1:
        raise DataError("more than one folder for validation", where=printable(root), found=", ".join(validation),
                        fix="keep one of them")
    return {"val" if name in validation else name: path for name, path in found.items()}


def _class_folders(folder: Path, walk: Walk, splits: Mapping[str, Path]) -> dict[str, Path]:
    """Class name -> its folder. A name that is not UTF-8 becomes text in which the odd bytes are escaped."""
    if folder == splits.get("unlabelled"):
        return {UNLABELLED: folder}
    found = {}
    for entry in walk.entries(folder):
        path = Path(entry.path)
        if not entry.is_dir():
            walk.leave(path, _BESIDE[0])
        elif path != splits.get("unlabelled"):
            found[os.fsencode(entry.name).decode("utf-8", "backslashreplace")] = path
    return found


def _images_of(split: str, folder: Path, found: Mapping[str, Path], classes: Sequence[str],
               walk: Walk) -> list[Image]:
    """The images of a split, by class and path; classes that train has not, and folders without images, are noted."""
    training = split in ("all", "train")
    known = {*classes, *([UNLABELLED] if training or split == "unlabelled" else [])}
    if not found and (flat := walk.beside(folder)) and not training:
        walk.problems.append(too_few(folder, (), flat))
        return []
    walk.problems.extend(unknown("class", name, classes, where=printable(folder), error=DataError)
                         for name in sorted(set(found) - known) if classes)
    images = []
    for name in sorted(found):
        files = sorted(walk.files(found[name], (found[name].resolve(),)), key=lambda file: os.fsencode(file[0]))
        images += [Image("unlabelled" if name == UNLABELLED else split, name, path, size) for path, size in files]
        if not files and name != UNLABELLED and training:
            walk.problems.append(_empty(found[name]))
    if split in ("val", "test") and not any(image.split == split for image in images):
        walk.problems.append(_empty(folder))
    return images


def _empty(folder: Path) -> DataError:
    return DataError("a folder without images", where=printable(folder), expected="image files",
                     fix="put images there, or remove the folder; `tutelage check-data` says what is left out, and why")


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
