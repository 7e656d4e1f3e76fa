"""Files of series -> what is in them: .ts of the UEA and UCR archives, .npz, and CSV with a row a step.

Every file is judged by itself: numbers that do not parse or are missing, channels of unlike length, labels that the
header does not name, arrays that are too large or that hold pickled objects are refused, with file and line.
"""

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np

from tutelage.data.decoding import open_regular, printable
from tutelage.data.layout import WORDS
from tutelage.errors import DataError, SecurityError, UserError

LARGEST_FILE = 2**32
"""Bytes of a file, and of what an .npz file unpacks to; a larger one is refused before it is read."""
SPLITS = ("train", "validation", "test")
_WRONG = (OSError, ValueError, EOFError, KeyError, BadZipFile, NotImplementedError, RuntimeError)


@dataclass(frozen=True, eq=False)
class SeriesFile:
    """The series of a file, or of one split of it, in its order.

    `values` holds [channels, steps] of each, of at least one step and without a missing number; `labels` are names of
    classes, "" for none. `subjects` says whose each is, if that is known; `classes` are those that the file names
    itself, in its order; `places` say where each series stands.
    """

    where: str
    values: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    places: tuple[str, ...]
    subjects: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    @property
    def channels(self) -> int:
        """How many channels every series has."""
        return len(self.values[0])


def read_series_file(path: Path, *, labelled: bool = True) -> dict[str, SeriesFile]:
    """Split -> its series: "all", or what the keys of an .npz file say; not `labelled`, a file may lack all labels."""
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _require_size(size, printable(path))
        if not size:
            raise DataError("an empty file", where=printable(path), expected="series", fix="restore or remove it")
        found = _READERS[path.suffix.lower()](file, printable(path), labelled)
    for one in found.values():
        _require_sound(one)
    return found


def read_ts(file: BinaryIO, where: str, labelled: bool = True) -> dict[str, SeriesFile]:
    """A .ts file: header lines with @, then a line a series: channels between colons, and the class after the last."""
    lines = _lines(file, where)
    header = _ts_header(lines, where)
    classes = _ts_classes(header, where, labelled)
    named = _is_true(header, "classlabel")
    values, labels, places = [], [], []
    for number, line in lines:
        *channels, label = (part.strip() for part in (line if named else f"{line}:").split(":"))
        if not channels:
            raise DataError("a series without a class", where=f"{where}, line {number}",
                            found=_short(line), expected="values:class", fix="restore the file: a line may be cut off")
        if labelled and classes is not None and label not in classes:
            raise DataError("a class that the header does not name", where=f"{where}, line {number}",
                            found=_short(label), expected=_short(", ".join(classes)))
        values.append(_stacked([_numbers(channel, f"{where}, line {number}") for channel in channels],
                               f"{where}, line {number}"))
        labels.append(label)
        places.append(f"line {number}")
    _require_header(header, values, places, where)
    return {"all": SeriesFile(where, tuple(values), tuple(labels), tuple(places), classes=classes)}


def read_csv(file: BinaryIO, where: str, labelled: bool = True) -> dict[str, SeriesFile]:
    """A CSV table with a row a step: columns series, label, if wanted subject and time, and one for each channel."""
    rows = csv.reader(line for _, line in _lines(file, where, skip=False))
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = _csv_columns(header, where, labelled)
        steps: dict[str, array[float]] = {}
        facts: dict[str, tuple[str, ...]] = {}
        times: dict[str, float | str] = {}
        places: dict[str, str] = {}
        for row in rows:
            line = f"{where}, line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise DataError("a row of another length than the header", where=line, found=f"{len(row)} cells",
                                expected=f"{len(header)}")
            name = row[header.index("series")].strip()
            told = tuple(row[header.index(key)].strip() if key in header else "" for key in ("label", "subject"))
            if facts.setdefault(name, told) != told:
                found, expected = (_short(", ".join(filter(None, words))) for words in (told, facts[name]))
                raise DataError("a series with two labels or subjects", where=line, found=found, expected=expected,
                                fix="give series a name of their own")
            if "time" in header:
                _require_later(times, name, row[header.index("time")], line)
            steps.setdefault(name, array("d")).extend(_number(row[column], line) for column in columns)
            places.setdefault(name, f"series {name!r}")
    except csv.Error as error:
        raise DataError("not a table of comma-separated values", where=where, found=error) from None
    values = tuple(np.frombuffer(series).reshape(-1, len(columns)).T for series in steps.values())
    subjects = tuple(told[1] for told in facts.values()) if "subject" in header else None
    return {"all": SeriesFile(where, values, tuple(told[0] for told in facts.values()), tuple(places.values()),
                              subjects)}


