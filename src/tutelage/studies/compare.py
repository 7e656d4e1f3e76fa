"""A study from its first cell to its results: train what is missing, look at the held-out images once, compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from tutelage.engine.train import alone
from tutelage.errors import DataError, Interrupted, UsageError, UserError
from tutelage.graph.nodes import Frozen, Trained
from tutelage.recipes.evaluate import ENSEMBLE, evaluate_run
from tutelage.recipes.recipe import graph_of
from tutelage.recipes.teachers import with_teachers
from tutelage.runs.evaluations import COST, Evaluation, evaluated, evaluation_of
from tutelage.runs.folder import read_records, versions
from tutelage.studies import statistics
from tutelage.studies.executor import Ending, in_processes, in_this_process, is_done, on_ray, work_off
from tutelage.studies.number_formats import adopt_begun, unlike
from tutelage.studies.ranks import mean_ranks
from tutelage.studies.study import Asked, Cell, Study, cells_of, claim
from tutelage.studies.tables import as_markdown, table_as_markdown, tables_of
from tutelage.system.distributed import World, choose_device
from tutelage.system.files import write, write_json
from tutelage.system.machine import describe_machine
from tutelage.tasks.classification.evaluate import measure
from tutelage.tasks.classification.skill import mark_of
from tutelage.tasks.named import task_named
from tutelage.tasks.scores import main_scores, number_of, scores_json
from tutelage.tasks.task import Task

REPORT_FILE = "results.md"


@dataclass(frozen=True)
class Judged:
    """One network on the held-out images: its main scores, on which rows it is right, and what is wrong with it if so.

    Where the task is not to tell classes apart, nobody says what is right.
    """

    scores: Mapping[str, float]
    right: Bool[Tensor, " rows"] | None
    ids: Int[Tensor, " rows"]
    mark: str | None = None


Found = dict[tuple[str, int], dict[str, Judged]]
"""(method, seed) -> node -> how it did."""


@dataclass(frozen=True)
class Hands:
    """Who works on the cells: so many processes of this machine, or a Ray cluster."""

    jobs: int = 1
    ray: str | None = None


def compare_all(studies: Mapping[str, Study], asked: Asked, out: Path, hands: Hands,
                stop: Callable[[], int] = lambda: 0,
                tell: Callable[[str], None] = print) -> tuple[dict[str, Any], UserError | None]:
    """`compare` under each condition, in OUT/CONDITION (in `out` itself where there are none), all checked before."""
    for name, study in studies.items():
        cells = cells_of(study, asked, out / name)
        task_of_cells(cells, study)
        for cell in cells:
            with_teachers(cell.recipe, cell.run, cell.words[0])
    found: dict[str, Any] = {}
    failed: UserError | None = None
    for name, study in studies.items():
        if name:
            tell(f"\n{name}")
        found[name], error = compare(study, asked, out / name, hands, stop, tell)
        failed = failed or error
    if list(studies) != [""]:
        pages = [*(table_as_markdown(table) for table in mean_ranks(found)),
                 *(f"# {name}\n\n{as_markdown(results)}" for name, results in found.items())]
        write(out / REPORT_FILE, "\n".join(pages).encode())
    return found.get("", found), failed


def compare(study: Study, asked: Asked, out: Path, hands: Hands, stop: Callable[[], int] = lambda: 0,
            tell: Callable[[str], None] = print) -> tuple[dict[str, Any], UserError | None]:
    """Train the cells of a study that are missing, then write and give its results, and the first error of a cell.

    Interrupted if `stop` gives a signal's number: every cell has saved, and the same call goes on.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("not a folder", where=out, fix="give another --out")
    cells = cells_of(study, asked, out)
    task = task_of_cells(cells, study)
    with alone(out, stop):
        claim(out, cells, asked.on)
        adopt_begun(out, cells)
    endings = _trained(study, cells, hands, stop, tell)
    with alone(out, stop):  # once for all who were started in this folder
        found = _measured(study, task, cells, endings, asked, stop, tell)
        results = _results(study, task, asked, cells, endings, found)
        write_json(out / statistics.RESULTS_FILE, results)
        write(out / REPORT_FILE, as_markdown(results).encode())
    return results, next((ending.error for ending in endings.values() if ending.error is not None), None)


