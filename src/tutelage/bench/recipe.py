"""A recipe on the bench: its networks and images, what the machine is, and the table of all rows."""

import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace

import torch
from torch import nn

from tutelage.bench import rows as benchmarking
from tutelage.bench.naive_loop import is_plain
from tutelage.bench.rows import Row
from tutelage.data import Data, from_tensors
from tutelage.data.memory import TOGETHER
from tutelage.engine.autotune import Tuned, memory_folder, records, tune
from tutelage.engine.precision import default_executions
from tutelage.engine.settings import Settings
from tutelage.errors import DataError, ModelError, UsageError, unknown
from tutelage.graph.nodes import Frozen, Trained
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes.job import Job
from tutelage.recipes.recipe import Recipe, graph_of, settings_of
from tutelage.recipes.teachers import with_teachers
from tutelage.runs.folder import versions
from tutelage.system.distributed import World
from tutelage.system.machine import describe_machine, keep_memory, peak_memory
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.named import data_for, task_named
from tutelage.types import one_tensor

BATCHES = 4
"""How many batches of images the steps go round; a recipe's epoch has more, and each of them costs the same."""
STEPS = {"cpu": 10_000, "cuda": 200_000}
"""The length of the run that the networks are tuned for: on a GPU 240 epochs of CIFAR-100."""
GROUPS = ("losses", "augmentation", "overhead", "same", "dual", "single", "students")
"""Of rows; those after "overhead" need the recipe's images and networks."""

OF_CLASSES = frozenset({"same", "single", "students"})
"""Those that compare with loops by hand, which are written for samples of one class each."""


def bench_recipe(recipe: Recipe, world: World, rounds: int, only: Sequence[str] | None = None, *,
                 where: object = "recipe", tell: Callable[[str], None] = print) -> dict[str, object]:
    """Every row, told as it is found; with the machine, versions and choices as JSON-able words."""
    for group in only or ():
        if group not in GROUPS:
            raise unknown("group of rows", group, GROUPS, where="--only")
    classes = recipe.data.work == CLASSIFICATION.name
    groups = [group for group in GROUPS if (group in only if only else classes or group not in OF_CLASSES)]
    kept = world.device.type == "cpu" and keep_memory()
    job, notes, tuned = None, list[str](), None
    if set(GROUPS[3:]) & set(groups):
        _require_classes(recipe, set(groups), where)
        job, notes = _job(recipe, world, where)
        began = time.perf_counter()
        tuned = _tuned(job, world)
        notes.append(f"how networks compute was found in {time.perf_counter() - began:.0f} s, not counted in any row")
    if kept:
        notes.append("every row has our allocator setting, the naive loop's too")
    for line in [describe_machine(str(world.device)), *notes, *(tuned.notes if tuned else [])]:
        tell(line)
    for node, choice in (tuned.choices if tuned else {}).items():
        tell(f"{node}: {choice}")
    rows = []
    for row in _rows(groups, job, tuned, world, rounds):
        between = f"[{_short(row.least)}, {_short(row.most)}]"
        tell(f"{row.name:<58} {_short(row.value):>7}  {between:<18} reach {row.reach:<9}"
             f"{'reached' if row.reached else 'NOT reached'}{f'  ({row.note})' if row.note else ''}")
        rows.append(row.as_json())
    return {"machine": describe_machine(str(world.device)), "versions": versions(), "rounds": rounds, "notes": notes,
            "tuned": tuned.as_json() if tuned else None, "peak_bytes": peak_memory(world.device), "rows": rows}


def _short(number: float) -> str:
    return f"{number:.2f}" if number >= 0.005 or not number else f"{number:.0e}"


