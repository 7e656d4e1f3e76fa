"""Folders of registered pairs: which images belong together, of which set, by day or by night. Nothing is decoded.

    FOLDER/infrared/*  FOLDER/visible/*  [FOLDER/splits.json]   or   FOLDER/SPLIT/infrared/*  FOLDER/SPLIT/visible/*
    FOLDER/SET/infrared/*  FOLDER/SET/visible/*                 or   FOLDER/infrared/SPLIT/*  FOLDER/visible/SPLIT/*

Both images of a pair have one name, whatever the two names end in.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.data.decoding import printable
from tutelage.data.folder import Image, Listing, Walk
from tutelage.data.layout import is_hidden, subfolders
from tutelage.data.pair_names import INFRARED, VISIBLE
from tutelage.data.split_file import OTHER_SPLIT, SPLIT_OF, SPLITS_FILE, as_split, read_splits
from tutelage.errors import DataError, SecurityError

PAIR_LAYOUTS = ("FOLDER/infrared/* and FOLDER/visible/*, with or without FOLDER/splits.json; or both in each of "
                "FOLDER/SPLIT with SPLIT train, val and test; or in each of FOLDER/SET")
ALL = "all"
DEEPEST = 3
_DAYTIME = re.compile(r"\d+([DN])$")
"""How MSRS and its like name their images: 00537D, 00004N."""
_NAMED = 3


@dataclass(frozen=True)
class PairListing:
    """What lies in a folder of pairs.

    `listing` is of the visible images, sorted by path within each split; the label of each is its group, and `classes`
    are the groups. `infrared` has the other image of each pair, `fused` the fused one, where there is a folder of them.
    """

    listing: Listing
    infrared: tuple[Image, ...]
    fused: tuple[Path, ...] = ()

    def files(self) -> Listing:
        """All images, each visible one before its infrared one; then the fused ones."""
        both = [image for pair in zip(self.listing.images, self.infrared, strict=True) for image in pair]
        return replace(self.listing, images=tuple(both))

    def numbers(self) -> list[int]:
        """The group of each pair, as its place in `listing.classes`."""
        place = {name: number for number, name in enumerate(self.listing.classes)}
        return [place[image.label] for image in self.listing.images]


def holds_pairs(root: Path) -> bool:
    """Whether a folder looks like one of pairs."""
    return bool(_places(root, deepest=1))


def list_pairs(root: Path, *, follow_symlinks: bool = False, fused: Path | None = None) -> PairListing:
    """Everything below `root`, nothing decoded; what is wrong is collected, not raised.

    `fused` is a folder with an image of the same name for each pair. A link that leads out of a folder is refused
    unless `follow_symlinks`.
    """
    if not root.is_dir():
        raise DataError("no such folder of pairs", where=printable(root), expected=PAIR_LAYOUTS,
                        fix="give the folder as `root` in [data], or set TUTELAGE_DATA to where it lies")
    root = root.resolve()
    walk = Walk(root, follow_symlinks, True, [], [])
    visible: dict[str, Image] = {}
    infrared: dict[str, Image] = {}
    places = _places(root)
    try:
        if not places:
            raise DataError("no folders of infrared and visible images", where=printable(root), expected=PAIR_LAYOUTS,
                            found=", ".join(printable(one.name) for one in subfolders(root)[:8]) or "no folders",
                            fix="give the folder that holds `infrared` and `visible`")
        for place in places:
            visible |= _by_name(place.visible, place, walk)
            infrared |= _by_name(place.infrared, place, walk)
        if {place.split for place in places} == {ALL} and (root / SPLITS_FILE).exists():
            visible = as_split(visible, read_splits(root / SPLITS_FILE), places[0].visible, walk)
    except (DataError, SecurityError) as problem:
        return PairListing(Listing(root, (), (), tuple(walk.left_out), (*walk.problems, problem)), ())
    _leave_beside(places, walk, root)
    return _paired(root, visible, infrared, walk, _fused_files(fused, follow_symlinks, walk))


@dataclass(frozen=True)
class _Place:
    """Two folders that belong together, the split that their path names, and the set."""

    infrared: Path
    visible: Path
    split: str
    group: str


def _places(root: Path, deepest: int = DEEPEST) -> list[_Place]:
    """Every two folders of infrared and visible images below `root`, so many floors deep, sorted."""
    found: list[_Place] = []

    def look(folder: Path, parts: tuple[str, ...]) -> None:
        below = subfolders(folder)
        infrared, visible = (next((one for one in below if one.name.casefold() in names), None)
                             for names in (INFRARED, VISIBLE))
        if infrared is not None and visible is not None:
            found.extend(_with_splits(infrared, visible, parts))
        elif len(parts) < deepest:
            for one in sorted(below):
                if not one.is_symlink() and not is_hidden(one.name):
                    look(one, (*parts, one.name))

    look(root, ())
    return found


def _with_splits(infrared: Path, visible: Path, parts: Sequence[str]) -> list[_Place]:
    """One place, or one for each split whose folders lie in both."""
    words = [SPLIT_OF[part.casefold()] for part in parts if part.casefold() in SPLIT_OF]
    group = "/".join(part for part in parts if part.casefold() not in SPLIT_OF)
    inner = {one.name: one for one in subfolders(visible) if one.name.casefold() in SPLIT_OF}
    if not words and inner and not any(entry.is_file() and not is_hidden(entry.name) for entry in os.scandir(visible)):
        return [_Place(infrared / name, one, SPLIT_OF[name.casefold()], group) for name, one in sorted(inner.items())]
    return [_Place(infrared, visible, words[0] if words else ALL, group)]


def _by_name(folder: Path, place: _Place, walk: Walk) -> dict[str, Image]:
    """Name -> the file of it: the split, the set and the path in the folder without its ending."""
    found: dict[str, Image] = {}
    if not walk.may_enter(folder):
        if not folder.is_symlink():
            walk.problems.append(DataError("no such folder", where=printable(folder), expected=PAIR_LAYOUTS))
        return found
    files = sorted(walk.files(folder, (folder.resolve(),)), key=lambda file: os.fsencode(file[0]))
    if not files:
        walk.problems.append(DataError("a folder without images", where=printable(folder), expected="image files",
                                       fix="put images there, or remove the folder"))
    for path, size in files:
        inside = path.relative_to(folder).with_suffix("").as_posix()
        name = "/".join(filter(None, (place.split, place.group, inside)))
        if name in found:
            walk.problems.append(DataError("two files of one name: which one is meant is not known",
                                           where=printable(path), found=printable(found[name].path),
                                           fix="keep one of them, or rename one and what belongs to it"))
        found.setdefault(name, Image(place.split, _group_of(place.group, inside), path, size))
    return found


def _group_of(group: str, inside: str) -> str:
    """The set of an image with "day" or "night", as far as folders and names say so; "" where they say nothing.

    >>> _group_of("", "00004N"), _group_of("road", "day/1"), _group_of("", "7")
    ('night', 'road day', '')
    """
    words = [part.casefold() for part in (*group.split("/"), *inside.split("/")[:-1])]
    told = next((word for word in words if word in ("day", "night")), "")
    if not told and (match := _DAYTIME.search(inside)) is not None:
        told = "day" if match[1] == "D" else "night"
    own = "/".join(part for part in group.split("/") if part.casefold() not in ("day", "night"))
    return " ".join(filter(None, (own, told)))


def _fused_files(folder: Path | None, follow_symlinks: bool, walk: Walk) -> dict[str, Path] | None:
    """Name -> file of a folder of fused images; None where none is given."""
    if folder is None:
        return None
    if not folder.is_dir():
        walk.problems.append(DataError("no such folder of fused images", where=printable(folder),
                                       fix="give the folder as `fused` in [data]"))
        return {}
    folder = folder.resolve()
    own = Walk(folder, follow_symlinks, True, [], walk.problems)
    files = sorted(own.files(folder, (folder,)), key=lambda file: os.fsencode(file[0]))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path, _ in files}


def _paired(root: Path, visible: Mapping[str, Image], infrared: Mapping[str, Image], walk: Walk,
            fused: Mapping[str, Path] | None) -> PairListing:
    """The pairs; complaints of images that have no partner."""
    used = {name: image for name, image in visible.items() if image.split != OTHER_SPLIT}
    _complain([image for name, image in used.items() if name not in infrared], "visible", "infrared", walk)
    _complain([image for name, image in infrared.items() if name not in visible], "infrared", "visible", walk)
    splits = {image.split for image in used.values()}
    if used and (not splits & {ALL, "train"} or (ALL in splits and len(splits) > 1)):
        walk.problems.append(DataError("no pairs to train on" if ALL not in splits else
                                       "folders that are of no split, beside some that are", where=printable(root),
                                       found=", ".join(sorted(splits)), expected="a split `train`"))
    order = [ALL, "train", "val", "test"]
    names = sorted((name for name in used if name in infrared),
                   key=lambda name: (order.index(used[name].split), os.fsencode(used[name].path)))
    pictures = _of_pairs(names, fused, used, walk) if fused is not None else ()
    groups = tuple(sorted({used[name].label for name in names}))
    listing = Listing(root, groups, tuple(used[name] for name in names), tuple(walk.left_out), tuple(walk.problems))
    return PairListing(listing, tuple(infrared[name] for name in names), pictures)


def _of_pairs(names: Sequence[str], fused: Mapping[str, Path], used: Mapping[str, Image],
              walk: Walk) -> tuple[Path, ...]:
    """The fused image of each pair: by its whole name, by that without its split, or by its last part if that is one
    pair's alone."""
    last = [name.rpartition("/")[2] for name in names]
    alone = {name for name, count in Counter(last).items() if count == 1}
    found: list[Path] = []
    lacking: list[Image] = []
    for name, short in zip(names, last, strict=True):
        ways = [name, name.partition("/")[2], *([short] if short in alone else [])]
        file = next((fused[way] for way in ways if way in fused), None)
        if file is None:
            lacking.append(used[name])
        else:
            found.append(file)
    if lacking:
        walk.problems.append(DataError(f"{_count(lacking)} without a fused image", where=_paths(lacking),
                                       expected="an image of the same name in the folder of fused images",
                                       fix="fuse them too, or take `fused` out of [data]"))
    return tuple(found)


def _complain(alone: Sequence[Image], what: str, lacks: str, walk: Walk) -> None:
    if alone:
        walk.problems.append(DataError(f"{_count(alone, what)} without the {lacks} one", where=_paths(alone),
                                       expected=f"a {lacks} image of the same name", fix="add or rename it, or remove "
                                       f"the {what} one"))


def _leave_beside(places: Iterable[_Place], walk: Walk, root: Path) -> None:
    """Note the files that lie beside the folders of pairs."""
    for folder in sorted({root, *(one.parent for place in places for one in (place.infrared, place.visible))}):
        for entry in os.scandir(folder):
            if (not is_hidden(entry.name) and entry.is_file(follow_symlinks=False)
                    and not (folder == root and entry.name == SPLITS_FILE)):
                walk.leave(Path(entry.path), "neither infrared nor visible")


def _paths(images: Sequence[Image]) -> str:
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    return ", ".join(printable(image.path) for image in images[:_NAMED]) + more


def _count(images: Sequence[Image], what: str = "") -> str:
    return f"{len(images)} {what + ' ' if what else ''}image{'s' if len(images) > 1 else ''}"
