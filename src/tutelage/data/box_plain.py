"""Boxes in one file, boxes.json, beside a folder of images and, if there are splits, splits.json.

    {"boxes": {"a": [["cat", LEFT, TOP, RIGHT, LOWER], ...], "b": []}}              a and b are images/a.*, images/b.*
    {"class": "polyp", "boxes": {"a": [[LEFT, TOP, RIGHT, LOWER], ...]}, "size": [WIDTH, HEIGHT]}

Edges are pixels of the image. `size`, if it is there, is that of every image; `classes`, a list of names, gives their
order, which otherwise is the alphabet's.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.data.box_rows import (
    FOUR,
    Annotation,
    BoxesOfImage,
    Doors,
    ReadBoxes,
    by_bytes,
    called,
    complain,
    four_numbers,
    require_names,
    size_in_file,
)
from tutelage.data.decoding import printable
from tutelage.data.folder import Image, Walk
from tutelage.data.split_file import OTHER_SPLIT, SPLITS_FILE, as_split, name_in, read_splits
from tutelage.data.strict_json import read_strict_json
from tutelage.errors import DataError, unknown

BOXES_FILE = "boxes.json"
EXPECTED = '{"boxes": {NAME: [[CLASS, LEFT, TOP, RIGHT, LOWER], ...], ...}}'
_AT_MOST = 2**29
_KEYS = ("boxes", "class", "classes", "size", "format")


def read_plain(root: Path, walk: Walk) -> ReadBoxes:
    """The images and boxes of every split."""
    file, folder = root / BOXES_FILE, called(root, "images")
    doors, files = Doors(walk), [file]
    if folder is None:
        raise DataError("no folder of images", where=printable(root), expected="`images` beside boxes.json")
    if not doors.open(file) or not walk.may_enter(folder):
        return ReadBoxes((), {}, {}, ())
    held = _held(file)
    images = _by_stem(folder, walk)
    if (root / SPLITS_FILE).exists() and doors.open(root / SPLITS_FILE):
        files.append(root / SPLITS_FILE)
        images = as_split(images, read_splits(root / SPLITS_FILE), folder, walk)
    size = held.get("size")
    if size is not None:
        size = size_in_file(*size) if isinstance(size, list) and len(size) == 2 else None
        if size is None:
            raise DataError("a size that is none", where=f"{printable(file)}, size", found=repr(held["size"])[:100],
                            expected="[WIDTH, HEIGHT]")
    classes = _classes(held, file)
    numbers = {name: number for number, name in enumerate(classes)}
    found: dict[Path, Annotation] = {}
    for text, rows in held["boxes"].items():
        name = name_in(text, images, folder.name, BOXES_FILE)
        where = f"{printable(file)}, {printable(text)}"
        if name is None:
            complain(walk, DataError("a name of an image without a file", where=where,
                                     expected=f"in {printable(folder)}", fix="add the image, or take its boxes out"))
        elif images[name].path in found:
            complain(walk, DataError("an image that is listed twice", where=where, expected="each image once",
                                     found=printable(images[name].path)))
        else:
            found[images[name].path] = _boxes(text, rows, held.get("class"), numbers, file, size, walk)
    used = {image.path: image for image in images.values() if image.split != OTHER_SPLIT}
    return ReadBoxes(classes, used, {path: one for path, one in found.items() if path in used}, files)


def _held(file: Path) -> dict[str, Any]:
    held = read_strict_json(file, _AT_MOST, EXPECTED)
    if not isinstance(held, dict) or not isinstance(held.get("boxes"), dict) or not all(
            isinstance(rows, list) for rows in held["boxes"].values()):
        raise DataError("boxes.json does not say which boxes an image has", where=printable(file), expected=EXPECTED)
    for key in held:
        if key not in _KEYS:
            raise unknown("key", key, _KEYS, where=printable(file), error=DataError)
    if "class" in held and "classes" in held:
        raise DataError("one class and several", where=printable(file), found="class, classes", expected="one of them")
    return held


def _by_stem(folder: Path, walk: Walk) -> dict[str, Image]:
    """ "all/" and the path of each image without its ending -> the image."""
    found: dict[str, Image] = {}
    sizes = dict(walk.files(folder, (folder.resolve(),)))
    for path in by_bytes([*sizes]):
        name = f"all/{path.relative_to(folder).with_suffix('').as_posix()}"
        if name in found:
            complain(walk, DataError("two files of one name: which one is meant is not known", where=printable(path),
                                     found=printable(found[name].path), fix="keep one of them, or rename one"))
        found.setdefault(name, Image("all", "box", path, sizes[path]))
    return found


def _classes(held: dict[str, Any], file: Path) -> tuple[str, ...]:
    where = f"{printable(file)}, class" + "es" * ("class" not in held)
    if "class" in held:
        return require_names([held["class"]], where)
    if "classes" in held:
        return require_names(held["classes"] if isinstance(held["classes"], list) else [held["classes"]], where)
    return tuple(sorted({row[0] for rows in held["boxes"].values() for row in rows
                         if isinstance(row, list) and len(row) == 5 and isinstance(row[0], str) and row[0].strip()}))


def _boxes(text: str, rows: Sequence[Any], one_class: Any, numbers: dict[str, int], file: Path,
           size: tuple[int, int] | None, walk: Walk) -> Annotation:
    name = printable(PurePosixPath(text).as_posix()).replace("{", "{{").replace("}", "}}")
    found = BoxesOfImage(file, f"{name}, box {{}}", size)
    for place, row in enumerate(rows):
        label, box = row[0] if isinstance(row, list) and row else None, row
        if one_class is not None:
            label = one_class
        elif isinstance(row, list):
            box = row[1:]
        corners, where = four_numbers(box), f"{printable(file)}, {printable(text)}, box {place}"
        if corners is None:
            complain(walk, DataError("a box that is none", where=where, found=repr(row)[:100],
                                     expected=f"[{'' if one_class is not None else 'CLASS, '}LEFT, TOP, RIGHT, LOWER], "
                                              f"{FOUR}"))
        elif not isinstance(label, str) or label not in numbers:
            complain(walk, DataError("a box of a class without a name", where=where, found=repr(label)[:100],
                                     expected="one of the names of `classes`" if label else "a name"))
        else:
            found.add(corners, numbers[label], place)
    return found.done()
