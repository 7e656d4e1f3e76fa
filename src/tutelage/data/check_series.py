"""Everything that is wrong with a set of series, found by reading every file of it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tutelage.data.check import Finding
from tutelage.data.decoding import printable
from tutelage.data.series import find_series_files, joined, splits_of_series
from tutelage.data.series_files import SERIES_SUFFIXES, SPLITS, SeriesFile, read_series_file
from tutelage.data.settings import DataSettings
from tutelage.data.splits import Cut
from tutelage.errors import SecurityError, UserError


@dataclass(frozen=True)
class SeriesReport:
    """What `check_series` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split of the files -> class -> series; `lengths` its shortest, median and longest series; `channels` how
    many channels it has; `subjects` how many subjects, where that is known.
    """

    root: str
    counts: dict[str, dict[str, int]]
    lengths: dict[str, tuple[int, int, int]]
    channels: dict[str, int]
    subjects: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a run."""
        return tuple(finding for finding in self.findings if finding.error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What does not."""
        return tuple(finding for finding in self.findings if not finding.error)

    def as_json(self) -> str:
        """The report for a program."""
        return json.dumps({"root": self.root, "counts": self.counts, "lengths": self.lengths, "channels": self.channels,
                           "subjects": self.subjects, "errors": [asdict(finding) for finding in self.errors],
                           "warnings": [asdict(finding) for finding in self.warnings]}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each series that a finding is about is named."""
        lines = [self.root]
        for split, found in self.counts.items():
            (shortest, median, longest), channels = self.lengths[split], self.channels[split]
            whose = f", {self.subjects[split]} subjects" if split in self.subjects else ""
            lines.append(f"  {split:<10} {sum(found.values())} series in {len(found)} classes, "
                         f"{channels} channel{'s' if channels > 1 else ''}{whose}")
            lines.append(f"  {'':<10} lengths {shortest} .. {longest}, median {median}; "
                         + ", ".join(f"{count} of {printable(name) or 'no class'}" for name, count in found.items()))
        for finding in (*self.errors, *self.warnings):
            lines.append(f"  {'error' if finding.error else 'warning':<10} {finding.what}")
            lines.append(f"  {'':<12} {'example' if finding.count > 1 else 'where':<9} {finding.example}")
            lines.append(f"  {'':<12} {'fix':<9} {finding.fix}")
            lines += [f"  {'':<22} {path}" for path in finding.paths] if every else []
        return "\n".join(lines if self.findings else [*lines, "  nothing wrong was found"])

    def __str__(self) -> str:
        return self.text()


def holds_series(path: Path) -> bool:
    """Whether a path is that of series: a file of them, a folder with one, or FOLDER/NAME of NAME_TRAIN."""
    if path.is_file():
        return path.suffix.lower() in SERIES_SUFFIXES
    if path.is_dir():
        return any(one.suffix.lower() in SERIES_SUFFIXES and one.is_file() for one in path.iterdir())
    return bool(find_series_files(path, follow_symlinks=True))


def check_series(root: Path) -> SeriesReport:
    """Read every file of a set of series, and compare them with each other."""
    read: dict[str, SeriesFile] = {}
    findings: list[Finding] = []
    try:
        files = find_series_files(root)
    except UserError as error:
        files = {}
        findings.append(_stops(error))
    for split, path in sorted(files.items(), key=lambda item: ("all", *SPLITS).index(item[0])):
        try:
            read |= {split if name == "all" else name: part for name, part in read_series_file(path).items()}
        except UserError as error:
            findings.append(_stops(error))
    if read and not findings:
        try:
            found = joined(read)
            splits_of_series(found, DataSettings("series", str(root), unlabelled=True), Cut())
        except UserError as error:
            findings.append(_stops(error))
    findings += [*_unlabelled(read), *_absent(read), *_twice(read), *_still(read), *_shared(read)]
    lengths = {split: sorted(series.shape[1] for series in file.values) for split, file in read.items()}
    return SeriesReport(printable(root), {split: _counts(file) for split, file in read.items()},
                        {split: (own[0], own[len(own) // 2], own[-1]) for split, own in lengths.items()},
                        {split: file.channels for split, file in read.items()},
                        {split: len(set(file.subjects)) for split, file in read.items() if file.subjects is not None},
                        tuple(findings))


def _stops(error: UserError) -> Finding:
    more = f" ({error.found})" if error.found is not None else ""
    return Finding("security" if isinstance(error, SecurityError) else error.kind, error.what, 1,
                   (error.where or "") + more, error.fix or f"expected: {error.expected}", (error.where or "",), True)


def _counts(file: SeriesFile) -> dict[str, int]:
    names = sorted(set(file.labels)) if file.classes is None else [*file.classes, *{""} & set(file.labels)]
    return {name: file.labels.count(name) for name in names}


def _told(kind: str, what: str, those: Sequence[str], fix: str) -> list[Finding]:
    return [Finding(kind, what, len(those), those[0], fix, tuple(those))] if those else []


def _unlabelled(read: Mapping[str, SeriesFile]) -> list[Finding]:
    those = [f"{file.where}, {place}" for split, file in read.items() if split in ("all", "train")
             for place, label in zip(file.places, file.labels, strict=True) if not label]
    return _told("unlabelled", f"{len(those)} series without a label are left out", those,
                 "none, or unlabelled = true in [data] to train on them too")


def _absent(read: Mapping[str, SeriesFile]) -> list[Finding]:
    """Classes of which a split that judges has no series."""
    training = read.get("all", read.get("train"))
    found = []
    for split, file in read.items():
        lacking = sorted(set(training.labels if training else ()) - set(file.labels) - {""})
        if split not in ("all", "train"):
            found += _told("absent", f"{len(lacking)} classes have no series in {split}", lacking,
                           f"add series of them to {split}, which says nothing of them")
    return found


def _twice(read: Mapping[str, SeriesFile]) -> list[Finding]:
    """The same series in two splits, or under two classes."""
    places: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for split, file in read.items():
        for place, label, series in zip(file.places, file.labels, file.values, strict=True):
            content = np.ascontiguousarray(series, dtype=np.float64)
            places[hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()].append(
                (split, label, f"{file.where}, {place}"))
    leaks, unlike = ([" = ".join(one[2] for one in those) for those in places.values()
                      if len({one[fact] for one in those}) > 1] for fact in (0, 1))
    return [*_told("leakage", f"{len(leaks)} series are in two splits", leaks, "remove the copies from one of them"),
            *_told("leakage", f"{len(unlike)} series have two labels", unlike, "find out which is right")]


def _still(read: Mapping[str, SeriesFile]) -> list[Finding]:
    those = [f"{file.where}, channel {channel}" for file in read.values() for channel in range(file.channels)
             if len({series[channel].min() for series in file.values} | {series[channel].max()
                                                                         for series in file.values}) == 1]
    return _told("constant", f"{len(those)} channels never change", those, "none, or leave them out")


def _shared(read: Mapping[str, SeriesFile]) -> list[Finding]:
    found = []
    for split, file in read.items():
        for other, beside in read.items():
            both = sorted(set(file.subjects or ()) & set(beside.subjects or ()))
            if split < other:
                found += _told("subjects", f"{len(both)} subjects are in {split} and in {other}", both,
                               'by = "subject" needs one file, which it cuts')
    return found
