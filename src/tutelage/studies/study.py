"""A study: which methods are trained, from which recipes, over which seeds; and each run of it, a cell.

    [study]
    baseline = "distill"                  # the method that the others are held against
    set = ["data.image_size=8"]           # overrides for every recipe of the study

    [teachers.teacher]                    # trained first; the frozen network `teacher` of the others takes its weights
    recipe = "teacher.toml"
    seeds = "once"                        # or "each": one for each seed

    [teachers.on_task]                    # one of another task is trained, and not compared
    recipe = "distil.toml"
    node = "student"                      # which network it trains, where that is not called like the table

    [methods.chain]
    recipes = ["chain.toml"]
    starts = { student = "on_task" }      # this network starts from the weights of that teacher

    [methods.distill]                     # one or more recipes, each with networks of its own
    recipes = ["distill.toml", "distill_mobilenetv2.toml"]

    [methods.no_peers]
    recipes = ["dual_student.toml"]
    set = ["method.peers=none"]
    ablation_of = "dual_student"

    [conditions.few_images]               # the whole study under each condition, in OUT/few_images
    set = ["data.limit=500"]              # for every recipe
    teachers = ["data.limit=30000"]       # for those of teachers, after all others
    methods = ["models.a.arch=resnet20"]  # for those of methods, before their own

Paths are seen from the study's own file. Recipes given without a study file are a study too: their names are the
methods.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tutelage.engine.numerics import NUMERICS_FILE
from tutelage.errors import UsageError, unknown
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.recipes import added_keys
from tutelage.recipes.names import weights_in
from tutelage.recipes.recipe import Recipe, TomlFile, graph_of, read_recipe, settings_of
from tutelage.recipes.teachers import with_teachers
from tutelage.runs.folder import read_json
from tutelage.system.files import write_json

TABLES = ("configuration", "accuracy", "ablation", "cost")
STUDY_FILE = "study.json"


@dataclass(frozen=True)
class StudyTable:
    """The [study] table; `cpus` and `gpus` are what Ray sets aside for a cell."""

    baseline: str
    set: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=lambda: list(TABLES))
    cpus: float = 1.0
    gpus: float | None = None


@dataclass(frozen=True)
class MethodTable:
    """A [methods.NAME] table; `starts` says which networks start from the weights of which of the study's teachers."""

    recipes: list[str]
    set: list[str] = field(default_factory=list)
    ablation_of: str | None = None
    starts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherTable:
    """A [teachers.NAME] table; `node` is the network that it trains, if not NAME."""

    recipe: str
    set: list[str] = field(default_factory=list)
    seeds: Literal["once", "each"] = "each"
    node: str | None = None


@dataclass(frozen=True)
class ConditionTable:
    """A [conditions.NAME] table: overrides for every recipe, for those of teachers, for those of methods."""

    set: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A study as its file says it: paths of recipes are seen from `folder`."""

    path: Path | None
    table: StudyTable
    methods: dict[str, MethodTable]
    teachers: dict[str, TeacherTable] = field(default_factory=dict)
    conditions: dict[str, ConditionTable] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the recipes' paths begin."""
        return Path() if self.path is None else self.path.parent


@dataclass(frozen=True)
class Cell:
    """One run of a study: a method's recipe with one seed. `words` are what `tutelage train` is told, less --out.

    `numerics` is the file of number formats that it shares with the others.
    """

    method: str
    seed: int
    run: Path
    words: tuple[str, ...]
    recipe: Recipe
    needs: tuple[Path, ...] = ()
    numerics: Path | None = None

    def __str__(self) -> str:
        return f"{self.run.parent.name}/{self.run.name}"


@dataclass(frozen=True)
class Asked:
    """How the command was called: seeds, the split that is reported on, and what holds for every recipe."""

    seeds: int
    on: str = "test"
    set: tuple[str, ...] = ()
    quick: bool = False
    plugins: tuple[str, ...] = ()


def read_study(paths: Sequence[Path], baseline: str | None = None) -> Study:
    """The study of a study file, or of several recipes; `baseline` overrides the file's, or the first recipe."""
    files = [_toml(path) for path in paths]
    held = [path for path, tables in zip(paths, files, strict=True) if "study" in tables]
    if held and len(paths) > 1:
        raise UsageError("a study file stands alone", where=held[0], found=f"{len(paths)} files",
                         fix="name the other recipes in it, as [methods.NAME]")
    if held:
        study = _from_tables(files[0], TomlFile(held[0], held[0].read_text(encoding="utf-8")))
    else:
        names = Counter(path.stem for path in paths)
        for name in (name for name, count in names.items() if count > 1):
            raise UsageError("two methods of one name", where="RECIPES", found=f"{name!r} twice",
                             fix="rename a recipe, or write a study file that names the methods")
        study = Study(None, StudyTable(paths[0].stem), {path.stem: MethodTable([str(path)]) for path in paths})
    study = replace(study, table=replace(study.table, baseline=baseline or study.table.baseline))
    if study.table.baseline not in study.methods:
        raise unknown("baseline", study.table.baseline, study.methods, where=study.path or "--baseline")
    return study


