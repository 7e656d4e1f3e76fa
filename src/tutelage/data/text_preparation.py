"""How a line of text becomes what a network is given: what travels with it. No torch in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.hf_tokenizer import KIND as OF_OTHERS
from tutelage.data.hf_tokenizer import FolderTokenizer, open_tokenizer, tokenizer_again
from tutelage.data.vocabulary import KIND as OWN
from tutelage.data.vocabulary import Vocabulary, vocabulary_of
from tutelage.errors import DataError, ModelError

TEXT = "text"
Coder = Vocabulary | FolderTokenizer
"""What makes numbers of words: our own vocabulary, or a tokenizer of others."""


@dataclass(frozen=True)
class TextPreparation:
    """For which task, of how many pieces at most, and by which tokenizer; `others` are those of other networks."""

    task: str
    length: int
    coder: Coder
    others: Mapping[str, Coder] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As `text_preparation` reads it."""
        others = {"others": {name: one.as_json() for name, one in self.others.items()}} if self.others else {}
        return {"kind": TEXT, "task": self.task, "length": self.length, "tokenizer": self.coder.as_json(), **others}

    def of(self, name: str) -> "TextPreparation":
        """That of a network with the tokenizer of this name, "" being the main one."""
        return TextPreparation(self.task, self.length, self.others[name]) if name else self

    def inputs(self, sentences: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Sentences as words -> "tokens" [B, L] and, of slots, "places" [B, W]; DataError for one that is too long."""
        found = [self.coder.encode(words) for words in sentences]
        longest = max(len(pieces) for pieces, _, _ in found)
        if longest > self.length:
            raise DataError("a sentence that is too long", found=f"{longest} pieces", expected=f"{self.length} at most")
        made = {"tokens": _padded([pieces for pieces, _, _ in found], -1)}
        if self.task == "slots":
            made["places"] = _padded([begins for _, begins, _ in found], 0)
        return made


def text_preparation(told: Mapping[str, Any], beside: Path | None = None) -> TextPreparation:
    """What `TextPreparation.as_json` gave; a tokenizer of others is looked for `beside` a file, then where it was."""
    coders = {name: _coder(of, beside) for name, of in {"": told["tokenizer"], **told.get("others", {})}.items()}
    return TextPreparation(str(told["task"]), int(told["length"]), coders[""],
                           {name: one for name, one in coders.items() if name})


def coder_of(place: str, homes: Sequence[Path]) -> Coder:
    """The tokenizer of a folder, looked for in `homes`."""
    given = next((home / place for home in homes if (home / place).exists()), homes[0] / place)
    return open_tokenizer(given)


def pieces_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two preparations cut words into the same pieces, with the same numbers."""
    first, second = ({key: value for key, value in of["tokenizer"].items() if key != "file"} for of in (one, other))
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _coder(told: Mapping[str, Any], beside: Path | None) -> Coder:
    if told.get("kind") == OWN:
        return vocabulary_of(told)
    if told.get("kind") == OF_OTHERS:
        return tokenizer_again(told, beside)
    raise ModelError("a tokenizer of a kind that is not known here", found=told.get("kind"), expected=OWN)


def _padded(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    longest = max(1, *(len(row) for row in rows))
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows], np.int64)