def task_of_cells(cells: Sequence[Cell], study: Study) -> Task:
    """The task of a study; UsageError if its methods have unlike ones. A teacher of another task is not compared."""
    names = {cell.recipe.data.work: cell for cell in reversed(cells) if cell.method in study.methods}
    if len(names) > 1:
        raise UsageError("recipes of unlike tasks cannot be compared", where="a study",
                         found=", ".join(f"{name} in {cell.words[0]}" for name, cell in names.items()),
                         expected="one [data] task for all")
    return task_named(next(iter(names)))


def _trained(study: Study, cells: Sequence[Cell], hands: Hands, stop: Callable[[], int],
             tell: Callable[[str], None]) -> dict[str, Ending]:
    missing = sum(not _seems_done(cell) for cell in cells)
    tell(f"{len(cells)} runs, {missing} to train")
    if hands.ray is not None:
        start, leave, slots = on_ray(hands.ray, study.table.cpus, study.table.gpus)
        try:
            return work_off(cells, start, slots, stop, tell)
        finally:
            leave()
    start = partial(in_processes, hands.jobs) if hands.jobs > 1 else partial(in_this_process, stop)
    return work_off(cells, start, hands.jobs, stop, tell)


def _seems_done(cell: Cell) -> bool:
    try:
        return is_done(cell)
    except UserError:
        return False


def _measured(study: Study, task: Task, cells: Sequence[Cell], endings: dict[str, Ending], asked: Asked,
              stop: Callable[[], int], tell: Callable[[str], None]) -> Found:
    """Each method's networks on the held-out images; predictions are made once and kept in the run folders."""
    good = [cell for cell in cells if endings[str(cell)].error is None and cell.recipe.data.work == task.name]
    costed, found = _to_cost(good) if "cost" in study.table.tables else [], Found()
    for key, group in groupby(good, lambda cell: (cell.method, cell.seed)):
        read: list[tuple[Cell, Evaluation]] = []
        for cell in group:
            if stop():
                raise Interrupted(stop())
            try:
                held = evaluated(cell.run)
                if asked.on not in held or (cell in costed and COST not in held):
                    tell(f"{cell}  on {asked.on}")
                    world = World(choose_device(cell.recipe.train.device))
                    evaluate_run(cell.run, asked.on, world, cell.recipe.plugins, cost=cell in costed)
                read.append((cell, evaluation_of(cell.run, asked.on)))
            except UserError as error:
                error.where = f"{cell.run}: {error.where}"
                endings[str(cell)] = Ending(error)
        whole = len(read) == sum((cell.method, cell.seed) == key for cell in cells)
        found[key] = _judged(read, task, whole) if task.classifies else _by_judge(read, task)
    return found


def _judged(read: Sequence[tuple[Cell, Evaluation]], task: Task, whole: bool) -> dict[str, Judged]:
    """How the networks of one method and seed did, and the ensemble of students of several recipes, if all are here."""
    found: dict[str, Judged] = {}
    voices: list[Tensor] = []
    for cell, evaluation in read:
        graph, given = graph_of(cell.recipe), evaluation.labels >= 0
        labels, ids, names = evaluation.labels[given], evaluation.ids[given], evaluation.metrics["classes"]
        for node, logits in evaluation.logits.items():
            if node not in graph.named(Frozen):
                besides = evaluation.metrics["nodes"].get(node, {})
                found[node] = _judge(logits[given], labels, ids, names, task, besides)
            if node in graph.named(Trained):
                voices.append(logits[given])
        if len(read) > 1 and cell is read[-1][0] and whole and ENSEMBLE not in found:
            found[ENSEMBLE] = _judge(task.mean(*voices), labels, ids, names, task)
    return found


def _judge(logits: Tensor, labels: Tensor, ids: Tensor, names: Sequence[str], task: Task,
           besides: Mapping[str, object] = MappingProxyType({})) -> Judged:
    """`besides` is what an evaluation says that is not of rows with a label alone."""
    mark, scores = mark_of(logits, labels, names), {**besides, **measure(logits, labels)}
    return Judged({score.key: number_of(scores, score) for score in main_scores(task.scores)},
                  logits.argmax(-1) == labels, ids, None if mark is None else mark["text"])


def _by_judge(read: Sequence[tuple[Cell, Evaluation]], task: Task) -> dict[str, Judged]:
    """How the networks did as their evaluations say; an ensemble is of students of one recipe alone."""
    return {node: Judged({score.key: number_of(scores, score) for score in main_scores(task.scores)}, None,
                         evaluation.ids)
            for cell, evaluation in read for node, scores in evaluation.metrics["nodes"].items()
            if node not in graph_of(cell.recipe).named(Frozen)}


