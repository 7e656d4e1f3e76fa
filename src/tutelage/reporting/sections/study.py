"""The part of a report on a study: methods over seeds, each against the baseline, as `tutelage compare` found it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tutelage.errors import ModelError
from tutelage.reporting import charts
from tutelage.reporting.charts import Point
from tutelage.reporting.document import Cell, Column, DocumentTable, Item, Section, Text
from tutelage.reporting.formatting import score_words
from tutelage.reporting.groups import Group, Member, member_of
from tutelage.reporting.run_folder import is_run, read_checked, read_run
from tutelage.reporting.sections.evaluation import less_is_better
from tutelage.studies.statistics import comparison_of
from tutelage.tasks.scores import scores_in
from tutelage.tasks.task import Score

FILE = "results.json"


class Difference(TypedDict):
    """Of a method to the baseline, paired by seed, with a 95 % confidence interval."""

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    wilcoxon_p: float | None
    n: int
    says: str


class StudyRow(TypedDict):
    """One metric of one network of one method, over seeds."""

    method: str
    node: str
    metric: str
    n: int
    values: list[float | None]
    mean: float | None
    sd: float | None
    difference: Difference | None


class StudyTrial(TypedDict):
    """One run of a study."""

    method: str
    recipe: NotRequired[str]
    seed: int
    run: str
    status: str
    seconds: NotRequired[float | None]


class Lines(TypedDict):
    """A table of the study's own, as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


class StudyMark(TypedDict):
    """A network that does not tell the classes apart, and why that is said."""

    method: str
    seed: int
    node: str
    text: str


class Results(TypedDict):
    """A study's results.json."""

    on: str
    seeds: list[int]
    baseline: str | None
    rows: list[StudyRow]
    cells: list[StudyTrial]
    methods: NotRequired[Any]
    nodes: NotRequired[Any]
    mcnemar: NotRequired[list[dict[str, Any]]]
    tables: NotRequired[dict[str, Lines]]
    notes: NotRequired[list[str]]
    marks: NotRequired[list[StudyMark]]
    machine: NotRequired[Any]
    versions: NotRequired[dict[str, Any]]
    command: NotRequired[Any]
    task: NotRequired[str]
    scores: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class StudyRecord:
    """A study folder: what it found, its runs by method, and the scores of its task."""

    folder: Path
    results: Results
    groups: Sequence[Group]
    judged_by: tuple[Score, ...]


def is_study(folder: Path) -> bool:
    """Whether a folder looks like one that `compare` made."""
    return (folder / FILE).is_file()


def read_study_record(folder: Path) -> StudyRecord:
    """A study, checked, with those of its runs that are there."""
    results: Results = read_checked(Results, folder / FILE)
    comparison_of(folder)  # means and spreads are those of the values
    for name, table in results.get("tables", {}).items():
        if any(len(row) != len(table["columns"]) for row in table["rows"]):
            raise ModelError("not what this package writes", where=f"{folder / FILE}: tables.{name}",
                             found="a row of another length than the columns")
    return StudyRecord(folder, results, _groups(folder, results), scores_in(results, folder / FILE))


def _groups(folder: Path, results: Results) -> list[Group]:
    """The runs of each method and recipe: a method may have several recipes, each with networks of its own."""
    recipes: dict[str, dict[str, None]] = {}
    runs: dict[tuple[str, str], list[Member]] = {}
    for cell in results["cells"]:
        path, recipe = folder / cell["run"], cell.get("recipe", "")  # an absolute path stays what it is
        recipes.setdefault(cell["method"], {})[recipe] = None
        if is_run(path):
            run = member_of(read_run(path), cell["run"].removeprefix("runs/"))
            runs.setdefault((cell["method"], recipe), []).append(run)
    for (method, _), members in runs.items():
        if any(member.run.diagram != members[0].run.diagram for member in members):
            raise ModelError("runs of one recipe with unlike graphs", where=folder / FILE, found=f"method {method!r}",
                             expected="runs that differ in their seed alone")
    return [Group(method if len(recipes[method]) == 1 else f"{method}, {recipe}", members)
            for (method, recipe), members in runs.items()]


