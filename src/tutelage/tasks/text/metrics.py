"""How well intents, slots and hidden words are known, as numbers of the whole set."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

Entity = tuple[int, int, str]
"""First word, the one after its last, and the name of the slot."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """The slots of a sentence by the tags of its words; an I- that continues nothing begins one.

    >>> entities(["B-artist", "I-artist", "O", "I-day", "B-day"])
    [(0, 2, 'artist'), (3, 4, 'day'), (4, 5, 'day')]
    """
    found, begin, name = list[Entity](), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        if name and tag != f"I-{name}":
            found.append((begin, place, name))
        if tag == "O":
            name = ""
        elif tag != f"I-{name}":
            begin, name = place, tag[2:]
    return found


def entity_f1(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """F1 of the slots in pairs of true and said tags: one is right if place, length and name are; NaN without any.

    >>> entity_f1([(["B-a", "I-a", "O", "B-b"], ["B-a", "I-a", "O", "B-c"])])
    0.5
    """
    hits = true = said = 0
    for wanted, given in pairs:
        own, theirs = {*entities(wanted)}, {*entities(given)}
        hits, true, said = hits + len(own & theirs), true + len(own), said + len(theirs)
    return 2 * hits / (true + said) if true + said else float("nan")


def said_right(said: Int[Tensor, "rows places"], true: Int[Tensor, "rows places"]) -> Tensor:
    """The share of each row's places that are right, [rows] float64; NaN where none counts (-1)."""
    counts = true >= 0
    share = ((said == true) & counts).sum(1).double() / counts.sum(1).clamp(min=1)
    return torch.where(counts.any(1), share, torch.nan)