def read_npz(file: BinaryIO, where: str, labelled: bool = True) -> dict[str, SeriesFile]:
    """An .npz file: x, y and, if there are, lengths, subject and classes; of one split, or each with _SPLIT behind."""
    try:
        _require_small(file, where)
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name.lower(): stored[name] for name in stored.files}
    except UserError:
        raise
    except _WRONG as error:
        raise DataError("not an .npz file that can be read", where=where, found=error) from None
    splits = {split: f"_{split}" for split in SPLITS if f"x_{split}" in arrays}
    if "x" in arrays:
        splits = {"all": ""}
    if not splits or (labelled and "all" not in splits and "train" not in splits):
        raise DataError("no series to train on", where=where, found=", ".join(arrays) or "no array",
                        expected="x and y, or x_train, y_train, x_test, y_test",
                        fix="np.savez(file, x=values, y=labels)")
    classes = arrays.get("classes")
    return {split: _of_arrays({key: arrays[key + end] for key in ("x", "y", "lengths", "subject") if key + end in
                               arrays}, classes, f"{where}, x{end}", labelled) for split, end in splits.items()}


_READERS: Mapping[str, Callable[[BinaryIO, str, bool], dict[str, SeriesFile]]] = {
    ".ts": read_ts, ".npz": read_npz, ".csv": read_csv}
SERIES_SUFFIXES = tuple(_READERS)


def split_of_name(stem: str) -> tuple[str, str]:
    """What a file's name without its suffix is about, and the split that it names; "all" for none.

    >>> split_of_name("GunPoint_TRAIN"), split_of_name("val"), split_of_name("mine")
    (('GunPoint', 'train'), ('', 'validation'), ('mine', 'all'))
    """
    for split, words in WORDS.items():
        for word in words:
            if split != "unlabelled" and stem.casefold() == word:
                return "", "validation" if split == "val" else split
            if split != "unlabelled" and stem.casefold().endswith((f"_{word}", f"-{word}")):
                return stem[:-len(word) - 1], "validation" if split == "val" else split
    return stem, "all"


