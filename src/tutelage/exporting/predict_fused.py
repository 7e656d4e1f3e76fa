"""One image of each infrared and visible one, written as files. No torch in it.

What a network sees is the luma of the visible image; where that has colour, so has the fused one.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.decoding import decode, printable
from tutelage.data.pair_names import INFRARED, VISIBLE
from tutelage.errors import DataError, UsageError, UserError
from tutelage.exporting.predict import Damaged, Fuser, image_files
from tutelage.exporting.predict_masks import write_image

TILE, AROUND = 1024, 32
"""Larger images are fused tile by tile, each seen with so many pixels around it."""
COLOUR = 8
"""Levels by which the channels of an image must differ somewhere to be a colour: those of lossy grey files do a bit."""


@dataclass(frozen=True)
class FusedPrediction:
    """A pair and the image that was made of it."""

    infrared: Path
    visible: Path
    fused: Path
    coloured: bool

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"infrared": printable(self.infrared), "visible": printable(self.visible),
                           "fused": printable(self.fused), "coloured": self.coloured})

    def __str__(self) -> str:
        return f"{printable(self.infrared)} and {printable(self.visible)}  -> {printable(self.fused)}"


@dataclass(frozen=True)
class FoundPairs:
    """Infrared and visible files of one name, and files without a partner; `visible` is where the second lie."""

    pairs: Sequence[tuple[Path, Path]]
    alone: Mapping[Path, str]
    visible: Path


def pairs_of_files(infrared: Path, visible: Path | None) -> FoundPairs:
    """The pairs of two files, of two folders with the same names, or of a folder that holds both folders."""
    if visible is None:
        infrared, visible = _two_folders(infrared)
    if infrared.is_dir() != visible.is_dir():
        raise UsageError("a folder and a file are no pairs", where=printable(visible), expected="two of one kind")
    if not infrared.is_dir():
        return FoundPairs([(image_files(infrared)[0], image_files(visible)[0])], {}, visible)
    first, second = (_by_name(folder) for folder in (infrared, visible))
    alone = {path: "visible" for name, path in first.items() if name not in second}
    alone |= {path: "infrared" for name, path in second.items() if name not in first}
    return FoundPairs([(path, second[name]) for name, path in first.items() if name in second], alone, visible)


def fuse_pairs(found: FoundPairs, student: Fuser, targets: Mapping[Path, Path]) -> Iterator[FusedPrediction | Damaged]:
    """Of each pair, in order, the fused image, written to the file that `targets` has for the visible one.

    A pair that cannot be read, and a file without a partner, stop nothing.
    """
    for infrared, visible in found.pairs:
        try:
            data, coloured = fused_png(infrared, visible, student)
        except UserError as error:
            yield Damaged(visible, error)
            continue
        write_image(targets[visible], data)
        yield FusedPrediction(infrared, visible, targets[visible], coloured)
    for path, lacks in found.alone.items():
        yield Damaged(path, DataError(f"an image without the {lacks} one", where=printable(path),
                                      expected="an image of the same name in the other folder"))


def fused_png(infrared: Path, visible: Path, student: Fuser) -> tuple[bytes, bool]:
    """A PNG file of the fused image of two files, and whether it has colour."""
    how = student.prepared
    warm = decode(infrared, 1, orientation=how.orientation, value_range=how.value_range)
    seen = decode(visible, 3, orientation=how.orientation, value_range=how.value_range)
    if warm.size != seen.size:
        raise DataError("the images of a pair have unlike sizes", where=printable(visible),
                        found=f"{seen.width} x {seen.height}, and {warm.width} x {warm.height} of "
                              f"{printable(infrared)}", expected="registered images of one size")
    red, green, blue = np.asarray(seen).astype(np.int16).transpose(2, 0, 1)
    coloured = bool(np.maximum(np.abs(red - green), np.abs(green - blue)).max() > COLOUR)
    luma = decode(visible, 1, orientation=how.orientation, value_range=how.value_range)
    sources = np.stack([np.asarray(warm), np.asarray(luma)]).astype(np.float32)[None] / np.float32(255)
    levels = Image.fromarray(np.rint(fused_by_tiles(sources, student).clip(0, 1) * 255).astype(np.uint8))
    if coloured:
        _, *colours = seen.convert("YCbCr").split()
        levels = Image.merge("YCbCr", [levels, *colours]).convert("RGB")
    buffer = io.BytesIO()
    levels.save(buffer, "png")
    return buffer.getvalue(), coloured


def fused_by_tiles(sources: np.ndarray, student: Fuser, tile: int = TILE) -> np.ndarray:
    """What a student makes of sources [1, 2, H, W], [H, W]: at once, or where they are large tile by tile."""
    height, width = sources.shape[2:]
    made = np.empty((height, width), np.float32)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, beside = max(0, top - AROUND), max(0, left - AROUND)
            part = sources[:, :, above:top + tile + AROUND, beside:left + tile + AROUND]
            said = student.fuse(np.ascontiguousarray(part))[0, 0]
            made[top:top + tile, left:left + tile] = said[top - above:, left - beside:][:tile, :tile]
    return made


def _two_folders(place: Path) -> tuple[Path, Path]:
    below = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
    found = [next((one for one in below if one.name.casefold() in names), None) for names in (INFRARED, VISIBLE)]
    if found[0] is None or found[1] is None:
        raise UsageError("pairs of images are two folders", where=printable(place),
                         expected="a folder with `infrared` and `visible`, or two folders one after the other",
                         fix="tutelage predict INFRARED VISIBLE --model ... --to FOLDER")
    return found[0], found[1]


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in image_files(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError("two files of one name: which one is meant is not known", where=printable(path),
                            found=printable(found[name]), fix="keep one of them")
        found[name] = path
    return found
