"""Boxes as COCO has them: a JSON file for each split.

    FOLDER/annotations/instances_SPLIT*.json  FOLDER/SPLIT*/*, FOLDER/images/SPLIT*/* or FOLDER/images/*
    FOLDER/SPLIT/_annotations.coco.json       FOLDER/SPLIT/*
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    folders_of_splits,
    four_numbers,
    require_names,
    size_in_file,
    within,
)
from tutelage.data.decoding import open_regular, printable
from tutelage.data.folder import Image, Walk
from tutelage.data.left_out import LeftOut
from tutelage.data.split_file import SPLIT_OF
from tutelage.data.strict_json import read_strict_json
from tutelage.errors import DataError

JSON_AT_MOST = 2**29
"""Bytes of a file of annotations; COCO's largest has 450 million."""
EXPECTED = '{"images": [{"id": 1, "file_name": "a.jpg", "width": W, "height": H}, ...], "categories": [{"id": 1, ' \
           '"name": "cat"}, ...], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [X, Y, W, H]}, ...]}'
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_LOOK = 2**16
_NOT_LISTED = "in no file of annotations"


def coco_files(root: Path) -> dict[Path, str]:
    """Files of annotations -> the split of each, by the name of the file or its folder; "all" where they say none."""
    found: dict[Path, str] = {}
    for folder in filter(None, (called(root, "annotations"), root)):
        for path in by_bytes([*folder.glob("*.json")]):
            split = _split_in(path.stem, beside=folder == root)
            if split is not None and _looks_so(path):
                found[path] = split
    for split, folder in folders_of_splits(root).items():
        for path in by_bytes([*folder.glob("*.json")]):
            if _split_in(path.stem, beside=True) is not None and _looks_so(path):
                found[path] = split
    return found


def read_coco(root: Path, walk: Walk, unlabelled: bool) -> ReadBoxes:
    """The images and boxes of every split; crowds and what says `ignore` are left out, and told.

    Images that no file names are left out too, or where `unlabelled` ones are wanted are those.
    """
    files = coco_files(root)
    _require_one_for_each(files)
    classes: dict[int, str] | None = None
    images: dict[Path, Image] = {}
    boxes: dict[Path, BoxesOfImage] = {}
    left, bases, doors = Counter[str](), [], Doors(walk)
    for path, split in files.items():
        if path.is_symlink() and not walk.may_follow(path):
            continue
        held = _held(path)
        own = _classes(held["categories"], path)
        if classes is not None and own != classes:
            raise DataError("two splits of other classes", where=printable(path), found=", ".join(own.values())[:200],
                            expected=", ".join(classes.values())[:200], fix="give both the same categories")
        classes = own
        bases.append(_base(root, path, held["images"]))
        by_id = _images_of(held["images"], bases[-1], split, path, images, walk, doors)
        here = _boxes_of(held, by_id, path, [*own], left, walk)
        images |= {image.path: image for image in by_id.values() if image is not None}
        boxes |= here
    training = "all" if "all" in files.values() else "train"
    for base in dict.fromkeys(bases):
        for path, size in walk.files(base, (base.resolve(),)):
            if unlabelled and path not in images:
                images[path] = Image(training, "box", path, size)
            elif path not in images:
                walk.left_out.append(LeftOut(path, "file", _NOT_LISTED))
    found: Mapping[Path, Annotation] = {path: one.done() for path, one in boxes.items()}
    told = [f"{count} {what} left out" for what, count in left.items()]
    return ReadBoxes(tuple((classes or {}).values()), images, found, list(files), told)


def _split_in(stem: str, beside: bool) -> str | None:
    """The split that the name of a file says, "all" where it is one without a split, None where it is none of ours."""
    word = stem.casefold().removeprefix("instances").strip("_-.0123456789")
    if word in SPLIT_OF and (not beside or stem.casefold().startswith("instances")):
        return SPLIT_OF[word]
    return "all" if word in ("", "default", "annotations", "annotations.coco") else None


def _looks_so(path: Path) -> bool:
    """Whether a file begins as one of annotations does."""
    try:
        with open_regular(path) as file:
            head = file.read(_LOOK)
    except (DataError, OSError):
        return True  # it is told when it is read
    return any(key in head for key in _KEYS)


def _require_one_for_each(files: Mapping[Path, str]) -> None:
    by_split: dict[str, Path] = {}
    for path, split in files.items():
        if split in by_split or (len(files) > 1 and split == "all"):
            raise DataError("files of annotations of which it is not known which is meant", where=printable(path),
                            found=", ".join(printable(one.name) for one in files),
                            expected="one for each of train, val and test, or one for all images",
                            fix="take the others out of the folder")
        by_split[split] = path


