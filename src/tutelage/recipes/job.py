"""A recipe made real: its data, networks, graph and settings, and its training."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from tutelage import data as data_page
from tutelage.data.text_preparation import TEXT
from tutelage.engine.autotune import begin, choose
from tutelage.engine.checks import Check, check_networks, heard
from tutelage.engine.loop import check
from tutelage.engine.run import Epoch, Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.use import fill_cache
from tutelage.engine.train import Progress, log_warnings, train_in_folder
from tutelage.errors import ModelError, UsageError, UserError, placed
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen
from tutelage.models.architecture import KNOWN, Architecture
from tutelage.models.build import build
from tutelage.models.freezing import frozen_notes
from tutelage.models.sources import WITHOUT_WEIGHTS
from tutelage.models.weights import read_metadata
from tutelage.recipes.class_phases import train_phases
from tutelage.recipes.methods import in_phases
from tutelage.recipes.recipe import Recipe, graph_of, place_of, read_recipe, settings_of
from tutelage.recipes.sequence import gather, open_whole, runs_of
from tutelage.recipes.teachers import with_teachers
from tutelage.recipes.text_networks import channels_for, require_fitting_text
from tutelage.system.distributed import World, lead
from tutelage.tasks.named import data_for
from tutelage.tasks.recommendation.teaching import connected, with_rankings


@dataclass(frozen=True)
class Job:
    """What `engine.train.train_in_folder` needs, made from a recipe."""

    recipe: Recipe
    graph: Graph
    models: dict[str, nn.Module]
    data: data_page.Data
    settings: Settings
    notes: tuple[str, ...] = ()


def make_job(recipe: Recipe, world: World, where: object = "recipe", data: data_page.Data | None = None) -> Job:
    """Check the recipe's words first, then its files, then build: nothing is created on disk.

    `data` are the recipe's, where they have been loaded already.
    """
    graph = graph_of(recipe, where)
    settings = settings_of(recipe, graph)
    recipe = with_teachers(recipe, where=where)
    for node in graph.named(Frozen):
        if node not in recipe.models:
            raise UsageError("this method is several runs", where=where, found=f"{node!r} comes from the run before",
                             fix="take the recipe of one of them: RUN/2/config.toml")
        arch = recipe.models[node]
        if arch.weights is None and not arch.pretrained and not recipe.quick and arch.arch not in WITHOUT_WEIGHTS:
            raise ModelError(f"the frozen network {node!r} has no trained weights",
                             where=place_of(recipe, where, "models", node),
                             expected="weights = a .safetensors file or a run folder, or pretrained = true",
                             fix="train it first (method scratch) and give its run folder as weights")
        _check_head(recipe, graph, node, where)
    for node, arch in recipe.models.items():
        if arch.classes == KNOWN and arch.weights is None and not arch.pretrained and not recipe.quick:
            raise ModelError(f"the network {node!r} knows no class yet",
                             where=place_of(recipe, where, "models", node, "classes"), found=f'classes = "{KNOWN}"',
                             expected="weights that say which classes they know", fix="leave it out, or give weights")
    data = data or data_for(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    models = {node: network_in(recipe, node, arch, data, where) for node, arch in recipe.models.items()}
    data = with_rankings(data, graph, models)
    return Job(recipe, graph, models, data, settings, (*notes_of(recipe, graph, data), *frozen_notes(models)))


def train_job(job: Job, out: Path, world: World, interrupted: Callable[[], int], numerics: Path | None = None,
              tell: Callable[[Sequence[Check]], None] | None = None) -> Iterator[Epoch | Progress | None]:
    """Train a job in its run folder; `tell` gets what was found of its networks at the start."""
    return train_in_folder(out, job.graph, job.models, job.data, job.settings, world, config=job.recipe.text_in(out),
                           interrupted=interrupted, numerics=numerics, skilled=not job.recipe.quick, tell=tell)


def train_recipe(recipe: Recipe, out: Path, world: World, interrupted: Callable[[], int] = lambda: 0,
                 where: object = "recipe", started: Callable[[Job, Path], None] = lambda job, folder: None,
                 numerics: Path | None = None, tell: Callable[[Sequence[Check]], None] | None = None
                 ) -> Iterator[tuple[Job, Epoch | Progress | None]]:
    """Train a recipe in its run folder, or its several runs in theirs; a finished run gives its epochs again.

    `numerics` is a file of number formats that the runs of a study share. `tell` is as in `train_job`.
    """
    def train_one(one: Recipe, folder: Path) -> Iterator[tuple[Job, Epoch | Progress | None]]:
        job = make_job(one, world, where)
        started(job, folder)
        for event in train_job(job, folder, world, interrupted, numerics, tell):
            yield job, event

    recipe = with_teachers(recipe, out, where)
    runs = runs_of(recipe, out, where)
    if len(runs) == 1:
        yield from train_one(recipe, out)
        return
    data = data_for(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    if not (out / "run.json").exists():  # what is refused leaves no folder behind
        look_at(make_job(runs[0][1], world, where, data), world)
    with open_whole(out, recipe, data, world):
        if in_phases(recipe.method["name"]):
            yield from train_phases(recipe, out, data, world, train_one)
        else:
            for folder, one in runs:
                yield from train_one(one, folder)
        lead(world, partial(gather, out, runs[-1][0]) if world.main else None)


def look_at(job: Job, world: World) -> list[Check]:
    """What training asks of the networks of a job before it makes its folder; what cannot be trained is refused."""
    prepared = check(job.graph, job.models, job.data, job.settings, world)
    return check_networks(prepared, job.data, job.settings, world, skilled=not job.recipe.quick)


def cache_job(job: Job, world: World) -> Iterator[tuple[int, Run]]:
    """Keep what the teachers of a job say, draw by draw, ahead of training: the number of each draw when it is done."""
    settings = replace(job.settings, cache=True)
    prepared = check(job.graph, job.models, job.data, settings, world)
    log_warnings(look_at(job, world))
    tuned = choose(prepared, job.data, settings, world)
    run = begin(prepared, job.data, settings, world, tuned)
    if run.cache is None:
        raise UsageError("there is nothing to keep", found="; ".join(tuned.notes))
    for draw in fill_cache(run, settings.draws):
        yield draw, run


def _check_head(recipe: Recipe, graph: Graph, node: str, where: object) -> None:
    """Refuse a frozen network whose logits are learned from and would come from a classifier that nobody has trained.

    Where only its features are read it may have a new one; so may what an earlier run has trained.
    """
    kind, arch = graph.nodes[node], recipe.models[node]
    place = place_of(recipe, where, "models", node)
    earlier = isinstance(kind, Frozen) and kind.before is not None
    if arch.head == "new" and "" in heard(graph).get(node, ()):
        raise ModelError(f"the frozen network {node!r} would teach with a random classifier", where=place.at("head"),
                         found='head = "new"', expected="a classifier that was trained",
                         fix="train it on these data first (method scratch, head = \"new\") and give that run as "
                             "weights; or cut its own classifier to the data's classes: classes = \"by-name\"")
    if arch.freeze is not None and not earlier:
        raise UsageError(f"the network {node!r} is frozen as a whole", where=place.at("freeze"),
                         found=f"freeze = {arch.freeze!r}", expected="freeze in a network that learns",
                         fix="leave freeze out")


def notes_of(recipe: Recipe, graph: Graph, data: data_page.Data) -> tuple[str, ...]:
    """What is allowed and yet looks like a mistake, such as a teacher that saw images prepared in another way."""
    notes = list(data.notes)
    for node in graph.named(Frozen):
        weights = recipe.models[node].weights
        told = json.loads(read_metadata(weights, node).get("preprocessing", "{}")) if weights else {}
        other = [f"{key} {told[key]} there, {value} here" for key, value in data.preprocessing.items()
                 if key in told and told[key] != value and told.get("kind") != TEXT  # looked at by text_networks
                 and (key != "orientation" or data.files is not None)]
        if other:
            notes.append(f"{node} was trained on images prepared in another way: {'; '.join(other)}")
        rule = _cut_by(weights, recipe) if weights else recipe.data.split_rule
        if rule != recipe.data.split_rule:
            notes.append(f"{node} was trained where split_rule = {rule}, here it is {recipe.data.split_rule}: it may "
                         f"have learned from images that are held out here; write split_rule = {rule} in [data]")
    return tuple(notes)


def _cut_by(weights: str, recipe: Recipe) -> int:
    """By which rule the images were cut that these weights learned from; that of `recipe` where it is not known."""
    place = Path(weights)
    run = place if place.is_dir() else place.parent.parent  # RUN/models/NODE.safetensors
    try:
        then = read_recipe(run / "config.toml", plugins=recipe.plugins).data
    except UserError:
        return recipe.data.split_rule
    same = (then.name, then.root) == (recipe.data.name, recipe.data.root)
    return then.split_rule if same else recipe.data.split_rule


def network_in(recipe: Recipe, node: str, arch: Architecture, data: data_page.Data, where: object) -> nn.Module:
    """The network of a node as its [models.NODE] describes it; UserError with its place in the recipe."""
    try:
        require_fitting_text(node, arch, data)
        network = build(arch, class_names=data.classes, channels=channels_for(arch, data), name=node,
                        seed=recipe.train.seed, plugins=recipe.plugins)
    except UserError as error:
        raise placed(error, place_of(recipe, where, "models", node)) from None
    connected(network, data.train)
    return network
