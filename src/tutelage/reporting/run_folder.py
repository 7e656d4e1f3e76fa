"""Run folders read back: what was asked for and what the log says of it, each number checked for what it is.

Nothing is trained, no network is built and no data set is opened here. What is not as this package writes it is a
ModelError that names the file: a report never shows a number that is not in the log.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from tutelage.errors import ModelError
from tutelage.graph.graph_data import GRAPH_FILE, GraphData
from tutelage.reporting.graph_model import Diagram, diagram_of
from tutelage.runs.folder import finished, read_json, read_records, read_scores
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.scores import scores_in
from tutelage.tasks.task import Score
from tutelage.types import Scores

FORMAT = 1
"""The format of run folders, in their run.json."""


def _scores(value: object) -> object:
    return read_scores(value) if isinstance(value, dict) else value


Logged = Annotated[Scores, BeforeValidator(_scores)]
"""Scores as this version writes them, or as earlier ones did."""


class EpochRecord(TypedDict):
    """One line of the log; edges and nodes are keys."""

    epoch: int
    step: int
    losses: dict[str, float]
    metrics: Logged
    learning_rate: dict[str, float]
    seconds: float
    images_per_second: float
    controllers: NotRequired[dict[str, dict[str, dict[str, float]]]]


class Final(TypedDict):
    """The log's last line."""

    step: int
    metrics: Logged
    marks: NotRequired[dict[str, dict[str, str]]]


@dataclass(frozen=True)
class RunRecord:
    """A run folder as its records have it; `judged_by` are the scores of its task."""

    folder: Path
    config: str
    diagram: Diagram
    epochs: list[EpochRecord]
    final: Final | None
    versions: Mapping[str, Any]
    judged_by: tuple[Score, ...] = CLASSIFICATION.scores

    @property
    def scores(self) -> Mapping[str, Mapping[str, float]]:
        """The nodes' last scores on validation data: of the weights that were kept, or of the last epoch so far."""
        last = self.final or (self.epochs[-1] if self.epochs else None)
        return last["metrics"]["nodes"] if last else {}

    @property
    def marks(self) -> Mapping[str, str]:
        """Node -> why it is marked, by validation data: it is at chance, or says one class for nearly all images."""
        return {node: mark["text"] for node, mark in (self.final.get("marks", {}) if self.final else {}).items()}

    @property
    def seconds(self) -> float | None:
        """How long all its epochs took."""
        return sum(epoch["seconds"] for epoch in self.epochs) if self.epochs else None


def is_run(folder: Path) -> bool:
    """Whether a folder looks like one that `train` made."""
    return (folder / "run.json").is_file() or (folder / "records.jsonl").is_file()


def read_run(folder: Path) -> RunRecord:
    """A run folder, checked; finished or not."""
    for name in ("run.json", "config.toml"):
        if not (folder / name).is_file():
            raise ModelError("a damaged or foreign run folder", where=folder, found=f"no {name}",
                             expected="a folder that `tutelage train` wrote")
    if (found := read_json(folder / "run.json").get("format")) != FORMAT:
        raise ModelError("a run folder of another format", where=folder / "run.json", found=f"format {found}",
                         expected=f"format {FORMAT}", fix="make the report with the version that versions.json names")
    path = folder / "config.toml"
    try:
        config = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError("a damaged run folder", where=path, found=error) from None
    graph = folder / GRAPH_FILE
    diagram = diagram_of(config, path, read_checked(GraphData, graph) if graph.is_file() else None)
    epochs, final, judged_by = _read_log(folder)
    run = RunRecord(folder, config, diagram, epochs, final,
                    read_json(folder / "versions.json") if (folder / "versions.json").exists() else {}, judged_by)
    _check_names(run)
    return run


def checked(kind: Any, value: object, where: object) -> Any:
    """`value` if it is of this type, strictly; else a ModelError that says where it is not."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelError("not what this package writes", where=where,
                         found=f"{'.'.join(map(str, first['loc']))}: {str(first['input'])[:80]!r}",
                         expected=first["msg"]) from None


def read_checked(kind: Any, path: Path) -> Any:
    """A JSON file of this type; NaN and infinite numbers are numbers."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("a damaged file", where=path, found=f"{type(error).__name__}: {error}"[:200],
                         fix="make it again, or take it away") from None
    return checked(kind, value, path)


def _read_log(folder: Path) -> tuple[list[EpochRecord], Final | None, tuple[Score, ...]]:
    path = folder / "records.jsonl"
    try:
        records = read_records(folder)
    except (OSError, RecursionError) as error:
        raise ModelError("a damaged record", where=path, found=f"{type(error).__name__}: {error}") from None
    epochs, final, judged_by = [], None, CLASSIFICATION.scores
    for number, record in enumerate(records, 1):
        where = f"{path}, line {number}"
        event = checked(dict[str, Any], record, where).get("event")
        if event == "epoch":
            epochs.append(checked(EpochRecord, record, where))
        elif event == "finished":
            final = checked(Final, record, where)
        elif event in ("start", "resume"):
            judged_by = scores_in(record, where)
    numbers = [epoch["epoch"] for epoch in epochs]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ModelError("a damaged record", where=path, found=f"epochs {numbers[:12]}", expected="1, 2, 3, ...")
    done = finished(folder)
    if done is not None and (final is None or repr(_scores(done.get("metrics"))) != repr(final["metrics"])):
        raise ModelError("FINISHED does not say what the log says", where=folder,
                         fix="one of them was changed, or comes from another run")
    return epochs, final, judged_by


def _check_names(run: RunRecord) -> None:
    """Records and configuration must be of one run: the log names only edges that the graph has."""
    known = {link.name for link in run.diagram.links}
    for epoch in run.epochs:
        if odd := sorted(set(epoch["losses"]) - known):
            raise ModelError("the log is of another run than config.toml", where=run.folder / "records.jsonl",
                             found=f"losses of edges that the graph does not have: {', '.join(odd[:5])}")
