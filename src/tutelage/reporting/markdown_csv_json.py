"""A report as Markdown, CSV or JSON: the same numbers, all rows, no charts."""

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.reporting.document import Cards, Cell, Column, Document, DocumentTable, Section, Text
from tutelage.reporting.formatting import shown_text, written

_MARKS = re.compile(r"([\\`*_\[\]|#!~])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With what a cell begins that a spreadsheet would take for a formula."""


def document_as_markdown(document: Document) -> str:
    """Headings and tables; every name is escaped, so that none becomes a link, an image or HTML."""
    lines = [f"# {_marked(document.title)}", "", _marked(document.subtitle), ""]
    for depth, section in _walk(document.sections):
        lines += [f"{'#' * (depth + 2)} {_marked(section.title)}", ""]
        for item in section.items:
            if isinstance(item, Text):
                lines += [_marked(part) for part in (item.title, item.text) if part]
                lines += ["", *(f"    {shown_text(line, 4000) if line else ''}" for line in item.code.splitlines()), ""]
            elif (table := _as_table(item)) is not None:
                note = [_marked(table.note), ""] if table.note else []
                lines += [f"**{_marked(table.title)}**", "", *_rows(table), "", *note]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(document: Document) -> str:
    """One number or word a line: section, table, row, column, value. Texts that look like formulas get a `'`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("section", "part", "table", "row", "column", "value"))
    for section, part, table in _tables(document.sections):
        for number, row in enumerate(table.rows, 1):
            for column, cell in zip(table.columns, row, strict=True):
                if column.kind != "sparkline" and cell is not None:
                    names = (_safe(text) if text else "" for text in (section, part, table.title))
                    value = _safe(cell) if isinstance(cell, str) else repr(cell)
                    writer.writerow((*names, number, _safe(column.name), value))
    return out.getvalue()


def document_as_json(document: Document) -> str:
    """The tables with their raw numbers; a number that is not finite is the word that Python has for it."""
    tables = [{"section": section, "part": part, "table": table.title, "columns": [c.name for c in table.columns],
               "rows": [[_raw(cell) for cell in row] for row in table.rows]}
              for section, part, table in _tables(document.sections)]
    texts = [{"section": section.title, "title": item.title, "text": item.text, "code": item.code}
             for _, section in _walk(document.sections) for item in section.items if isinstance(item, Text)]
    whole = {"title": document.title, "subtitle": document.subtitle, "tables": tables, "texts": texts}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def _walk(sections: Sequence[Section], depth: int = 0) -> Iterator[tuple[int, Section]]:
    for section in sections:
        yield depth, section
        yield from _walk(section.parts, depth + 1)


def _tables(sections: Sequence[Section], above: str = "") -> Iterator[tuple[str, str, DocumentTable]]:
    for section in sections:
        for item in section.items:
            if (table := _as_table(item)) is not None:
                yield above or section.title, section.title if above else "", table
        yield from _tables(section.parts, section.title)


def _as_table(item: object) -> DocumentTable | None:
    if isinstance(item, Cards):
        columns = (Column("network"), Column("value", item.cards[0].kind if item.cards else "text"), Column("about"))
        return DocumentTable(item.title, columns,
                             [(card.title, card.value, "; ".join(card.lines)) for card in item.cards])
    return item if isinstance(item, DocumentTable) else None


def _rows(table: DocumentTable) -> list[str]:
    kept = [i for i, column in enumerate(table.columns) if column.kind != "sparkline"]
    heads = [_marked(table.columns[i].name) for i in kept]
    lines = [heads, ["---" if table.columns[i].kind == "text" else "---:" for i in kept]]
    lines += [[_marked(written(row[i], table.columns[i].kind)) for i in kept] for row in table.rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _marked(text: str) -> str:
    return _MARKS.sub(r"\\\1", html.escape(shown_text(text, 1000), quote=False))


def _safe(text: str) -> str:
    seen = shown_text(text, 1000)
    return f"'{seen}" if seen.startswith(_FORMULA) or text.startswith(_FORMULA) else seen


def _raw(cell: Cell | Sequence[float | None]) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return repr(cell)
    return cell if cell is None or isinstance(cell, str | int | float) else [_raw(value) for value in cell]
