"""What every mask of a folder holds, looked at before anything is trained: sizes, values, and the pixels of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tutelage.data.decoding import Orientation, printable
from tutelage.data.folder import in_threads
from tutelage.data.mask_folder import MaskListing
from tutelage.data.mask_values import Mask, MaskClasses, declared, guessed, lossy_mask, read_mask
from tutelage.data.settings import DataSettings
from tutelage.data.upright_size import Size, is_turned, size_of_image
from tutelage.errors import DataError, UserError


class SeenMask(NamedTuple):
    """What a mask holds: its size, how many pixels have each value that occurs, and whether values are not exact."""

    size: Size
    values: dict[int, int]
    lossy: bool


@dataclass(frozen=True)
class CheckedMasks:
    """What was found in the pairs of a listing.

    `pixels` has the pixels of each class [K] for each pair, None without a mask; `sizes` counts images by size.
    `problems` forbid the use of the folder; `unread` are the files that can be left out, each with what is wrong.
    """

    classes: MaskClasses
    told: bool
    pixels: tuple[np.ndarray | None, ...]
    sizes: Mapping[Size, int]
    problems: tuple[UserError, ...]
    unread: Mapping[Path, UserError]

    def damaged(self, pairs: MaskListing) -> dict[int, UserError]:
        """Place of each pair that cannot be used -> what is wrong with it."""
        both = zip(pairs.listing.images, pairs.masks, strict=True)
        return {place: self.unread[file.path] for place, pair in enumerate(both) for file in pair
                if file is not None and file.path in self.unread}

    def pixels_of(self, places: Sequence[int]) -> np.ndarray:
        """How many pixels of each class [K] these pairs have."""
        found = [counts for place in places if (counts := self.pixels[place]) is not None]
        return np.sum(found, axis=0) if found else np.zeros(len(self.classes.names), np.int64)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What is worth knowing where images become `size` (height, width)."""
        values = ", ".join(f"{value} {self.classes.names[number]}" for value, number in
                           list(self.classes.numbers.items())[:8])
        named = f"classes are those of the masks' values: {values}; mask_values in [data], or classes.txt, names them"
        return (*(() if self.told else (named,)), *filter(None, [self.cut_at(size)]))

    def cut_at(self, size: tuple[int, int]) -> str:
        """How many images lose their edges where they become `size` (height, width); "" if none does."""
        cut = Counter({sides: count for sides, count in self.sizes.items()
                       if abs(sides[0] * size[0] / (sides[1] * size[1]) - 1) > _CUT_FROM})
        if not cut:
            return ""
        (width, height), _ = cut.most_common(1)[0]
        return (f"of {cut.total()} of {sum(self.sizes.values())} images the central part is used, not the whole: they "
                f"are not of the proportions of image_size = [{size[0]}, {size[1]}], most of them {width} x {height} "
                "pixels wide and high")


_CUT_FROM = 0.02


def check_masks(settings: DataSettings, pairs: MaskListing) -> CheckedMasks:
    """Decode every mask, on all cores, and compare it with its image and with the classes.

    DataError if it is not known what the classes are. With `on_bad_image = "skip"` the images are decoded too, and what
    cannot be decoded is no problem.
    """
    images = [image.path for image in pairs.listing.images]
    skips = settings.on_bad_image == "skip"
    sized = in_threads(partial(size_of_image, settings=settings, whole=skips), images)
    seen = look_at_masks(settings, pairs)
    sizes = dict(zip(images, sized, strict=True))
    unread = {path: found for path, found in (sizes | seen).items() if isinstance(found, UserError)}
    good = {path: found for path, found in seen.items() if isinstance(found, SeenMask)}
    classes, told = _classes(settings, pairs, good)
    problems, pixels = [] if skips else list(unread.values()), []
    for image, mask in zip(images, pairs.masks, strict=True):
        found, size = good.get(mask.path) if mask else None, sizes[image]
        pixels.append(None)
        if mask is None or found is None or isinstance(size, UserError):
            continue
        if found.size != size:
            problems.append(other_size(mask.path, found.size, image, size, is_turned(image, settings)))
            continue
        try:
            pixels[-1] = _pixels(found, classes, mask.path)
        except UserError as error:
            problems.append(error)
    return CheckedMasks(classes, told, tuple(pixels), Counter(size for size in sized if isinstance(size, tuple)),
                        tuple(problems), unread)


def look_at_masks(settings: DataSettings, pairs: MaskListing) -> dict[Path, SeenMask | UserError]:
    """Decode every mask, on all cores: its path -> what it holds, or what is wrong with it."""
    masks = [mask.path for mask in pairs.masks if mask is not None]
    look = partial(_look, max_pixels=settings.max_pixels, orientation=settings.orientation)
    return dict(zip(masks, in_threads(look, masks), strict=True))


def other_size(mask: Path, found: Size, image: Path, size: Size, turned: bool = False) -> DataError:
    """The error for a mask of another size than its image has, upright if it is `turned` by its EXIF orientation."""
    if turned and found == size[::-1]:
        return DataError("a mask that lies on its side: its image is turned by its EXIF orientation",
                         where=printable(mask), found=f"{found[0]} x {found[1]} pixels",
                         expected=f"{size[0]} x {size[1]}, as {printable(image)} is upright",
                         fix='turn the masks, or set orientation = "as stored" in [data] if they were drawn on the '
                             "images as they are stored")
    return DataError("a mask of another size than its image", where=printable(mask),
                     found=f"{found[0]} x {found[1]} pixels", expected=f"{size[0]} x {size[1]}, as {printable(image)}",
                     fix="make the mask anew, or scale it to the size of the image by the nearest pixel")


def _classes(settings: DataSettings, pairs: MaskListing, seen: Mapping[Path, SeenMask]) -> tuple[MaskClasses, bool]:
    """The classes, and whether somebody named them."""
    exact = [mask for mask in seen.values() if not mask.lossy]
    values = sorted({value for mask in exact for value in mask.values} - settings.ignored)
    classes = declared(settings.mask_values, pairs.lines, settings.ignored, {*values} <= {0, 255})
    if classes is not None:
        return classes, True
    if not exact and seen:
        raise lossy_mask(next(iter(seen)))
    return guessed(values, settings.ignored, pairs.listing.root), False


def _pixels(mask: SeenMask, classes: MaskClasses, where: Path) -> np.ndarray:
    values = np.array(list(mask.values), np.uint16)[None]
    numbers = classes.of(Mask(values, mask.lossy), where)[0]
    counts = np.zeros(256, np.int64)
    np.add.at(counts, numbers, np.array(list(mask.values.values())))
    return counts[:len(classes.names)]


def _look(path: Path, max_pixels: int, orientation: Orientation) -> SeenMask | UserError:
    try:
        mask = read_mask(path, max_pixels, orientation)
    except UserError as error:
        return error
    counts = np.bincount(mask.values.ravel())
    values = np.flatnonzero(counts)
    height, width = mask.values.shape
    return SeenMask((width, height), dict(zip(values.tolist(), counts[values].tolist(), strict=True)), mask.lossy)
