"""Sentences in files: CSV, JSON lines, JSON, CoNLL and plain text -> words, labels and tags, each with its place.

Nothing is repaired in silence: an empty line, a label without text and tags that do not fit their words are errors with
file and line. No torch in it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.data.decoding import open_regular, printable
from tutelage.data.layout import WORDS
from tutelage.errors import DataError, SecurityError, UsageError

TEXT_SUFFIXES = (".csv", ".jsonl", ".json", ".conll", ".bio", ".txt")
LARGEST_FILE = 2**30
LONGEST_LINE = 2**20
TEXTS, LABELS = ("text", "sentence", "utterance"), ("label", "intent", "category")
"""What a column, or a key, of texts and of labels may be called."""
TOKENS, TAGS = ("tokens", "words"), ("tags", "slots")
SPLITS = ("train", "val", "test")
_SPLIT_OF = {word: split for split in SPLITS for word in (*WORDS[split], *(["validate"] if split == "val" else []))}
OUTSIDE = "oos"
"""A part of a split's name in JSON, `oos_train`: sentences that are out of scope."""


class Sentence(NamedTuple):
    """The words of a sentence, its label and the tags of its words, None where it has none; and where it stands."""

    words: tuple[str, ...]
    label: str | None = None
    tags: tuple[str, ...] | None = None
    where: str = ""


def split_of_file(path: Path) -> str:
    """Which split a file is by its name, cut at `_`, `-` and `.`: train, val or test; else "all".

    >>> split_of_file(Path("train_slots.jsonl")), split_of_file(Path("validate.csv")), split_of_file(Path("mine.csv"))
    ('train', 'val', 'all')
    """
    words = path.stem.casefold().replace("-", "_").replace(".", "_").split("_")
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), "all")


def read_sentences(path: Path, columns: Mapping[str, str] | None = None, *, tagged: bool = False,
                   repair: bool = False) -> dict[str, tuple[Sentence, ...]]:
    """Split -> its sentences; "all" where the file says of no split. `columns` says how text and label are called.

    `tagged`: the tags of words are wanted, and their labels are not asked for. Tags are B-NAME, I-NAME and O;
    `repair` makes a B- of an I- that continues nothing, which is an error else.
    """
    where, suffix = printable(path), path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        raise DataError("not a file of sentences", where=where, found=suffix or "no suffix",
                        expected=", ".join(TEXT_SUFFIXES))
    names = {key: [name] for key, name in (columns or {}).items()}
    asked = {"text": TEXTS, "label": LABELS, "tokens": TOKENS, "tags": TAGS} | names
    text = _text_of(path)
    if suffix == ".json":
        found = _json(text, where)
    else:
        read = {".csv": _csv, ".jsonl": _json_lines, ".txt": _plain}.get(suffix, _conll)
        found = {"all": list(read(text, where, asked))}
    kept = {split: tuple(_checked(one, tagged, repair) for one in sentences) for split, sentences in found.items()}
    if not any(kept.values()):
        raise DataError("a file without a sentence", where=where, expected="one or more")
    return kept


def plain_lines(path: Path) -> tuple[Sentence, ...]:
    """The sentences of a file of any of these formats, of all its splits, without label and tags."""
    return tuple(Sentence(one.words, where=one.where) for part in read_sentences(path).values() for one in part)