def _rows(groups: Sequence[str], job: Job | None, tuned: Tuned | None, world: World, rounds: int) -> Iterator[Row]:
    if "losses" in groups:
        yield from benchmarking.loss_rows(world.device, rounds)
    if "augmentation" in groups:
        yield from benchmarking.augmentation_rows(world.device, rounds)
    if "overhead" in groups:
        yield from benchmarking.overhead_rows(world, rounds)
    if job is None or tuned is None:
        return
    settings = _settings(job)
    work = (job.graph, job.models, job.data, settings, tuned, world)
    if "same" in groups:
        yield from benchmarking.sameness_rows(*work)
    if "dual" in groups:
        classes = job.recipe.data.work == CLASSIFICATION.name
        yield from (benchmarking.dual_rows if classes else benchmarking.floor_rows)(*work, rounds)
    if "single" in groups:
        yield from benchmarking.single_rows(*work, rounds)
    if "students" in groups:
        yield from benchmarking.student_rows(*work, rounds)


def _require_classes(recipe: Recipe, groups: Set[str], where: object) -> None:
    """Refuse the rows that are of classes alone: naive loops are written for those."""
    others = groups & OF_CLASSES
    if recipe.data.work != CLASSIFICATION.name and others:
        raise UsageError(f"the group of rows {', '.join(sorted(others))} is for classification alone", where=where,
                         found=f"task {task_named(recipe.data.work).name}",
                         fix="--only dual: our step beside the floor of its students")


def _job(recipe: Recipe, world: World, where: object) -> tuple[Job, list[str]]:
    """The recipe made real, with few images; images and weights that are not here are replaced, and that is said."""
    graph, notes = graph_of(recipe, where), []
    of_classes = recipe.data.work == CLASSIFICATION.name
    if len(graph.named(Frozen)) != 1 or not (is_plain(graph) if of_classes else graph.named(Trained)):
        raise UsageError("the bench compares recipes with one frozen teacher", where=where,
                         found=f"{len(graph.named(Frozen))} frozen networks in\n{graph}",
                         expected="one frozen network, trained ones, and losses between their logits",
                         fix="--only losses, augmentation or overhead, which need no recipe of that kind")
    settings = settings_of(recipe, graph)
    batches = BATCHES if world.device.type == "cpu" else TOGETHER
    try:
        few = replace(recipe.data, limit=batches * settings.batch_size)
        data = data_for(few, seed=recipe.train.seed, device=world.device)
    except DataError as error:
        notes.append(f"the images are noise: {error.what}")
        data = _noise(recipe, settings, world)
    models = {}
    recipe = with_teachers(recipe, where=where, partly=True)
    for node, arch in recipe.models.items():
        try:
            models[node] = _built(recipe, node, arch, data)
        except ModelError as error:
            notes.append(f"{node} has random weights: {error.what}")
            plain = replace(arch, weights=None, pretrained=False, head="strict", classes=None)
            models[node] = _built(recipe, node, plain, data)
    return Job(recipe, graph, models, data, settings), notes


def _built(recipe: Recipe, node: str, arch: Architecture, data: Data) -> nn.Module:
    return build(arch, class_names=data.classes, channels=data.shape[0], name=node, seed=recipe.train.seed,
                 plugins=recipe.plugins)


def _noise(recipe: Recipe, settings: Settings, world: World) -> Data:
    """Images of the recipe's shape and number of classes, for a recipe whose images are not here."""
    quick = data_for(recipe.data, device=world.device, quick=True)
    count, generator = 2 * BATCHES * settings.batch_size, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *quick.shape), dtype=torch.uint8, generator=generator)
    return from_tensors((images, torch.arange(count) % len(quick.classes)), validation=0.5, classes=quick.classes,
                        augment="crop-flip", device=world.device)


def _settings(job: Job) -> Settings:
    return replace(job.settings, accumulate=1, cache=True, checkpoint_steps=None)


def _tuned(job: Job, world: World) -> Tuned:
    networks = {node: network.to(world.device) for node, network in job.models.items()}
    settings, rows = job.settings, torch.arange(job.settings.batch_size)
    (batch,) = job.data.train.batches([rows], draw=0)
    choices = default_executions(networks, settings.precision, world.device)
    recorded = records(world, settings)
    tuned = tune(job.graph, networks, one_tensor(batch.inputs).to(world.device), STEPS[world.device.type],
                 choices, memory_folder(), recorded=recorded)
    return replace(tuned, recorded=recorded)