def _held(path: Path) -> dict[str, list[dict[str, Any]]]:
    held = read_strict_json(path, JSON_AT_MOST, EXPECTED)
    if not isinstance(held, dict):
        raise DataError("no annotations as COCO has them", where=printable(path), expected=EXPECTED)
    for key in ("images", "categories", "annotations"):
        rows = held.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError("no annotations as COCO has them", where=f"{printable(path)}, {key}", expected=EXPECTED)
    return held


def _classes(categories: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    """Category id -> name, by rising ids, which is the order of the classes."""
    where = f"{printable(path)}, categories"
    by_id: dict[int, Any] = {}
    for category in categories:
        number = category.get("id")
        if not isinstance(number, int) or isinstance(number, bool) or number in by_id:
            raise DataError("categories without an id of their own", where=where, found=f"id {number!r}"[:100],
                            expected="a whole number, each once")
        by_id[number] = category.get("name")
    return dict(zip(sorted(by_id), require_names([by_id[number] for number in sorted(by_id)], where), strict=True))


def _base(root: Path, path: Path, images: Sequence[Mapping[str, Any]]) -> Path:
    """The folder that the names of images are seen from: the first of the usual ones that has the first of them."""
    word = path.stem.removeprefix("instances_")
    plain = word.strip("_-.0123456789") or word
    bases = [path.parent, *(root / "images" / one for one in (word, plain)), *(root / one for one in (word, plain)),
             root / "images", root]
    bases = [base for base in dict.fromkeys(bases) if base.is_dir()]
    names = [image.get("file_name") for image in images[:100]]
    for base in bases:
        if any(isinstance(name, str) and within(base, name, printable(path)).is_file() for name in names):
            return base
    raise DataError("no image that this file names was found", where=printable(path),
                    found=", ".join(printable(str(name)) for name in names[:3]) or "no image in it",
                    expected="in one of " + ", ".join(map(printable, bases)), fix="put the images there")


def _images_of(rows: Sequence[Mapping[str, Any]], base: Path, split: str, file: Path, taken: Mapping[Path, Image],
               walk: Walk, doors: Doors) -> dict[Any, Image | None]:
    """Id of each image -> the image; None of one that cannot be used, which has been told."""
    found: dict[Any, Image | None] = {}
    here: set[Path] = set()
    for place, row in enumerate(rows):
        where, name, number = f"{printable(file)}, images[{place}]", row.get("file_name"), row.get("id")
        if not isinstance(name, str) or not isinstance(number, int | str) or number in found:
            complain(walk, DataError("an image without an id and a file_name of its own", where=where,
                                     found=f"id {number!r}, file_name {name!r}"[:200], expected="both, each once"))
            continue
        found[number] = None
        path = within(base, name, where)
        if path in here or path in taken:
            complain(walk, DataError("an image that is listed twice", where=where, found=printable(name),
                                     expected="each image once, in one split"))
        elif doors.open(path):
            found[number] = Image(split, "box", path, path.stat().st_size)
        elif not path.is_symlink():
            complain(walk, DataError("a name of an image without a file", where=where, found=printable(name),
                                     expected=f"in {printable(base)}", fix="add the image, or take its entry out"))
        here.add(path)
    return found


def _boxes_of(held: Mapping[str, Sequence[Mapping[str, Any]]], images: Mapping[Any, Image | None], file: Path,
              categories: Sequence[int], left: Counter[str], walk: Walk) -> dict[Path, BoxesOfImage]:
    """Path -> the boxes of each image that is listed, also of those without any."""
    numbers = {category: number for number, category in enumerate(categories)}
    sizes = {row.get("id"): size_in_file(row.get("width"), row.get("height")) for row in held["images"]
             if isinstance(row.get("id"), int | str)}
    found = {image.path: BoxesOfImage(file, "annotations[{}]", sizes[number]) for number, image in images.items()
             if image is not None}
    for place, row in enumerate(held["annotations"]):
        where, number = f"{printable(file)}, annotations[{place}]", row.get("image_id")
        if not isinstance(number, int | str) or number not in images:
            complain(walk, DataError("a box of an image that is not listed", where=where, found=f"image_id {number!r}",
                                     expected="the id of one of `images`"))
            continue
        image = images[number]
        if image is None:
            continue
        if row.get("iscrowd") or row.get("ignore"):
            left["boxes of crowds (iscrowd)" if row.get("iscrowd") else "boxes that say `ignore`"] += 1
            continue
        category, box = row.get("category_id"), four_numbers(row.get("bbox"))
        if not isinstance(category, int) or category not in numbers:
            complain(walk, DataError("a box of a class without a name", where=where, found=f"category_id {category!r}",
                                     expected="the id of one of `categories`"))
        elif box is None:
            complain(walk, DataError("a box that is none", where=where, found=f"bbox {row.get('bbox')!r}"[:200],
                                     expected=f"[X, Y, WIDTH, HEIGHT], {FOUR}"))
        else:
            x, y, width, height = box
            found[image.path].add((x, y, x + width, y + height), numbers[category], place)
    return found
