"""JSON as somebody else wrote it: refused where it says a thing twice, holds no numbers, is too large or too deep."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.data.decoding import open_regular, printable
from tutelage.errors import DataError, SecurityError


def read_strict_json(path: Path, at_most: int, expected: str) -> Any:
    """What a file of at most so many bytes holds; `expected` says in an error what belongs there.

    DataError for a key twice in one object, for NaN and infinity, for too many levels, and for what is no JSON;
    SecurityError for a larger file.
    """
    try:
        with open_regular(path) as file:
            text = file.read(at_most + 1)
    except OSError as error:
        raise DataError("a file cannot be read", where=printable(path), found=error.strerror,
                        expected=expected) from None
    if len(text) > at_most:
        raise SecurityError("a JSON file that is too large to read", where=printable(path),
                            found=f"more than {at_most / 2**20:.0f} MiB",
                            fix="take out what is not needed, or make several sets of it")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} cannot be read", where=printable(path), found=error,
                        expected=expected) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} twice in one object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text}, which is no number")
