"""Text in columns."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], gap: str = "  ") -> str:
    """Cells in columns that are as wide as they must be, with `gap` between them.

    >>> print(table([["network", "top-1"], ["a", "91.2%"]]))
    network  top-1
    a        91.2%
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)
