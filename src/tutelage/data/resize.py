"""A folder of large photographs made, once, into a folder of smaller ones: reading it costs a fraction of the time.

The copy has the same folders and the same names, so classes and splits are the same by name. It is another set of
images all the same, with a digest of its own. What is made smaller is upright in it and has no EXIF.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from tutelage.data import decoding, folder, images
from tutelage.data.mask_folder import are_images_and_masks
from tutelage.data.pixel_modes import deep
from tutelage.errors import DataError, SecurityError, UsageError, UserError
from tutelage.system.files import disk_errors, locked, sweep, write, write_json

ABOUT = ".pre-resize.json"
_WRITTEN: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {"quality": 95, "subsampling": 0}), "WEBP": ("WEBP", {"lossless": True}),
    "TIFF": ("TIFF", {"compression": "tiff_deflate"}), "AVIF": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    "GIF": ("PNG", {}), "MPO": ("JPEG", {"quality": 95, "subsampling": 0}),
    "HEIF": ("JPEG", {"quality": 95, "subsampling": 0})}
"""What Pillow calls the format of a file -> the format that it is written in, and how; others stay what they are."""


@dataclass(frozen=True)
class Resized:
    """What `pre_resize` did: files made smaller, small enough as they were, there from before; bytes read, written."""

    root: str
    smaller: int
    as_they_are: int
    there: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        before, after = (f"{count / 2**20:.1f} MiB" for count in (self.bytes_before, self.bytes_after))
        return (f"{self.root}: {self.smaller} images made smaller, {self.as_they_are} copied as they are, {self.there} "
                f"there from before; {before} became {after}")


def pre_resize(root: Path, to: Path, size: int = 256, *, max_pixels: int = images.MAX_PIXELS,
               follow_symlinks: bool = False) -> Resized:
    """Copy the images of `root` into `to`, scaled so that the shorter side has `size` pixels; none is enlarged.

    The scaling is that of training, bilinear with antialiasing; what is scaled is turned upright and loses its EXIF,
    what is not is copied byte by byte. JPEG and AVIF stay what they are (quality 95), HEIC becomes JPEG; the others
    lose nothing: GIF, which has 256 colours only, becomes PNG, and 16 and 32 bits stay as many. Names stay, for the
    content of a file tells its format. Every file appears whole or not at all; what an earlier call has made of a
    file that has not changed since is left alone. Images that cannot be read are named in a DataError at the end,
    after all others are written.
    """
    if size < 1:
        raise UsageError("size out of range", where="--size", found=size, expected="1 or more")
    listing = folder.list_folder(root, follow_symlinks=follow_symlinks)
    folder.require_sound(listing)
    if are_images_and_masks(listing.classes):
        raise UsageError("masks cannot be scaled as images are: their values would be mixed", where=root,
                         found=", ".join(listing.classes),
                         fix="leave them as they are: `train` keeps what it has prepared")
    target = to.resolve()
    if target.is_relative_to(listing.root) or listing.root.is_relative_to(target):
        raise UsageError("the copy cannot lie in the folder of images, or around it", where="--to",
                         found=images.printable(target),
                         expected=f"a folder outside of {images.printable(listing.root)}")
    names = [image.path.relative_to(listing.root) for image in listing.images]
    with locked(target):
        _open(target, size)
        _tidy(target, names)
        done = folder.in_threads(partial(_copy, listing.root, target, size, max_pixels), names)
    bad = [told for told in done if isinstance(told, UserError)]
    if bad:
        places = "\n".join(str(error.where) for error in bad[:20])
        more = f"\nand {len(bad) - 20} more" if len(bad) > 20 else ""
        raise type(bad[0])(f"{len(bad)} of {len(names)} images were left out: {bad[0].what}", where=places + more,
                           found=bad[0].found, fix="replace or remove them, and run this again: it goes on from here")
    return Resized(images.printable(target), done.count("smaller"), done.count("as it is"), done.count("there"),
                   sum(image.size for image in listing.images), sum((target / name).stat().st_size for name in names))


def turned_nothing(root: Path) -> bool:
    """Whether a folder is a copy that an earlier version made, which lost the EXIF orientation and did not apply it."""
    try:
        about = json.loads((root / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("pre-resize") == 1


def _open(target: Path, size: int) -> None:
    """Begin, or go on with, a copy of this size; any other folder that holds something is refused."""
    about, wanted = target / ABOUT, {"pre-resize": 2, "size": size, "orientation": "upright"}
    with disk_errors(target, 4096):
        held = about.read_text(encoding="utf-8").strip() if about.exists() else None
        others = sorted(path.name for path in target.iterdir() if path.name != "lock")
    if held is None and not others:
        write_json(about, wanted)
    elif held != json.dumps(wanted, indent=1):
        raise UsageError("this folder holds something else", where=images.printable(target),
                         found=held or ", ".join(others[:5]),
                         expected=f"an empty folder, or an upright copy made with --size {size}",
                         fix="choose another --to")


def _tidy(target: Path, names: Sequence[Path]) -> None:
    """Remove halves of files; an image that the folder has no longer is refused: it would move the splits of others."""
    known = {os.fsencode(name) for name in names}
    sweep(target)
    for path in sorted(target.rglob("*")):
        if path.is_dir():
            sweep(path)
        elif os.fsencode(path.relative_to(target)) not in known and _is_image(path):
            raise DataError("an image that the folder does not have", where=images.printable(path),
                            fix="remove it, or begin again in an empty folder")


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in images.EXTENSIONS or not path.is_file():
        return path.suffix.lower() in images.EXTENSIONS
    with path.open("rb") as file:
        return decoding.is_image(file.read(decoding.HEAD_BYTES))


def _copy(root: Path, target: Path, size: int, max_pixels: int, name: Path) -> str | UserError:
    source, copy = root / name, target / name
    try:
        changed = source.stat().st_mtime_ns
        if copy.exists() and copy.stat().st_mtime_ns == changed:
            return "there"
        data = _smaller(source, size, max_pixels)
        with disk_errors(copy, 0):
            copy.parent.mkdir(parents=True, exist_ok=True)
        write(copy, source.read_bytes() if data is None else data)
        os.utime(copy, ns=(changed, changed))  # last: the sign that it is done
    except (DataError, SecurityError) as error:
        return error
    return "as it is" if data is None else "smaller"


def _smaller(path: Path, size: int, max_pixels: int) -> bytes | None:
    """The image as a file with a shorter side of `size`; None if it is no longer than that already."""
    image, where = decoding.as_in_file(path, max_pixels), images.printable(path)
    kind, scale = str(image.format), size / min(image.size)
    grey = image.mode in ("1", "L")
    if scale >= 1:
        return None
    image = deep(image, where) or images.flatten(image, 1 if grey else 3, where)
    width, height = (max(size, round(side * scale)) for side in image.size)
    smaller, file = image.resize((width, height), Image.Resampling.BILINEAR), io.BytesIO()
    written, options = _WRITTEN.get(kind, (kind, {}))
    smaller.save(file, written, **options)
    return file.getvalue()