def repaired(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags in which an I- that continues nothing is a B-.

    >>> repaired(["I-a", "I-a", "O", "B-a", "I-b"])
    ('B-a', 'I-a', 'O', 'B-a', 'B-b')
    """
    kept: list[str] = []
    for tag in tags:
        kept.append(f"B-{tag[2:]}" if _continues_nothing(tag, kept[-1] if kept else "O") else tag)
    return tuple(kept)


def _continues_nothing(tag: str, before: str) -> bool:
    return tag.startswith("I-") and before[2:] != tag[2:]


def _checked(one: Sentence, tagged: bool, repair: bool) -> Sentence:
    if not one.words:
        raise DataError("a label without text" if one.label or one.tags else "an empty sentence", where=one.where,
                        expected="a sentence", fix="write its words, or take the line out")
    if not tagged:
        return one._replace(tags=None)
    if one.tags is None:
        raise DataError("a sentence without tags", where=one.where, expected="a tag for each word", fix=(
            'give a file with tags, or task = "sentences" in [data]'))
    if len(one.tags) != len(one.words):
        raise DataError("tags that are not as many as the words", where=one.where, found=f"{len(one.tags)} tags",
                        expected=f"{len(one.words)}, one for each word")
    for place, tag in enumerate(one.tags):
        if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) < 3):
            raise DataError("a tag that is none", where=one.where, found=repr(tag), expected="O, B-NAME or I-NAME")
        if not repair and _continues_nothing(tag, one.tags[place - 1] if place else "O"):
            raise DataError("an I- without the B- that it continues", where=one.where,
                            found=f"{tag!r} at word {place + 1}, {one.words[place]!r}", expected=f"B-{tag[2:]} first",
                            fix='mend it, or write broken_tags = "repair" in [data]: it becomes a B-')
    return one._replace(tags=repaired(one.tags))


def _text_of(path: Path) -> str:
    where = printable(path)
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError("a file cannot be read", where=where, found=error.strerror) from None
    if len(data) > LARGEST_FILE:
        raise SecurityError("a file that is too large", where=where, expected=f"{LARGEST_FILE} bytes at most")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise DataError("not UTF-8 text", where=f"{where}, line {line}", found=error.reason,
                        fix="save it in UTF-8") from None


def _lines(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Each line with its place; a line break at the end of the file begins no line."""
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        place = f"{where}, line {number}"
        if len(line) > LONGEST_LINE:
            raise SecurityError("a line that is too long", where=place, expected=f"{LONGEST_LINE} characters at most")
        yield place, line.removesuffix("\r")


def _filled(text: str, where: str) -> Iterator[tuple[str, str]]:
    for place, line in _lines(text, where):
        if not line.strip():
            raise DataError("an empty line", where=place, expected="a sentence", fix="take the line out")
        yield place, line


def _plain(text: str, where: str, asked: Mapping[str, Sequence[str]]) -> Iterator[Sentence]:
    for place, line in _filled(text, where):
        yield Sentence(tuple(line.split()), where=place)


def _csv(text: str, where: str, asked: Mapping[str, Sequence[str]]) -> Iterator[Sentence]:
    rows = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(rows, [])]
    column = _finder(names, asked, f"{where}, line of names")
    at, of = column("text", True), column("label", False)
    line = rows.line_num + 1
    try:
        for row in rows:
            place, line = f"{where}, line {line}", rows.line_num + 1
            if not row:
                raise DataError("an empty line", where=place, expected=", ".join(names), fix="take the line out")
            if len(row) != len(names):
                raise DataError("a line of another length than the line of names", where=place,
                                found=f"{len(row)} columns", expected=f"{len(names)}: {', '.join(names[:8])}",
                                fix="put a text with commas into double quotes")
            label = None if of is None else row[names.index(of)].strip() or None
            yield Sentence(tuple(row[names.index(str(at))].split()), label, where=place)
    except csv.Error as error:
        raise DataError("not CSV", where=f"{where}, line {rows.line_num}", found=error) from None


def _finder(names: Sequence[str], asked: Mapping[str, Sequence[str]],
            where: str) -> Callable[[str, bool], str | None]:
    def column(key: str, needed: bool) -> str | None:
        found = [name for name in asked[key] if name in names]
        if not found and needed:
            raise DataError(f"there is no {key}", where=where, found=", ".join(names[:20]) or "nothing",
                            expected=" or ".join(asked[key]), fix=f'name it in [data]: columns = {{ {key} = "..." }}')
        return found[0] if found else None

    return column


def _json_lines(text: str, where: str, asked: Mapping[str, Sequence[str]]) -> Iterator[Sentence]:
    for place, line in _filled(text, where):
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError("not JSON", where=place, found=str(error)[:200]) from None
        if not isinstance(told, dict):
            raise DataError("not an object", where=place, found=type(told).__name__, expected='{"text": ..., ...}')
        column = _finder(list(told), asked, place)
        given = column("tokens", False)
        words = _words(told[given], place, "tokens") if given else tuple(_string(told[str(column("text", True))],
                                                                               place, "text").split())
        of, tags = column("label", False), column("tags", False)
        label = None if of is None or told[of] is None else _string(told[of], place, "label").strip() or None
        yield Sentence(words, label, _words(told[tags], place, "tags") if tags else None, place)