def _to_cost(cells: Sequence[Cell]) -> list[Cell]:
    """As few cells as hold every network of the study, for what they cost is measured once."""
    missing = {node for cell in cells for node in cell.recipe.models}
    chosen: list[Cell] = []
    while missing:
        best = max(cells, key=lambda cell: len(missing & set(cell.recipe.models)))
        missing -= set(best.recipe.models)
        chosen.append(best)
    return chosen


def _results(study: Study, task: Task, asked: Asked, cells: Sequence[Cell], endings: Mapping[str, Ending],
             found: Found) -> dict[str, Any]:
    compared = {cell.method for cell in cells if cell.recipe.data.work == task.name}
    methods = [*study.methods, *(teacher for teacher in study.teachers if teacher in compared)]
    nodes = list(dict.fromkeys(node for method in methods for key, judged in found.items() if key[0] == method
                               for node in judged if node != ENSEMBLE))
    nodes += [ENSEMBLE] if any(ENSEMBLE in judged for judged in found.values()) else []
    _check_rows(found)
    main = main_scores(task.scores)
    values = {(node, score.key): _values(found, methods, node, score.key) for node in nodes for score in main}
    rows = [row for node in nodes for score in main for row in statistics.rows(
        node, score.key, values[node, score.key], study.table.baseline, list(study.teachers), score.better)]
    device = str(choose_device(cells[0].recipe.train.device))
    told = versions()
    results: dict[str, Any] = {
        "on": asked.on, **scores_json(task), "seeds": list(range(asked.seeds)), "baseline": study.table.baseline,
        "machine": describe_machine(device), "versions": told, "command": told.pop("command"), "methods": methods,
        "nodes": nodes, "rows": rows, "mcnemar": _mcnemar(study, found), "cells": _cells(cells, endings)}
    results["marks"] = [{"method": method, "seed": seed, "node": node, "text": one.mark}
                        for (method, seed), judged in found.items() for node, one in judged.items() if one.mark]
    results["notes"] = unlike([cell for cell in cells if endings[str(cell)].error is None])
    return {**results, "tables": tables_of(study, asked, cells, results, values)}


def _values(found: Found, methods: Sequence[str], node: str, metric: str) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for method in methods:
        of = {seed: judged[node].scores[metric] for (name, seed), judged in found.items()
              if name == method and node in judged}
        if of:
            values[method] = of
    return values


def _check_rows(found: Found) -> None:
    """Paired numbers are of the same images: ids are compared within each seed."""
    first: dict[int, tuple[str, Judged]] = {}
    for (method, seed), judged in found.items():
        for node, other in judged.items():
            name, known = first.setdefault(seed, (f"{method}, {node}", other))
            if known.ids.shape != other.ids.shape or not bool((known.ids == other.ids).all()):
                raise DataError("methods that were measured on unlike images cannot be compared",
                                where=f"seed {seed}: {name}; {method}, {node}",
                                found=f"{len(known.ids)} and {len(other.ids)} images",
                                fix="give their recipes the same [data]")


def _mcnemar(study: Study, found: Found) -> list[dict[str, Any]]:
    made = []
    for (method, seed), judged in found.items():
        against = found.get((study.table.baseline, seed), {})
        if method != study.table.baseline and method not in study.teachers:
            made += [{"method": method, "node": node, "seed": seed,
                      **statistics.mcnemar(own.right, theirs.right)}
                     for node, own in judged.items() if (theirs := against.get(node)) is not None
                     and own.right is not None and theirs.right is not None]
    return made


def _cells(cells: Sequence[Cell], endings: Mapping[str, Ending]) -> list[dict[str, Any]]:
    made = []
    for cell in cells:
        epochs = [record["seconds"] for record in read_records(cell.run) if record["event"] == "epoch"]
        error = endings[str(cell)].error
        made.append({"method": cell.method, "recipe": Path(cell.words[0]).stem, "seed": cell.seed,
                     "run": f"runs/{cell}", "seconds": sum(epochs),
                     "seconds_per_epoch": sum(epochs) / len(epochs) if epochs else None,
                     "status": "finished" if error is None else f"failed: {error.what}"})
    return made
