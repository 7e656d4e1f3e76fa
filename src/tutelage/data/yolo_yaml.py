"""The few lines of YAML that a data.yaml of YOLO has, and nothing else of YAML: nothing here can make an object.

    path: .                     names:            names: [cat, dog]        names:
    train: images/train           0: cat                                     - cat
    val: [images/a, images/b]     1: dog                                     - dog
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from tutelage.data.box_rows import CLASSES_AT_MOST, require_names
from tutelage.data.decoding import open_regular, printable
from tutelage.errors import DataError, SecurityError

_AT_MOST = 2**18
_WANTED = ("path", "train", "val", "test", "names", "nc")
_KEY = re.compile(r"""(["']?)([A-Za-z_][\w -]*)\1\s*:(?:\s+(.*))?$""")
_SCALAR = re.compile(r"""\s*('(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^,\[\]{}"'\s][^,\[\]{}]*?)\s*(?=[,\]}]|:\s|:?$)""")
_COLON, _SPACE = re.compile(r"\s*:\s+"), re.compile(r"\s*")
_NUMBERED = re.compile(r"""(?:(\d{1,9})|'(\d{1,9})'|"(\d{1,9})")\s*:\s+(.*)$""")


class YoloYaml(NamedTuple):
    """What data.yaml says: the names of the classes, and where the images of each split are; None where it does not."""

    names: tuple[str, ...] | None
    path: str | None
    splits: dict[str, tuple[str, ...]]


class _Line(NamedTuple):
    number: int
    text: str


def read_yolo_yaml(path: Path) -> YoloYaml:
    """Read it; DataError for what is not understood, SecurityError for a tag, which could name code."""
    values = {key: _value(lines, path) for key, lines in _keys(path).items() if key in _WANTED}
    names = values.pop("names", None)
    count = values.pop("nc", None)
    where = f"{printable(path)}, names"
    if isinstance(names, str):
        raise DataError("names of classes that are none", where=where, found=names[:100],
                        expected="names: [cat, dog], or lines `0: cat`")
    classes = None if names is None else require_names(names, where)
    if classes is not None and isinstance(count, str) and count != str(len(classes)):
        raise DataError("another number of classes than names", where=f"{printable(path)}, nc", found=f"nc: {count}",
                        expected=f"{len(classes)}, as there are names")
    base = values.pop("path", None)
    splits = {split: (value,) if isinstance(value, str) else tuple(value) for split, value in values.items() if value}
    return YoloYaml(classes, base if isinstance(base, str) else None, splits)


def _keys(path: Path) -> dict[str, list[_Line]]:
    """Each key at the margin -> what stands after it, line by line, without comments."""
    with open_regular(path) as file:
        data = file.read(_AT_MOST + 1)
    if len(data) > _AT_MOST:
        raise SecurityError("a YAML file that is too large to read", where=printable(path), found="more than 256 KiB")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("a YAML file that is no UTF-8", where=printable(path), found=error) from None
    found: dict[str, list[_Line]] = {}
    key, literal = "", False
    for number, line in enumerate(lines, 1):
        bare = _without_comment(line).rstrip()
        inside = line[:1] in (" ", "\t") or bare[:2] == "- " or bare == "-" or bare[:1] in ("]", "}")
        if not bare or (bare == "---" and not found):
            continue
        if inside and key:
            if literal:  # words in many lines, such as a script for the download: never read, never run
                continue
            _require_plain(bare, path, number)
            found[key].append(_Line(number, bare))
            continue
        match = _KEY.match(bare)
        if match is None:
            _require_plain(bare, path, number)
            raise _unread(path, number, line)
        key = match[2]
        if key in found:
            raise DataError("a key twice", where=f"{printable(path)}, line {number}", found=key)
        rest = match[3] or ""
        literal = rest[:1] in ("|", ">") and key not in _WANTED
        if not literal:
            _require_plain(rest, path, number)
        found[key] = [_Line(number, rest)]
    return found


def _value(lines: list[_Line], path: Path) -> str | list[str] | None:
    """Text, or a list of texts; None where nothing stands there."""
    first, *more = lines
    if first.text[:1] in ("[", "{"):
        return _flow(" ".join(line.text.strip() for line in lines), path, first.number)
    if first.text:
        if more:
            raise _unread(path, more[0].number, more[0].text)
        return _scalar(first.text, path, first.number)
    if not more:
        return None
    numbered: dict[int, str] = {}
    for place, (number, line) in enumerate(more):
        text = line.strip()
        match = _NUMBERED.match(text)
        if text[:2] == "- ":
            where, name = place, text[2:].strip()
        elif match is not None:
            where, name = int(next(filter(None, match.groups()[:3]))), match[4]
        else:
            raise _unread(path, number, line)
        if where in numbered:
            raise DataError("a number of a class twice", where=f"{printable(path)}, line {number}", found=where)
        numbered[where] = _scalar(name, path, number)
    return _in_turn(numbered, path, first.number)


def _in_turn(numbered: dict[int, str], path: Path, line: int) -> list[str]:
    if sorted(numbered) != [*range(len(numbered))]:
        raise DataError("numbers of classes that leave one out", where=f"{printable(path)}, line {line}",
                        found=", ".join(map(str, sorted(numbered)[:20])), expected=f"0 .. {len(numbered) - 1}")
    return [numbered[number] for number in range(len(numbered))]


def _flow(text: str, path: Path, line: int) -> list[str]:
    """[a, b] or {0: a, 1: b}."""
    close, place, numbered = {"[": "]", "{": "}"}[text[0]], _next(text, 1), dict[int, str]()
    while text[place:place + 1] != close:
        if len(numbered) >= CLASSES_AT_MOST:
            raise SecurityError("a list in YAML that is too long", where=f"{printable(path)}, line {line}",
                                expected=f"at most {CLASSES_AT_MOST}")
        match = _SCALAR.match(text, place)
        number = len(numbered)
        if match is not None and close == "}":
            after = _COLON.match(text, match.end())
            value = after and _SCALAR.match(text, after.end())
            bare = match[1].strip("'\"")
            number, match = (int(bare), value) if bare.isascii() and bare.isdigit() and len(bare) < 10 else (0, None)
        if match is None or (text[match.end():match.end() + 1] not in (",", close)):
            raise _unread(path, line, text[place:place + 100])
        if number in numbered:
            raise DataError("a number of a class twice", where=f"{printable(path)}, line {line}", found=number)
        numbered[number] = _scalar(match[1], path, line)
        place = _next(text, match.end() + (text[match.end()] == ","))
    if text[place + 1:].strip():
        raise _unread(path, line, text[place + 1:])
    return _in_turn(numbered, path, line)


def _next(text: str, place: int) -> int:
    """Where the next thing begins."""
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _scalar(text: str, path: Path, line: int) -> str:
    text = text.strip()
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[:1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            raise _unread(path, line, text) from None
    _require_plain(text, path, line)
    if not text or text[0] in "'[]{},|>%@`":
        raise _unread(path, line, text)
    return text


def _require_plain(text: str, path: Path, line: int) -> None:
    """Refuse a tag, an anchor and an alias where a value may begin."""
    bare = re.sub(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""", "", text)
    if re.search(r"(?:^\s*|[\[{,]\s*|-\s+|:\s+)[!&*](?=\S)", bare):
        raise SecurityError("YAML with a tag, an anchor or an alias", where=f"{printable(path)}, line {line}",
                            found=text.strip()[:100], expected="text, lists and numbers", fix="write it out")


def _without_comment(line: str) -> str:
    """The line up to a # that begins a comment."""
    match = re.match(r"""(?:[^#'"]|'[^']*'|"(?:[^"\\]|\\.)*"|(?<=\S)#|['"])*""", line)
    return line[:match.end()] if match else line


def _unread(path: Path, line: int, text: str) -> DataError:
    return DataError("a line of YAML that is not understood", where=f"{printable(path)}, line {line}",
                     found=printable(text.strip()[:100]), expected="path, train, val, test, nc and names alone, as in "
                     "docs/detection.md")