def study_section(study: StudyRecord) -> Section:
    """Means and spread, paired differences with what may be said of them, and McNemar's test sample by sample."""
    results, baseline = study.results, study.results["baseline"]
    seeds = len(results["seeds"])
    told = f"{seeds} {'seed' if seeds == 1 else 'seeds'}, measured on {results['on']} data" + (
        f"; differences are to {baseline}, paired by seed." if baseline else ".")
    notes = [Text(f"Not all runs computed in the same number formats. {note}") for note in results.get("notes", [])]
    notes += [Text(f"{mark['method']}, seed {mark['seed']}: {mark['node']} {mark['text']}.")
              for mark in results.get("marks", [])]
    items: list[Item] = [Text(told), *notes, *_forests(study), _means(study),
                         _differences(study)]
    if rows := results.get("mcnemar"):
        items.append(_generic("McNemar's test, image by image", rows))
    items += [DocumentTable(table["title"], [Column(name) for name in table["columns"]], table["rows"], table["note"])
              for table in results.get("tables", {}).values()]
    cells = [(c["method"], c["seed"], c["status"], c.get("seconds"), c["run"]) for c in results["cells"]]
    columns = (Column("method"), Column("seed", "integer"), Column("state"), Column("time", "seconds"), Column("run"))
    return Section("Comparison over seeds", [*items, DocumentTable("Runs", columns, cells, folded=True)])


def _score(study: StudyRecord, metric: str) -> Score:
    """The score that a metric is; what the task does not know is a number."""
    return next((score for score in study.judged_by if score.key == metric), Score(metric, metric, "number"))


def _means(study: StudyRecord) -> DocumentTable:
    """One line for each method and network, a column for each metric: shares as shares."""
    results = study.results
    metrics = list(dict.fromkeys(row["metric"] for row in results["rows"]))
    found = {(row["method"], row["node"], row["metric"]): row for row in results["rows"]}
    keys = list(dict.fromkeys((row["method"], row["node"]) for row in results["rows"]))
    columns, scores = [Column("method"), Column("network"), Column("n", "integer")], list[Score]()
    for score in (_score(study, metric) for metric in metrics):
        columns += [Column(score.title, score.kind), Column(f"± sd of {score.title}", score.kind)]
        scores.append(score)
    rows = []
    for method, node in keys:
        cells = [found.get((method, node, metric)) for metric in metrics]
        n = max(cell["n"] for cell in cells if cell)
        rows.append((method, node, n, *(number for cell in cells for number in (
            (cell["mean"], cell["sd"]) if cell else (None, None)))))
    return DocumentTable("Mean and standard deviation over seeds", columns, rows, less_is_better(scores).lstrip())


def _differences(study: StudyRecord) -> DocumentTable:
    columns = (Column("method"), Column("network"), Column("metric"), Column("difference", "number"),
               Column("95 % from", "number"), Column("to", "number"), Column("n", "integer"), Column("p", "number"),
               Column("p (Holm)", "number"), Column("p (Wilcoxon)", "number"), Column("what may be said"))
    rows = [(row["method"], row["node"], _score(study, row["metric"]).title, d["mean"], d["low"], d["high"], d["n"],
             d["p"], d["p_holm"], d["wilcoxon_p"], d["says"]) for row in study.results["rows"]
            if (d := row["difference"]) is not None]
    point = f" (0.01 is one point of {score_words(first, begins=False)})" if (
        first := study.judged_by[0]).kind == "share" else ""
    note = f"A difference is method - {study.results['baseline']}, in the metric's own unit{point}."
    return DocumentTable("Differences to the baseline", columns, rows, note if rows else "")


def _forests(study: StudyRecord) -> list[Item]:
    """The differences in the first score with their intervals, one chart for each network."""
    found: dict[str, list[Point]] = {}
    first, baseline = study.judged_by[0], study.results["baseline"]
    scale, sign = 100 if first.kind == "share" else 1, 1 if first.better == "higher" else -1
    for row in study.results["rows"]:
        d = row["difference"]
        if row["metric"] == first.key and d is not None and (mean := charts.finite_or_none(d["mean"])) is not None:
            low, high = charts.finite_or_none(d["low"]), charts.finite_or_none(d["high"])
            clear = low is not None and high is not None and (low > 0 or high < 0)
            colour = "@muted" if not clear else "@good" if sign * mean > 0 else "@bad"
            around = None if low is None or high is None else (low * scale, high * scale)
            found.setdefault(row["node"], []).append(Point(row["method"], colour, mean * scale, 0, around))
    of = f"Points of {score_words(first, begins=False)}" if first.kind == "share" else f"Differences in {first.title}"
    less = "" if first.better == "higher" else " Less is better."
    about = (f"{of}, paired by seed, with 95 % intervals; 0 is {baseline}.{less} "
             "A grey interval holds 0, or there is none.")
    unit = f"points of {first.title}" if first.kind == "share" else first.title
    return [charts.forest(f"{node} against the baseline", about, points, x=unit) for node, points in found.items()]


def _generic(title: str, rows: Sequence[Mapping[str, Any]]) -> DocumentTable:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return DocumentTable(title, [Column(key.replace("_", " "), "text" if any(
        isinstance(row.get(key), str) for row in rows) else "number") for key in keys],
                         [tuple(_cell(row.get(key)) for key in keys) for row in rows])


def _cell(value: object) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if value is None or isinstance(value, str | int | float) else str(value)
