"""Tokenizers of Hugging Face from a local folder: its tokenizer.json, by the library `tokenizers`, and nothing else.

That file is data: it names what the library does, and holds no code. A folder that would run code of its own, or that
has pickles and no tokenizer.json, is refused. No torch in it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.data.decoding import open_regular, printable
from tutelage.errors import DataError, ModelError, SecurityError

KIND = "huggingface"
FILE = "tokenizer.json"
LARGEST = 2**28
HIDDEN = ("[MASK]", "<mask>")
"""What the mark for a hidden word is called."""
CODE_OF_ITS_OWN = "auto_map"
"""The key of a configuration that names Python of the folder."""


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer of a file; `text` is what it holds."""

    file: Path
    text: str

    @cached_property
    def library(self) -> Any:
        """The tokenizer, in its library; it neither pads nor cuts."""
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            raise ModelError("a tokenizer of Hugging Face needs tokenizers: pip install 'tutelage[text]'") from None
        try:
            made = Tokenizer.from_str(self.text)
        except Exception as problem:
            raise DataError("a tokenizer that cannot be read", where=printable(self.file),
                            found=str(problem)[:200], expected="a tokenizer.json of Hugging Face") from None
        made.no_padding()
        made.no_truncation()
        return made

    @property
    def size(self) -> int:
        """See `vocabulary.Vocabulary`."""
        return self.library.get_vocab_size(with_added_tokens=True)

    @property
    def hidden(self) -> int:
        """See `vocabulary.Vocabulary`."""
        found = [number for mark in HIDDEN if (number := self.library.token_to_id(mark)) is not None]
        if not found:
            raise DataError("a tokenizer without a mark for what is hidden", where=printable(self.file),
                            expected=" or ".join(HIDDEN), fix='take another for task = "words"')
        return found[0]

    @property
    def names(self) -> tuple[str, ...]:
        """See `vocabulary.Vocabulary`."""
        return tuple(self.library.id_to_token(number) or f"[{number}]" for number in range(self.size))

    def encode(self, words: Sequence[str]) -> tuple[list[int], list[int], list[bool]]:
        """See `vocabulary.Vocabulary`."""
        found = self.library.encode([*words], is_pretokenized=True)
        of, first = list(found.word_ids), dict[int, int]()
        for place, word in enumerate(of):
            if word is not None:
                first.setdefault(word, place)
        last, begins = 0, list[int]()
        for word in range(len(words)):  # a word of which nothing is left is asked about where it would stand
            last = first.get(word, last)
            begins.append(last)
        return list(found.ids), begins, [word is not None for word in of]

    def as_json(self) -> dict[str, Any]:
        """See `vocabulary.Vocabulary`: the file is named, and known by its SHA-256."""
        return {"kind": KIND, "file": str(self.file.resolve()), "sha256": sha256_of(self.text)}


def sha256_of(text: str) -> str:
    """Of a tokenizer's file."""
    return hashlib.sha256(text.encode()).hexdigest()


def open_tokenizer(place: Path) -> FolderTokenizer:
    """The tokenizer of a folder, or of a tokenizer.json; nothing is ever fetched.

    SecurityError for a folder with code of its own, or with pickles alone.
    """
    folder = place if place.is_dir() else place.parent
    file = place / FILE if place.is_dir() else place
    if not place.exists():
        raise DataError("there is no such tokenizer", where=printable(place), expected=f"a folder with {FILE}",
                        fix="download it yourself, and give its folder: nothing is fetched here")
    require_no_code(folder)
    if not file.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".pkl", ".pickle", ".bin", ".model"))
        if any(name.endswith((".pkl", ".pickle")) for name in pickles):
            raise SecurityError("refused: a pickled tokenizer can run code when it is read", where=printable(folder),
                                found=", ".join(pickles), expected=FILE)
        raise DataError(f"no {FILE} in this folder", where=printable(folder), found=", ".join(pickles) or "nothing",
                        expected=FILE, fix="save it with a fast tokenizer: tokenizer.save_pretrained(FOLDER)")
    return FolderTokenizer(file, _text(file))


def require_no_code(folder: Path) -> None:
    """Refuse a folder whose configuration asks to run Python that lies in it."""
    for name in ("tokenizer_config.json", "config.json"):
        if not (folder / name).is_file():
            continue
        try:
            told = json.loads(_text(folder / name))
        except ValueError as error:
            raise DataError("not JSON", where=printable(folder / name), found=str(error)[:200]) from None
        if isinstance(told, dict) and CODE_OF_ITS_OWN in told:
            raise SecurityError("refused: this folder asks to run Python of its own", where=printable(folder / name),
                                found=f"{CODE_OF_ITS_OWN} = {json.dumps(told[CODE_OF_ITS_OWN])[:100]}",
                                expected="a tokenizer, or a network, of the library itself")


def tokenizer_again(told: Mapping[str, Any], beside: Path | None) -> FolderTokenizer:
    """The tokenizer of `as_json`: `beside` first, then where it was; ModelError if it is gone, or another one."""
    places = [*([beside] if beside is not None else []), Path(str(told.get("file")))]
    for place in places:
        if place.is_file():
            found = FolderTokenizer(place, _text(place))
            if sha256_of(found.text) == told.get("sha256"):
                return found
    raise ModelError("the tokenizer of this network is gone, or is another one", where=printable(places[0]),
                     expected=f"a file with SHA-256 {told.get('sha256')}", fix="put it back")


def _text(file: Path) -> str:
    with open_regular(file) as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise SecurityError("a file that is too large", where=printable(file), expected=f"{LARGEST} bytes at most")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=printable(file), found=error.reason) from None