def _lines(file: BinaryIO, where: str, *, skip: bool = True) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8, each with its number; with `skip`, without empty ones and remarks."""
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DataError("not a text in UTF-8", where=f"{where}, line {number}", fix="save it in UTF-8") from None
        if not skip:
            yield number, line
        elif line.strip() and not line.lstrip().startswith(("#", "%")):
            yield number, line.strip()


def _ts_header(lines: Iterable[tuple[int, str]], where: str) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    for number, line in lines:
        word, *rest = line.split()
        if word.lower() == "@data":
            return header
        if not word.startswith("@"):
            raise DataError("values before the line @data", where=f"{where}, line {number}", found=_short(line),
                            expected="lines that begin with @, then @data")
        header[word.lower().removeprefix("@")] = rest
    raise DataError("a header without the line @data", where=where, expected="@data, and the series after it",
                    fix="restore the file")


def _ts_classes(header: Mapping[str, Sequence[str]], where: str, labelled: bool) -> tuple[str, ...] | None:
    """The classes that a header names, None if it leaves that to the series; refused without classes if `labelled`."""
    if _is_true(header, "timestamps"):
        raise DataError("series with time stamps are not read", where=f"{where}, @timeStamps", found="true",
                        fix="write the values alone, at equal steps")
    if labelled and not _is_true(header, "classlabel"):
        raise DataError("series without classes", where=f"{where}, @classLabel",
                        found=" ".join(header.get("classlabel", ["no such line"])),
                        expected="@classLabel true NAME NAME ...")
    return tuple(dict.fromkeys(header.get("classlabel", ())[1:])) or None


def _require_header(header: Mapping[str, Sequence[str]], values: Sequence[np.ndarray], places: Sequence[str],
                    where: str) -> None:
    """Refuse series that are not as the header says; a file that is cut off is found so."""
    said = {key: header[key][0] for key in ("dimensions", "serieslength") if header.get(key)}
    if not _is_true(header, "equallength"):
        said.pop("serieslength", None)
    for key, word in said.items():
        found = [series.shape[key == "serieslength"] for series in values]
        wrong = [(place, count) for place, count in zip(places, found, strict=True) if str(count) != word]
        if wrong:
            raise DataError("series that are not as the header says", where=f"{where}, {wrong[0][0]}",
                            found=f"{wrong[0][1]} {'steps' if key == 'serieslength' else 'channels'}; {len(wrong)} "
                                  "such series", expected=f"{word}, as @{key} says", fix="restore the file")


def _is_true(header: Mapping[str, Sequence[str]], key: str) -> bool:
    return [word.lower() for word in header.get(key, ())][:1] == ["true"]


def _csv_columns(header: Sequence[str], where: str, labelled: bool) -> list[int]:
    """The places of the channels."""
    lacking = [name for name in ("series", *(["label"] if labelled else [])) if name not in header]
    twice = {name for name in header if header.count(name) > 1}
    channels = [place for place, name in enumerate(header) if name not in ("series", "label", "subject", "time")]
    if lacking or twice or not channels:
        raise DataError("columns that cannot be understood", where=f"{where}, line 1", found=_short(", ".join(header)),
                        expected="series, label, if wanted subject and time, and one column for each channel",
                        fix="a row holds one step of one series")
    return channels


def _require_later(times: dict[str, float | str], name: str, text: str, line: str) -> None:
    try:
        time: float | str = float(text)
    except ValueError:
        time = text.strip()
    before = times.get(name)
    if before is not None and (type(before) is not type(time) or not before < time):  # pyright: ignore[reportOperatorIssue]
        raise DataError("steps that are not in the order of time", where=line, found=f"{time} after {before}",
                        expected="a later time in every row of a series", fix="sort the table by time")
    times[name] = time


def _of_arrays(arrays: Mapping[str, np.ndarray], classes: np.ndarray | None, where: str,
               labelled: bool) -> SeriesFile:
    x, y = arrays["x"], arrays.get("y")
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3 or x.dtype.kind not in "fiu":
        raise DataError("not an array of series", where=where, found=f"{x.dtype} {list(x.shape)}",
                        expected="numbers [rows, channels, steps], or [rows, steps]")
    if y is None and not labelled:
        y = np.full(len(x), -1)
    if y is None or y.shape != (len(x),) or y.dtype.kind not in "iuU":
        raise DataError("not the labels of these series", where=f"{where} and its y",
                        found="none" if y is None else f"{y.dtype} {list(y.shape)}",
                        expected=f"{len(x)} whole numbers (-1: none) or names")
    lengths = arrays.get("lengths", np.full(len(x), x.shape[2]))
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu" or (lengths < 0).any() or (
            lengths > x.shape[2]).any():
        raise DataError("not the lengths of these series", where=where, found=f"{lengths.dtype} {list(lengths.shape)}",
                        expected=f"{len(x)} whole numbers of 1 .. {x.shape[2]}")
    subjects = arrays.get("subject")
    if subjects is not None and (subjects.shape != (len(x),) or subjects.dtype.kind not in "iuU"):
        raise DataError("not the subjects of these series", where=where, expected=f"{len(x)} whole numbers or names",
                        found=f"{subjects.dtype} {list(subjects.shape)}")
    return SeriesFile(where, tuple(series[:, :length] for series, length in zip(x, lengths.tolist(), strict=True)),
                      _names_of_labels(y, classes, where), tuple(f"row {row}" for row in range(len(x))),
                      None if subjects is None else tuple(map(str, subjects.tolist())),
                      None if classes is None else tuple(map(str, classes.tolist())))


def _names_of_labels(y: np.ndarray, classes: np.ndarray | None, where: str) -> tuple[str, ...]:
    if classes is None or y.dtype.kind == "U":
        return tuple("" if label == -1 else str(label) for label in y.tolist())
    names = [str(name) for name in classes.ravel().tolist()]
    wrong = [row for row, label in enumerate(y.tolist()) if not -1 <= label < len(names)]
    if wrong:
        raise DataError("a label without a name", where=f"{where}, row {wrong[0]}", found=y[wrong[0]],
                        expected=f"0 .. {len(names) - 1}, the places in `classes`, or -1 for none")
    return tuple("" if label == -1 else names[label] for label in y.tolist())


def _require_small(file: BinaryIO, where: str) -> None:
    """Refuse, before anything is unpacked, what would fill the memory or needs a pickle."""
    with ZipFile(file) as packed:
        _require_size(sum(member.file_size for member in packed.infolist()), where)
        for member in packed.infolist():
            with packed.open(member) as array_file:
                version = np.lib.format.read_magic(array_file)
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
                shape, _, kind = read(array_file)
            if kind.hasobject:
                raise SecurityError("an array of pickled objects is never read: it could run code",
                                    where=f"{where}, {printable(member.filename)}", found=f"dtype {kind}",
                                    expected="numbers or text", fix="save it as numbers: x.astype(np.float32)")
            count = 1
            for side in shape:
                count *= side
            if count * kind.itemsize > member.file_size:
                raise SecurityError("an array that says it is larger than its file",
                                    where=f"{where}, {printable(member.filename)}", found=f"{kind} {list(shape)}",
                                    expected=f"{member.file_size} bytes at most")
    file.seek(0)


def _require_size(size: int, where: str) -> None:
    if size > LARGEST_FILE:
        raise SecurityError("a file that is too large to be read at once", where=where, found=f"{size} bytes",
                            expected=f"{LARGEST_FILE} bytes at most, unpacked", fix="split it, or keep fewer steps")


def _require_sound(file: SeriesFile) -> None:
    """Refuse series without a step, of unlike channels, and with numbers that are missing."""
    if not file.values:
        raise DataError("a file without series", where=file.where, expected="one series or more")
    counts = [len(series) for series in file.values]
    odd = [place for place, count in zip(file.places, counts, strict=True) if count != counts[0]]
    if odd:
        raise DataError("series of unlike numbers of channels", where=f"{file.where}, {odd[0]}",
                        found=f"{counts[file.places.index(odd[0])]} channels; {len(odd)} such series",
                        expected=f"{counts[0]}, as the first has")
    empty = [place for place, series in zip(file.places, file.values, strict=True) if not series.size]
    if empty:
        raise DataError("series without a step", where=f"{file.where}, {empty[0]}", found=f"{len(empty)} such series",
                        expected="one step or more", fix="remove them")
    lost = {place: count for place, series in zip(file.places, file.values, strict=True)
            if (count := int((~np.isfinite(series)).sum()))}
    if lost:
        raise DataError("missing numbers in series", where=f"{file.where}, {next(iter(lost))}",
                        found=f"{sum(lost.values())} numbers that are ?, NaN or infinite, in {len(lost)} series",
                        expected="a number for every step and channel", fix="fill them in, or remove these series; "
                        "what is padding after a series belongs in `lengths` of an .npz file")


def _stacked(channels: Sequence[np.ndarray], where: str) -> np.ndarray:
    lengths = [len(channel) for channel in channels]
    if len(set(lengths)) > 1:
        raise DataError("channels of unlike length in one series", where=where, found=_short(str(lengths)),
                        expected="as many steps in every channel")
    return np.stack(channels)


def _numbers(text: str, where: str) -> np.ndarray:
    words = text.split(",") if text else []
    try:
        if "_" in text:
            raise ValueError
        return np.array([word.replace("?", "nan") for word in words] if "?" in text else words, dtype=np.float64)
    except ValueError:
        return np.array([_number(word, where) for word in words])


def _number(text: str, where: str) -> float:
    word = text.strip()
    try:
        if "_" in word:
            raise ValueError
        return float("nan" if word in ("", "?") else word)
    except ValueError:
        raise DataError("not a number", where=where, found=repr(_short(word)), expected="such as -0.25") from None


def _short(text: str) -> str:
    return printable(text if len(text) <= 60 else text[:57] + "...")
