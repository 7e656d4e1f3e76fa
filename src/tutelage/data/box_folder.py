"""Folders of images with boxes, as COCO, Pascal VOC or YOLO have them, or as one boxes.json: no image is decoded here.

    coco    annotations/instances_SPLIT.json, or SPLIT/_annotations.coco.json        (`box_coco`)
    voc     Annotations/*.xml, JPEGImages/*, ImageSets/Main/SPLIT.txt                (`box_voc`)
    yolo    labels/*.txt beside images/*, data.yaml or classes.txt                   (`box_yolo`)
    plain   boxes.json, images/*, splits.json                                        (`box_plain`)
"""

import hashlib
import os
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from tutelage.data.box_coco import coco_files, read_coco
from tutelage.data.box_plain import BOXES_FILE, read_plain
from tutelage.data.box_rows import Annotation, ReadBoxes
from tutelage.data.box_voc import read_voc, voc_folders
from tutelage.data.box_yolo import holds_yolo, read_yolo
from tutelage.data.decoding import open_regular, printable
from tutelage.data.folder import Image, Listing, Walk
from tutelage.data.layout import subfolders
from tutelage.data.settings import BoxKind
from tutelage.errors import DataError, SecurityError
from tutelage.types import Content

BOX_LAYOUTS = ("annotations/instances_SPLIT.json or SPLIT/_annotations.coco.json (coco); Annotations/*.xml and "
               "JPEGImages (voc); images and labels/*.txt with data.yaml or classes.txt (yolo); boxes.json and images "
               "(plain)")
_ORDER = ("all", "train", "val", "test")
_NAMED = 3


@dataclass(frozen=True)
class BoxListing:
    """What lies in a folder of images with boxes.

    `listing` is of the images, sorted by path within each split; its classes are the names of objects. `found` has what
    is said of each image, None where nothing is. `files` are those that say it.
    """

    kind: BoxKind | None
    listing: Listing
    found: tuple[Annotation | None, ...]
    files: tuple[Path, ...] = ()

    def without(self, bad: Container[int] = ()) -> Listing:
        """The images but for those in `bad` places."""
        kept = tuple(image for place, image in enumerate(self.listing.images) if place not in bad)
        return replace(self.listing, images=kept)

    def contents(self) -> dict[str, Content]:
        """The files of boxes as a digest sees them: path within the folder -> size and SHA-256 of all of it."""
        found = {}
        for path in self.files:
            with open_regular(path) as file:
                data = file.read()
            found[str(path.relative_to(self.listing.root))] = Content(len(data), hashlib.sha256(data).hexdigest())
        return found


def kinds_of_boxes(root: Path) -> list[BoxKind]:
    """The formats whose files lie in a folder."""
    there: dict[BoxKind, bool] = {"coco": bool(coco_files(root)), "voc": voc_folders(root) is not None,
                                  "yolo": holds_yolo(root), "plain": (root / BOXES_FILE).is_file()}
    return [kind for kind, seen in there.items() if seen]


def list_boxes(root: Path, kind: BoxKind | None = None, *, follow_symlinks: bool = False,
               unlabelled: bool = False) -> BoxListing:
    """Everything below `root`, no image decoded; what is wrong is collected, not raised.

    `kind` is the format, where it is not to be seen from the files. Images of which nothing is said have no objects or,
    with `unlabelled`, are trained on as images of which nothing is known; then none may be held out. A link that leads
    out of `root` is refused unless `follow_symlinks`.
    """
    if not root.is_dir():
        raise DataError("no such folder of images", where=printable(root), expected=BOX_LAYOUTS,
                        fix="give the folder as `root` in [data], or set TUTELAGE_DATA to where it lies")
    root = root.resolve()
    walk = Walk(root, follow_symlinks, True, [], [])
    try:
        kind = _kind(root, kind)
        match kind:
            case "coco":
                read = read_coco(root, walk, unlabelled)
            case "voc":
                read = read_voc(root, walk)
            case "yolo":
                read = read_yolo(root, walk)
            case "plain":
                read = read_plain(root, walk)
    except (DataError, SecurityError) as problem:  # what is meant is not known: there is nothing more to say
        return BoxListing(kind, Listing(root, (), (), tuple(walk.left_out), (*walk.problems, problem)), ())
    return _listed(kind, root, read, walk, unlabelled)


def _kind(root: Path, said: BoxKind | None) -> BoxKind:
    """The format: what the recipe says, or what is seen."""
    seen = kinds_of_boxes(root)
    fix = "boxes = " + ", ".join(f'"{kind}"' for kind in get_args(BoxKind)) + " in [data] says which"
    if said is not None and said not in seen:
        raise DataError(f"no files of boxes as {said} has them", where=printable(root), expected=BOX_LAYOUTS,
                        found=", ".join(seen) or "none of any kind", fix="leave out `boxes` in [data], or correct it")
    if said is None and len(seen) > 1:
        raise DataError("files of boxes of more than one kind", where=printable(root), found=", ".join(seen), fix=fix)
    if not seen:
        raise DataError("no files of boxes", where=printable(root), expected=BOX_LAYOUTS, fix="give the folder that "
                        "holds them", found=", ".join(printable(one.name) for one in subfolders(root)[:8])
                        or "no folders")
    return said or seen[0]


def _listed(kind: BoxKind, root: Path, read: ReadBoxes, walk: Walk, unlabelled: bool) -> BoxListing:
    used = sorted(read.images.values(), key=lambda image: (_ORDER.index(image.split), os.fsencode(image.path)))
    found = tuple(read.annotations.get(image.path) for image in used)
    splits = {image.split for image in used}
    problems, remarks = list(walk.problems), list(read.remarks)
    if not splits & {"all", "train"}:
        problems.append(DataError("no images to train on", where=printable(root), expected="a split `train`",
                                  found=", ".join(sorted(splits)) or "no image"))
    bare = [image for image, told in zip(used, found, strict=True) if told is None]
    held = [image for image in bare if image.split in ("val", "test")]
    if bare and not unlabelled:
        remarks.append(f"{_count(bare)} without a word of boxes {'count' if len(bare) > 1 else 'counts'} as without "
                       f"objects (such as {printable(bare[0].path.relative_to(root))}); with unlabelled = true in "
                       "[data] nothing is taken to be known of them")
    if held and unlabelled:
        problems.append(DataError(f"{_count(held)} to be tested on without a word of boxes", where=_paths(held),
                                  expected="boxes, or an empty list", fix="add them, or leave out `unlabelled`"))
    if not problems and not any(told is not None and len(told.boxes) for told in found):
        problems.append(DataError("no image has a box", where=printable(root), found=_count(used),
                                  expected="files of boxes with the names of their images"))
    files = tuple(dict.fromkeys(read.files))
    listing = Listing(root, read.classes, tuple(used), tuple(walk.left_out), tuple(problems), tuple(remarks))
    return BoxListing(kind, listing, found, files)


def _count(images: list[Image]) -> str:
    return f"{len(images)} image{'s' if len(images) != 1 else ''}"


def _paths(images: list[Image]) -> str:
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    return ", ".join(printable(image.path) for image in images[:_NAMED]) + more
