"""Teachers named by the recipe that trains them: their runs in ./runs, and the order in which to train them.

The run of a recipe is any folder runs/NAME or runs/FOLDER/NAME that holds this very recipe: its usual place comes
first, then those of the first form by name, then those of the second. What says how a run is computed, and not what is
learned, makes no difference (`HOW`).
"""

import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError, UsageError, unknown
from tutelage.recipes.names import RUNS, TeacherRecipe, usual_run, weights_in, word_of
from tutelage.recipes.recipe import Recipe, place_of, read_recipe
from tutelage.runs.folder import finished

HOW = {"data": ("workers", "download"),
       "train": ("device", "precision", "cache", "cache_gib", "checkpoint_steps", "warn")}
"""Keys in which the run of a recipe may differ from it."""
OF_A_FOLDER = ("folder", "series", "interactions", "text")
"""Data whose `root` says which they are; of all others it says where they lie."""
SHOWN = 4


@dataclass(frozen=True)
class RunsOf:
    """The runs in ./runs of one recipe, in the order in which they are taken.

    `usual` is the folder in which it is trained where none is begun; `others` are finished runs that are near: folder
    -> what differs.
    """

    usual: Path
    finished: tuple[Path, ...]
    begun: tuple[Path, ...]
    others: dict[Path, list[str]]


def runs_of_recipe(file: Path, recipe: Recipe) -> RunsOf:
    """Look for the runs of a recipe, which was read from `file`."""
    usual, told = usual_run(file), _told(recipe, recipe.teachers)
    folders = dict.fromkeys([usual, *(path.parent for pattern in ("*/config.toml", "*/*/config.toml")
                                      for path in sorted(RUNS.glob(pattern)))])
    done, begun, others = [], [], dict[Path, list[str]]()
    for folder in folders:
        there = _recipe_in(folder, recipe)
        if there is None:
            continue
        of = _told(there, recipe.teachers)
        differs = [f"{key} {of.get(key)} there, {told.get(key)} in the recipe"
                   for key in sorted({*of, *told}) if of.get(key) != told.get(key)]
        if not differs:
            (done if finished(folder) is not None else begun).append(folder)
        elif finished(folder) is not None:
            others[folder] = differs
    return RunsOf(usual, tuple(done), tuple(begun), others)


def with_teachers(recipe: Recipe, out: Path | None = None, where: object = "recipe", *,
                  partly: bool = False) -> Recipe:
    """The recipe with the weights of each teacher that it names by a recipe: those of a finished run in ./runs.

    A run that was begun in `out` keeps the teachers that it has, while they are there; a finished one needs none. A
    quick run takes no weights. ModelError if there is no finished run; with `partly` such a teacher stays a name.
    """
    if recipe.quick or not recipe.teachers:
        return replace(recipe, teachers={})
    kept = _weights_of(out) if out is not None else {}
    models, left = dict(recipe.models), dict[str, TeacherRecipe]()
    for node, teacher in recipe.teachers.items():
        try:
            weights = kept.get(node) or _weights(recipe, node, teacher, where)
        except ModelError:
            if not partly:
                raise
            left[node] = teacher
        else:
            models[node] = replace(models[node], weights=weights)
    return replace(recipe, models=models, teachers=left)


def teachers_first(recipe: Recipe, file: Path) -> list[Path]:
    """The recipes of all teachers that must be trained before a recipe, each once and after its own teachers.

    UsageError for recipes that wait for each other.
    """
    order: dict[Path, None] = {}
    _visit(recipe, file.resolve(), (), order)
    return [one for one in order if one != file.resolve()]


def _visit(recipe: Recipe, file: Path, above: tuple[Path, ...], order: dict[Path, None]) -> None:
    if file in above:
        circle = " -> ".join(word_of(one) for one in (*above[above.index(file):], file))
        raise UsageError("recipes that wait for each other as teachers", where="[models]", found=circle)
    for teacher in recipe.teachers.values():
        other = Path(teacher.recipe).resolve()
        if other not in order:
            _visit(read_recipe(other, plugins=recipe.plugins), other, (*above, file), order)
    order[file] = None


