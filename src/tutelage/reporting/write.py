"""The door: a report of folders, put where it is wanted, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import UsageError, unknown
from tutelage.reporting.build import make_document
from tutelage.reporting.html import as_html
from tutelage.reporting.markdown_csv_json import as_csv, document_as_json, document_as_markdown
from tutelage.system.files import write

WRITERS = {"html": as_html, "md": document_as_markdown, "csv": as_csv, "json": document_as_json}


def write_report(folders: Sequence[Path], to: Path, *, kind: str | None = None, force: bool = False) -> int:
    """Write a report of run folders and study folders to `to`; the number of its bytes.

    `kind` is html, md, csv or json: without one, what the name of `to` ends in, or else html. A file that is there
    is kept unless `force`. ModelError for a folder that is damaged, or is no run and no study.
    """
    by_name = to.suffix.removeprefix(".").lower()
    chosen = kind or (by_name if by_name in WRITERS else "html")
    if chosen not in WRITERS:
        raise unknown("format", chosen, WRITERS, where="--format")
    if not folders:
        raise UsageError("nothing to report on", expected="run folders or study folders")
    if to.is_dir() or (to.exists() and not force):
        raise UsageError("there is a folder of this name" if to.is_dir() else "this file is there already", where=to,
                         fix="choose another --to" + (", or --force to replace it" if to.is_file() else ""))
    data = WRITERS[chosen](make_document(folders)).encode("utf-8", "backslashreplace")
    to.parent.mkdir(parents=True, exist_ok=True)
    write(to, data)
    return len(data)