def under_conditions(study: Study, only: Sequence[str] = ()) -> dict[str, Study]:
    """The study under each of its conditions, or those named in `only`; {"": study} if it has none."""
    for name in only:
        if name not in study.conditions:
            raise unknown("condition", name, study.conditions, where=study.path or "--condition")
    found = {}
    for name, condition in study.conditions.items():
        if not only or name in only:
            teachers = {node: replace(teacher, set=[*teacher.set, *condition.teachers])
                        for node, teacher in study.teachers.items()}
            methods = {node: replace(method, set=[*condition.methods, *method.set])
                       for node, method in study.methods.items()}
            found[name] = replace(study, table=replace(study.table, set=[*study.table.set, *condition.set]),
                                  teachers=teachers, methods=methods, conditions={})
    return found or {"": study}


def cells_of(study: Study, asked: Asked, out: Path) -> list[Cell]:
    """All runs of a study, seed by seed, so that a study that is stopped holds whole seeds; every recipe is checked."""
    cells: dict[Path, Cell] = {}
    older = _older(out)
    for seed in range(asked.seeds):
        for name, teacher in study.teachers.items():
            if seed == 0 or teacher.seeds == "each":
                cell = _cell(study, asked, out, name, teacher.recipe, [*study.table.set, *teacher.set], seed, older)
                cells[cell.run] = cell
        for name, method in study.methods.items():
            for recipe in method.recipes:
                cell = _cell(study, asked, out, name, recipe, [*study.table.set, *method.set], seed, older)
                if cell.run in cells:
                    raise UsageError("two runs of one name", where=f"{study.path}, [methods.{name}]", found=str(cell),
                                     fix="rename a method, a teacher or a recipe")
                cells[cell.run] = cell
    _check_order(cells)
    _check_nodes(study, [cell for cell in cells.values() if cell.seed == 0])
    return list(cells.values())


def _older(out: Path) -> added_keys.Keys:
    """The old meanings that a study begun earlier goes on with, in its new runs too: its runs are compared."""
    if not (out / STUDY_FILE).exists():
        return {}
    older: dict[str, dict[str, Any]] = {}
    for text in read_json(out / STUDY_FILE)["cells"].values():
        for table, keys in added_keys.lacking(tomllib.loads(text)).items():
            older.setdefault(table, {}).update(keys)
    return older


def learners(graph: Graph) -> list[str]:
    """The nodes of a graph whose networks a run trains or follows."""
    return [*graph.named(Trained), *graph.named(Ema)]


def claim(out: Path, cells: Sequence[Cell], on: str) -> None:
    """Write into `out`, which the caller has locked, whose study it is; refuse a folder that holds something else.

    Seeds and methods may be added to a study; a recipe may not change, and a study of one split stays with it: what
    was tuned on validation images must not be looked at on test images by the way.
    """
    told = {str(cell): cell.recipe.text() for cell in cells}
    path = out / STUDY_FILE
    if path.exists():
        there = read_json(path)
        told |= {str(cell): cell.recipe.text_like(there["cells"][str(cell)], path) for cell in cells
                 if str(cell) in there["cells"]}
        _check_same(out, there, told, on)
        told = {**there["cells"], **told}
    elif odd := sorted(file.name for file in out.iterdir() if file.name != "lock"):
        raise UsageError("this folder holds something else", where=out, found=", ".join(odd[:5]),
                         expected="an empty or a new folder", fix="choose another --out")
    write_json(path, {"format": 1, "on": on, "cells": told})


def _check_same(out: Path, there: dict[str, Any], told: dict[str, str], on: str) -> None:
    if there["on"] != on:
        raise UsageError(f"this study reports on {there['on']}", where=out, found=f"--on {on}",
                         fix=f"--on {there['on']}, or another --out")
    if not there["cells"].keys() & told.keys():
        raise UsageError("this folder holds another study", where=out, found=", ".join(sorted(there["cells"])[:5]),
                         fix="choose another --out")
    for cell in (cell for cell in told if there["cells"].get(cell, told[cell]) != told[cell]):
        old, new = there["cells"][cell].splitlines(), told[cell].splitlines()
        lines = [f"there: {line}" for line in old if line not in new]
        lines += [f"now:   {line}" for line in new if line not in old]
        raise UsageError("this folder holds another study", where=f"{out}, {cell}", found="\n".join(lines[:6]),
                         fix="choose another --out")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("cannot read the recipe or study", where=path, found=error,
                         fix="give the path of a TOML file") from None


