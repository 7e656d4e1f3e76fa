"""From an image file to pixels: one rule, for training, evaluation and prediction, and no torch in it.

Files are JPEG, PNG, WebP or BMP, recognised by their first bytes; no other decoder is ever run. What is
transparent is laid on white; palettes, CMYK and grey become the wanted channels as Pillow converts them; of an
animation the first frame counts; the orientation is as stored (an EXIF rotation is not applied). Images with
16 or 32 bits a pixel and channel are refused, for there is no rule by which their range would be known.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from tutelage.data.file_kinds import kind_of as kind_of
from tutelage.data.file_kinds import why_not as why_not
from tutelage.errors import DataError, SecurityError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 64_000_000
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
_OTHER_TYPES = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "Photoshop (PSD)",
                b"%!PS": "PostScript (EPS)", b"%PDF": "PDF"}


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a square: as if its shorter side were scaled to `resize`, cut to the central `crop`.

    The scaling is bilinear with antialiasing; `pad` black pixels are then put on every side. Lengths in pixels.
    """

    channels: int
    resize: int
    crop: int
    pad: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the result."""
        side = self.crop + 2 * self.pad
        return self.channels, side, side

    def as_json(self) -> dict[str, object]:
        """What travels with a model; `preparation` reads it back."""
        return {"channels": self.channels, "resize": self.resize, "crop": self.crop, "pad": self.pad,
                "interpolation": "bilinear, antialiased", "alpha": "on white", "orientation": "as stored",
                "range": [0.0, 1.0]}


def preparation(preprocessing: Mapping[str, object]) -> Preparation:
    """The preparation that a model brought along as JSON."""
    names = ("channels", "resize", "crop", "pad")
    numbers = {name: preprocessing.get(name) for name in names}
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 65536:
            raise DataError("preprocessing cannot be read", where=name, found=repr(number),
                            expected="a whole number of pixels or channels")
    return Preparation(**{name: number for name, number in numbers.items() if isinstance(number, int)})


def pixels(image: Image.Image, how: Preparation) -> np.ndarray:
    """A decoded image, cut, scaled and padded: [channels, height, width] uint8.

    Only the central square is ever scaled, so that an image of 1 x 30000 pixels costs no more than another.

    >>> pixels(Image.new("RGB", (40, 30)), Preparation(3, 32, 28, pad=2)).shape
    (3, 32, 32)
    """
    width, height = image.size
    side = min(width, height) * how.crop / how.resize
    left, top = (width - side) / 2, (height - side) / 2
    if (width, height) != (how.crop, how.crop) or how.resize != how.crop:
        image = image.resize((how.crop, how.crop), Image.Resampling.BILINEAR,
                             box=(left, top, left + side, top + side))
    return np.pad(as_array(image), ((0, 0), (how.pad, how.pad), (how.pad, how.pad)))


def as_array(image: Image.Image) -> np.ndarray:
    """A grey or RGB image as an array [channels, height, width] of its own memory."""
    values = np.array(image)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def decode(path: Path, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole image, grey (1 channel) or RGB (3); whatever is wrong with it is an error that names the file."""
    with open_regular(path) as file:
        image = _open(file, path, max_pixels)
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise DataError("an image cannot be decoded", where=printable(path), found=str(error) or repr(error),
                            fix="replace or remove the file; `tutelage check-data` lists all such files") from None
    return flatten(image, channels, printable(path))


def header(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What the first bytes tell of an image (size, mode, format), with the checks of `decode`, not decoded."""
    with open_regular(path) as file:
        return _open(file, path, max_pixels)


def flatten(image: Image.Image, channels: int, where: str) -> Image.Image:
    """The image in the mode that has so many channels; what is transparent is laid on white."""
    if image.mode not in _MODES:
        raise DataError("an image whose range of values is not known", where=where, found=f"mode {image.mode!r}",
                        expected="8 bits a channel", fix="convert it to 8 bits a channel")
    if image.mode.endswith("A") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def open_regular(path: Path) -> BinaryIO:
    """The file opened for reading; a pipe, a device or a folder is refused at once and never waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError("a file cannot be read", where=printable(path), found=error.strerror,
                        fix="restore it or its permissions, or remove it") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError("not a regular file", where=printable(path), expected="an image file",
                        fix="remove it from the folder of images")
    return os.fdopen(handle, "rb")


def sniff(head: bytes) -> str | None:
    """The format told by the first bytes of a file; `None` if it is none that we read."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if head[:2] == b"BM" else None


def require_image(head: bytes, path: Path) -> None:
    """Refuse a file that does not begin as an image does."""
    if sniff(head) is None:
        found = "an empty file" if not head else f"starts with {head[:12]!r}"
        kind = _OTHER_TYPES.get(head[:4])
        raise DataError("not an image that can be read", where=printable(path),
                        found=f"{kind} ({found})" if kind else found, expected=", ".join(FORMATS),
                        fix="replace, convert or remove the file; `tutelage check-data` lists all such files")


def printable(path: Path | str) -> str:
    r"""A path as text that any terminal and any JSON can hold; foreign bytes are written as \x...

    >>> printable("a\nb")
    'a\\nb'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _open(file: BinaryIO, path: Path, max_pixels: int) -> Image.Image:
    require_image(file.read(16), path)
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error), max_pixels) from None
    except Exception as error:
        raise DataError("the header of an image cannot be read", where=printable(path), found=type(error).__name__,
                        fix="replace or remove the file") from None
    if image.width * image.height > max_pixels:
        raise _too_large(path, f"{image.width} x {image.height} pixels", max_pixels)
    return image


def _too_large(path: Path, found: str, max_pixels: int) -> SecurityError:
    return SecurityError("an image with more pixels than allowed was not decoded", where=printable(path), found=found,
                         expected=f"at most {max_pixels} pixels",
                         fix="remove it, or raise `max_pixels` in [data] if you trust it")
