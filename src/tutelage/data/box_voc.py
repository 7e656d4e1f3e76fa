"""Boxes as Pascal VOC has them: an XML file for each image. No document type, and so no entity, is read.

    FOLDER/JPEGImages/*  FOLDER/Annotations/*.xml  [FOLDER/ImageSets/Main/SPLIT.txt]     (or images for JPEGImages)

Pixels are counted from 1 there, and the last one is in the box: 1 .. WIDTH is the whole width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from tutelage.data.box_rows import (
    FOUR,
    MOST_BOXES,
    Annotation,
    BoxesOfImage,
    Doors,
    ReadBoxes,
    called,
    complain,
    entries_of,
    names_in_lines,
    size_in_file,
    within,
)
from tutelage.data.decoding import open_regular, printable
from tutelage.data.folder import Image, Walk
from tutelage.data.left_out import LeftOut
from tutelage.errors import DataError, SecurityError, UserError

XML_AT_MOST = 2**23
_DEEPEST = 32
_LISTS_AT_MOST = 2**26
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NOT_LISTED = "in no list of ImageSets/Main"
_EDGES = np.array([1, 1, 0, 0])


class _Object(NamedTuple):
    """A thing in an image: its class, and the line where it begins."""

    name: str
    box: tuple[float, float, float, float]
    line: int


class _Read(NamedTuple):
    """What one file says: things, the size of the image, how many difficult ones it leaves out."""

    objects: list[_Object]
    size: tuple[int, int] | None
    difficult: int


def voc_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of annotations, if this is such a folder."""
    images, drawn = called(root, "jpegimages") or called(root, "images"), called(root, "annotations")
    if images is None or drawn is None or not any(name.endswith(".xml") for name in entries_of(drawn)):
        return None
    return images, drawn


def read_voc(root: Path, walk: Walk) -> ReadBoxes:
    """The images and boxes of every split; difficult things are left out, and told.

    Classes are those of classes.txt, or the names that occur, by the alphabet.
    """
    folders = voc_folders(root)
    assert folders is not None, "the kind was seen, or is refused"
    images = _images(root, *folders, walk)
    doors, read, files = Doors(walk), dict[Path, _Read](), list[Path]()
    for path in images:
        file = folders[1] / path.relative_to(folders[0]).with_suffix(".xml")
        if not doors.open(file):
            continue
        files.append(file)
        try:
            read[path] = _read(file, walk)
        except SecurityError:
            raise
        except UserError as problem:
            complain(walk, problem)
    alone = sum(name.endswith(".xml") for name in entries_of(folders[1])) - len(files)
    told = [f"{alone} files of Annotations are of no image that is used"] if alone > 0 else []
    names = root / "classes.txt"
    if doors.open(names):
        classes, listed = names_in_lines(names), True
        files.append(names)
    else:
        classes, listed = tuple(sorted({one.name for found in read.values() for one in found.objects})), False
    numbers = {name: number for number, name in enumerate(classes)}
    found = {path: _numbered(folders[1] / path.relative_to(folders[0]).with_suffix(".xml"), what, numbers, walk)
             for path, what in read.items()}
    difficult = sum(what.difficult for what in read.values())
    told += [f"{difficult} boxes of things that are difficult left out"] if difficult else []
    told += [] if listed else ["classes are the names that occur; classes.txt, a name a line, gives another order"]
    return ReadBoxes(classes, images, found, files, told)


def _images(root: Path, folder: Path, drawn: Path, walk: Walk) -> dict[Path, Image]:
    """The images of the lists, or all of them where there is no list."""
    by_stem: dict[str, tuple[Path, int]] = {}
    for path, size in walk.files(folder, (folder.resolve(),)):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in by_stem:
            complain(walk, DataError("two files of one name: which one is meant is not known", where=printable(path),
                                     found=printable(by_stem[stem][0].name), fix="keep one of them"))
        by_stem.setdefault(stem, (path, size))
    lists = _lists(root, walk)
    if not lists:
        return {path: Image("all", "box", path, size) for path, size in by_stem.values()}
    found: dict[Path, Image] = {}
    for split, file in lists.items():
        for line, name in _names(file):
            where = f"{printable(file)}, line {line}"
            within(folder, name, where)
            if name not in by_stem:
                complain(walk, DataError("a name of an image without a file", where=where, found=printable(name),
                                         expected=f"in {printable(folder)}", fix="add the image, or take the name out"))
            elif by_stem[name][0] in found:
                complain(walk, DataError("an image that is listed twice", where=where, found=printable(name),
                                         expected="each image once, in one split"))
            else:
                path, size = by_stem[name]
                found[path] = Image(split, "box", path, size)
    walk.left_out.extend(LeftOut(path, "file", _NOT_LISTED) for path, _ in by_stem.values() if path not in found)
    return found


