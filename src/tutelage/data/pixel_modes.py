"""However a file holds its pixels, they become grey or RGB of 8 bits a channel, or are refused.

16 bits a channel are scaled by their full range, unless another is stated; 32-bit numbers need a stated range.
What is transparent is laid on white. Palettes, CMYK and grey become the wanted channels as Pillow converts them.
"""

import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from tutelage.errors import DataError

Range = tuple[float, float]
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA", *_WIDE)
"""The modes without colours."""
_BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation -> how an image that was turned upright by it is turned back (`Image.Transpose`)."""
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339


def turn_upright(image: Image.Image) -> None:
    """Turn a decoded image in place as its EXIF orientation says, and forget that; one without it costs nothing.

    Pillow has turned TIFF and HEIC files already, and tells of no orientation then. What cannot be read, or is none
    of 1 .. 8, turns nothing.
    """
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (MemoryError, UserWarning):
        raise
    except Exception:  # a damaged block of EXIF: dozens of kinds of errors, and the pixels are whole
        return


def upright(image: Image.Image) -> Image.Image:
    """An image of someone else, which stays as it is: turned if its EXIF asks for it, else itself."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):  # a damaged block of EXIF
        return image
    return ImageOps.exif_transpose(image) if turned else image


def stored_turn(image: Image.Image) -> object:
    """The orientation of a TIFF file before it is decoded, for `turn_back`; None for other kinds."""
    return _tiff_tags(image).get(_ORIENTATION)


def turn_back(image: Image.Image, stored: object) -> Image.Image:
    """A TIFF image as it is stored, which Pillow has turned while decoding it."""
    how = _BACK.get(stored) if isinstance(stored, int) else None
    return image if how is None else image.transpose(Image.Transpose(how))


def flatten(image: Image.Image, channels: int, where: str, value_range: Range | None = None) -> Image.Image:
    """The image in grey (1 channel) or RGB; `value_range` is what becomes 0 .. 255, where there are more than 8 bits.

    >>> flatten(Image.new("I;16", (1, 1), 32768), 1, "here").getpixel((0, 0))
    128
    """
    if image.mode in _WIDE:
        image = _of_8_bits(image, where, value_range)
    if image.mode not in _MODES:
        raise DataError("an image whose range of values is not known", where=where, found=f"mode {image.mode!r}",
                        expected="grey or colours of 8 bits a channel", fix="convert it to 8 bits a channel")
    if image.mode.endswith("A") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def deep(image: Image.Image, where: str) -> Image.Image | None:
    """Grey of more than 8 bits as numbers that another file can hold; None if the image has 8 bits a channel.

    DataError for what would mean something else in the other file.
    """
    if image.mode not in _WIDE:
        return None
    values, tags = np.asarray(image), _tiff_tags(image)
    if image.mode.startswith("I;16"):
        values, key = values.astype(np.uint16), image.info.get("transparency")
        values = 65535 - values if tags.get(_PHOTOMETRIC) == 0 else values
        return Image.fromarray(np.where(values == key, np.uint16(65535), values) if isinstance(key, int) else values)
    if tags.get(_PHOTOMETRIC) == 0 or _unsigned(tags) or not np.isfinite(values).all():
        raise DataError("an image whose numbers cannot be scaled", where=where,
                        found="0 for white, 32 bits without a sign, or values that are not finite",
                        fix="convert it to 16 bits, or make it smaller by other means")
    return image


def _of_8_bits(image: Image.Image, where: str, value_range: Range | None) -> Image.Image:
    """Grey of more than 8 bits as grey of 8; a transparent value becomes white, as all that is transparent does."""
    values, tags = np.asarray(image), _tiff_tags(image)
    if image.mode == "I" and _unsigned(tags):
        values = values.view(np.uint32)  # Pillow reads them as if they had a sign
    if value_range is None and not image.mode.startswith("I;16"):
        raise DataError("an image whose range of values is not known", where=where,
                        found=f"mode {image.mode!r}, {_found_range(values)}",
                        expected="8 or 16 bits a channel, or a stated range",
                        fix="say which values are black and white, [data] value_range = [LOW, HIGH], or convert it")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("an image with values that are not numbers", where=where, found="NaN or infinity",
                        expected="finite numbers", fix="replace or remove the file")
    if value_range is None:
        levels = (values.astype(np.uint32) * 255 + 32767) // 65535
    else:
        low, high = value_range
        levels = np.rint(((values.astype(np.float64) - low) / (high - low)).clip(0, 1) * 255)
    levels = levels.astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:
        levels = 255 - levels  # 0 is white, which Pillow heeds up to 8 bits
    key = image.info.get("transparency")
    return Image.fromarray(np.where(values == key, np.uint8(255), levels) if isinstance(key, int) else levels)


def _tiff_tags(image: Image.Image) -> Mapping:
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def _unsigned(tags: Mapping) -> bool:
    return _alone(tags.get(_BITS)) == 32 and _alone(tags.get(_SAMPLE_FORMAT)) == 1


def _alone(value: object) -> object:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _found_range(values: np.ndarray) -> str:
    return f"{values.dtype} from {values.min():g} to {values.max():g}"
