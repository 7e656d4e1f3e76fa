"""Everything that is wrong with a set of sentences, found by reading every file of it."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tutelage.data.check import Finding
from tutelage.data.decoding import printable
from tutelage.data.text_files import TEXT_SUFFIXES, TEXTS, Sentence, find_text_files, is_tagged, read_sentences
from tutelage.errors import SecurityError, UserError


@dataclass(frozen=True)
class TextReport:
    """What `check_text` found. Data with `errors` cannot be trained on; `warnings` deserve a look.

    `counts` is split -> label -> sentences, of tagged words slot -> how often it comes; `lengths` the words of its
    shortest, median and longest sentence.
    """

    root: str
    counts: dict[str, dict[str, int]]
    lengths: dict[str, tuple[int, int, int]]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops a run."""
        return tuple(finding for finding in self.findings if finding.error)

    def as_json(self) -> str:
        """The report for a program."""
        return json.dumps({"root": self.root, "counts": self.counts, "lengths": self.lengths,
                           "errors": [asdict(finding) for finding in self.errors],
                           "warnings": [asdict(one) for one in self.findings if not one.error]}, indent=1)

    def text(self, *, every: bool = False) -> str:
        """The report for a person; with `every`, each sentence that a finding is about is named."""
        lines = [self.root]
        for split, found in self.counts.items():
            shortest, median, longest = self.lengths[split]
            most = ", ".join(f"{count} of {printable(name) or 'no label'}" for name, count in list(found.items())[:10])
            lines.append(f"  {split:<10} {len(found)} labels: {most}{', ...' if len(found) > 10 else ''}; words "
                         f"{shortest} .. {longest}, median {median}")
        for finding in sorted(self.findings, key=lambda one: not one.error):
            lines += [f"  {'error' if finding.error else 'warning':<10} {finding.what}",
                      f"  {'':<12} {'where':<9} {finding.example}", f"  {'':<12} {'fix':<9} {finding.fix}"]
            lines += [f"  {'':<22} {path}" for path in finding.paths] if every else []
        return "\n".join(lines if self.findings else [*lines, "  nothing wrong was found"])

    def __str__(self) -> str:
        return self.text()


def holds_text(path: Path) -> bool:
    """Whether a path is that of sentences: a file of them, or a folder with one; of a CSV its first line tells."""
    if path.is_dir():
        return any(holds_text(one) for one in sorted(path.iterdir()) if one.is_file() and not one.name.startswith("."))
    if path.suffix.lower() != ".csv":
        return path.is_file() and path.suffix.lower() in (".jsonl", ".conll", ".bio")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return bool({*TEXTS} & {name.strip() for name in next(csv.reader(file), [])})
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def check_text(root: Path, *, tagged: bool | None = None, columns: Mapping[str, str] | None = None) -> TextReport:
    """Read every file of a set of sentences; `tagged`: those with tags of words, else as the files' names say."""
    files = find_text_files(root, tagged=bool(tagged))
    tagged = any(is_tagged(path) for path in files.values()) if tagged is None else tagged
    read: dict[str, tuple[Sentence, ...]] = {}
    findings: list[Finding] = []
    for split, path in files.items():
        try:
            read |= {split if name == "all" else name: part
                     for name, part in read_sentences(path, columns, tagged=tagged).items()}
        except UserError as error:
            findings.append(_stops(error))
    if not files:
        findings.append(Finding("data", "no sentences here", 1, printable(root), ", ".join(TEXT_SUFFIXES),
                                (printable(root),), True))
    counts = {split: dict(Counter(_names(part, tagged)).most_common()) for split, part in read.items()}
    taught = {*counts.get("all", {}), *counts.get("train", {})}
    strange = [one for split in ("val", "test") for one in read.get(split, ()) if {*_names([one], tagged)} - taught]
    findings += _told("absent", "sentences with a label that no training sentence has", strange,
                      "add sentences of it to train, or out_of_scope = \"LABEL\" in [data]", error=True)
    findings += _told("unlabelled", "sentences without a label", [one for part in read.values() for one in part
                                                                  if not tagged and one.label is None], (
        "none, or unlabelled = true in [data] to train on them too"))
    findings += _twice(read)
    lengths = {split: sorted(len(one.words) for one in part) for split, part in read.items() if part}
    return TextReport(printable(root), counts, {split: (own[0], own[len(own) // 2], own[-1])
                                                for split, own in lengths.items()}, tuple(findings))


def _names(part: Sequence[Sentence], tagged: bool) -> list[str]:
    if tagged:
        return [tag[2:] for one in part for tag in one.tags or () if tag.startswith("B-")]
    return [one.label for one in part if one.label is not None]


def _stops(error: UserError) -> Finding:
    more = f" ({error.found})" if error.found is not None else ""
    return Finding("security" if isinstance(error, SecurityError) else error.kind, error.what, 1,
                   (error.where or "") + more, error.fix or f"expected: {error.expected}", (error.where or "",), True)


def _told(kind: str, what: str, those: Sequence[Sentence], fix: str, *, error: bool = False) -> list[Finding]:
    places = tuple(one.where for one in those)
    return [Finding(kind, f"{len(those)} {what}", len(those), places[0], fix, places, error)] if those else []


def _twice(read: Mapping[str, tuple[Sentence, ...]]) -> list[Finding]:
    """The same words in two splits, or under two labels."""
    seen: dict[tuple[str, ...], list[tuple[str, Sentence]]] = defaultdict(list)
    for split, part in read.items():
        for one in part:
            seen[tuple(word.casefold() for word in one.words)].append((split, one))
    shared = [those[0][1] for those in seen.values() if len({split for split, _ in those}) > 1]
    unlike = [those[0][1] for those in seen.values() if len({one.label for _, one in those}) > 1]
    return [*_told("leakage", "sentences are in two splits", shared, "take them out of one"),
            *_told("two labels", "sentences have two labels", unlike, "give them one")]
