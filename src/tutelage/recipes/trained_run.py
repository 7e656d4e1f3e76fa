"""A finished run opened again: its recipe, its networks with what they have learned, its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tutelage import data as data_page
from tutelage.data.source import Source
from tutelage.engine.train import load
from tutelage.errors import ModelError, UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.recipes.job import make_job, network_in, notes_of
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe
from tutelage.recipes.sequence import runs_of
from tutelage.runs.folder import finished, read_json
from tutelage.system.distributed import World, choose_device
from tutelage.system.files import MANIFEST, fingerprint
from tutelage.tasks.named import data_for


def recipe_of_run(run: Path, plugins: Sequence[str] = ()) -> Recipe:
    """The resolved recipe of a run folder; `plugins` are the modules that the user allows it to name."""
    if not (run / "config.toml").exists():
        raise UsageError("not a run folder", where=run, found="no config.toml" if run.exists() else "no such folder",
                         expected="the --out of an earlier `tutelage train`")
    if (run / "config.toml").read_text(encoding="utf-8").startswith("# started from Python"):
        raise UsageError("this run was started from Python", where=run,
                         fix="run that script again; train(..., out=...) resumes it")
    return read_recipe(run / "config.toml", plugins=plugins)


def networks_of(path: Path, overrides: Sequence[str] = (),
                plugins: Sequence[str] = ()) -> tuple[dict[str, nn.Module], data_page.Data]:
    """The networks of a finished run or of a recipe, frozen ones first, and the data, on the recipe's device."""
    if path.is_dir():
        if overrides:
            raise UsageError("a run keeps its own recipe", where="--set", found=", ".join(overrides),
                             fix="give the recipe instead of its run")
        recipe = recipe_of_run(path, plugins)
        made = finished_run(path, World(choose_device(recipe.train.device)), plugins)
    else:
        recipe = read_recipe(path, overrides, plugins=plugins)
        made = make_job(recipe, World(choose_device(recipe.train.device)), path)
    device = choose_device(recipe.train.device)
    order = sorted(made.models, key=lambda node: not isinstance(made.graph.nodes[node], Frozen))
    return {node: made.models[node].to(device) for node in order}, made.data


@dataclass(frozen=True)
class FinishedRun:
    """A finished run opened again: its recipe, graph, networks by node with what they have learned, and data."""

    folder: Path
    recipe: Recipe
    graph: Graph
    models: dict[str, nn.Module]
    data: data_page.Data
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Source:
        """One of its splits, by name; UsageError if the data have none of that name."""
        source = {"train": self.data.train, "validation": self.data.validation, "test": self.data.test}[name]
        if source is None:
            raise UsageError(f"these data have no {name} split", where=self.folder / "config.toml",
                             fix="--on validation")
        return source


def finished_run(run: Path, world: World, plugins: Sequence[str] = ()) -> FinishedRun:
    """The networks and data of a finished run: what has learned comes from its folder, a teacher from its own file.

    ModelError if a teacher's file is gone or holds other weights than those that the run learned from.
    """
    recipe, where = recipe_of_run(run, plugins), run / "config.toml"
    if finished(run) is None:
        raise UsageError("this run is not finished", where=run, fix=f"tutelage train --resume {run}")
    recipe = runs_of(recipe, run, where)[-1][1]
    graph = graph_of(recipe, where)
    data = data_for(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    models = {}
    for node, kind in graph.nodes.items():
        if isinstance(kind, Frozen):
            models[node] = _teacher(recipe, node, data, where)
        elif isinstance(kind, Trained | Ema):
            models[node] = load(run, node, plugins=recipe.plugins)[0]
    changes = _changes(run, models, data)
    for model in models.values():
        model.to(world.device).eval()
    return FinishedRun(run, recipe, graph, models, data, (*notes_of(recipe, graph, data), *changes))


def _teacher(recipe: Recipe, node: str, data: data_page.Data, where: Path) -> nn.Module:
    try:
        return network_in(recipe, node, recipe.models[node], data, where)
    except ModelError as error:
        raise ModelError(f"the frozen network {node!r} of this run cannot be opened", where=error.where,
                         found=error.what, fix="put its file of weights back") from None


def _changes(run: Path, models: Mapping[str, nn.Module], data: data_page.Data) -> tuple[str, ...]:
    """Whether data and teachers are those that the run learned from, by the hashes in its last checkpoint."""
    manifests = sorted((run / "checkpoints").glob(f"step-*/{MANIFEST}"), key=lambda path: (len(str(path)), path))
    if not manifests:
        return ()
    then = read_json(manifests[-1])
    for node, digest in then["frozen"].items():
        if node in models and fingerprint(models[node].state_dict()) != digest:
            raise ModelError("this run learned from another teacher", where=f"node {node!r}",
                             found="weights with another SHA-256", fix="give back the weights the run was started with")
    same = then["data"] == data.digest
    return () if same else ("the data are not those the run learned from: an image may be in another split now",)
