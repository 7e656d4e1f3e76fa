"""What a detector says of image files: boxes in pixels of each image, with class and score. No torch in it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.decoding import Preparation, central_part, decode, fit_factor, pixels, printable
from tutelage.errors import ModelError, UserError
from tutelage.exporting.predict import BATCH, Damaged, Detector, require_channels_of_files
from tutelage.exporting.predict_masks import write_image
from tutelage.tasks.detection.drawing import Box, draw_on, png_of


@dataclass(frozen=True)
class FoundBox:
    """A box in pixels of the image (left, top, right, lower), what is in it, and how sure that is, in [0, 1]."""

    box: tuple[float, float, float, float]
    label: str
    score: float


@dataclass(frozen=True)
class BoxPrediction:
    """The boxes of an image of `size` (width, height), upright, the surest first; `picture` is what was written."""

    file: Path
    size: tuple[int, int]
    boxes: Sequence[FoundBox]
    picture: Path | None = None

    def as_json(self) -> str:
        """One line for a program."""
        told = [{"box": [round(side, 2) for side in found.box], "label": found.label, "score": round(found.score, 4)}
                for found in self.boxes]
        return json.dumps({"file": printable(self.file), "width": self.size[0], "height": self.size[1], "boxes": told,
                           "picture": None if self.picture is None else printable(self.picture)})

    def __str__(self) -> str:
        told = [f"{printable(found.label)} {found.score:.1%} at {', '.join(f'{side:.0f}' for side in found.box)}"
                for found in self.boxes]
        written = "" if self.picture is None else f"  -> {printable(self.picture)}"
        return f"{printable(self.file)}  {'; '.join(told) or 'nothing'}{written}"


def detect(paths: Sequence[Path], student: Detector, confidence: float,
           pictures: Mapping[Path, Path] | None = None) -> Iterator[BoxPrediction | Damaged]:
    """Of each file, in order, the boxes with a score of `confidence` at least.

    The image with its boxes is written to the file that `pictures` has for it. A file that is no whole image stops
    nothing. ModelError if the student takes images of other channels than a file has.
    """
    require_channels_of_files(student)
    rest = iter(paths)
    while part := list(islice(rest, BATCH)):
        read = {path: _read(path, student.prepared) for path in part}
        images = [pixels(image, student.prepared) for image in read.values() if isinstance(image, Image.Image)]
        rows = iter(_said(student, images) if images else [])
        for path, image in read.items():
            if isinstance(image, UserError):
                yield Damaged(path, image)
                continue
            found = [(int(row[5]), box) for row in next(rows) if row[5] >= 0 and row[4] >= confidence
                     if (box := _in_image(row, image.size, student)) is not None]
            target = (pictures or {}).get(path)
            if target is not None:
                drawn = [Box(box.box, number, f"{box.label} {box.score:.0%}") for number, box in found]
                write_image(target, png_of(draw_on(image, drawn)))
            yield BoxPrediction(path, image.size, [box for _, box in found], target)


def box_in_image(box: np.ndarray, size: tuple[int, int], how: Preparation) -> tuple[float, float, float, float]:
    """A box (left, top, right, lower) of what a network saw, in pixels of the image of `size` (width, height).

    >>> box_in_image(np.array([0.0, 10, 32, 40]), (640, 480), Preparation(3, 64, 64, fitted=True))
    (0.0, 100.0, 320.0, 400.0)
    >>> box_in_image(np.array([0.0, 0, 56, 56]), (480, 320), Preparation(3, 64, 56))
    (100.0, 20.0, 380.0, 300.0)
    """
    width, height = size
    if how.fitted:
        across = down = fit_factor(size, how.size)
        left = top = 0.0
    else:
        tall, wide = central_part(height, width, how)
        across, down, left, top = how.size[1] / wide, how.size[0] / tall, (width - wide) / 2, (height - tall) / 2
    sides = [(float(side) - how.pad) / scale + start for side, scale, start in zip(
        box[:4], (across, down, across, down), (left, top, left, top), strict=True)]
    left, top, right, lower = (float(min(max(side, 0), most)) for side, most in zip(
        sides, (width, height, width, height), strict=True))
    return left, top, right, lower


def _in_image(row: np.ndarray, size: tuple[int, int], student: Detector) -> FoundBox | None:
    """What a row says; None for a box that lies beside the image."""
    left, top, right, lower = box_in_image(row, size, student.prepared)
    if left >= right or top >= lower:
        return None
    return FoundBox((left, top, right, lower), student.classes[int(row[5])], float(row[4]))


def _said(student: Detector, images: Sequence[np.ndarray]) -> np.ndarray:
    found = student.boxes(np.stack(images).astype(np.float32) / np.float32(255))
    if found.ndim != 3 or found.shape[2] != 6 or found[..., 5].max(initial=-1) >= len(student.classes):
        raise ModelError("this network gives no boxes of its classes", found=f"a shape of {list(found.shape)}",
                         expected="[images, boxes, 6]", fix="export it again")
    return found


def _read(path: Path, how: Preparation) -> Image.Image | UserError:
    try:
        return decode(path, how.channels, orientation=how.orientation, value_range=how.value_range)
    except UserError as error:
        return error
