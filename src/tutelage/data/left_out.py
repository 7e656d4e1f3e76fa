"""What lies in a folder of images and is not used: counted by suffix and by the true reason."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tutelage.data.decoding import printable, why_not
from tutelage.data.layout import head_of


class LeftOut(NamedTuple):
    """A file or folder that is not used, and why; `kind` is file, folder or hidden."""

    path: Path
    kind: str
    reason: str


class LeftOutKind(NamedTuple):
    """Everything that is left out for one reason: what is said of it, and the paths."""

    what: str
    paths: tuple[Path, ...]


HIDDEN = "hidden, or the operating system's"
BY_NAME = "an image by its content, but this run was started when the name alone decided"


def unread(path: Path) -> LeftOut:
    """A file that is not an image, with what it is instead."""
    reason = why_not(head_of(path)) if path.is_file() else "not a regular file"
    return LeftOut(path, "file", "not an image: text" if reason == "text" else reason)


def kinds_left_out(left_out: Iterable[LeftOut]) -> list[LeftOutKind]:
    """One line for each suffix and reason, the most frequent first, what is hidden last.

    >>> [kind.what for kind in kinds_left_out([LeftOut(Path("a.heic"), "file", "HEIC: install tutelage[heic]")])]
    ['1 .heic left out: HEIC: install tutelage[heic]']
    """
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for path, kind, reason in sorted(left_out, key=lambda one: os.fsencode(one.path)):
        name = {"file": path.suffix.lower() or "without a suffix", "folder": "folder"}.get(kind, "")
        groups.setdefault((kind, name, reason), []).append(path)
    order = sorted(groups.items(), key=lambda group: (group[0][0] == "hidden", -len(group[1]), group[0]))
    return [LeftOutKind(f"{len(paths)} {_noun(kind, name, len(paths))} left out: {reason}", tuple(paths))
            for (kind, name, reason), paths in order]


def _noun(kind: str, name: str, count: int) -> str:
    if kind == "file":
        return f"file{'s' if count > 1 else ''} {name}" if name == "without a suffix" else printable(name)
    many = {"folder": "folders", "hidden": "files or folders"}
    return many[kind] if count > 1 else {"folder": "folder", "hidden": "file or folder"}[kind]
