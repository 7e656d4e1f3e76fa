"""A method of several runs, one after another: OUT/1, OUT/2 and so on, each an ordinary run folder.

A network of an earlier run is a frozen teacher of the next. OUT itself holds the recipe as it was given, the networks,
records and tables of the last run and, written last, FINISHED: it is opened, measured and shipped like any other run.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tutelage.data.source import Data
from tutelage.graph.graph import Graph
from tutelage.graph.graph_data import GRAPH_FILE
from tutelage.graph.nodes import Frozen, Trained
from tutelage.recipes.recipe import Recipe, graphs_of
from tutelage.runs.folder import open_run, refuse_others
from tutelage.system.distributed import World, lead
from tutelage.system.files import locked, write
from tutelage.system.random import derive

KEPT = ("records.jsonl", "tuning.json", GRAPH_FILE)
"""What OUT holds of its last run, besides the networks."""


def runs_of(recipe: Recipe, out: Path, where: object = "recipe") -> list[tuple[Path, Recipe]]:
    """The run folders of a recipe, in order, each with its own recipe: `out` itself if the method is one run."""
    graphs = graphs_of(recipe, where)
    if len(graphs) == 1:
        return [(out, recipe)]
    return [(out / str(number), one_of(recipe, graph, number, out)) for number, graph in enumerate(graphs, 1)]


def one_of(recipe: Recipe, graph: Graph, number: int, out: Path) -> Recipe:
    """The recipe of one run: a seed of its own; what an earlier run left comes from that run's folder."""
    models = {}
    for node, kind in graph.nodes.items():
        if isinstance(kind, Frozen | Trained) and kind.before is not None:
            weights = str((out / str(number - 1) / kind.before).resolve())
            models[node] = replace(recipe.models[kind.before], weights=weights, pretrained=False, head="strict",
                                   classes=None)
        elif isinstance(kind, Frozen | Trained):
            models[node] = recipe.models[node]
    optimizers = {node: table for node, table in recipe.optimizers.items() if node in graph.nodes}
    seed = recipe.train.seed if number == 1 else derive(recipe.train.seed, "run", number) % 2**31
    return replace(recipe, models=models, optimizers=optimizers, number=number, train=replace(recipe.train, seed=seed))


def open_whole(out: Path, recipe: Recipe, data: Data, world: World) -> ExitStack:
    """Open OUT, locked while its runs are trained; refuse a folder that holds something else."""
    stack = ExitStack()

    def open_() -> None:
        refuse_others(out)
        stack.enter_context(locked(out))
        open_run(out, recipe.text_in(out), data.digest, data.files)

    try:
        lead(world, open_ if world.main else None)
    except BaseException:  # whoever keeps the error must not keep the folder locked
        stack.close()
        raise
    return stack


def gather(out: Path, last: Path) -> None:
    """Put what the last run left into OUT, and FINISHED last."""
    (out / "models").mkdir(exist_ok=True)
    for path in [*(last / "models").glob("*.safetensors"), *(last / name for name in KEPT)]:
        write(out / path.relative_to(last), path.read_bytes())
    write(out / "FINISHED", (last / "FINISHED").read_bytes())