def _lists(root: Path, walk: Walk) -> dict[str, Path]:
    """Split -> its list. `trainval` is read where there is no list of one of the two."""
    sets = called(root, "imagesets")
    main = sets and called(sets, "main")
    if main is None:
        return {}
    doors = Doors(walk)
    there = {name: main / f"{name}.txt" for name in ("train", "trainval", "val", "test")
             if doors.open(main / f"{name}.txt")}
    both = there.pop("trainval", None)
    if both is not None and "train" not in there:
        there.pop("val", None)
        there["train"] = both
    return there


def _names(path: Path) -> list[tuple[int, str]]:
    """Lines and names of a list."""
    with open_regular(path) as file:
        text = file.read(_LISTS_AT_MOST)
    try:
        lines = text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("a list of names that is no UTF-8", where=printable(path), found=error) from None
    return [(number, line.split()[0]) for number, line in enumerate(lines, 1) if line.strip()]


def _read(path: Path, walk: Walk) -> _Read:
    root = parse_xml(path)
    things, difficult = [], 0
    for one in root.iter("object"):
        line = int(one.get("line", "0"))
        where = f"{printable(path)}, line {line}"
        if (one.findtext("difficult") or "0").strip() not in ("0", "false", "False"):
            difficult += 1
            continue
        name, box = (one.findtext("name") or "").strip(), _corners(one.find("bndbox"))
        if not name:
            complain(walk, DataError("a box of a class without a name", where=where, expected="<name>CLASS</name>"))
        elif box is None:
            complain(walk, DataError("a box that is none", where=where,
                                     expected=f"<bndbox> with <xmin>, <ymin>, <xmax> and <ymax>, {FOUR}"))
        else:
            things.append(_Object(name, box, line))
    size = root.find("size")
    sides = [] if size is None else [_number(size.findtext(side)) for side in ("width", "height")]
    return _Read(things, size_in_file(*sides) if sides else None, difficult)


def _corners(box: Element | None) -> tuple[float, float, float, float] | None:
    """Edges, as pixels between which the box lies."""
    if box is None:
        return None
    numbers = [_number(box.findtext(side)) for side in _CORNERS]
    if any(number is None or not np.isfinite(number) for number in numbers):
        return None
    left, top, right, lower = (np.array(numbers, np.float64) - _EDGES).tolist()
    return left, top, right, lower


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None and "_" not in text else None
    except ValueError:
        return None


def _numbered(file: Path, found: _Read, numbers: Mapping[str, int], walk: Walk) -> Annotation:
    boxes = BoxesOfImage(file, "line {}", found.size)
    for one in found.objects:
        if one.name in numbers:
            boxes.add(one.box, numbers[one.name], one.line)
        else:
            complain(walk, DataError("a box of a class without a name", where=f"{printable(file)}, line {one.line}",
                                     found=printable(one.name), expected="one of classes.txt"))
    return boxes.done()


def parse_xml(path: Path) -> Element:
    """The root of an XML file; every `object` has its line as an attribute.

    SecurityError for a document type, with which a file could name entities and other files, for too many levels or
    things, and for a file that is too large.
    """
    with open_regular(path) as file:
        text = file.read(XML_AT_MOST + 1)
    if len(text) > XML_AT_MOST:
        raise _refused("an XML file that is too large to read", path, f"more than {XML_AT_MOST / 2**20:.0f} MiB")
    parser = expat.ParserCreate()
    tree = _Tree(path, parser)
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = tree.start, tree.end, tree.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = tree.refuse_type
    try:
        parser.Parse(text, True)
        return tree.made.close()
    except expat.ExpatError as error:
        raise DataError("an XML file that cannot be read", where=f"{printable(path)}, line {error.lineno}",
                        found=expat.ErrorString(error.code)) from None
    except (ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise DataError("an XML file that cannot be read", where=printable(path), found=error) from None


class _Tree:
    """Elements as a parser meets them, as long as they are few and not deep."""

    def __init__(self, path: Path, parser: Any):
        self.path, self.parser, self.made, self.depth, self.things = path, parser, TreeBuilder(), 0, 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.depth += 1
        self.things += name == "object"
        if self.depth > _DEEPEST or self.things > MOST_BOXES:
            what = "XML of too many levels" if self.depth > _DEEPEST else "more boxes in one image than allowed"
            raise _refused(what, self.path, f"line {self.parser.CurrentLineNumber}")
        self.made.start(name, {"line": str(self.parser.CurrentLineNumber)} if name == "object" else attributes)

    def end(self, name: str) -> None:
        """It ends."""
        self.depth -= 1
        self.made.end(name)

    def data(self, text: str) -> None:
        """Text in it."""
        self.made.data(text)

    def refuse_type(self, *_: Any) -> None:
        """A document type, or an entity."""
        raise _refused("an XML file with a document type", self.path, f"line {self.parser.CurrentLineNumber}")


def _refused(what: str, path: Path, found: str) -> SecurityError:
    return SecurityError(what, where=printable(path), found=found,
                         expected=f"<annotation> with at most {MOST_BOXES} <object> in it, and no <!DOCTYPE",
                         fix="take it out, if you trust the rest")
