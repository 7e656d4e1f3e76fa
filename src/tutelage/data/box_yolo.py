"""Boxes as YOLO has them: a text file for each image, `CLASS X Y WIDTH HEIGHT` a line, in shares of the image.

    FOLDER/images/SPLIT/*  FOLDER/labels/SPLIT/*.txt  or  FOLDER/SPLIT/images/*  FOLDER/SPLIT/labels/*.txt
                                                      or  FOLDER/images/*  FOLDER/labels/*.txt
    FOLDER/data.yaml, with names and where the images of each split are; or FOLDER/classes.txt, a name a line

X and Y are of the middle of a box. A line of a class and three points or more is an outline: its box is taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tutelage.data.box_rows import (
    FOUR,
    Annotation,
    BoxesOfImage,
    Doors,
    ReadBoxes,
    called,
    complain,
    entries_of,
    folders_of_splits,
    is_link,
    is_there,
    names_in_lines,
    within,
)
from tutelage.data.decoding import open_regular, printable
from tutelage.data.folder import Image, Walk
from tutelage.data.layout import subfolders
from tutelage.data.split_file import SPLIT_OF
from tutelage.data.yolo_yaml import YoloYaml, read_yolo_yaml
from tutelage.errors import DataError, SecurityError

LABELS_AT_MOST = 2**23
_LIST_AT_MOST = 2**28
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_OUTLINE = 7
"""So many words at least: a class and three points."""


def holds_yolo(root: Path) -> bool:
    """Whether a folder looks like one of YOLO: by its data.yaml, or by text files in `labels` beside `images`."""
    if _yaml(root) is not None:
        return True
    for folder in (root, *folders_of_splits(root).values()):
        images, labels = called(folder, "images"), called(folder, "labels")
        if images is not None and labels is not None and _has_text(labels):
            return True
    return False


def read_yolo(root: Path, walk: Walk) -> ReadBoxes:
    """The images and boxes of every split."""
    doors, yaml, files, told = Doors(walk), _yaml(root), list[Path](), list[str]()
    said = YoloYaml(None, None, {})
    if yaml is not None and doors.open(yaml):
        said = read_yolo_yaml(yaml)
        files.append(yaml)
    classes = said.names or _names(root, doors, files)
    if yaml is not None and said.splits:
        places = {split: [_place(root, text, said.path, f"{printable(yaml)}, {split}") for text in texts]
                  for split, texts in said.splits.items()}
    else:
        places = {split: [folder] for split, folder in _folders(root).items()}
    images = _images(root, places, walk, doors)
    found: dict[Path, Annotation] = {}
    outlines = 0
    for path in images:
        file = _labels_of(root, path)
        if not doors.open(file):
            continue
        files.append(file)
        boxes, drawn = _boxes(file, len(classes), walk)
        found[path] = boxes
        outlines += drawn
    told += [f"of {outlines} outlines the boxes around them are taken"] if outlines else []
    return ReadBoxes(classes, images, found, files, told)


def _yaml(root: Path) -> Path | None:
    return next((root / name for name in _YAMLS if (root / name).is_file() or is_link(root / name)),
                None)


def _has_text(folder: Path, deepest: int = 3) -> bool:
    if any(name.endswith(".txt") and name != "classes.txt" for name in entries_of(folder)):
        return True
    return deepest > 0 and any(_has_text(inside, deepest - 1) for inside in subfolders(folder)
                               if not inside.is_symlink())


def _names(root: Path, doors: Doors, files: list[Path]) -> tuple[str, ...]:
    for path in (root / "classes.txt", root / "labels" / "classes.txt"):
        if doors.open(path):
            files.append(path)
            return names_in_lines(path)
    raise DataError("numbers of classes without names", where=printable(root), expected="data.yaml with `names`, or "
                    "classes.txt, a name a line", fix="write classes.txt")


def _place(root: Path, text: str, base: str | None, where: str) -> Path:
    """What data.yaml means: seen from `root` and, if it says one, from `path`.

    `../train/images` is taken for `train/images`, which those who write it mean.
    """
    plain = text.removeprefix("./").rstrip("/")
    bases = [root]
    if base is not None and not PurePosixPath(base).is_absolute() and ".." not in PurePosixPath(base).parts:
        bases.insert(0, root / base)
    for one in (plain, plain.removeprefix("../")):
        if PurePosixPath(one).is_absolute() or ".." in PurePosixPath(one).parts or "\\" in one:
            continue
        for here in bases:
            if is_there(here / one):
                return here / one
    if PurePosixPath(plain).is_absolute() or ".." in PurePosixPath(plain.removeprefix("../")).parts:
        raise SecurityError("a path in data.yaml that leads out of the folder", where=where, found=printable(text),
                            expected=f"a path within {printable(root)}")
    raise DataError("a path in data.yaml without a folder or list of images", where=where, found=printable(text),
                    expected=f"in {printable(root)}", fix="write paths that are seen from data.yaml")


def _folders(root: Path) -> dict[str, Path]:
    """Split -> its folder of images, by the names of folders."""
    images = called(root, "images")
    if images is not None:
        splits = folders_of_splits(images)
        return splits or {"all": images}
    found = {split: here for split, folder in folders_of_splits(root).items()
             if (here := called(folder, "images")) is not None}
    if not found:
        raise DataError("no folder of images", where=printable(root), expected="images and labels beside each other")
    return found


def _images(root: Path, places: Mapping[str, Sequence[Path]], walk: Walk, doors: Doors) -> dict[Path, Image]:
    found: dict[Path, Image] = {}
    for split, those in places.items():
        for place in those:
            for path, size, where in _listed(root, place, walk, doors):
                if path in found:
                    complain(walk, DataError("an image that is listed twice", where=where, found=printable(path),
                                             expected="each image once, in one split"))
                else:
                    found[path] = Image(SPLIT_OF.get(split, split), "box", path, size)
    return found


def _listed(root: Path, place: Path, walk: Walk, doors: Doors) -> Iterator[tuple[Path, int, str]]:
    """The images of a folder, or of a list of paths, each with its size and with what named it."""
    if place.is_dir():
        if walk.may_enter(place):
            for path, size in walk.files(place, (place.resolve(),)):
                yield path, size, printable(place)
        return
    if place.suffix != ".txt" or not doors.open(place):
        raise DataError("neither a folder nor a list of images", where=printable(place))
    with open_regular(place) as file:
        lines = file.read(_LIST_AT_MOST).decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{printable(place)}, line {number}"
        path = within(root, line.strip().removeprefix("./"), where)
        if doors.open(path):
            yield path, path.stat().st_size, where
        elif not is_link(path):
            complain(walk, DataError("a name of an image without a file", where=where, found=printable(line.strip()),
                                     expected=f"in {printable(root)}"))


def _labels_of(root: Path, image: Path) -> Path:
    """Where the boxes of an image are: in the `labels` beside its `images`, or beside the image itself."""
    parts = [*image.relative_to(root).with_suffix(".txt").parts]
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].casefold() == "images":
            parts[place] = "labels" if parts[place] == "images" else "Labels"
            break
    return root.joinpath(*parts)


def _boxes(file: Path, classes: int, walk: Walk) -> tuple[Annotation, int]:
    """The boxes of a file, and how many of them are around an outline."""
    found, outlines = BoxesOfImage(file, "line {}", relative=True), 0
    with open_regular(file) as opened:
        data = opened.read(LABELS_AT_MOST + 1)
    if len(data) > LABELS_AT_MOST:
        raise SecurityError("a file of boxes that is too large to read", where=printable(file),
                            found=f"more than {LABELS_AT_MOST / 2**20:.0f} MiB")
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{printable(file)}, line {number}"
        numbers = _numbers(words[1:])
        outline = len(words) >= _OUTLINE and len(words) % 2 == 1
        if numbers is None or not (len(words) == 5 or outline):
            complain(walk, DataError("a line that is no box", where=where, found=line[:100],
                                     expected=f"CLASS X Y WIDTH HEIGHT, {FOUR} after the class"))
        elif not words[0].isdigit() or len(words[0]) > 9 or int(words[0]) >= classes:
            complain(walk, DataError("a box of a class without a name", where=where, found=words[0][:20],
                                     expected=f"0 .. {classes - 1}, as there are names"))
        elif outline:
            x, y = numbers[0::2], numbers[1::2]
            found.add((x.min(), y.min(), x.max(), y.max()), int(words[0]), number)
            outlines += 1
        else:
            x, y, width, height = numbers.tolist()
            found.add((x - width / 2, y - height / 2, x + width / 2, y + height / 2), int(words[0]), number)
    return found.done(), outlines


def _numbers(words: Sequence[str]) -> np.ndarray | None:
    try:
        numbers = np.array([float(word) for word in words if "_" not in word])
    except ValueError:
        return None
    return numbers if len(numbers) == len(words) and np.isfinite(numbers).all() else None
