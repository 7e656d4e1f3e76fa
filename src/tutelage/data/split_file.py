"""splits.json: which image of a folder is of which split."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from tutelage.data.decoding import printable
from tutelage.data.folder import Image, Walk
from tutelage.data.layout import WORDS
from tutelage.data.left_out import LeftOut
from tutelage.data.strict_json import read_strict_json
from tutelage.errors import DataError, SecurityError, unknown

SPLITS_FILE = "splits.json"
SPLIT_OF = {word: split for split in ("train", "val", "test") for word in WORDS[split]}
"""What a split may be called -> the split."""
OTHER_SPLIT = "in no split of splits.json"
_AT_MOST = 2**26
_NAMED = 3


def as_split(found: Mapping[str, Image], splits: Mapping[str, Sequence[str]], folder: Path,
              walk: Walk) -> dict[str, Image]:
    """The images with the splits that the file says; those in none are left out, and told."""
    taken: dict[str, str] = {}
    for split, names in splits.items():
        lost = []
        for text in names:
            name = name_in(text, found, folder.name)
            if name is None:
                lost.append(text)
            elif name in taken:
                walk.problems.append(DataError("a name twice in splits.json", where=printable(text),
                                               found=f"{taken[name]} and {split}", expected="each image in one split"))
            else:
                taken[name] = split
        if lost:
            shown = ", ".join(map(printable, lost[:_NAMED])) + (", ..." if len(lost) > _NAMED else "")
            walk.problems.append(DataError(
                f"{len(lost)} name{'s' if len(lost) > 1 else ''} of splits.json without an image", found=shown,
                where=f"{printable(walk.root / SPLITS_FILE)}, {split}", expected=f"images in {printable(folder)}",
                fix="add the images, or take the names out"))
    walk.left_out.extend(LeftOut(image.path, "file", OTHER_SPLIT) for name, image in found.items()
                         if name not in taken)
    return {name: image._replace(split=taken.get(name, OTHER_SPLIT)) for name, image in found.items()}


def name_in(text: str, found: Mapping[str, Image], folder: str, file: str = SPLITS_FILE) -> str | None:
    """The name of the image that an entry of a file means: a name with or without ending, or a path."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text:
        raise SecurityError(f"a name in {file} that leads out of the folder of images", where=printable(text),
                            expected="the name of an image, or its path within the folder `images`")
    inside = path.relative_to(folder) if path.parts[:1] == (folder,) else path
    for one in (path, inside):
        exact = f"all/{one.as_posix()}"
        if exact in found:
            return exact
        name = f"all/{one.with_suffix('').as_posix()}" if one.name else exact
        if name in found:
            return name
    return None


def read_splits(path: Path) -> dict[str, list[str]]:
    """Split -> names, as splits.json has them."""
    held = read_strict_json(path, _AT_MOST, '{"train": [NAME, ...], "val": [...], "test": [...]}')
    if not isinstance(held, dict) or not all(isinstance(names, list) and all(isinstance(name, str) for name in names)
                                             for names in held.values()):
        raise DataError("splits.json does not say which image is of which split", where=printable(path),
                        expected='{"train": [NAME, ...], "val": [...], "test": [...]}')
    splits: dict[str, list[str]] = {}
    for word, names in held.items():
        split = SPLIT_OF.get(word.casefold())
        if split is None:
            raise unknown("split", word, SPLIT_OF, where=printable(path), error=DataError)
        if split in splits:
            raise DataError(f"splits.json names the split {split} twice", where=printable(path), found=word)
        splits[split] = names
    return {split: splits[split] for split in ("train", "val", "test") if splits.get(split)}
