"""From an image file to pixels: one rule, for training, evaluation and prediction, and no torch in it.

Files are recognised by their first bytes, whatever they are called, and only the decoder of what was recognised is
run (`file_kinds`). Of an animation, or of several pages, the first counts. An image is turned upright as its EXIF
orientation says, unless it is wanted "as stored"; then its pixels become grey or RGB of 8 bits (`pixel_modes`).
"""

import os
import stat
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeGuard, TypeVar, get_args

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tutelage.data.file_kinds import HEAD_BYTES, KINDS, SUFFIXES
from tutelage.data.file_kinds import is_image as is_image
from tutelage.data.file_kinds import kind_of as kind_of
from tutelage.data.file_kinds import why_not as why_not
from tutelage.data.pixel_modes import Range, flatten, stored_turn, turn_back, turn_upright
from tutelage.errors import DataError, SecurityError

T = TypeVar("T")
Orientation = Literal["upright", "as stored"]
Sides = int | tuple[int, int]
"""Pixels of both sides, or of height and width."""
EXTENSIONS = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
MAX_PIXELS = 64_000_000
GREY = 114
"""What is around an image that does not fill its picture."""
FITTED = "boxes"
"""The kind of a preparation that leaves nothing of an image out, as boxes need it."""
_DNG_VERSION, _KIND_OF_PAGE = 50706, 254
_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class Preparation:
    """How an image becomes what a network receives: scaled so that it just covers `resize`, cut to the central `crop`.

    Both are pixels: of a square, or (height, width), in the same proportion. The scaling is bilinear with
    antialiasing; `pad` black pixels are then put on every side. `value_range` is what becomes 0 .. 255 in files with
    more than 8 bits a channel: needed for 32 bits, else all 16.

    Where it is `fitted` nothing is cut: the whole image is scaled by one factor so that it just fits into `crop`, lies
    at its upper left corner, and the rest is grey.
    """

    channels: int
    resize: Sides
    crop: Sides
    pad: int = 0
    orientation: Orientation = "upright"
    value_range: Range | None = None
    fitted: bool = False

    @property
    def covers(self) -> tuple[int, int]:
        """Height and width of `resize`."""
        return pair(self.resize)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of `crop`."""
        return pair(self.crop)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the result."""
        height, width = self.size
        return self.channels, height + 2 * self.pad, width + 2 * self.pad

    def as_json(self) -> dict[str, object]:
        """What travels with a model; `preparation` reads it back. Sides are a number where both are the same."""
        resize, crop = ([*sides] if isinstance(sides, tuple) else sides for sides in (self.resize, self.crop))
        if self.fitted:
            told: dict[str, object] = {
                "kind": FITTED, "channels": self.channels, "size": [*self.size], "place": "upper left", "fill": GREY}
            told |= {"interpolation": "bilinear, antialiased", "alpha": "on white", "orientation": self.orientation,
                     "range": [0.0, 1.0]}
            return told if self.value_range is None else {**told, "value_range": [*self.value_range]}
        told = {"channels": self.channels, "resize": resize, "crop": crop, "pad": self.pad,
                "interpolation": "bilinear, antialiased", "alpha": "on white", "orientation": self.orientation,
                "range": [0.0, 1.0]}
        return told if self.value_range is None else {**told, "value_range": [*self.value_range]}


def preparation(preprocessing: Mapping[str, object]) -> Preparation:
    """The preparation that a model brought along as JSON; one that tells of no orientation is of images as stored."""
    if "resize" not in preprocessing and {"height", "width"} <= preprocessing.keys():  # of tensors, in early versions
        sides = [preprocessing["height"], preprocessing["width"]]
        preprocessing = {"resize": sides, "crop": sides, "pad": 0, **preprocessing}
    fits = preprocessing.get("kind") == FITTED
    if fits:
        if preprocessing.get("fill") != GREY:
            raise _unreadable("fill", preprocessing.get("fill"), str(GREY))
        sides = preprocessing.get("size")
        preprocessing = {**preprocessing, "resize": sides, "crop": sides, "pad": 0}
    resize, crop = (_read_sides(preprocessing, name) for name in ("resize", "crop"))
    channels, pad = (_read_pixels(name, preprocessing.get(name)) for name in ("channels", "pad"))
    found, bounds = preprocessing.get("orientation", "as stored"), preprocessing.get("value_range")
    orientation = next((word for word in get_args(Orientation) if word == found), None)
    if orientation is None:
        raise _unreadable("orientation", found, " or ".join(get_args(Orientation)))
    if bounds is not None and not is_range(bounds):
        raise _unreadable("value_range", bounds, "two numbers, the lower first")
    return Preparation(channels, resize, crop, pad, orientation, (bounds[0], bounds[1]) if bounds else None, fits)


