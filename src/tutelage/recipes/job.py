"""A recipe made real: its data, networks, graph and settings, and its training."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from tutelage import data as data_page
from tutelage.data.load import load_data
from tutelage.engine.autotune import begin, choose
from tutelage.engine.loop import check
from tutelage.engine.run import Epoch, Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.use import fill_cache
from tutelage.engine.train import Progress, train_in_folder
from tutelage.errors import ModelError, UsageError, UserError, placed
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.weights import read_metadata
from tutelage.recipes.class_phases import train_phases
from tutelage.recipes.recipe import Recipe, graph_of, in_phases, place_of, settings_of
from tutelage.recipes.sequence import gather, open_whole, runs_of
from tutelage.system.distributed import World, lead


@dataclass(frozen=True)
class Job:
    """What `engine.train.train_in_folder` needs, made from a recipe."""

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
        if node not in recipe.models:
            raise UsageError("this method is several runs", where=where, found=f"{node!r} comes from the run before",
                             fix="take the recipe of one of them: RUN/2/config.toml")
        arch = recipe.models[node]
        if arch.weights is None and not arch.pretrained and not recipe.quick:
            raise ModelError(f"the frozen network {node!r} has no trained weights",
                             where=place_of(recipe, where, "models", node),
                             expected="weights = a .safetensors file or a run folder, or pretrained = true",
                             fix="train it first (method scratch) and give its run folder as weights")
    data = load_data(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    models = {node: network_in(recipe, node, arch, data, where) for node, arch in recipe.models.items()}
    return Job(recipe, graph, models, data, settings, notes_of(recipe, graph, data))


def train_job(job: Job, out: Path, world: World, interrupted: Callable[[], int],
              numerics: Path | None = None) -> Iterator[Epoch | Progress | None]:
    """Train a job in its run folder."""
    return train_in_folder(out, job.graph, job.models, job.data, job.settings, world, config=job.recipe.text_in(out),
                           interrupted=interrupted, numerics=numerics)


def train_recipe(recipe: Recipe, out: Path, world: World, interrupted: Callable[[], int] = lambda: 0,
                 where: object = "recipe", started: Callable[[Job, Path], None] = lambda job, folder: None,
                 numerics: Path | None = None) -> Iterator[tuple[Job, Epoch | Progress | None]]:
    """Train a recipe in its run folder, or its several runs in theirs; a finished run gives its epochs again.

    `numerics` is a file of number formats that the runs of a study share.
    """
    def train_one(one: Recipe, folder: Path) -> Iterator[tuple[Job, Epoch | Progress | None]]:
        job = make_job(one, world, where)
        started(job, folder)
        for event in train_job(job, folder, world, interrupted, numerics):
            yield job, event

    runs = runs_of(recipe, out, where)
    if len(runs) == 1:
        yield from train_one(recipe, out)
        return
    data = load_data(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    with open_whole(out, recipe, data, world):
        if in_phases(recipe.method["name"]):
            yield from train_phases(recipe, out, data, world, train_one)
        else:
            for folder, one in runs:
                yield from train_one(one, folder)
        lead(world, partial(gather, out, runs[-1][0]) if world.main else None)


def cache_job(job: Job, world: World) -> Iterator[tuple[int, Run]]:
    """Keep what the teachers of a job say, draw by draw, ahead of training: the number of each draw when it is done."""
    settings = replace(job.settings, cache=True)
    prepared = check(job.graph, job.models, job.data, settings, world)
    tuned = choose(prepared, job.data, settings, world)
    run = begin(prepared, job.data, settings, world, tuned)
    if run.cache is None:
        raise UsageError("there is nothing to keep", found="; ".join(tuned.notes))
    for draw in fill_cache(run, settings.draws):
        yield draw, run


def notes_of(recipe: Recipe, graph: Graph, data: data_page.Data) -> tuple[str, ...]:
    """What is allowed and yet looks like a mistake, such as a teacher that saw images prepared in another way."""
    notes = list(data.notes)
    for node in graph.named(Frozen):
        weights = recipe.models[node].weights
        told = json.loads(read_metadata(weights, node).get("preprocessing", "{}")) if weights else {}
        other = [f"{key} {told[key]} there, {value} here" for key, value in data.preprocessing.items()
                 if key in told and told[key] != value and (key != "orientation" or data.files is not None)]
        if other:
            notes.append(f"{node} was trained on images prepared in another way: {'; '.join(other)}")
    return tuple(notes)


def network_in(recipe: Recipe, node: str, arch: Architecture, data: data_page.Data, where: object) -> nn.Module:
    """The network of a node as its [models.NODE] describes it; UserError with its place in the recipe."""
    try:
        return build(arch, class_names=data.classes, channels=data.shape[0], name=node, seed=recipe.train.seed,
                     plugins=recipe.plugins)
    except UserError as error:
        raise placed(error, place_of(recipe, where, "models", node)) from None
