"""Pieces of words as numbers: a small vocabulary of our own, made of the training sentences alone. No torch in it.

A vocabulary holds the marks for padding, for what it does not know and for what is hidden, every character that was
seen (at the beginning of a word, and after it as "##c"), frequent words, and frequent parts of the other words. A word
becomes the longest pieces that there are, from its beginning on.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tutelage.errors import DataError, UsageError

PADDING, UNKNOWN, HIDDEN = "[PAD]", "[UNK]", "[MASK]"
MARKS = (PADDING, UNKNOWN, HIDDEN)
KIND = "pieces"
LONGEST_WORD = 100
"""Characters of a word that are looked at."""
SHARE_OF_PARTS = 0.25
"""Of the pieces that are no characters: so many are parts of words."""
PARTS = (2, 3, 4)
"""Characters of a part."""
_TOKENS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by their numbers, the marks first."""

    pieces: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many pieces there are."""
        return len(self.pieces)

    @property
    def hidden(self) -> int:
        """The number of the mark for what is hidden."""
        return MARKS.index(HIDDEN)

    @property
    def names(self) -> tuple[str, ...]:
        """The pieces by their numbers, each once."""
        return self.pieces

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Piece -> its number."""
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        """Words that were asked for, so that each is cut once."""
        return {}

    def encode(self, words: Sequence[str]) -> tuple[list[int], list[int], list[bool]]:
        """Numbers of the pieces, the place of the first piece of each word, and which pieces are of words."""
        found, first = list[int](), list[int]()
        for word in words:
            first.append(len(found))
            if word not in self._known:
                own = [number for token in tokens_of(word) for number in self._pieces(token)]
                self._known[word] = own or [MARKS.index(UNKNOWN)]
            found += self._known[word]
        return found, first, [True] * len(found)

    def as_json(self) -> dict[str, Any]:
        """What makes it again."""
        return {"kind": KIND, "pieces": list(self.pieces)}

    def _pieces(self, token: str) -> Iterator[int]:
        begin, mark = 0, ""
        while begin < len(token):
            for end in range(len(token), begin, -1):
                number = self.numbers.get(mark + token[begin:end])
                if number is not None:
                    break
            else:
                number, end = MARKS.index(UNKNOWN), begin + 1
            yield number
            begin, mark = end, "##"


def tokens_of(word: str) -> list[str]:
    """The letters and digits of a word, and each other character alone; small letters, in one form of Unicode.

    >>> tokens_of("Pre-Party!")
    ['pre', '-', 'party', '!']
    """
    return [token[:LONGEST_WORD] for token in _TOKENS.findall(unicodedata.normalize("NFKC", word).casefold())]


def build_vocabulary(sentences: Iterable[Sequence[str]], size: int) -> Vocabulary:
    """The vocabulary of these sentences, each its words, of at most `size` pieces; the same whatever their order is.

    >>> build_vocabulary([["to", "do"], ["to"]], 9).pieces
    ('[PAD]', '[UNK]', '[MASK]', '##o', 'd', 'o', 't', 'to', 'do')
    """
    counts = Counter(token for words in sentences for word in words for token in tokens_of(word))
    if not counts:
        raise DataError("no word to make a vocabulary of", where="training data")
    letters = {*(letter for word in counts for letter in word), *(f"##{letter}" for word in counts
                                                                  for letter in word[1:])}
    room = size - len(MARKS) - len(letters)
    if room < 1:
        raise UsageError("a vocabulary that is too small for its characters", where="[data] vocabulary", found=size,
                         expected=f"more than {len(MARKS) + len(letters)}")
    by_count = [word for word, _ in _most(counts) if len(word) > 1]
    words = by_count[:max(1, round(room * (1 - SHARE_OF_PARTS)))]
    parts = Counter[str]()
    for word in by_count[len(words):]:
        for length in PARTS:
            for begin in range(len(word) - length + 1):
                parts[("##" if begin else "") + word[begin:begin + length]] += counts[word]
    known = {*words}
    chosen = [part for part, _ in _most(parts) if part not in known][:room - len(words)]
    return Vocabulary((*MARKS, *sorted(letters), *words, *chosen))


def vocabulary_of(told: Mapping[str, Any]) -> Vocabulary:
    """What `Vocabulary.as_json` gave."""
    pieces = told.get("pieces")
    if not isinstance(pieces, list) or tuple(pieces[:len(MARKS)]) != MARKS or len(set(pieces)) < len(pieces) or not all(
            isinstance(piece, str) for piece in pieces):
        raise DataError("a vocabulary that cannot be used", found=str(pieces)[:100],
                        expected=f"a list of pieces, each once, that begins with {', '.join(MARKS)}")
    return Vocabulary(tuple(pieces))


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
