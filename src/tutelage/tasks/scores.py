"""The scores of a task as records hold them, so that whoever reads a run folder needs no code of its task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tutelage.errors import ModelError
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Score, Task

_SCORES = TypeAdapter(tuple[Score, ...])


def scores_json(task: Task) -> dict[str, Any]:
    """What a run, an evaluation and a study say of their task: "task", its name, and "scores", each as a dict."""
    return {"task": task.name, "scores": [asdict(score) for score in task.scores]}


def scores_in(record: Mapping[str, Any], where: object = "scores") -> tuple[Score, ...]:
    """The scores that a record names, at least one; those of classification where it names none, as old ones do.

    Raises ModelError for what is no list of scores, or names one twice.

    >>> scores_in({})[0].title, scores_in({"scores": [{"key": "dice", "title": "Dice"}]})[0].text(0.5)
    ('top-1', '50.00%')
    """
    if "scores" not in record:
        return CLASSIFICATION.scores
    try:
        scores = _SCORES.validate_python(record["scores"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelError("not what this package writes", where=where,
                         found=f"scores.{'.'.join(map(str, first['loc']))}: {str(first['input'])[:80]!r}",
                         expected=first["msg"]) from None
    if not scores or len({score.key for score in scores}) < len(scores):
        raise ModelError("not what this package writes", where=where, found=f"scores: {len(scores)} of them",
                         expected="one or more scores, no two of one key")
    return scores


def main_scores(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Those that short tables and studies show, the first of all in front."""
    return tuple(score for i, score in enumerate(scores) if score.main or i == 0)


def number_of(scores: Mapping[str, Any], score: Score) -> float:
    """One of a node's scores as they were read back; NaN where it is not defined, or not there."""
    value = scores.get(score.key)
    return float("nan") if value is None else float(value)