def _weights(recipe: Recipe, node: str, teacher: TeacherRecipe, where: object) -> str:
    file = Path(teacher.recipe)
    runs = runs_of_recipe(file, read_recipe(file, plugins=recipe.plugins))
    place = place_of(recipe, where, "models", node).at("weights")
    if not runs.finished:
        raise _not_trained(node, file, runs, place)
    run = runs.finished[0].resolve()
    names = sorted(path.stem for path in (run / "models").glob("*.safetensors"))
    if teacher.node is not None and teacher.node not in names:
        raise unknown("network", teacher.node, names, where=f"{place}: {runs.finished[0]}")
    return str(weights_in(run, teacher.node))


def _not_trained(node: str, file: Path, runs: RunsOf, place: object) -> ModelError:
    """What to do about a teacher that has no finished run: one that was begun is not one that is missing."""
    word = word_of(file)
    first = "or let `tutelage train ... --with-teachers` do it first"
    if runs.begun:
        return ModelError(f"the run of the teacher {node!r} is not finished", where=place,
                          found=f"{runs.begun[0]}, of {word}", fix=f"tutelage train --resume {runs.begun[0]}; {first}")
    near = [f"{folder} is of other settings: {', '.join(differs[:SHOWN])}{' ...' if len(differs) > SHOWN else ''}"
            for folder, differs in list(runs.others.items())[:SHOWN]]
    fix = f"tutelage train {word} --out {runs.usual}; {first}"
    if runs.usual.is_file() or (runs.usual.is_dir() and any(runs.usual.iterdir())):
        fix = f"move {runs.usual} away, then {fix}"
    if near:
        fix += f"; or take what there is: --set models.{node}.weights={next(iter(runs.others)).resolve()}"
    return ModelError(f"the teacher {node!r} has not been trained", where=place,
                      found="\n".join([f"no run of {word} in ./{RUNS}", *near]),
                      expected=f"a finished run of that recipe, such as {runs.usual}", fix=fix)


def _recipe_in(run: Path, like: Recipe) -> Recipe | None:
    """The recipe that a run folder keeps, if it is a whole one with the networks of `like`, and no quick run."""
    path = run / "config.toml"
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
        if tables["models"].keys() != like.models.keys() or tables["run"]["quick"] or "number" in tables["run"]:
            return None
        there = read_recipe(path, plugins=like.plugins)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # UserError is a ValueError
        return None
    alike = [(arch.arch, arch.options) for arch in (there.models[node] for node in like.models)]
    return there if alike == [(arch.arch, arch.options) for arch in like.models.values()] else None


def _told(recipe: Recipe, named: Collection[str]) -> dict[str, Any]:
    """What a recipe says of what is learned, by TABLE.KEY; weights of the nodes `named` may lie anywhere."""
    tables = {"data": asdict(recipe.data), "train": asdict(recipe.train) | recipe.optimizers, "method": recipe.method,
              "nodes": recipe.nodes, "": {"edges": recipe.edges}}
    for node, arch in recipe.models.items():
        tables[f"models.{node}"] = asdict(replace(arch, weights=None) if node in named else arch)
    told = {f"{table}.{key}".strip("."): value for table, values in tables.items() for key, value in values.items()
            if key not in HOW.get(table, ())}
    if recipe.data.name not in OF_A_FOLDER:
        del told["data.root"]
    return told


def _weights_of(run: Path) -> dict[str, str]:
    """Node -> the weights that a run goes on with, as its recipe has them; nothing where no run was begun."""
    try:
        models = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["models"]
        weights = {node: table["weights"] for node, table in models.items() if "weights" in table}
        return {node: path for node, path in weights.items() if finished(run) is not None or Path(path).exists()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