def pair(sides: Sides) -> tuple[int, int]:
    """Height and width."""
    return sides if isinstance(sides, tuple) else (sides, sides)


def is_range(bounds: object) -> TypeGuard[Sequence[float]]:
    """Whether these are two finite numbers, the lower first."""
    return (isinstance(bounds, list | tuple) and len(bounds) == 2
            and all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds)
            and -np.inf < bounds[0] < bounds[1] < np.inf)


def pixels(image: Image.Image, how: Preparation) -> np.ndarray:
    """A decoded image, cut, scaled and padded: [channels, height, width] uint8.

    Only the central part is ever scaled, so that an image of 1 x 30000 pixels costs no more than another.

    >>> pixels(Image.new("RGB", (40, 30)), Preparation(3, 32, 28, pad=2)).shape
    (3, 32, 32)
    """
    if how.fitted:
        return _fitted(image, how.size)
    width, height = image.size
    if (height, width) != how.size or how.covers != how.size:
        tall, wide = central_part(height, width, how)
        left, top = (width - wide) / 2, (height - tall) / 2
        image = image.resize((how.size[1], how.size[0]), Image.Resampling.BILINEAR,
                             box=(left, top, left + wide, top + tall))
    return np.pad(as_array(image), ((0, 0), (how.pad, how.pad), (how.pad, how.pad)))


def central_part(height: int, width: int, how: Preparation) -> tuple[float, float]:
    """Height and width, in pixels of the image, of the central part that becomes the `crop`.

    >>> central_part(480, 640, Preparation(3, 256, 224)), central_part(480, 640, Preparation(3, (64, 128), (32, 64)))
    ((420.0, 420.0), (160.0, 320.0))
    """
    # The side that runs out first is scaled to its side of `resize`.
    side, over = min(((height, how.covers[0]), (width, how.covers[1])), key=lambda pair: pair[0] / pair[1])
    return side * how.size[0] / over, side * how.size[1] / over


def fit_factor(size: tuple[int, int], into: tuple[int, int]) -> float:
    """By what an image of `size` (width, height) is scaled so that it just fits into (height, width).

    >>> fit_factor((640, 480), (320, 320)), fit_factor((10, 40), (80, 60))
    (0.5, 2.0)
    """
    return min(into[1] / size[0], into[0] / size[1])


