"""A recipe made real: its data, networks, graph and settings; and a finished run opened again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from tutelage import data as data_page
from tutelage.data.load import load_data
from tutelage.data.source import Source
from tutelage.engine.autotune import begin, choose
from tutelage.engine.loop import check
from tutelage.engine.predict import predict, robustness
from tutelage.engine.run import Epoch, Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.use import fill_cache as build_cache
from tutelage.engine.train import Progress, load, train_in_folder
from tutelage.errors import ModelError, UsageError, UserError, placed
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound
from tutelage.graph.nodes import Computed, Ema, Ensemble, Frozen, Trained
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.cost import costs
from tutelage.models.weights import read_metadata
from tutelage.recipes.class_phases import train_phases
from tutelage.recipes.recipe import Recipe, graph_of, in_phases, place_of, read_recipe, settings_of
from tutelage.recipes.sequence import gather, open_whole, runs_of
from tutelage.runs.evaluations import finite, write_cost, write_evaluation
from tutelage.runs.folder import finished, read_json
from tutelage.system.distributed import World, choose_device, lead
from tutelage.system.files import MANIFEST, fingerprint
from tutelage.tasks.classification.attacks import Adversary, Attack
from tutelage.tasks.classification.evaluate import assess

ENSEMBLE = "ensemble"
STEPS_OF_ATTACK = 10


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
    models = {node: _network(recipe, node, arch, data, where) for node, arch in recipe.models.items()}
    return Job(recipe, graph, models, data, settings, _notes(recipe, graph, data))


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
    data = load_data(recipe.data, seed=recipe.train.seed, device=world.device, quick=recipe.quick)
    models = {}
    for node, kind in graph.nodes.items():
        if isinstance(kind, Frozen):
            models[node] = _teacher(recipe, node, data, where)
        elif isinstance(kind, Trained | Ema):
            models[node] = load(run, node, plugins=recipe.plugins)[0]
    changes = _changes(run, models, data)
    for model in models.values():
        model.to(world.device).eval()
    return FinishedRun(run, recipe, graph, models, data, (*_notes(recipe, graph, data), *changes))


def evaluate_run(run: Path, split: str, world: World, plugins: Sequence[str] = (), *, cost: bool = True,
                 eps: float | None = None,
                 note: Callable[[str], None] = lambda text: None) -> tuple[dict, dict | None]:
    """Measure a finished run on one of its splits, write that into its folder, and give the metrics and the cost.

    Every network counts, and the ensemble of the students where there are several. What has learned is attacked too,
    within `eps`, by default as in training; 0 for no attack. Ranks share the images; the first of them measures and
    writes, and on the others the metrics are empty.
    """
    opened = finished_run(run, world, plugins)
    for text in opened.notes if world.main else ():
        note(text)
    source = opened.split(split)
    ask = partial(predict, _judged(opened), opened.models, classes=len(opened.data.classes), world=world,
                  batch_size=opened.recipe.data.batch_size)
    predictions = ask(source)
    held_out = predictions if split == "validation" else ask(opened.data.validation)
    robust = _robust(opened, source, list(predictions), eps, world)
    found: list[dict] = []

    def measure() -> None:
        evaluation = assess(opened.graph, split, source, predictions, opened.data.classes,
                            (opened.data.validation, held_out), robust)
        write_evaluation(run, evaluation)
        found.append(finite(evaluation.metrics))
        if cost:
            found.append(_cost(opened, world))
            write_cost(run, found[1])

    lead(world, measure if world.main else None)
    return (found[0] if found else {}), (found[1] if len(found) > 1 else None)


def _robust(opened: FinishedRun, source: Source, nodes: Sequence[str], eps: float | None, world: World) -> dict | None:
    """The accuracy of each network on images made against each that has learned; None where nothing is attacked."""
    trained = [controller.attack for controller in opened.graph.controllers.values()
               if isinstance(controller, Adversary)]
    if eps is not None:
        attack = Attack(eps, eps / 4, STEPS_OF_ATTACK)
    else:
        attack = replace(trained[0], steps=STEPS_OF_ATTACK) if trained else Attack(0.0)
    if not attack.eps or not bool((source.labels >= 0).any()):
        return None
    models = {node: opened.models[node] for node in nodes if node in opened.models}
    attacked = [node for node in models if not isinstance(opened.graph.nodes[node], Frozen)]
    shares = robustness(models, source, attack, attacked=attacked, batch_size=opened.recipe.data.batch_size,
                        world=world)
    return {**asdict(attack), "top1": shares}


def _judged(opened: FinishedRun) -> Graph:
    """The nodes that need nothing but the networks, and the ensemble of the students; no edges."""
    graph, students = opened.graph, opened.graph.named(Trained)
    nodes = {name: kind for name, kind in graph.nodes.items() if not _needs_part(graph, name)}
    if len(students) > 1 and ENSEMBLE not in graph.nodes:
        nodes[ENSEMBLE] = Ensemble(students)
    return Graph(nodes, [])


def _needs_part(graph: Graph, node: str) -> bool:
    """Whether a node is computed by a module, which is not among a run's networks."""
    kinds = [graph.nodes.get(parse_end(end).node) for end in graph.order([node])]
    return any(isinstance(kind, Computed) and isinstance(unbound(kind.by), nn.Module) for kind in kinds)


def _cost(opened: FinishedRun, world: World) -> dict:
    frozen = opened.graph.named(Frozen)
    files = {node: opened.folder / "models" / f"{node}.safetensors" for node in opened.models if node not in frozen}
    return costs(opened.models, opened.data.shape, opened.data.classes, world.device,
                 teacher=frozen[0] if frozen else None, files=files)


def _teacher(recipe: Recipe, node: str, data: data_page.Data, where: Path) -> nn.Module:
    try:
        return _network(recipe, node, recipe.models[node], data, where)
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


def _notes(recipe: Recipe, graph: Graph, data: data_page.Data) -> tuple[str, ...]:
    """What is allowed and yet looks like a mistake, such as a teacher that saw images prepared in another way."""
    notes = list(data.notes)
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
        raise placed(error, place_of(recipe, where, "models", node)) from None
