"""Folders of images and masks: which mask is whose, and which split a pair is of. Nothing is decoded here.

    FOLDER/images/*  FOLDER/masks/*  [FOLDER/splits.json]      or      FOLDER/SPLIT/images/*  FOLDER/SPLIT/masks/*
                                                               or      FOLDER/images/SPLIT/*  FOLDER/masks/SPLIT/*

A mask has the name of its image, whatever the two names end in; both folders may have folders of their own.
"""

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.data.decoding import printable
from tutelage.data.folder import Image, Listing, Walk
from tutelage.data.layout import is_hidden, subfolders
from tutelage.data.left_out import HIDDEN, LeftOut
from tutelage.data.mask_values import read_mask_names
from tutelage.data.split_file import OTHER_SPLIT, SPLIT_OF, SPLITS_FILE, as_split, read_splits
from tutelage.errors import DataError, SecurityError

MASK_LAYOUTS = ("FOLDER/images/* and FOLDER/masks/*, with or without FOLDER/splits.json; or FOLDER/SPLIT/images/* and "
                "FOLDER/SPLIT/masks/* with SPLIT train, val and test")
_IMAGES, _MASKS = ("images", "image"), ("masks", "mask")
_NAMES_FILE = "classes.txt"
_NAMED = 3

Folders = Mapping[str, tuple[Path, Path]]
"""Split ("all" where the folder has none) -> its images and its masks."""


@dataclass(frozen=True)
class MaskListing:
    """What lies in a folder of images and masks.

    `listing` is of the images, sorted by path within each split, all of one label; `masks` has the mask of each, or
    None. `lines` are those of classes.txt.
    """

    listing: Listing
    masks: tuple[Image | None, ...]
    lines: tuple[str, ...] | None = None

    def without(self, bad: Container[int] = ()) -> Listing:
        """The images, and after them the masks, but for the pairs in `bad` places."""
        kept = [place for place in range(len(self.masks)) if place not in bad]
        masks = [mask for place in kept if (mask := self.masks[place]) is not None]
        return replace(self.listing, images=(*(self.listing.images[place] for place in kept), *masks))


def holds_masks(root: Path) -> bool:
    """Whether a folder looks like one of images and masks."""
    return bool(_folders(root))


def are_images_and_masks(names: Sequence[str]) -> bool:
    """Whether these two folders are those of images and masks, and not of two classes."""
    return len(names) == 2 and [{name.casefold()} <= {*kinds} for name, kinds in zip(
        sorted(names, key=str.casefold), (_IMAGES, _MASKS), strict=True)] == [True, True]


def list_masks(root: Path, *, follow_symlinks: bool = False, unlabelled: bool = False) -> MaskListing:
    """Everything below `root`, nothing decoded; what is wrong is collected, not raised.

    An image without a mask is a problem unless it is to be used `unlabelled`. A link that leads out of `root` is
    refused unless `follow_symlinks`.
    """
    if not root.is_dir():
        raise DataError("no such folder of images and masks", where=printable(root), expected=MASK_LAYOUTS,
                        fix="give the folder as `root` in [data], or set TUTELAGE_DATA to where it lies")
    root = root.resolve()
    walk = Walk(root, follow_symlinks, True, [], [])
    found: dict[str, Image] = {}
    masks: dict[str, Image] = {}
    lines = None
    try:
        folders = _folders(root)
        if not folders:
            raise DataError("no folders of images and masks", where=printable(root), expected=MASK_LAYOUTS,
                            found=", ".join(printable(folder.name) for folder in subfolders(root)[:8]) or "no folders",
                            fix="give the folder that holds `images` and `masks`")
        for split, (images, drawn) in folders.items():
            here = _by_name(images, split, walk)
            if not here and not walk.problems:
                walk.problems.append(DataError(
                    "a folder without images", where=printable(images), expected="image files",
                    fix="put images there, or remove the folder; `tutelage check-data` says what is left out"))
            found |= here
            masks |= _by_name(drawn, split, walk)
        if _is_given(root / _NAMES_FILE, walk):
            lines = tuple(read_mask_names(root / _NAMES_FILE))
        if "all" in folders and _is_given(root / SPLITS_FILE, walk):
            found = as_split(found, read_splits(root / SPLITS_FILE), folders["all"][0], walk)
    except (DataError, SecurityError) as problem:  # what is meant is not known: there is nothing more to say
        return MaskListing(Listing(root, (), (), tuple(walk.left_out), (*walk.problems, problem)), ())
    _leave_beside(root, folders, walk, used=[_NAMES_FILE] + [SPLITS_FILE] * ("all" in folders))
    _pair(found, masks, walk, unlabelled)
    return _listed(root, found, masks, lines, walk)


