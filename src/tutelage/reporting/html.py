"""A report as one HTML page that needs nothing else: no network, no other file, and no script to be read.

Safe by four walls: Jinja2 escapes every text; the charts' data stand in a block that is not run, with `<` escaped; the
charts' texts are escaped for plotly; and a content security policy lets only the two scripts run whose hashes it
names, and lets nothing be fetched. (plotly sets styles as it draws, so they are not bound to hashes.)
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tutelage.reporting.document import (
    Card,
    Cards,
    Chart,
    Document,
    DocumentTable,
    Drawing,
    Gallery,
    Item,
    Picture,
    Section,
    Text,
)
from tutelage.reporting.formatting import shown_text, written

PICTURES = 5_000_000
"""Bytes of images that a page takes in, as they are in files."""
MOST_CELLS = 60_000
"""Cells of all folded tables of a page together; a table that has no room left says where its numbers are."""


def as_html(document: Document) -> str:
    """The page."""
    environment = Environment(loader=PackageLoader("tutelage.reporting", "page"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"shown": shown_text, "cell": _cell, "lined": _lined, "picture": _picture}
    environment.tests |= {kind.__name__.lower().removeprefix("document"): lambda item, kind=kind: isinstance(item, kind)
                          for kind in (DocumentTable, Chart, Drawing, Gallery, Cards, Text)}
    script, plotly = _resource("page.js"), get_plotlyjs()
    assert "</script" not in script.lower()
    assert "</script" not in plotly.lower()
    figures = [item.figure for item in _items(document.sections) if isinstance(item, Chart)]
    policy = (f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; style-src 'unsafe-inline'; "
              "img-src data:; base-uri 'none'; form-action 'none'")
    return environment.get_template("page.html").render(
        document=document, sections=_numbered(document.sections), policy=policy, style=Markup(_resource("page.css")),
        script=Markup(script), plotly=Markup(plotly), data=Markup(data_block(figures)), room=_Room())


def data_block(figures: Sequence[Any]) -> str:
    r"""JSON that no HTML parser can leave: `<`, `>` and `&` are written as \u escapes, and all that is not ASCII too.

    >>> print(data_block(["</script>", float("nan")]))
    ["\u003c/script\u003e", null]
    """
    text = json.dumps(_finite(figures), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Room:
    """What is left of the page's size; asked in the order in which the page is written."""

    def __init__(self) -> None:
        self.cells, self.bytes, self.charts = MOST_CELLS, PICTURES, -1

    def rows(self, table: DocumentTable) -> list[Sequence[Any]]:
        """The rows of a table that are shown; of a folded one, as many as there is room for."""
        rows = [table.rows[i] for i in table.brief] if table.brief is not None else list(table.rows)
        if table.folded:
            rows = rows[: max(0, self.cells // max(1, len(table.columns)))]
            self.cells -= len(rows) * len(table.columns)
        return rows

    def take(self, picture: Picture) -> bool:
        """Whether an image is there and fits in."""
        self.bytes -= len(picture.png)
        return bool(picture.png) and self.bytes >= 0

    def chart(self) -> int:
        """The number of the next chart."""
        self.charts += 1
        return self.charts


def _numbered(sections: Sequence[Section]) -> list[tuple[str, Section, list[tuple[str, Section]]]]:
    """Sections with anchors that no name can spoil."""
    return [(f"s{i}", section, [(f"s{i}-{j}", part) for j, part in enumerate(section.parts, 1)])
            for i, section in enumerate(sections, 1)]


def _items(sections: Sequence[Section]) -> Iterator[Item]:
    """Every item in the order in which the page shows it."""
    for section in sections:
        yield from section.items
        yield from _items(section.parts)


def _cell(value: Any, kind: str) -> Markup:
    """A cell's content: numbers also exactly, for programs, as <data value>."""
    if kind == "sparkline":
        return _sparkline(value)
    if isinstance(value, int | float):
        return Markup('<data value="{}">{}</data>').format(repr(value), written(value, kind))
    return Markup("{}").format(written(value, kind))


def _sparkline(values: Sequence[float | None]) -> Markup:
    """Shares over time as a line of 88 x 22 units."""
    there = [(i, value) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
    if len(there) < 2:
        return Markup("–")
    points = " ".join(f"{2 + 84 * i / (len(values) - 1):.1f},{20 - 18 * value:.1f}" for i, value in there)
    return Markup('<svg class="spark" viewBox="0 0 88 22" width="88" height="22" aria-hidden="true">'
                  '<path d="M0 20.5H88"/><polyline points="{}"/></svg>').format(points)


def _lined(card: Card) -> str:
    """The class of a card's colour."""
    return f"c-{card.colour.removeprefix('@')}"


def _picture(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _resource(name: str) -> str:
    return resources.files("tutelage.reporting").joinpath("page", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple | range) else value
