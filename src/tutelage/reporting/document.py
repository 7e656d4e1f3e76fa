"""What a report consists of, whatever it is written as: sections of tables, charts, drawings, pictures and text.

Texts in here are as the records have them, hostile ones included; each writer escapes them in its own way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None
"""What a table holds: the number itself, never its rounded text. None is "there is none"."""

KINDS = ("text", "share", "number", "integer", "points", "seconds", "milliseconds", "bytes", "sparkline")
"""How the numbers of a column are written for a person. A share lies in [0, 1]; points are a difference of shares."""


@dataclass(frozen=True)
class Column:
    """A column's name and the kind of its numbers."""

    name: str
    kind: str = "text"

    def __post_init__(self) -> None:
        assert self.kind in KINDS


@dataclass(frozen=True)
class DocumentTable:
    """Rows of cells. A page for a person shows the rows `brief` where they are many; data formats have all."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | Sequence[float | None]]]
    note: str = ""
    brief: Sequence[int] | None = None
    folded: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title


@dataclass(frozen=True)
class Chart:
    """A figure for plotly, and in words what it shows. Its numbers stand in a table of the same section."""

    title: str
    figure: Mapping[str, Any]
    about: str
    tall: bool = False
    square: bool = False


@dataclass(frozen=True)
class Drawing:
    """An inline SVG made here, once more for narrow screens, and in words what it shows."""

    title: str
    svg: str
    narrow: str
    about: str


@dataclass(frozen=True)
class Picture:
    """One image as the bytes of a PNG (empty if it is not there), and what is said of it."""

    png: bytes
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Images side by side; `large` ones show more than what they are of."""

    title: str
    pictures: Sequence[Picture]
    large: bool = False


@dataclass(frozen=True)
class Card:
    """One number that matters, large."""

    title: str
    value: float | None
    kind: str
    lines: Sequence[str]
    colour: str


@dataclass(frozen=True)
class Cards:
    """The first thing seen."""

    title: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` is what to type or what stood in a file, word for word."""

    text: str
    code: str = ""
    title: str = ""


Item = DocumentTable | Chart | Drawing | Gallery | Cards | Text


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; folded away at first where there are many of its kind."""

    title: str
    items: Sequence[Item] = ()
    parts: Sequence["Section"] = ()
    folded: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing at all stands under the heading."""
        return not self.items and all(part.empty for part in self.parts)


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=list)


def spread_out(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, evenly spaced, the first and the last among them.

    >>> spread_out(100, 4), spread_out(3, 5), spread_out(9, 1)
    ([0, 33, 66, 99], [0, 1, 2], [8])
    """
    if count <= most:
        return list(range(count))
    return [count - 1] if most == 1 else sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
