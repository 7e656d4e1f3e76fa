"""The recipes that come with the package, by name: `digits/dual_student`, wherever one works.

A recipe may name its teacher by the recipe that trains it, `weights = { recipe = "teacher" }`: the file `teacher.toml`
beside it, or a built-in recipe. Where a recipe is trained to unless told otherwise is `usual_run`. No torch here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tutelage.errors import UsageError, unknown

RUNS = Path("runs")
"""Where run folders are made and looked for, seen from the working directory."""


@dataclass(frozen=True)
class TeacherRecipe:
    """Weights that another recipe trains: its name (once it was found, its file); which network where it has several.

    >>> TeacherRecipe("teacher", node="resnet8")
    TeacherRecipe(recipe='teacher', node='resnet8')
    """

    recipe: str
    node: str | None = None


def built_in_recipes() -> Path:
    """The folder of the recipes that come with the package: in an installed one its own, in a clone `recipes/`."""
    own = _of_the_wheel()
    return own if own.is_dir() else Path(__file__).parents[3] / "recipes"


def recipe_names() -> dict[str, Path]:
    """GROUP/NAME -> file of every built-in recipe and study, in order."""
    folder = built_in_recipes()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.toml"))}


def first_line(recipe: Path) -> str:
    """What the first line of a recipe says of it."""
    line = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def find_recipe(word: str) -> Path:
    """The file of a built-in recipe: GROUP/NAME, or NAME where only one is called so; with or without .toml."""
    names, name = recipe_names(), word.removeprefix("recipes/").removesuffix(".toml")
    alike = [full for full in names if full == name or full.rpartition("/")[2] == name]
    if name in names or len(alike) == 1:
        return names[name if name in names else alike[0]]
    if alike:
        raise UsageError(f"several recipes are called {name!r}", found=", ".join(alike), fix=f"write {alike[0]}")
    near = {full.rpartition("/")[2]: full for full in reversed(names)} | {full: full for full in names}
    close = get_close_matches(name, near, n=1)
    raise UsageError(f"there is no recipe {word!r}", expected="a TOML file, or the name of a recipe that comes with "
                     "tutelage", fix=f"did you mean {near[close[0]]!r}?" if close else "`tutelage recipes` lists them")


def word_of(recipe: Path) -> str:
    """What a command calls a recipe: a built-in one by its name, any other by its file."""
    own, folder = recipe.resolve(), built_in_recipes().resolve()
    if own.is_relative_to(folder):
        return own.relative_to(folder).with_suffix("").as_posix()
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def usual_run(recipe: Path, *, quick: bool = False) -> Path:
    """The run folder of a recipe unless told otherwise: runs/FOLDER/NAME, by the folder in which the recipe lies.

    There is no FOLDER for a recipe in the working directory. A quick run goes into runs/quick: it is no teacher.
    """
    folder = recipe.resolve().parent
    above = [] if folder in (Path.cwd(), built_in_recipes().resolve()) else [folder.name]
    return RUNS.joinpath(*["quick"] * quick, *above, recipe.stem)


def seen_from(recipe: Path, path: Path) -> Path:
    """A path in a recipe, which is seen from the recipe's own folder.

    That of a built-in recipe is seen from the working directory where it is not beside the recipe: what lies among the
    installed files of a package is nobody's.
    """
    beside, here = recipe.parent / path, Path.cwd() / path
    if _is_there(beside) or not recipe.resolve().is_relative_to(built_in_recipes().resolve()):
        return beside
    return here if _is_there(here) or built_in_recipes() == _of_the_wheel() else beside


def named_teachers(models: Mapping[str, Any], recipe: Path, read: Callable[..., Any],
                   where: Callable[..., object]) -> tuple[dict[str, Any], dict[str, TeacherRecipe]]:
    """The [models] of a recipe with a path as all weights, and the teachers that are named by their recipe.

    The path of such a teacher is its usual run; `teachers.with_teachers` finds where it is. `read` and `where` are
    `TomlFile.table` and `TomlFile.where`.
    """
    found, teachers = dict(models), dict[str, TeacherRecipe]()
    for node, table in models.items():
        if isinstance(table, Mapping) and isinstance(table.get("weights"), Mapping):
            keys = ("models", node, "weights")
            named = read(table["weights"], keys, TeacherRecipe)
            file = _beside(recipe, named.recipe, where(keys, "recipe"))
            teachers[node] = replace(named, recipe=str(file))
            found[node] = {**table, "weights": str(weights_in(usual_run(file).resolve(), named.node))}
    return found, teachers


def weights_in(run: Path, node: str | None) -> Path:
    """What `models.weights` reads of a run folder: its only network, or this one."""
    return run if node is None else run / "models" / f"{node}.safetensors"


def _beside(recipe: Path, name: str, where: object) -> Path:
    """The recipe of that name in the folder of `recipe`, else the built-in one."""
    file = recipe.parent / f"{name.removesuffix('.toml')}.toml"
    if file.is_file():
        return file
    names = recipe_names()
    if (name := name.removesuffix(".toml")) not in names:
        near = {path.stem: path for path in sorted(recipe.parent.glob("*.toml"))}
        raise unknown("recipe", name, {**names, **near}, where=where)
    return names[name]


def _is_there(weights: Path) -> bool:
    """Whether there is such a file or folder, or the run of RUN/NODE."""
    return weights.exists() or (weights.parent / "models").is_dir()


def _of_the_wheel() -> Path:
    return Path(__file__).parent / "built_in"
