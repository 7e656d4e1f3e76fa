"""How numbers and foreign names are written for a person."""

import math
import unicodedata
from collections.abc import Sequence

from tutelage.reporting.document import Cell
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Score

LONGEST = 120
"""Characters of a name that are shown; the middle of a longer one is left out."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's kinds of characters that cannot be seen, or that turn what stands beside them around."""
JOINERS = "\u200d\ufe0f"
"""Invisible too, but emoji are made with them."""


def shown_text(text: str, longest: int = LONGEST) -> str:
    r"""A name of unknown origin as something that can be seen and has an end.

    >>> shown_text("a\nb\u202ec"), shown_text(""), shown_text("x" * 200, 9)
    ('a\\nb\\u202ec', '(empty)', 'xxxx…xxxx')
    """
    text = text if len(text) <= longest else text[: longest // 2] + "…" + text[-(longest // 2) :]
    seen = "".join(c if unicodedata.category(c) not in HIDDEN or c in JOINERS
                   else c.encode("unicode_escape").decode("ascii") for c in text)
    return seen if seen.strip() else "(empty)" if not seen else f"({len(seen)} spaces)"


def written(cell: Cell | Sequence[float | None], kind: str) -> str:
    """A cell as a person reads it.

    >>> [written(0.98765, "share"), written(0.00312, "points"), written(2048, "bytes"), written(None, "number")]
    ['98.77 %', '+0.31', '2.05 kB', '–']
    >>> [written(float("nan"), "share"), written(1234567, "integer"), written(3.14159, "number")]
    ['not a number', '1,234,567', '3.142']
    """
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return shown_text(cell)
    if not isinstance(cell, int | float):
        return " ".join(written(value, "number") for value in cell)
    if math.isnan(cell):
        return "not a number"
    if math.isinf(cell):
        return "infinite" if cell > 0 else "minus infinite"
    return _number(cell, kind)


def score_words(score: Score, *, begins: bool = True) -> str:
    """What a score is called in a sentence or a heading, where it `begins` and where not.

    >>> score_words(Score("top1", "top-1")), score_words(Score("top1", "top-1"), begins=False)
    ('Accuracy', 'accuracy')
    >>> score_words(Score("error", "mean error", "number", "lower"))
    'Mean error'
    >>> score_words(Score("map", "mAP"))
    'mAP'
    """
    words = "accuracy" if score == CLASSIFICATION.scores[0] else score.title
    return words[:1].upper() + words[1:] if begins and not words[1:2].isupper() else words


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1) of what is there; no deviation of fewer than two, or of what is not finite.

    >>> spread([1.0, 3.0]), spread([2.0, None]), spread([])
    ((2.0, 1.4142135623730951), (2.0, None), (None, None))
    """
    there = [value for value in values if value is not None]
    if not there:
        return None, None
    mean = sum(there) / len(there)  # not math.fsum: it stops at an infinite number, which a record may hold
    if len(there) == 1:
        return mean, None
    variance = sum((value - mean) * (value - mean) for value in there) / (len(there) - 1)
    return mean, math.sqrt(variance) if math.isfinite(variance) else None


def _number(value: float, kind: str) -> str:
    if kind == "share":
        return f"{value * 100:.2f} %"
    if kind == "points":
        return f"{value * 100:+.2f}"
    if kind == "integer" or (kind == "number" and isinstance(value, int)):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1 else f"{value:g}"
    if kind == "seconds":
        return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"
    if kind == "milliseconds":
        return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
    if kind == "bytes":
        for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:g} bytes"
    return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3e}"
