"""How wide and high an image is as it is read, with no more decoded than that takes."""

from pathlib import Path

from tutelage.data.decoding import as_in_file, decode, header
from tutelage.data.settings import DataSettings
from tutelage.errors import UserError

Size = tuple[int, int]
"""Width and height."""
_ORIENTATION = 0x0112
_BY_HEADER = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF")
"""The formats whose header tells all of the size: others are turned when they are decoded."""


def size_of_image(path: Path, settings: DataSettings, whole: bool) -> Size | UserError:
    """The size of an image as it is read; with `whole` it is decoded for it. What is wrong is told, not raised."""
    try:
        if whole:
            return decode(path, 3, settings.max_pixels, orientation=settings.orientation,
                          value_range=settings.value_range).size
        head = header(path, settings.max_pixels)
        if head.format not in _BY_HEADER:
            return as_in_file(path, settings.max_pixels, orientation=settings.orientation).size
    except UserError as error:
        return error
    return (head.height, head.width) if is_turned(path, settings) else head.size


def is_turned(path: Path, settings: DataSettings) -> bool:
    """Whether reading an image changes its width and height."""
    head = header(path, settings.max_pixels)
    if settings.orientation != "upright" or (head.format == "PNG" and "exif" not in head.info):
        return False
    if head.format not in _BY_HEADER:
        stored = as_in_file(path, settings.max_pixels, orientation="as stored").size
        return as_in_file(path, settings.max_pixels).size != stored
    try:
        return head.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # a damaged block of EXIF: dozens of kinds of errors, and it turns nothing
        return False
