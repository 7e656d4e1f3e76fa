"""How unlike two texts are, by the words in them. No torch in it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tutelage.data.decoding import printable
from tutelage.data.text_files import find_text_files, plain_lines
from tutelage.data.vocabulary import tokens_of
from tutelage.errors import DataError

SHOWN = 8
"""Words of which two texts differ most."""


@dataclass(frozen=True)
class CorpusDistance:
    """What is said of two texts.

    `divergence` is that of Jensen and Shannon between their words, in bits: 0 for the same shares of words, 1 where no
    word is in both. `overlap` is the share of the words of either, each counted once, that both have. `covered` says of
    each text how many of its words, each as often as it comes, the other has.
    """

    names: tuple[str, str]
    sentences: tuple[int, int]
    words: tuple[int, int]
    types: tuple[int, int]
    divergence: float
    overlap: float
    covered: tuple[float, float]
    unlike: tuple[str, ...]

    def as_json(self) -> str:
        """For a program."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        rows = [f"{printable(name)}: {count} sentences, {words} words, {types} of them unlike; the other has "
                f"{covered:.1%} of its words"
                for name, count, words, types, covered in zip(self.names, self.sentences, self.words, self.types,
                                                              self.covered, strict=True)]
        return "\n".join([*rows, "", f"Jensen-Shannon divergence  {self.divergence:.4f} bits (0: alike, 1: no word in "
                          "common)", f"overlap of words           {self.overlap:.1%}",
                          f"unlike most in             {', '.join(map(printable, self.unlike))}"])


def jensen_shannon(one: Sequence[float], other: Sequence[float]) -> float:
    """The Jensen-Shannon divergence of two distributions over the same things, in bits: in [0, 1].

    >>> jensen_shannon([0.5, 0.5, 0.0], [0.25, 0.25, 0.5])
    0.31127812445913283
    """
    return math.fsum(_parts(p, q) for p, q in zip(one, other, strict=True))


def type_overlap(one: Iterable[str], other: Iterable[str]) -> float:
    """The share of the words of either text that are in both, each counted once.

    >>> type_overlap(["a", "b", "b"], ["b", "c"])
    0.3333333333333333
    """
    first, second = {*one}, {*other}
    return len(first & second) / len(first | second) if first | second else 1.0


def distance_of_texts(one: Path, other: Path) -> CorpusDistance:
    """The distance of two files, or folders of files, of sentences; of a folder with splits its train is read."""
    (first, lines), (second, more) = _counted(one), _counted(other)
    totals = sum(first.values()), sum(second.values())
    words = sorted({*first, *second})
    shares = {word: (first[word] / totals[0], second[word] / totals[1]) for word in words}
    most = sorted(words, key=lambda word: (-_parts(*shares[word]), word))[:SHOWN]
    return CorpusDistance((str(one), str(other)), (lines, more), totals, (len(first), len(second)),
                          jensen_shannon(*(list(side) for side in zip(*shares.values(), strict=True))),
                          type_overlap(first, second), (_covered(first, second), _covered(second, first)), tuple(most))


def _parts(p: float, q: float) -> float:
    """What one word adds to the divergence, in bits."""
    mean = (p + q) / 2
    return sum(share * math.log2(share / mean) for share in (p, q) if share) / 2


def _covered(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    return sum(count for word, count in one.items() if word in other) / sum(one.values())


def _counted(place: Path) -> tuple[Counter[str], int]:
    files = find_text_files(place)
    if not files:
        raise DataError("no sentences here", where=printable(place), expected="a file, or a folder, of sentences")
    sentences = plain_lines(files["train"] if "train" in files else next(iter(files.values())))
    counts = Counter(token for one in sentences for word in one.words for token in tokens_of(word))
    if not counts:
        raise DataError("no word here", where=printable(place))
    return counts, len(sentences)
