"""Which folder is what: train, validation, test, classes; and the layouts that look like one of ours and are none.

    FOLDER/train/CLASS/*  [FOLDER/val/CLASS/*]  [FOLDER/test/CLASS/*]  [FOLDER/unlabelled/*]     or     FOLDER/CLASS/*
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tutelage.data.decoding import kind_of, open_regular, printable
from tutelage.data.file_kinds import HEAD_BYTES
from tutelage.errors import DataError

LAYOUTS = "FOLDER/CLASS/*.jpg, or FOLDER/train/CLASS/*.jpg with val and test beside train"
WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev", "eval"),
         "test": ("test", "testing", "holdout"), "unlabelled": ("unlabelled", "unlabeled")}
"""Split -> what its folder may be called, in any case."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""A file of such a name is an image without a look into it: were it none, that would be an error, and not left out."""
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information")
_DEEPEST = 4
_LOOKS = 100


class Layout(NamedTuple):
    """Split -> its folder (the one split of a folder that is not split is called `all`); what else that means.

    `beside` are folders that are no split's, where there are splits; `taken` are those that have a split's name and
    are classes all the same, because of the folders beside them.
    """

    splits: dict[str, Path]
    beside: tuple[Path, ...] = ()
    taken: tuple[Path, ...] = ()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or the operating system's."""
    return name.startswith(".") or name.lower() in _SYSTEM


def find_layout(root: Path) -> Layout:
    """What the folders in `root` are; a DataError where they cannot be what is meant.

    Folders with a split's name are splits if one of them has class folders, two at least, or if no other folder has
    images. Otherwise they are classes like those beside them: `train`, `car`, `bus`.
    """
    folders = subfolders(root)
    named: dict[str, list[Path]] = {}
    for folder in folders:
        if (split := _SPLIT_OF.get(folder.name.casefold())) is not None:
            named.setdefault(split, []).append(folder)
    unlabelled = named.pop("unlabelled", [])
    words = [folder for those in named.values() for folder in those]
    others = [folder for folder in folders if folder not in words and folder not in unlabelled]
    split = bool(words) and (any(len(subfolders(folder)) >= 2 for folder in words)
                             or not any(holds_images(folder) for folder in others))
    found = {**(named if split else {"all": [root]}), **({"unlabelled": unlabelled} if unlabelled else {})}
    for name, those in found.items():
        if len(those) > 1:
            raise DataError(f"more than one folder for {_TOLD[name]}", where=printable(root),
                            found=", ".join(printable(folder.name) for folder in those), expected="one of them",
                            fix="put their images into one, or give the others a name that is no split's")
    if not split:
        return Layout({name: those[0] for name, those in found.items()}, (), tuple(words))
    if "train" not in found:
        raise DataError("no folder for training", where=printable(root),
                        found=", ".join(printable(folder.name) for folder in folders), expected=LAYOUTS,
                        fix="put the class folders to train on into a folder `train`")
    order = [name for name in WORDS if name in found]
    return Layout({name: found[name][0] for name in order}, tuple(others))


def require_understood(root: Path, classes: Mapping[str, Path]) -> None:
    """Refuse "classes" that are splits or folds: each has class folders, the same as the others have."""
    inside = {name: {folder.name.casefold() for folder in subfolders(path)} for name, path in classes.items()}
    often = Counter(name for names in inside.values() for name in names)
    shared = {name for name, count in often.items() if count > 1}
    alike = len(inside) > 1 and all(len(names & shared) > 1 for names in inside.values())
    split = len(inside) > 1 and any({"train", "val"} <= kinds or {"train", "test"} <= kinds
                for kinds in ({_SPLIT_OF.get(name) for name in names} for names in inside.values()))
    if split or (alike and not all(any(_images_in(path)) for path in classes.values())):
        one = next(name for name, names in inside.items() if len(names) > 1)
        names = sorted(folder.name for folder in subfolders(classes[one]))
        shown = ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")
        raise DataError("a layout that is not understood: the folders that should be classes have the same folders in "
                        "them" if alike else "a layout that is not understood: a class folder with splits in it",
                        where=printable(root), found=f"{printable(one)}/ with {shown}"
                        + (f", and {len(inside) - 1} more like it" if alike else ""), expected=LAYOUTS,
                        fix="put the split first and the class below it, or give one of these folders as `root`")


def too_few(root: Path, classes: Sequence[str], beside: int = 0) -> DataError:
    """The error for fewer than two classes, with what is likely meant; `beside` images lie in no class folder."""
    if not classes and beside:
        return DataError(f"{beside} images, but no class folders", where=printable(root), expected=LAYOUTS,
                         fix="put the images of each class into a folder of the class's name; those without a label "
                             "belong in a folder `unlabelled`")
    deeper = _deeper(root)
    if deeper is not None:
        return DataError("too few classes: the images lie in a folder deeper", where=printable(root),
                         found=", ".join(f"{printable(deeper.relative_to(root) / folder.name)}/"
                                         for folder in subfolders(deeper)[:5]),
                         expected="at least two", fix=f"give the folder {printable(deeper)}")
    return DataError("too few classes", where=printable(root), found=f"{len(classes)} class folders",
                     expected=f"at least two: {LAYOUTS}", fix="give the folder that holds train/, or the class folders")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without those that are hidden or the system's."""
    return sorted((Path(entry.path) for entry in _entries(folder) if _is_folder(entry)),
                  key=lambda path: os.fsencode(path))


def holds_images(folder: Path, deepest: int = _DEEPEST) -> bool:
    """Whether there is an image in a folder, or in those in it that are no links."""
    return any(_images_in(folder)) or (deepest > 0 and any(holds_images(one, deepest - 1) for one in subfolders(folder)
                                                           if not one.is_symlink()))


def count_images(folder: Path) -> int:
    """How many images there are in a folder and in those in it; links are not followed."""
    files = (Path(entry.path) for entry in _entries(folder) if not entry.is_symlink() and entry.is_file())
    return sum(map(is_image_file, files)) + sum(count_images(one) for one in subfolders(folder) if not one.is_symlink())


def is_image_file(path: Path) -> bool:
    """Whether a file is taken for an image: by its name, or by its first bytes."""
    return path.suffix.lower() in SUFFIXES or kind_of(head_of(path)) is not None


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file; of what cannot be read, none."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD_BYTES)
    except (DataError, OSError):
        return b""


_TOLD = {"train": "training", "val": "validation", "test": "testing", "unlabelled": "images without a label"}


def _images_in(folder: Path) -> Iterator[bool]:
    """True for each image that lies directly in a folder; of files with other names only the first are looked into."""
    looks = _LOOKS
    for entry in _entries(folder):
        if Path(entry.name).suffix.lower() in SUFFIXES:
            yield True
        elif looks and not _is_folder(entry):
            looks -= 1
            if is_image_file(Path(entry.path)):
                yield True


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if not is_hidden(entry.name))
    except OSError:
        return


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _deeper(root: Path) -> Path | None:
    """The folder below `root` that holds splits or classes, if nothing but one folder with images leads there."""
    folder = root
    for _ in range(_DEEPEST):
        inside = [one for one in subfolders(folder) if holds_images(one)]
        if folder != root and (len(inside) > 1 or any(one.name.casefold() in WORDS["train"] for one in inside)):
            return folder
        if len(inside) != 1:
            return None
        folder = inside[0]
    return None
