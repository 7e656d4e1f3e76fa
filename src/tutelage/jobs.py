"""A recipe made real: its data, networks, graph and settings; and a finished run opened again."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tutelage import data as data_page
from tutelage.caching import build as build_cache
from tutelage.config import Recipe, graph_of, read_recipe, settings_of
from tutelage.data.load import load as load_data
from tutelage.errors import ModelError, UsageError, UserError, placed
from tutelage.evaluation import evaluate
from tutelage.graph import Ema, Ensemble, Frozen, Graph, Trained
from tutelage.loop import Epoch, Run, Settings
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.weights import read_metadata
from tutelage.preparation import with_followers
from tutelage.training import Progress, load, train_in_folder
from tutelage.tuning import begin, choose
from tutelage.world import World

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Job:
    """What `training.train_in_folder` needs, made from a recipe."""

    recipe: Recipe
    graph: Graph
    models: dict[str, nn.Module]
    data: data_page.Data
    settings: Settings
    notes: tuple[str, ...] = ()


def make_job(recipe: Recipe, world: World, where: object = "recipe") -> Job:
    """Check the recipe's words first, then its files, then build: nothing is created on disk."""
    graph = graph_of(recipe, where)
    settings = settings_of(recipe, graph)
    for node in graph.named(Frozen):
        arch = recipe.models[node]
        if arch.weights is None and not arch.pretrained and not recipe.quick:
            raise ModelError(f"the frozen network {node!r} has no trained weights", where=f"{where}, [models.{node}]",
                             expected="weights = a .safetensors file or a run folder, or pretrained = true",
                             fix="train it first (method scratch) and give its run folder as weights")
    data = load_data(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    models = {node: _network(recipe, node, arch, data, where) for node, arch in recipe.models.items()}
    return Job(recipe, graph, models, data, settings, _notes(recipe, graph, data))


def train_job(job: Job, out: Path, world: World, interrupted: Callable[[], int]) -> Iterator[Epoch | Progress | None]:
    """Train a job in its run folder."""
    return train_in_folder(out, job.graph, job.models, job.data, job.settings, world, config=job.recipe.text(),
                           interrupted=interrupted)


def cache_job(job: Job, world: World) -> Iterator[tuple[int, Run]]:
    """Keep what the teachers of a job say, draw by draw, ahead of training: the number of each draw when it is done."""
    settings = replace(job.settings, cache=True)
    tuned = choose(job.graph, job.models, job.data, settings, world)
    run = begin(job.graph, job.models, job.data, settings, world, tuned)
    if run.cache is None:
        raise UsageError("there is nothing to keep", found="; ".join(tuned.notes))
    for draw in build_cache(run, settings.draws):
        yield draw, run


def recipe_of_run(run: Path, plugins: Sequence[str] = ()) -> Recipe:
    """The resolved recipe of a run folder; `plugins` are the modules that the user allows it to name."""
    if not (run / "config.toml").exists():
        raise UsageError("not a run folder", where=run, found="no config.toml" if run.exists() else "no such folder",
                         expected="the --out of an earlier `tutelage train`")
    if (run / "config.toml").read_text(encoding="utf-8").startswith("# started from Python"):
        raise UsageError("this run was started from Python", where=run,
                         fix="run that script again; train(..., out=...) resumes it")
    return read_recipe(run / "config.toml", plugins=plugins)


def evaluate_run(run: Path, split: str, world: World, plugins: Sequence[str] = ()) -> dict[str, dict]:
    """The metrics of every network of a finished run on one of its splits, with the ensemble of its students."""
    recipe = recipe_of_run(run, plugins)
    job = make_job(recipe, world, run / "config.toml")
    source = {"train": job.data.train, "validation": job.data.validation, "test": job.data.test}[split]
    if source is None:
        raise UsageError(f"these data have no {split} split", where=run / "config.toml", fix="--on validation")
    models = with_followers(job.graph, job.models)
    for node in [*job.graph.named(Trained), *job.graph.named(Ema)]:
        models[node] = load(run, node, plugins=recipe.plugins)[0]
    for model in models.values():
        model.to(world.device)
    graph, students = job.graph, job.graph.named(Trained)
    if len(students) > 1 and ENSEMBLE not in graph.nodes:
        graph = Graph({**graph.nodes, ENSEMBLE: Ensemble(students)}, graph.edges, graph.controllers)
    plain = Graph({name: kind for name, kind in graph.nodes.items() if name in models or name == ENSEMBLE}, [])
    return evaluate(plain, models, source, classes=len(job.data.classes), batch_size=recipe.data.batch_size,
                    world=world)


def _notes(recipe: Recipe, graph: Graph, data: data_page.Data) -> tuple[str, ...]:
    """What is allowed and yet looks like a mistake: a teacher that was trained on images prepared in another way."""
    notes = []
    for node in graph.named(Frozen):
        weights = recipe.models[node].weights
        told = json.loads(read_metadata(weights, node).get("preprocessing", "{}")) if weights else {}
        other = [f"{key} {told[key]} there, {value} here" for key, value in data.preprocessing.items()
                 if key in told and told[key] != value]
        if other:
            notes.append(f"{node} was trained on images prepared in another way: {'; '.join(other)}")
    return tuple(notes)


def _network(recipe: Recipe, node: str, arch: Architecture, data: data_page.Data, where: object) -> nn.Module:
    try:
        return build(arch, class_names=data.classes, channels=data.shape[0], name=node, seed=recipe.train.seed,
                     plugins=recipe.plugins)
    except UserError as error:
        raise placed(error, f"{where}, [models.{node}]") from None
