"""Masks: the value of a pixel says its class. Which value is which class, and how a file of masks is read.

    [data] mask_values = { 0 = "background", 255 = "polyp" }      values of one name are one class
    classes.txt, a name a line                                    the names of the values 0, 1, 2, ...
    neither                                                       the values that there are, if they are 0, 1, 2, ...

Values that `ignore` names do not count: they become -1, and are left out of 0, 1, 2, ... Where no mask holds another
value than 0 and 255, 255 is class 1. Classes are numbered by rising values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.decoding import Orientation, Preparation, as_in_file, central_part, kind_of, open_regular, printable
from tutelage.data.file_kinds import HEAD_BYTES
from tutelage.errors import DataError, UserError

LARGEST_VALUE = 65535
MOST_CLASSES = 254
NO_CLASS = 255
"""What a pixel that does not count is called while masks are bytes; as a label it is -1."""
_UNKNOWN = -2
_LOSSY = ("JPEG", "AVIF", "HEIC")
_NAMES_AT_MOST = 2**20


@dataclass(frozen=True)
class MaskClasses:
    """The class names [K], the class number of each value that stands for one, and the values that do not count."""

    names: tuple[str, ...]
    numbers: Mapping[int, int]
    ignored: frozenset[int] = frozenset()
    table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = np.full(LARGEST_VALUE + 1, _UNKNOWN, np.int16)
        table[list(self.ignored)] = -1
        for value, number in self.numbers.items():
            table[value] = number
        object.__setattr__(self, "table", table)

    def of(self, mask: "Mask", where: Path) -> np.ndarray:
        """The class number of each pixel [H, W] uint8, 255 where it does not count; DataError for an unknown value.

        In a file that does not keep values exactly, a pixel is of the class whose value is nearest.
        """
        if mask.lossy:
            self.require_two(where)
            low, high = sorted(self.numbers)
            values = np.where(mask.values.astype(np.int32) * 2 > low + high, high, low)
            return self.table[values].astype(np.uint8)
        numbers = self.table[mask.values]
        if numbers.min() == _UNKNOWN:
            raise self.unknown(np.unique(mask.values[numbers == _UNKNOWN]).tolist(), where)
        return numbers.astype(np.uint8)

    def require_two(self, where: Path) -> None:
        """Refuse a file that does not keep values exactly where they are more than two, or one that does not count."""
        if len(self.numbers) != 2 or self.ignored:
            raise lossy_mask(where)

    def unknown(self, values: Sequence[int], where: Path) -> DataError:
        """The error for values that are no class and not ignored."""
        known = ", ".join(f"{value} ({self.names[number]})" for value, number in sorted(self.numbers.items())[:8])
        more = ", ..." if len(self.numbers) > 8 else ""
        ignored = "".join(f", or {value} (ignore)" for value in sorted(self.ignored))
        return DataError("a mask with values that are no class", where=printable(where), found=_listed(values),
                         expected=known + more + ignored,
                         fix=f"ignore = {values[0] if len(values) == 1 else list(values[:8])} in [data] if these "
                             "pixels do not count, or mask_values = { VALUE = \"class\", ... } if they do")


@dataclass(frozen=True)
class Mask:
    """The values of a mask [H, W], 0 .. 65535; `lossy` if its file does not keep them exactly."""

    values: np.ndarray
    lossy: bool


def lossy_mask(where: Path) -> DataError:
    """The error for a mask in a file that may have changed its values."""
    return DataError("a mask in a file that does not keep values exactly", where=printable(where),
                     found="JPEG, AVIF, HEIC or lossy WebP: at every edge there are values that nobody drew",
                     expected="PNG, TIFF, BMP, GIF or lossless WebP",
                     fix='save the masks as PNG; where there are two classes, mask_values = { 0 = "background", 255 = '
                         '"NAME" } in [data] takes each pixel for the nearer one')


def read_mask(path: Path, max_pixels: int, orientation: Orientation = "upright") -> Mask:
    """The values of a mask: grey of 1, 8 or 16 bits, a palette (the number of the colour), or grey stored as RGB.

    Whatever is wrong with it is an error that names the file; one of more than `max_pixels` is not decoded.
    """
    image = as_in_file(path, max_pixels, orientation=orientation)
    return Mask(_values(image, path), _is_lossy(path))


def prepared_mask(numbers: np.ndarray, how: Preparation) -> np.ndarray:
    """A mask [H, W], cut and scaled as `images.pixels` cuts and scales its image: each pixel is the nearest one.

    >>> prepared_mask(np.array([[1, 1, 2, 2], [3, 3, 4, 4]]), Preparation(3, 2, 2)).tolist()
    [[1, 2], [3, 4]]
    """
    assert not how.pad, "what lies around an image has no class"
    height, width = numbers.shape
    tall, wide = central_part(height, width, how)
    rows = _nearest((height - tall) / 2, tall, how.size[0])
    columns = _nearest((width - wide) / 2, wide, how.size[1])
    return numbers[rows[:, None], columns]


def declared(mask_values: Mapping[str, str] | Mapping[int, str] | None, lines: Sequence[str] | None,
             ignored: frozenset[int], only_0_and_255: bool) -> MaskClasses | None:
    """The classes that the recipe, or else the lines of classes.txt, give; None where neither does."""
    if mask_values is not None:
        named = dict(sorted((int(value), name) for value, name in mask_values.items()))
        names = tuple(dict.fromkeys(named.values()))
        return MaskClasses(names, {value: names.index(name) for value, name in named.items()}, ignored)
    if lines is None:
        return None
    binary = len(lines) == 2 and only_0_and_255 and 255 not in ignored
    values = [0, 255] if binary else _usual(len(lines), ignored)
    return MaskClasses(tuple(lines), {value: number for number, value in enumerate(values)}, ignored)


def guessed(values: Sequence[int], ignored: frozenset[int], root: Path) -> MaskClasses:
    """The classes that rising `values` stand for, the ignored ones left out; DataError where it is not sure."""
    if list(values) == [0, 255]:
        return MaskClasses(("background", "foreground"), {0: 0, 255: 1}, ignored)
    if list(values) != _usual(len(values), ignored) or not 2 <= len(values) <= MOST_CLASSES:
        raise DataError("which class is which value of the masks?", where=printable(root),
                        found=f"{len(values)} values: {_listed(values)}",
                        expected="0, 1, 2, ... for the classes, or 0 and 255 for two",
                        fix='mask_values = { 0 = "background", VALUE = "class", ... } in [data], or a file classes.txt '
                            "with a name a line; ignore = VALUE for pixels that do not count")
    first = "background" if values[0] == 0 else f"class {values[0]}"
    others = ["foreground"] if len(values) == 2 else list(map("class {}".format, values[1:]))
    return MaskClasses((first, *others), {value: number for number, value in enumerate(values)}, ignored)


def read_mask_names(path: Path) -> list[str]:
    """The lines of a file of class names: two at least, none empty, none twice."""
    try:
        with open_regular(path) as file:
            lines = [line.strip() for line in file.read(_NAMES_AT_MOST).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the names of the classes cannot be read", where=printable(path), found=error,
                        expected="text, UTF-8, a name a line") from None
    while lines and not lines[-1]:
        lines.pop()
    if not 2 <= len(lines) <= MOST_CLASSES or "" in lines or len(set(lines)) < len(lines):
        twice = next((name for name in lines if lines.count(name) > 1), None)
        raise DataError("names of classes that cannot be meant", where=printable(path),
                        found=f"{len(lines)} lines" if twice is None else f"{twice!r} twice",
                        expected=f"2 to {MOST_CLASSES} lines, a name each, each once: of the values 0, 1, 2, ...")
    return lines


def _usual(count: int, ignored: frozenset[int]) -> list[int]:
    """The first values 0, 1, 2, ... that are not ignored."""
    return [value for value in range(count + len(ignored)) if value not in ignored][:count]


def _nearest(start: float, length: float, count: int) -> np.ndarray:
    """Of each of `count` pixels over `length` pixels from `start`, the pixel its middle lies in."""
    return np.floor(start + (np.arange(count) + 0.5) * (length / count)).astype(np.int64)


def _values(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.uint8)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > LARGEST_VALUE:
            raise _odd(path, f"values from {values.min()} to {values.max()}")
        return values.astype(np.uint16)
    if image.mode in ("LA", "PA", "RGB", "RGBA"):
        bands = np.asarray(image)
        colours = bands[..., :3] if image.mode.startswith("RGB") else bands[..., :1]
        if image.mode.endswith("A") and bands[..., -1].min() < 255:
            raise _odd(path, "transparent pixels")
        if (colours == colours[..., :1]).all():
            return np.ascontiguousarray(colours[..., 0])
        raise _odd(path, f"colours (mode {image.mode})")
    raise _odd(path, f"mode {image.mode!r}")


def _odd(path: Path, found: str) -> UserError:
    return DataError("a mask whose pixels are no class numbers", where=printable(path), found=found,
                     expected="grey of 1, 8 or 16 bits, or a palette: the value of a pixel is its class",
                     fix="save it as a PNG of 8 bits, a number for each class")


def _is_lossy(path: Path) -> bool:
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    kind, chunk = kind_of(head), head[12:16]
    return kind in _LOSSY or (kind == "WEBP" and (chunk == b"VP8 " or (chunk == b"VP8X" and b"VP8 " in head[16:])))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:12])) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