def _listed(root: Path, found: Mapping[str, Image], masks: Mapping[str, Image], lines: tuple[str, ...] | None,
            walk: Walk) -> MaskListing:
    order = ["all", "train", "val", "test"]
    used = sorted((name for name, image in found.items() if image.split in order),
                  key=lambda name: (order.index(found[name].split), os.fsencode(found[name].path)))
    listing = Listing(root, ("mask",), tuple(found[name] for name in used), tuple(walk.left_out), tuple(walk.problems))
    return MaskListing(listing, tuple(masks.get(name) for name in used), lines)


def _is_given(path: Path, walk: Walk) -> bool:
    """Whether a file of names is there; a link that leads out is a problem, as one of an image would be."""
    return (not path.is_symlink() or walk.may_follow(path)) and path.exists()


def _folders(root: Path) -> Folders:
    """The folders of images and masks below `root`; none where it is no folder of such."""
    images, masks = _called(root, _IMAGES), _called(root, _MASKS)
    if images and masks:
        split = _split_folders(images)
        if split and not any(entry.is_file() and not is_hidden(entry.name) for entry in os.scandir(images)):
            of_masks = _split_folders(masks)
            return {name: (folder, of_masks.get(name, masks / folder.name)) for name, folder in split.items()}
        return {"all": (images, masks)}
    found = {}
    for name, folder in _split_folders(root).items():
        images, masks = _called(folder, _IMAGES), _called(folder, _MASKS)
        if images and masks:
            found[name] = (images, masks)
    return found


def _called(root: Path, names: Sequence[str]) -> Path | None:
    return next((folder for folder in subfolders(root) if folder.name.casefold() in names), None)


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder in `root`; DataError where two are meant."""
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        split = SPLIT_OF.get(folder.name.casefold())
        if split in found:
            raise DataError(f"more than one folder for {split}", where=printable(root), expected="one of them",
                            found=f"{printable(found[split].name)}, {printable(folder.name)}",
                            fix="put their images and masks into one")
        if split is not None:
            found[split] = folder
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _by_name(folder: Path, split: str, walk: Walk) -> dict[str, Image]:
    """Name -> the file of it: the split, and the path in the folder without its ending."""
    found: dict[str, Image] = {}
    if not walk.may_enter(folder):
        if not folder.is_symlink():
            walk.problems.append(DataError("no such folder", where=printable(folder), expected=MASK_LAYOUTS))
        return found
    for path, size in sorted(walk.files(folder, (folder.resolve(),)), key=lambda file: os.fsencode(file[0])):
        name = f"{split}/{path.relative_to(folder).with_suffix('').as_posix()}"
        if name in found:
            walk.problems.append(DataError("two files of one name: which one is meant is not known",
                                           where=printable(path), found=printable(found[name].path),
                                           fix="keep one of them, or rename one and what belongs to it"))
        found.setdefault(name, Image(split, "mask", path, size))
    return found


def _pair(found: dict[str, Image], masks: Mapping[str, Image], walk: Walk, unlabelled: bool) -> None:
    """Complain of images without a mask, of masks without an image, and of splits without any."""
    alone = [image for name, image in found.items() if name not in masks and image.split != OTHER_SPLIT]
    needed = [image for image in alone if not unlabelled or image.split not in ("all", "train")]
    if needed:
        walk.problems.append(DataError(
            f"{_count(needed, 'image')} without a mask", where=_paths(needed), expected="a mask of the same name",
            fix="add them" if unlabelled else "add them, or set unlabelled = true in [data] to train on these images "
                                              "without a mask"))
    widows = [mask for name, mask in masks.items() if name not in found]
    if widows:
        walk.problems.append(DataError(f"{_count(widows, 'mask')} without an image", where=_paths(widows),
                                       expected="an image of the same name",
                                       fix="add or rename it, or remove the mask"))
    splits = {image.split for image in found.values()} - {OTHER_SPLIT}
    if found and not splits & {"all", "train"}:
        walk.problems.append(DataError("no images to train on", where=printable(walk.root),
                                       found=", ".join(sorted(splits)) or "no split", expected="a split `train`"))


def _leave_beside(root: Path, folders: Folders, walk: Walk, used: Iterable[str]) -> None:
    """Note what lies in the folder and is neither of images nor of masks."""
    ours = {part for pair in folders.values() for folder in pair for part in (folder, *folder.parents)}
    for place in sorted({root, *(folder.parent for pair in folders.values() for folder in pair)}):
        for entry in os.scandir(place):
            path = Path(entry.path)
            if path in ours or (place == root and entry.name in used):
                continue
            if is_hidden(entry.name):
                walk.left_out.append(LeftOut(path, "hidden", HIDDEN))
            elif entry.is_dir():
                walk.left_out.append(LeftOut(path, "folder", "neither of images nor of masks"))
            elif not entry.is_symlink() and entry.is_file():
                walk.leave(path, "neither in the folder of images nor in that of masks")


def _paths(images: Sequence[Image]) -> str:
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    return ", ".join(printable(image.path) for image in images[:_NAMED]) + more


def _count(images: Sequence[Image], noun: str) -> str:
    return f"{len(images)} {noun}{'s' if len(images) > 1 else ''}"
