"""Regions of images, in a file beside them: what a teacher of two stages is asked about, and its student too.

    {"regions": {"images/one.jpg": [[4, 4, 24, 28], [0, 10, 30, 40.5]], "images/two.jpg": []}}

A name is the path of an image in the folder, with or without its ending; an image that is not named has no regions. A
region is left, top, right and lower edge in pixels of the image, as boxes are; it moves with its image.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tutelage.data.box_rows import MOST_BOXES, four_numbers
from tutelage.data.decoding import printable
from tutelage.data.strict_json import read_strict_json
from tutelage.data.upright_size import Size
from tutelage.errors import DataError, SecurityError
from tutelage.types import Content

_AT_MOST = 2**28
_EXPECTED = '{"regions": {"images/one.jpg": [[LEFT, TOP, RIGHT, LOWER], ...], ...}}'


def regions_file(root: Path, name: str) -> Path:
    """The file that [data] regions names; SecurityError for one outside of the folder."""
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise SecurityError("a file outside of the folder", where="[data] regions", found=printable(name),
                            expected=f"a file in {printable(root)}")
    return file


def read_regions(file: Path, images: Sequence[Path], sizes: Sequence[Size | None]) -> list[np.ndarray]:
    """Of each image, by its path in the folder, regions [G, 4], cut off at the edges of the image.

    DataError for a name without an image, a region that is none or lies outside of its image, or too many of them.
    """
    held = read_strict_json(file, _AT_MOST, _EXPECTED)
    told = held.get("regions") if isinstance(held, dict) else None
    if not isinstance(told, dict):
        raise DataError("no regions of images", where=printable(file), expected=_EXPECTED)
    places = {image.with_suffix("").as_posix(): place for place, image in enumerate(images)}
    places |= {image.as_posix(): place for place, image in enumerate(images)}
    found = [np.empty((0, 4)) for _ in images]
    for name, rows in told.items():
        where = f"{printable(file)}, {printable(name)}"
        if name not in places:
            raise DataError("a name of an image without a file", where=where,
                            expected="the path of an image in the folder")
        if not isinstance(rows, list) or len(rows) > MOST_BOXES:
            raise DataError("too many regions, or none at all", where=where, expected=f"a list of 0 .. {MOST_BOXES}")
        size = sizes[places[name]]
        if size is not None and rows:
            found[places[name]] = np.array([_region(row, size, f"{where}, region {number}")
                                            for number, row in enumerate(rows)])
    return found


def content_of(file: Path) -> Content:
    """What a digest sees of the file."""
    held = file.read_bytes()
    return Content(len(held), hashlib.sha256(held).hexdigest())


def _region(row: object, size: Size, where: str) -> list[float]:
    corners = four_numbers(row)
    if corners is not None:
        left, top, right, lower = corners
        cut = [max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(lower, float(size[1]))]
        if cut[2] > cut[0] and cut[3] > cut[1]:
            return cut
    raise DataError("a region that is none", where=where, found=repr(row)[:100],
                    expected=f"[LEFT, TOP, RIGHT, LOWER] with an area in the image of {size[0]} x {size[1]} pixels")
