"""What `tutelage init` writes for a folder of images with boxes."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from tutelage.data.box_check import check_boxes
from tutelage.data.boxes import absent_objects, box_splits, listed_boxes
from tutelage.data.folder import require_sound
from tutelage.data.images import printable
from tutelage.data.settings import DataSettings
from tutelage.data.upright_size import Size
from tutelage.errors import DataError
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

MULTIPLE = 32
"""Networks halve an image up to five times."""
SHORTER, LONGER = 320, 512
"""Pixels of the sides of a picture, at most."""
STEPS = 6000
TEACHER = Architecture("fcos:resnet50", options={"width": 64})
"""Of the same grids as its students; torchvision's have others, which students would have to be given."""
STUDENTS = {"narrow": Architecture("tiny_fcos", options={"width": 16}),
            "shallow": Architecture("tiny_fcos", options={"width": 24, "depth": 1})}


def start_of_boxes(root: Path) -> Start:
    """Look at the boxes of a folder and at the size of every image; whatever would stop a run is an error."""
    settings = DataSettings("folder", task="detection", root=str(root))
    found = listed_boxes(settings, root)
    require_sound(found.listing)
    checked = check_boxes(settings, found)
    require_sound(replace(found.listing, problems=checked.problems))
    splits = box_splits(settings, found)
    training, names = splits["train"].ids.tolist(), found.listing.classes
    if len(training) < 2 or not checked.counts(training).sum():
        raise DataError("too few images or boxes to train on", where=root, expected="two images or more, with boxes",
                        found=f"{len(training)} training images, {checked.counts(training).sum()} boxes in them",
                        fix="add images and boxes")
    size = picture_that_fits([size for size in checked.sizes if size is not None])
    batch = batch_that_fits(len(training), (16, 8, 4), 20)
    boxes = sum(map(len, checked.classes))
    notes = (*found.listing.notes, *checked.notes, *absent_objects(checked, splits))
    told = (f"{root}: {len(checked.sizes)} images with {boxes} boxes ({found.kind}), {len(training)} of them for "
            f"training, {len(names)} class{'es' if len(names) > 1 else ''}: {', '.join(map(printable, names[:8]))}"
            f"{', ...' if len(names) > 8 else ''}")
    lines = ['name = "folder"', 'task = "detection"', f"root = {json.dumps(str(root.resolve()))}",
             f"batch_size = {batch}", f"image_size = {size[0] if size[0] == size[1] else list(size)}",
             'augment = "random-resized-crop"', 'workers = "auto"']
    things = f"{len(names)} class{'es' if len(names) > 1 else ''} of things"
    return Start("\n".join([told, *(f"  {note}" for note in notes)]), things, "images", "detection", "\n".join(lines),
                 epochs_of(STEPS, batch, len(training), 30, 120), 0.002, TEACHER, STUDENTS, "adamw")


def picture_that_fits(sizes: Sequence[Size]) -> tuple[int, int]:
    """Height and width of a picture for images of such (width, height): about theirs, or smaller, in multiples of 32.

    >>> picture_that_fits([(320, 240), (320, 240), (100, 100)]), picture_that_fits([(1920, 1080)])
    ((256, 320), (288, 512))
    """
    width, height = median(size[0] for size in sizes), median(size[1] for size in sizes)
    factor = min(1.0, SHORTER / min(width, height), LONGER / max(width, height))
    tall, wide = (max(MULTIPLE, math.ceil(side * factor / MULTIPLE - 1e-6) * MULTIPLE) for side in (height, width))
    return tall, wide