def fitted_size(size: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image that was scaled so, in whole pixels.

    >>> fitted_size((640, 479), (320, 320)), fitted_size((9000, 1), (80, 60))
    ((320, 240), (60, 1))
    """
    factor = fit_factor(size, into)
    return min(into[1], max(1, round(size[0] * factor))), min(into[0], max(1, round(size[1] * factor)))


def _fitted(image: Image.Image, into: tuple[int, int]) -> np.ndarray:
    size = fitted_size(image.size, into)
    values = as_array(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))
    picture = np.full((len(values), *into), GREY, np.uint8)
    picture[:, :size[1], :size[0]] = values
    return picture


def as_array(image: Image.Image) -> np.ndarray:
    """A grey or RGB image as an array [channels, height, width] of its own memory."""
    values = np.array(image)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def decode(path: Path, channels: int = 3, max_pixels: int = MAX_PIXELS, *, orientation: Orientation = "upright",
           value_range: Range | None = None) -> Image.Image:
    """The whole image, grey (1 channel) or RGB (3); whatever is wrong with it is an error that names the file.

    `value_range` is what becomes 0 .. 255 in a file with more than 8 bits a channel. HEIC is always upright.
    """
    image = as_in_file(path, max_pixels, orientation=orientation)
    return flatten(image, channels, printable(path), value_range)


def as_in_file(path: Path, max_pixels: int = MAX_PIXELS, *, orientation: Orientation = "upright") -> Image.Image:
    """The whole image in the mode that its file has, with the checks of `decode`."""
    with open_regular(path) as file:
        image = _open(file, path, max_pixels)
        stored = stored_turn(image)
        try:
            _undisturbed(image.load)
            if orientation == "as stored":
                return turn_back(image, stored)
            _undisturbed(lambda: turn_upright(image))
        except MemoryError:
            raise
        except Exception as error:
            raise DataError("an image cannot be decoded", where=printable(path), found=str(error) or repr(error),
                            fix="replace or remove the file; `tutelage check-data` lists all such files") from None
    return image


def header(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What the first bytes tell of an image (size, mode, format), with the checks of `decode`, not decoded."""
    with open_regular(path) as file:
        return _open(file, path, max_pixels)


def count_frames(path: Path, max_pixels: int = MAX_PIXELS) -> int:
    """How many frames or pages a file has, with the checks of `header`; of formats without such, 1."""
    with open_regular(path) as file:
        return getattr(_open(file, path, max_pixels), "n_frames", 1)


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


def require_image(head: bytes, path: Path) -> str:
    """The format of a file that begins so; one that cannot be read is refused with what it is."""
    kind = kind_of(head)
    if kind is None:
        reason = why_not(head)
        found = reason if not head else f"{reason} (starts with {head[:12]!r})"
        raise DataError("not an image that can be read", where=printable(path), found=found,
                        expected=", ".join(KINDS),
                        fix="replace, convert or remove the file; `tutelage check-data` lists all such files")
    return kind


def printable(path: Path | str) -> str:
    r"""A path as text that any terminal and any JSON can hold; foreign bytes are written as \x...

    >>> printable("a\nb")
    'a\\nb'
    """
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair of UTF-16, which JSON can hold and no file can be called by
        text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _open(file: BinaryIO, path: Path, max_pixels: int) -> Image.Image:
    kind = require_image(file.read(HEAD_BYTES), path)
    try:
        image = _undisturbed(lambda: _opened(file, kind))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error), max_pixels) from None
    except Exception as error:
        odd = kind == "TIFF" and isinstance(error, Image.UnidentifiedImageError)
        known = "a TIFF file that Pillow reads: 1 to 4 bands, no 16- or 64-bit floats" if odd else None
        raise DataError("the header of an image cannot be read", where=printable(path), expected=known,
                        found=f"{kind}, {type(error).__name__}", fix="replace, convert or remove the file") from None
    if image.width * image.height > max_pixels:
        raise _too_large(path, f"{image.width} x {image.height} pixels", max_pixels)
    if isinstance(image, TiffImageFile) and (_DNG_VERSION in image.tag_v2 or image.tag_v2.get(_KIND_OF_PAGE) == 1):
        raise DataError("a raw photograph, of which only a preview could be read", where=printable(path),
                        fix="develop it: save it as JPEG, PNG or TIFF")
    return image


def _opened(file: BinaryIO, kind: str) -> Image.Image:
    file.seek(0)
    if kind == "HEIC":
        from pillow_heif import HeifImageFile  # pyright: ignore[reportMissingImports] - of an extra, which is there

        return HeifImageFile(file)
    return Image.open(file, formats=(kind,))


def _undisturbed(act: Callable[[], T]) -> T:
    """What `act` gives, where Pillow's warnings are errors too: damaged EXIF is no reason to refuse an image."""
    try:
        return act()
    except UserWarning:
        with _WARNINGS, warnings.catch_warnings():  # not safe in threads, so one at a time, and only then
            warnings.simplefilter("ignore", UserWarning)
            return act()


def _read_sides(preprocessing: Mapping[str, object], name: str) -> Sides:
    value = preprocessing.get(name)
    if isinstance(value, list | tuple) and len(value) == 2:
        return _read_pixels(name, value[0]), _read_pixels(name, value[1])
    return _read_pixels(name, value)


def _read_pixels(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65536:
        raise _unreadable(name, value, "a whole number of pixels or channels")
    return value


def _unreadable(name: str, value: object, expected: str) -> DataError:
    return DataError("preprocessing cannot be read", where=name, found=repr(value), expected=expected)


def _too_large(path: Path, found: str, max_pixels: int) -> SecurityError:
    return SecurityError("an image with more pixels than allowed was not decoded", where=printable(path), found=found,
                         expected=f"at most {max_pixels} pixels",
                         fix="remove it, or raise `max_pixels` in [data] if you trust it")
