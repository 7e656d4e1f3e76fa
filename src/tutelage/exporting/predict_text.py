"""What a student says of lines of text: the intent of each sentence, or the slots of its words. No torch in it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tutelage.data.decoding import printable
from tutelage.data.text_files import TEXT_SUFFIXES, lines_of_text
from tutelage.errors import DataError, ModelError, UserError
from tutelage.exporting.predict import Damaged, TextReader, softmax

AT_ONCE = 32


@dataclass(frozen=True)
class TextPrediction:
    """The likeliest intent of a line with its probability, and whether that is below what was asked for."""

    file: Path
    line: int
    text: str
    label: str
    probability: float
    below: bool

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "line": self.line, "text": self.text, "label": self.label,
                           "probability": self.probability, "below": self.below})

    def __str__(self) -> str:
        note = "  below the confidence asked for: perhaps out of scope" if self.below else ""
        return f"{self.line}  {printable(self.label)}  {self.probability:.1%}  {printable(self.text)}{note}"


@dataclass(frozen=True)
class SlotPrediction:
    """The tag of each word of a line with its probability."""

    file: Path
    line: int
    words: tuple[str, ...]
    tags: tuple[str, ...]
    probabilities: tuple[float, ...]

    def as_json(self) -> str:
        """One line for a program."""
        return json.dumps({"file": printable(self.file), "line": self.line, "tokens": self.words, "tags": self.tags,
                           "probabilities": self.probabilities})

    def __str__(self) -> str:
        said = " ".join(word if tag == "O" else f"[{word} {tag}]" for word, tag in zip(self.words, self.tags,
                                                                                      strict=True))
        return f"{self.line}  {printable(said)}"


def files_of_text(place: Path) -> list[Path]:
    """The file itself, or all .txt files of a folder in the order of their names."""
    found = sorted(place.glob("*.txt")) if place.is_dir() else [place]
    if not place.exists() or not found:
        raise DataError("no such file or folder" if not place.exists() else "there is no text in this folder",
                        where=printable(place), expected="a .txt file with a sentence a line, or a folder of them")
    if not place.is_dir() and place.suffix.lower() not in TEXT_SUFFIXES:
        raise DataError("not a file of text", where=printable(place), expected=", ".join(TEXT_SUFFIXES))
    return found


def read_lines(paths: Sequence[Path], student: TextReader,
               confidence: float) -> Iterator[TextPrediction | SlotPrediction | Damaged]:
    """Of each line of each file, in order, what the student says; one that cannot be read stops nothing."""
    if student.prepared.task == "words":
        raise ModelError("this network guesses hidden words, and says nothing of a line", expected="intents or slots",
                         fix="fine-tune it first: docs/text.md")
    for path in paths:
        try:
            lines = iter(list(lines_of_text(path)))
        except UserError as error:
            yield Damaged(path, error)
            continue
        while part := list(islice(lines, AT_ONCE)):
            wrong = {number: error for number, words in part if (error := _wrong(path, number, words, student))}
            right = [(number, words) for number, words in part if number not in wrong]
            said = iter(_said(path, right, student, confidence) if right else ())
            for number, _ in part:
                yield Damaged(path, wrong[number]) if number in wrong else next(said)


def _wrong(path: Path, number: int, words: tuple[str, ...], student: TextReader) -> UserError | None:
    where = f"{printable(path)}, line {number}"
    if not words:
        return DataError("an empty line", where=where, found=f"line {number}", expected="a sentence")
    pieces = len(student.prepared.coder.encode(words)[0])
    if pieces > student.prepared.length:
        return DataError("a sentence that is too long", where=where, found=f"line {number}: {pieces} pieces",
                         expected=f"{student.prepared.length} at most")
    return None


def _said(path: Path, lines: Sequence[tuple[int, tuple[str, ...]]], student: TextReader,
          confidence: float) -> Iterator[TextPrediction | SlotPrediction]:
    logits = student.logits(student.prepared.inputs([words for _, words in lines]))
    for (number, words), row in zip(lines, logits, strict=True):
        if student.prepared.task == "slots":
            odds = softmax(row[:len(words)])
            best = odds.argmax(1)
            yield SlotPrediction(path, number, words, tuple(student.classes[tag] for tag in best),
                                 tuple(float(odds[place, tag]) for place, tag in enumerate(best)))
            continue
        odds = softmax(row[None])[0]
        best = int(odds.argmax())
        yield TextPrediction(path, number, " ".join(words), student.classes[best], float(odds[best]),
                             bool(odds[best] < confidence))
