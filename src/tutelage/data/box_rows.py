"""What a file says of one image: boxes and the classes of what is in them, and where each of them stands."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tutelage.data.decoding import printable
from tutelage.data.folder import Image, Walk
from tutelage.data.layout import subfolders
from tutelage.data.split_file import SPLIT_OF
from tutelage.data.upright_size import Size
from tutelage.errors import DataError, SecurityError, UserError

MOST_BOXES = 2000
"""Of one image."""
CLASSES_AT_MOST = 10_000
MOST_PROBLEMS = 1000
"""So many are told; whoever has more has another problem."""
FOUR = "four finite numbers"


@dataclass(frozen=True)
class Annotation:
    """The boxes of one image.

    boxes: [M, 4] float64: left, top, right and lower edge in pixels of the image, or where they are `relative` in
    shares of its width and height. `classes` [M] int64. `places` [M] int64 says where each stands in `file`, the line
    or the number of the entry, which `word` puts into a sentence. `size` is that of the image as the file says it.
    """

    boxes: np.ndarray
    classes: np.ndarray
    places: np.ndarray
    file: Path
    word: str
    size: Size | None = None
    relative: bool = False

    def where(self, number: int) -> str:
        """Where a box stands, for an error."""
        return f"{printable(self.file)}, {self.word.format(int(self.places[number]))}"


class ReadBoxes(NamedTuple):
    """What a reader found: names of classes, images and what is said of each, by path; files read; what to tell.

    An image without an annotation is in `images` alone.
    """

    classes: tuple[str, ...]
    images: Mapping[Path, Image]
    annotations: Mapping[Path, Annotation]
    files: Sequence[Path]
    remarks: Sequence[str] = ()


@dataclass
class BoxesOfImage:
    """The boxes of an image while its file is read; the fields are those of `Annotation`."""

    file: Path
    word: str
    size: Size | None = None
    relative: bool = False
    boxes: list[Sequence[float]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, box: Sequence[float], number: int, place: int) -> None:
        """One box more; SecurityError if these are too many."""
        if len(self.boxes) >= MOST_BOXES:
            raise SecurityError("more boxes in one image than allowed", where=f"{printable(self.file)}, "
                                f"{self.word.format(place)}", expected=f"at most {MOST_BOXES}",
                                fix="cut the image into parts, or leave boxes out")
        self.boxes.append(box)
        self.classes.append(number)
        self.places.append(place)

    def done(self) -> Annotation:
        """What was found."""
        return Annotation(np.array(self.boxes, np.float64).reshape(-1, 4), np.array(self.classes, np.int64),
                          np.array(self.places, np.int64), self.file, self.word, self.size, self.relative)


def four_numbers(values: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers of a list from JSON, or None where it is something else."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    try:
        left, top, right, lower = (float(value) for value in values
                                   if isinstance(value, int | float) and not isinstance(value, bool))
    except (ValueError, OverflowError):
        return None
    found = left, top, right, lower
    return found if np.isfinite(found).all() else None


def size_in_file(width: Any, height: Any) -> Size | None:
    """Width and height as a file says them; None where it does not."""
    if not all(isinstance(side, int | float) and not isinstance(side, bool) and 0 < side < 2**31
               for side in (width, height)):
        return None
    return round(width), round(height)


def complain(walk: Walk, problem: UserError) -> None:
    """Note a problem, if there are not too many already."""
    if len(walk.problems) < MOST_PROBLEMS:
        walk.problems.append(problem)


def within(base: Path, text: str, where: str) -> Path:
    """The path below `base` that a file names; SecurityError for one that leads out."""
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text:
        raise SecurityError("a name of an image that leads out of its folder", where=where, found=printable(text[:200]),
                            expected=f"a path within {printable(base)}, with / between folders")
    return base / path


class Doors:
    """Which paths may be read: those that do not lead out of the folder by a link."""

    def __init__(self, walk: Walk):
        self.walk, self.known = walk, dict[Path, bool]()

    def open(self, path: Path) -> bool:
        """Whether it is a file that may be read; a link that leads out is noted as a problem."""
        try:
            if not path.is_file():
                return False
        except (OSError, ValueError):
            return False
        if path.parent not in self.known:
            self.known[path.parent] = self.walk.may_follow(path.parent)
        return self.known[path.parent] and (not path.is_symlink() or self.walk.may_follow(path))


def require_names(names: Sequence[Any], where: str) -> tuple[str, ...]:
    """The names of classes: text, each once, one at least."""
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    if odd or not 0 < len(names) <= CLASSES_AT_MOST:
        raise DataError("names of classes that are none", where=where,
                        found=repr(odd[0])[:100] if odd else f"{len(names)} names",
                        expected=f"a name for each class, in text, at most {CLASSES_AT_MOST}")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError("two classes of one name", where=where, found=printable(name), expected="each name once")
        seen.add(name)
    return tuple(names)


def names_in_lines(path: Path) -> tuple[str, ...]:
    """The classes of a classes.txt, a name a line."""
    with path.open("rb") as file:
        text = file.read(2**20)
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError("names of classes that are no UTF-8", where=printable(path), found=error) from None
    while lines and not lines[-1]:
        lines.pop()
    return require_names(lines, printable(path))


def called(root: Path, *names: str) -> Path | None:
    """The first folder in `root` of one of these names, in any case."""
    return next((folder for folder in subfolders(root) if folder.name.casefold() in names), None)


def folders_of_splits(root: Path) -> dict[str, Path]:
    """Split -> its folder in `root`; DataError where two are meant."""
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        split = SPLIT_OF.get(folder.name.casefold())
        if split in found:
            raise DataError(f"more than one folder for {split}", where=printable(root), expected="one of them",
                            found=f"{printable(found[split].name)}, {printable(folder.name)}")
        if split is not None:
            found[split] = folder
    return found


def entries_of(folder: Path) -> list[str]:
    """The names of what lies in a folder; of one that cannot be read, none."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def by_bytes(paths: Sequence[Path]) -> list[Path]:
    """Paths by their bytes."""
    return sorted(paths, key=os.fsencode)
