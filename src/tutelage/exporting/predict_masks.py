"""What a student says of each pixel of image files, as masks of the size that the images have. No torch in it.

A network sees images of one size. Where an image has other proportions it is cut into parts that overlap, each is
prepared as training prepares an image, and its mask is scaled back by the nearest pixel.
"""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.decoding import Preparation, as_array, central_part, decode, pixels, printable
from tutelage.errors import DataError, ResourceError, UsageError, UserError
from tutelage.exporting.predict import Classifier, Damaged, require_channels_of_files, softmax

MOST_PARTS = 64
AT_ONCE = 4
"""Parts of an image that run together."""
Part = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels, as Pillow has them."""


@dataclass(frozen=True)
class MaskPrediction:
    """The share of pixels of each class, the largest first, and the mean probability of the class that a pixel got.

    `mask` is the file that was written, `below` whether that probability is below what was asked for.
    """

    file: Path
    shares: Mapping[str, float]
    probability: float
    below: bool
    mask: Path | None = None

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "mask": None if self.mask is None else printable(self.mask),
                           "shares": self.shares, "probability": self.probability, "below": self.below})

    def __str__(self) -> str:
        shares = ", ".join(f"{printable(name)} {share:.1%}" for name, share in self.shares.items())
        note = "  below the confidence asked for" if self.below else ""
        written = "" if self.mask is None else f"  -> {printable(self.mask)}"
        return f"{printable(self.file)}  {shares}{note}{written}"


def mask_files(images: Sequence[Path], place: Path, folder: Path, force: bool = False,
               what: str = "mask") -> dict[Path, Path]:
    """Image -> its mask in `folder`, NAME.png where the image lies under `place`, or NAME.SUFFIX.png for all of them.

    The second is needed where two images differ in their suffix alone. UsageError if a mask is there already, unless
    `force`, and in any case if it would take the place of an image. `what` else is written may be called otherwise.
    """
    own = [image.relative_to(place) if place.is_dir() else Path(image.name) for image in images]
    names = [name.with_suffix(".png") for name in own]
    if len(set(names)) < len(names):
        names = [name.with_name(f"{name.name}.png") for name in own]
    made = dict(zip(images, [folder / name for name in names], strict=True))
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"not a folder for {what}s", where=f"--to {printable(folder)}", found="a file")
    real = {os.path.realpath(image) for image in images}
    for mask in made.values():
        if os.path.realpath(mask) in real:
            raise UsageError(f"a {what} would take the place of an image", where=f"--to {printable(folder)}",
                             found=printable(mask), fix="choose another folder")
        if os.path.lexists(mask) and not force:
            raise UsageError(f"a {what} exists and was kept", where=printable(mask), fix="--force, or another --to")
    return made


def segment(paths: Sequence[Path], student: Classifier, confidence: float,
            masks: Mapping[Path, Path] | None = None) -> Iterator[MaskPrediction | Damaged]:
    """Of each file, in order, what the student sees where; the mask is written to the file that `masks` has for it.

    A file that is no whole image stops nothing. ModelError if the student takes images of other channels than a file
    has.
    """
    require_channels_of_files(student)
    how = student.prepared
    for path in paths:
        try:
            image = decode(path, how.channels, orientation=how.orientation, value_range=how.value_range)
            mask, probability = predicted_mask(image, student)
        except UserError as error:
            yield Damaged(path, error)
            continue
        target = (masks or {}).get(path)
        if target is not None:
            write_image(target, mask_png(mask, len(student.classes)))
        counts = np.bincount(mask.ravel(), minlength=len(student.classes))
        shares = {student.classes[number]: float(counts[number] / mask.size)
                  for number in np.argsort(-counts, kind="stable").tolist() if counts[number]}
        yield MaskPrediction(path, shares, probability, bool(probability < confidence), target)


def predicted_mask(image: Image.Image, student: Classifier) -> tuple[np.ndarray, float]:
    """The class of each pixel [height, width], and the mean probability of these classes over what the network saw."""
    width, height = image.size
    parts, mask, sure = parts_of(height, width, student.prepared), np.zeros((height, width), np.int64), []
    step = 1 if student.resizes else AT_ONCE
    for start in range(0, len(parts), step):
        some = parts[start : start + step]
        seen = [_prepared(image, part, student) for part, _ in some]
        maps = student.logits(np.stack(seen))
        sure.append(softmax(maps).max(1))
        for (part, kept), found in zip(some, maps.argmax(1), strict=True):
            left, upper, right, lower = kept
            rows = _nearest(upper - part[1], lower - part[1], part[3] - part[1], found.shape[0])
            columns = _nearest(left - part[0], right - part[0], part[2] - part[0], found.shape[1])
            mask[upper:lower, left:right] = found[rows[:, None], columns]
    return mask, float(np.concatenate(sure).mean())


def parts_of(height: int, width: int, how: Preparation) -> list[tuple[Part, Part]]:
    """Parts of the proportions that a network sees, which cover the image, and what of each is kept.

    >>> parts_of(10, 15, Preparation(3, 8, 8))
    [((0, 0, 10, 10), (0, 0, 7, 10)), ((5, 0, 15, 10), (7, 0, 15, 10))]
    """
    assert not how.pad, "what lies around an image has no class"
    tall, wide = (max(1, round(side)) for side in central_part(height, width, how))
    if ceil(height / tall) * ceil(width / wide) > MOST_PARTS:
        raise DataError("an image that is too long for its width", found=f"{width} x {height} pixels",
                        expected=f"one that {MOST_PARTS} images of the network's proportions cover")
    return [((left, upper, right, lower), (own_left, own_upper, own_right, own_lower))
            for (upper, lower), (own_upper, own_lower) in _along(height, tall)
            for (left, right), (own_left, own_right) in _along(width, wide)]


def mask_png(mask: np.ndarray, classes: int) -> bytes:
    """A PNG file whose pixels are class numbers: with a palette, in 16 bits where there are more than 256 classes."""
    image = Image.fromarray(mask.astype(np.uint8 if classes <= 256 else np.uint16))
    if classes <= 256:
        image.putpalette(palette())
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def palette() -> list[int]:
    """Red, green and blue of 256 classes, as PASCAL VOC has them: class 0 is black, and neighbours differ much.

    >>> palette()[:9]
    [0, 0, 0, 128, 0, 0, 0, 128, 0]
    """
    return [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(3))
            for number in range(256) for channel in range(3)]


def _along(length: int, part: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Along one side: the ends of each part, and of what is kept of it. What two parts share is cut in its middle."""
    count = ceil(length / part)
    starts = [number * (length - part) // max(1, count - 1) for number in range(count)]
    cuts = [0, *((first + part + second) // 2 for first, second in pairwise(starts)), length]
    return [((start, start + part), (cuts[number], cuts[number + 1])) for number, start in enumerate(starts)]


def _nearest(first: int, last: int, old: int, new: int) -> np.ndarray:
    """The places 0 .. new - 1 that are nearest to the places first .. last - 1 of 0 .. old - 1."""
    return (2 * np.arange(first, last) + 1) * new // (2 * old)


def _prepared(image: Image.Image, part: Part, student: Classifier) -> np.ndarray:
    cut = image if part == (0, 0, *image.size) else image.crop(part)
    levels = as_array(cut) if student.resizes else pixels(cut, student.prepared)
    return levels.astype(np.float32) / np.float32(255)


def write_image(path: Path, data: bytes) -> None:
    """Write a whole file or none; a link that is there is replaced, and never followed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ResourceError("an image cannot be written", where=printable(path), found=error.strerror,
                            fix="choose another --to") from None
