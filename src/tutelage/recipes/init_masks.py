"""What `tutelage init` writes for a folder of images and masks."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from tutelage.data.folder import require_sound
from tutelage.data.mask_check import CheckedMasks, SeenMask, check_masks, look_at_masks
from tutelage.data.mask_folder import MaskListing, list_masks
from tutelage.data.masks import absent_classes, mask_splits
from tutelage.data.settings import DataSettings
from tutelage.data.upright_size import Size
from tutelage.errors import DataError, UserError
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

SIZES = (32, 64, 96, 128, 160, 224)
MULTIPLE = 32
"""Networks halve an image up to five times."""
STEPS = 4000
USUAL_IGNORED = 255
"""The value of masks that by convention does not count, where the others are 0, 1, 2, ..."""
MOST_NAMED = 32
"""More values than that are seldom classes: soft edges of a drawing, or depth."""
SURE = 0.95
"""The share of pixels near 0 and 255 from which lossy masks are taken for two classes."""
TEACHER = Architecture("unet", options={"width": 16, "depth": 4})
STUDENTS = {"narrow": Architecture("unet", options={"width": 4, "depth": 4}),
            "shallow": Architecture("unet", options={"width": 6, "depth": 3})}


def start_of_masks(root: Path) -> Start:
    """Look at every image and mask of a folder; whatever would stop a run is an error."""
    pairs = list_masks(root)
    require_sound(pairs.listing)
    settings, checked = _classes(DataSettings("folder", task="segmentation", root=str(root)), pairs)
    splits = mask_splits(settings, pairs)
    training = len(splits["train"].ids)
    if training < 2:
        raise DataError("too few images to train on", where=root, found=f"{training} image", expected="two or more",
                        fix="add images and masks")
    size, batch = size_that_fits(checked.sizes), batch_that_fits(training, (16, 8, 4), 20)
    sides = size if isinstance(size, tuple) else (size, size)
    names = checked.classes.names
    notes = (*pairs.listing.notes, *checked.notes(sides),
             *absent_classes(checked, splits))
    told = (f"{root}: {len(pairs.masks)} images and masks, {training} of them for training, {len(names)} classes: "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    if settings.ignore is not None:
        notes = (*notes, f"the value {settings.ignore} is taken for what does not count (`ignore`)")
    lines = ['name = "folder"', 'task = "segmentation"', f"root = {json.dumps(str(root.resolve()))}",
             *_words_of_values(settings, checked), f"batch_size = {batch}",
             f"image_size = {list(size) if isinstance(size, tuple) else size}",
             f'augment = "{"crop-flip" if max(sides) <= 64 else "random-resized-crop"}"',
             'workers = "auto"']
    return Start("\n".join([told, *(f"  {note}" for note in notes)]), f"{len(names)} classes of pixels", "images",
                 "segmentation", "\n".join(lines), epochs_of(STEPS, batch, training, 20, 100), 0.003, TEACHER, STUDENTS,
                 "adamw")


def size_that_fits(sizes: Mapping[Size, int]) -> int | tuple[int, int]:
    """A size to train on for images of so many widths and heights: near theirs, and of the proportions in the middle.

    >>> size_that_fits({(640, 480): 3}), size_that_fits({(500, 501): 1})
    ((192, 256), 224)
    """
    each = [size for size, count in sizes.items() for _ in range(count)]
    target = min(SIZES, key=lambda side: abs(side - median(map(min, each))))
    wide = median(width / height for width, height in each)
    longer = min(max(wide, 1 / wide), 4.0)
    if longer < 1.02:
        return target

    def sides(short: int) -> tuple[int, int]:
        return short, round(short * longer / MULTIPLE) * MULTIPLE

    def error(short: int) -> float:
        return abs(sides(short)[1] / short / longer - 1)
    candidates = range(max(MULTIPLE, target // 2 // MULTIPLE * MULTIPLE), target + 1, MULTIPLE)
    fitting = [short for short in candidates if error(short) < 0.02]
    short, long = sides(max(fitting) if fitting else min(candidates, key=error))
    if short == long:
        return short
    return (short, long) if wide > 1 else (long, short)


def _classes(plain: DataSettings, pairs: MaskListing) -> tuple[DataSettings, CheckedMasks]:
    """The settings with which every mask can be read: without a word where that will do; and what was found so."""
    try:
        return plain, _checked(plain, pairs)
    except UserError as error:
        for settings in _proposals(plain, pairs):
            try:
                return settings, _checked(settings, pairs)
            except UserError:
                pass
        raise error from None


def _checked(settings: DataSettings, pairs: MaskListing) -> CheckedMasks:
    checked = check_masks(settings, pairs)
    require_sound(replace(pairs.listing, problems=checked.problems))
    return checked


def _proposals(plain: DataSettings, pairs: MaskListing) -> Iterator[DataSettings]:
    """What may be meant where the values alone do not say it: 255 for nothing, or a class for each value."""
    seen = [mask for mask in look_at_masks(plain, pairs).values() if isinstance(mask, SeenMask)]
    values = sorted({value for mask in seen if not mask.lossy for value in mask.values})
    if USUAL_IGNORED in values:
        yield replace(plain, ignore=USUAL_IGNORED)
    if pairs.lines is not None:
        return
    if values and 2 <= len(values) <= MOST_NAMED:
        yield replace(plain, mask_values={str(value): f"class {value}" if value else "background" for value in values})
    if seen and not values and _are_two(seen):
        yield replace(plain, mask_values={"0": "background", "255": "foreground"})


def _are_two(seen: list[SeenMask]) -> bool:
    """Whether nearly all pixels of these masks are nearly black or nearly white."""
    near = sum(count for mask in seen for value, count in mask.values.items() if min(value, abs(255 - value)) <= 15)
    return near >= SURE * sum(sum(mask.values.values()) for mask in seen)


def _words_of_values(settings: DataSettings, checked: CheckedMasks) -> list[str]:
    """The keys that say what the values of masks mean; a comment where the reader knows it, but for the names."""
    classes = checked.classes
    named = ", ".join(f"{value} = {json.dumps(classes.names[number])}" for value, number in classes.numbers.items())
    lines = []
    if settings.ignore is not None:
        lines.append(f"ignore = {settings.ignore}                  # of a mask: what does not count")
    if settings.mask_values is not None:
        lines.append(f"mask_values = {{ {named} }}  # give them their names")
    elif not checked.told:
        lines.append(f"# mask_values = {{ {named} }}  # where the classes have other names")
    return lines
