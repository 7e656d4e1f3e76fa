"""Whether the boxes of a folder can be those of its images: sizes, edges, areas; before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tutelage.data.box_folder import BoxListing
from tutelage.data.box_rows import MOST_PROBLEMS, Annotation
from tutelage.data.decoding import printable
from tutelage.data.folder import in_threads
from tutelage.data.settings import DataSettings
from tutelage.data.upright_size import Size, is_turned, size_of_image
from tutelage.errors import DataError, UserError

STICKS_OUT = 1.01
"""So many pixels of a box may be outside of its image: it is clipped. VOC's boxes that begin at 0 have one."""


@dataclass(frozen=True)
class CheckedBoxes:
    """What was found of each image of a listing, in its order.

    boxes: [M, 4] float64, in pixels of the image and within it; `classes` [M] int64; `sizes` None where a file cannot
    be read. `problems` forbid the use of the folder; `unread` are files that can be left out, each with what is wrong.
    `clipped` boxes stuck out by a pixel at most.
    """

    names: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]
    classes: tuple[np.ndarray, ...]
    sizes: tuple[Size | None, ...]
    problems: tuple[UserError, ...]
    unread: dict[Path, UserError]
    clipped: int

    def damaged(self, listing: BoxListing) -> dict[int, UserError]:
        """Place of each image that cannot be used -> what is wrong with it."""
        return {place: self.unread[image.path] for place, image in enumerate(listing.listing.images)
                if image.path in self.unread}

    def counts(self, places: Sequence[int]) -> np.ndarray:
        """How many boxes of each class [K] these images have."""
        found = np.concatenate([np.empty(0, np.int64), *(self.classes[place] for place in places)])
        return np.bincount(found, minlength=len(self.names))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of the boxes."""
        return (f"{self.clipped} boxes that stick out of their image by a pixel or less are clipped",) \
            if self.clipped else ()


def check_boxes(settings: DataSettings, found: BoxListing) -> CheckedBoxes:
    """Look at the size of every image, on all cores, and compare the boxes with it.

    With `on_bad_image = "skip"` images are decoded, and one that cannot be is no problem.
    """
    images = [image.path for image in found.listing.images]
    skips = settings.on_bad_image == "skip"
    sized = in_threads(partial(size_of_image, settings=settings, whole=skips), images)
    unread = {path: size for path, size in zip(images, sized, strict=True) if isinstance(size, UserError)}
    problems: list[UserError] = [] if skips else list(unread.values())
    boxes, classes, sizes, clipped = [], [], [], 0
    for image, size, told in zip(images, sized, found.found, strict=True):
        known = None if isinstance(size, UserError) else size
        own = np.empty((0, 4)), np.empty(0, np.int64)
        if told is not None and known is not None:
            wrong = _other_size(told, image, known, settings)
            if wrong is None:
                *own, out, faults = _within(told, known)
                clipped += out
                problems += faults[:max(0, MOST_PROBLEMS - len(problems))]
            else:
                problems.append(wrong)
        boxes.append(own[0])
        classes.append(own[1])
        sizes.append(known)
    return CheckedBoxes(found.listing.classes, tuple(boxes), tuple(classes), tuple(sizes), tuple(problems), unread,
                        clipped)


def _other_size(told: Annotation, image: Path, size: Size, settings: DataSettings) -> DataError | None:
    """The error for boxes that were drawn on an image of another size."""
    if told.size is None or told.size == size:
        return None
    drawn, found = f"{told.size[0]} x {told.size[1]}", f"{size[0]} x {size[1]} pixels"
    if told.size == size[::-1] and is_turned(image, settings):
        return DataError("boxes on an image that lies on its side: it is turned by its EXIF orientation",
                         where=printable(image), found=f"{found}, upright", expected=f"{drawn}, as "
                         f"{printable(told.file)} says",
                         fix='set orientation = "as stored" in [data] if the boxes were drawn on the images as stored')
    return DataError("boxes of an image of another size", where=printable(image), found=found,
                     expected=f"{drawn}, as {printable(told.file)} says",
                     fix="take the images that the boxes were drawn on, or scale the boxes too")


def _within(told: Annotation, size: Size) -> tuple[np.ndarray, np.ndarray, int, list[UserError]]:
    """The boxes in pixels, clipped, and their classes; how many were clipped by a visible bit, and what is wrong."""
    sides = np.array([*size, *size], np.float64)
    with np.errstate(over="ignore"):  # numbers that are too large are outside
        boxes = told.boxes * sides if told.relative else told.boxes
    clipped = np.clip(boxes, 0, sides)
    out = np.abs(clipped - boxes).max(1, initial=0)
    flat = np.any(boxes[:, 2:] <= boxes[:, :2], 1)
    outside = np.logical_not(flat) & ((out > STICKS_OUT) | np.any(clipped[:, 2:] <= clipped[:, :2], 1))
    faults: list[UserError] = []
    for number in np.flatnonzero(flat | outside)[:MOST_PROBLEMS].tolist():
        edges = ", ".join(f"{edge:g}" for edge in boxes[number].tolist())
        shown = f"left, top, right, lower: {edges}"
        if flat[number]:
            faults.append(DataError("a box without an area", where=told.where(number), found=shown,
                                    expected="the right edge right of the left one, the lower one below the top",
                                    fix="correct it, or take it out"))
        else:
            faults.append(DataError("a box outside of its image", where=told.where(number), found=shown,
                                    expected=f"within {size[0]} x {size[1]} pixels, or out by one at most",
                                    fix="correct it, or take it out"))
    good = np.logical_not(flat | outside)
    return clipped[good], told.classes[good], int((out[good] > 1e-3).sum()), faults