def _from_tables(tables: dict[str, Any], source: TomlFile) -> Study:
    kinds = {"teachers": TeacherTable, "methods": MethodTable, "conditions": ConditionTable}
    for name in tables:
        if name not in ("study", *kinds):
            raise unknown("table", name, ("study", *kinds), where=source.where((), name))
    named: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for kind, table in kinds.items():
        held = tables.get(kind, {})
        for name, values in (held if isinstance(held, dict) else {}).items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise UsageError("not a name", where=source.where((kind,), name), found=repr(name),
                                 expected="letters, digits, _ and -")
            named[kind][name] = source.table(values, (kind, name), table)
    study = Study(source.path, source.table(tables["study"], ("study",), StudyTable), **named)
    for name, method in study.methods.items():
        if name in study.teachers:
            raise UsageError("two methods of one name", where=source.where(("methods",), name), found=f"{name!r} twice",
                             fix="rename the method or the teacher")
        if not method.recipes:
            raise UsageError("a method without a recipe", where=source.where(("methods", name), "recipes"))
        for teacher in method.starts.values():
            if teacher not in study.teachers:
                raise unknown("teacher", teacher, study.teachers, where=source.where(("methods", name), "starts"))
        if method.ablation_of is not None and method.ablation_of not in study.methods:
            raise unknown("method", method.ablation_of, study.methods,
                          where=source.where(("methods", name), "ablation_of"))
    for table in study.table.tables:
        if table not in TABLES:
            raise unknown("table of results", table, TABLES, where=source.where(("study",), "tables"))
    return study


def _cell(study: Study, asked: Asked, out: Path, name: str, recipe: str, overrides: Sequence[str], seed: int,
          older: added_keys.Keys) -> Cell:
    path = study.folder / recipe
    several = name in study.methods and len(study.methods[name].recipes) > 1
    run = out / "runs" / (f"{name}-{path.stem}" if several else name) / f"seed-{seed}"
    sets = [*overrides, *asked.set, f"train.seed={seed}"]
    plain = read_recipe(path, sets, plugins=asked.plugins, older=older)
    sets += added_keys.as_overrides(older, {"data": asdict(plain.data), "method": plain.method})
    graph = graph_of(plain, path)
    settings_of(plain, graph)
    needs = {node: _teacher_run(study, out, node, seed) for node in graph.named(Frozen)
             if node in study.teachers and node in plain.models}
    starts = study.methods[name].starts if name in study.methods else {}
    weights = {node: weights_in(folder.resolve(), study.teachers[node].node) for node, folder in needs.items()}
    for node, teacher in starts.items():
        if node not in plain.models:
            raise unknown("network", node, plain.models, where=f"{study.path}, [methods.{name}], starts")
        needs[node] = _teacher_run(study, out, teacher, seed)
        weights[node] = weights_in(needs[node].resolve(), study.teachers[teacher].node or teacher)
    for node, place in weights.items():
        told = plain.models[node].weights  # a student may start there too
        alike = [other for other, arch in plain.models.items() if other == node or (told and arch.weights == told)]
        sets += [f"models.{other}.weights={json.dumps(str(place))}" for other in alike]
        plain = replace(plain, teachers={other: of for other, of in plain.teachers.items() if other not in alike})
    found = with_teachers(plain, run, path, partly=True)
    sets += [f"models.{node}.weights={json.dumps(found.models[node].weights)}" for node in plain.teachers
             if node not in found.teachers]
    resolved = read_recipe(path, sets, quick=asked.quick, plugins=asked.plugins)
    words = [str(path), *(word for one in sets for word in ("--set", one)), *(["--quick"] if asked.quick else []),
             *(word for module in asked.plugins for word in ("--plugin", module))]
    return Cell(name, seed, run, tuple(words), resolved, tuple(needs.values()), out / NUMERICS_FILE)


def _teacher_run(study: Study, out: Path, node: str, seed: int) -> Path:
    return out / "runs" / node / f"seed-{seed if study.teachers[node].seeds == 'each' else 0}"


def _check_order(cells: dict[Path, Cell]) -> None:
    """Teachers may learn from teachers, but not in a circle."""
    done: set[Path] = set()
    while ready := [run for run, cell in cells.items() if run not in done and done >= set(cell.needs)]:
        done.update(ready)
    if left := [str(cell) for run, cell in cells.items() if run not in done]:
        raise UsageError("teachers that wait for each other", where="[teachers]", found=", ".join(left[:5]))


def _check_nodes(study: Study, cells: Sequence[Cell]) -> None:
    """Each network has one number in each method: two recipes of a method train different nodes."""
    for name in study.methods:
        trained = Counter(node for cell in cells if cell.method == name for node in learners(graph_of(cell.recipe)))
        for node in (node for node, count in trained.items() if count > 1):
            raise UsageError(f"two recipes of one method train {node!r}", where=f"{study.path}, [methods.{name}]",
                             fix="make them two methods")
    for name in study.teachers:
        graphs = [graph_of(cell.recipe) for cell in cells if cell.method == name]
        node = study.teachers[name].node or name
        if any(node not in learners(graph) for graph in graphs):
            raise UsageError(f"this recipe trains no network {node!r}", where=f"{study.path}, [teachers.{name}]",
                             found=", ".join(learners(graphs[0])),
                             fix="call the teacher as its recipe does, or give `node`")


def of_methods(cells: Sequence[Cell], name: str) -> Iterator[Cell]:
    """The cells of one method."""
    return (cell for cell in cells if cell.method == name)
