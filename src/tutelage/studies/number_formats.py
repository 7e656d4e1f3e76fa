"""Whether the cells of a study computed in the same number formats, as the tuning.json of their runs say."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tutelage.engine.autotune import from_json
from tutelage.engine.numerics import NUMERICS_FILE, Settled, adopt, network_label, processors
from tutelage.engine.precision import Execution
from tutelage.engine.teacher_cache.use import cached_ends
from tutelage.errors import UserError
from tutelage.graph.nodes import Ema
from tutelage.recipes.recipe import graph_of
from tutelage.recipes.sequence import runs_of
from tutelage.runs.folder import read_json
from tutelage.studies.study import Cell

LOSSES, OUTPUTS = "losses", "teachers' outputs"
WORDS = {LOSSES: ("not compiled", "compiled"), OUTPUTS: ("as computed", "kept as float16")}
MOST = 5
"""How many cells a note names."""


def adopt_begun(out: Path, cells: Sequence[Cell]) -> None:
    """Begin the settled formats of a study, in `out`, with those in which runs that were begun before all agree."""
    if (out / NUMERICS_FILE).exists():
        return
    alike = {what: next(iter(of.values()))[0][1] for what, of in _formats(cells).items() if len(of) == 1}
    networks = {what: choice for what, choice in alike.items() if isinstance(choice, Execution)}
    adopt(out / NUMERICS_FILE, Settled(networks, _flag(alike.get(LOSSES)), _flag(alike.get(OUTPUTS))))


def unlike(cells: Sequence[Cell]) -> list[str]:
    """What did not compute alike in all cells, one line each; where a recipe tells its precision, it is not ours."""
    notes = [f"{what}: " + "; ".join(f"{form} in {_named([cell for cell, _ in told])}" for form, told in of.items())
             for what, of in _formats(cells).items() if len(of) > 1]
    files = dict.fromkeys(cell.numerics for cell in cells if cell.numerics is not None)
    notes += [f"processors, each with formats of its own: {'; '.join(names)}"
              for names in map(processors, files) if len(names) > 1]
    return notes


def _formats(cells: Sequence[Cell]) -> dict[str, dict[str, list[tuple[Cell, Execution | bool]]]]:
    """What computes -> its number format in words -> the cells where it had that, each with all that was chosen."""
    found: dict[str, dict[str, list[tuple[Cell, Execution | bool]]]] = {}
    for cell in cells:
        if cell.recipe.train.precision == "auto":
            for what, value in _told(cell):
                form = WORDS[what][value] if isinstance(value, bool) else "bfloat16" if value.bf16 else "float32"
                found.setdefault(what, {}).setdefault(form, []).append((cell, value))
    return found


def _told(cell: Cell) -> Iterator[tuple[str, Execution | bool]]:
    for folder, recipe in runs_of(cell.recipe, cell.run):
        graph, path = graph_of(recipe), folder / "tuning.json"
        if not path.exists():
            continue
        try:
            tuned = from_json(read_json(path))
        except (UserError, LookupError, TypeError):
            continue  # whoever opens the run tells it
        for node, choice in tuned.choices.items():
            if node in graph.nodes and not isinstance(graph.nodes[node], Ema):
                yield network_label(graph, node), choice
        yield LOSSES, tuned.compiled_losses
        if recipe.train.cache == "auto" and cached_ends(graph):
            yield OUTPUTS, tuned.cached


def _flag(value: Execution | bool | None) -> bool | None:
    return value if isinstance(value, bool) else None


def _named(cells: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(map(str, cells)))
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