def _json(text: str, where: str) -> dict[str, list[Sentence]]:
    """{"train": [[text, label], ...], "val": ...}; what `oos_train` holds belongs to train."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("not JSON", where=where, found=str(error)[:200]) from None
    if not isinstance(told, dict):
        raise DataError("not splits by name", where=where, found=type(told).__name__,
                        expected='{"train": [[text, label], ...], ...}; or a .jsonl file')
    found: dict[str, list[Sentence]] = {}
    for name in sorted(told, key=lambda name: name.startswith(OUTSIDE)):
        split = split_of_file(Path(name))
        if split == "all" or not isinstance(told[name], list):
            raise DataError("not a split", where=f"{where}, {name}", expected="a list called train, val or test")
        for number, entry in enumerate(told[name], 1):
            place = f"{where}, {name}, entry {number}"
            if not isinstance(entry, list) or len(entry) != 2:
                raise DataError("not a text and its label", where=place, found=str(entry)[:100],
                                expected="[text, label]")
            words = tuple(_string(entry[0], place, "text").split())
            found.setdefault(split, []).append(Sentence(words, _string(entry[1], place, "label").strip() or None,
                                                        where=place))
    return found


def _conll(text: str, where: str, asked: Mapping[str, Sequence[str]]) -> Iterator[Sentence]:
    """A word and its tag a line, the word first and the tag last; an empty line ends a sentence."""
    words, tags, begun = list[str](), list[str](), ""
    for place, line in _lines(text, where):
        parts = line.split()
        if not parts and not words:
            raise DataError("an empty line", where=place, expected="a word and its tag",
                            fix="one empty line between two sentences is enough")
        if not parts:
            yield Sentence(tuple(words), None, tuple(tags), begun)
            words, tags = [], []
            continue
        if len(parts) < 2:
            raise DataError("a word without a tag", where=place, found=repr(line), expected="WORD TAG")
        begun = begun if words else place
        words.append(parts[0])
        tags.append(parts[-1])
    if words:
        yield Sentence(tuple(words), None, tuple(tags), begun)


def _string(value: Any, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"a {what} that is no text", where=where, found=repr(value)[:100])
    return value


def _words(value: Any, where: str, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word and word == "".join(word.split())
                                              for word in value):
        raise DataError(f"{what} that are no list of words", where=where, found=repr(value)[:100],
                        expected='["a", "list", "of", "words"]')
    return tuple(value)


def find_text_files(given: Path, *, tagged: bool = False) -> dict[str, Path]:
    """Split -> its file: the file itself, or those of a folder; "all" for a file of no split, or of several.

    Of a folder with files of sentences and files of tagged words (.conll, .bio, or a name with `slots` or `tags`) those
    are taken that are asked for; "val" is validation.
    """
    if given.is_file():
        return {"all": given}
    if not given.is_dir():
        return {}
    found: dict[str, Path] = {}
    there = [path for path in sorted(given.iterdir()) if path.suffix.lower() in TEXT_SUFFIXES and path.is_file()
             and not path.name.startswith(".")]
    for path in [path for path in there if is_tagged(path) == tagged] or there:
        split = split_of_file(path)
        if split in found and split != "all":
            raise UsageError("two files of one split", where=printable(given),
                             found=f"{found[split].name}, {path.name}",
                             fix="give one of them as root, or move the other away")
        found.setdefault(split, path)
    if "train" in found:
        found.pop("all", None)
    return found


def is_tagged(path: Path) -> bool:
    """Whether a file is one of words with tags, by its name."""
    words = path.stem.casefold().replace("-", "_").split("_")
    return path.suffix.lower() in (".conll", ".bio") or "slots" in words or "tags" in words


def lines_of_text(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The number and the words of each line of a file of plain text; of one with columns, of each sentence."""
    if path.suffix.lower() == ".txt":
        for number, (_, line) in enumerate(_lines(_text_of(path), printable(path)), 1):
            yield number, tuple(line.split())
    else:
        for number, one in enumerate(plain_lines(path), 1):
            yield number, one.words


def every_tagged(place: Path) -> bool:
    """Whether all files of sentences there are are files of tagged words, by their names."""
    return {*map(is_tagged, find_text_files(place).values())} == {True}
