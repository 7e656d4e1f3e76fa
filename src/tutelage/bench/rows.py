"""`tutelage bench`: how fast this is on your machine, as ratios that a noisy machine does not move.

Every row takes turns step by step with what it is compared to, in one process; a ratio is the median over rounds. On a
CPU, time is this process's CPU time (user and system), which other processes hardly touch; on a GPU it is wall time
between synchronisations. `floor` is the best that training the students alone can do: images already on the device and
laid out, cross-entropy alone, each student in the fastest of the formats that the tuner knows, the same optimizers.
`naive` is the loop that most people write, see `naive_loop`. That what is compared computes the same losses is measured
too, in `sameness_rows`.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tutelage.bench.floor import Step, floor_of, floor_step, laid_out, slow_down
from tutelage.bench.naive_loop import (
    by_hand,
    copies_on,
    draw_by_pil,
    hand_step,
    loss_by_hand,
    optimizers_of,
    without_peers,
)
from tutelage.data import from_tensors
from tutelage.data.augment import Augmentation, crop_and_flip, unit_range
from tutelage.data.source import Data
from tutelage.engine.autotune import Tuned, memory_folder
from tutelage.engine.cuda_graph import CapturedStep, warm_graph
from tutelage.engine.loop import check, may_capture, mean_losses, set_modes, start, start_prepared, train_step
from tutelage.engine.monitor import Means
from tutelage.engine.precision import Execution, on_device
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.use import attach, cache_folder, fill_cache
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.schedules import constant
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.system.distributed import World
from tutelage.types import Batch, one_tensor

SAME, SAME_CACHED = 1e-5, 1e-4
"""How far apart the losses of a step may be, as a share of the loss; and with a teacher kept in 16 bits."""
GENTLY = 1e-3
"""Of the learning rates, what is used while losses are compared: rounding is not to be blown up step by step."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured, what is hoped for, and what was found (median, least, most)."""

    name: str
    reach: str
    value: float
    least: float
    most: float
    reached: bool
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """The row for a program."""
        return asdict(self)


def ratios(steps: Mapping[str, Step], rounds: int, device: torch.device, repeats: int = 1) -> dict[str, list[float]]:
    """Seconds of each step in each round; the rounds interleaved, every other one backwards, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    repeats = max(repeats, 1 if device.type == "cpu" else 10)  # so that a GPU is waited for once in many steps
    for step in steps.values():
        for _ in range(1 if device.type == "cpu" else repeats):  # on a GPU a step is recorded after some
            step()
    for number in range(rounds):
        for name in (list(steps) if number % 2 else list(steps)[::-1]):
            began = _now(device)
            for _ in range(repeats):
                steps[name]()
            seconds[name].append((_now(device) - began) / repeats)
    return seconds


def compare_runs(name: str, seconds: Mapping[str, Sequence[float]], above: str, below: Sequence[str], reach: float, *,
                 at_most: bool = True, note: str = "") -> Row:
    """The row of seconds of `above` divided by the sum of those `below`, round by round."""
    totals = [sum(times) for times in zip(*(seconds[part] for part in below), strict=True)]
    found = [one / other for one, other in zip(seconds[above], totals, strict=True)]
    value = statistics.median(found)
    sign = "<=" if at_most else ">="
    return Row(name, f"{sign} {reach:g}", value, min(found), max(found),
               value <= reach if at_most else value >= reach, note)


def dual_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
              world: World, rounds: int) -> Iterator[Row]:
    """The whole training step of a recipe with one frozen teacher, against the floor and against naive loops."""
    students = graph.named(Trained)
    naive = partial(by_hand, models=models, data=data, settings=settings, device=world.device)
    steps: dict[str, Step] = {
        "naive": naive(graph), "floor": floor_of({node: models[node] for node in students}, data, settings,
                                               tuned.choices, world, recorded=tuned.recorded)}
    if len(students) > 1:
        steps |= {f"naive {node}": naive(without_peers(graph, node)) for node in students}
    ours, kept = _four_ways(graph, models, data, settings, tuned, world)
    seconds = ratios(steps | ours, rounds, world.device)
    limits = (1.02, 1.28) if world.device.type == "cpu" else (1.05, 1.20)
    separate = [f"naive {node}" for node in students]
    yield compare_runs("whole step, cached teacher / floor", seconds, "cached", ["floor"], limits[0], note=kept)
    yield compare_runs("whole step, online teacher / floor", seconds, "online", ["floor"], limits[1])
    if len(students) > 1:
        yield compare_runs("all students, online / separate naive runs", seconds, "online", separate, 0.38)
        yield compare_runs("all students, cached / separate naive runs", seconds, "cached", separate, 0.30, note=kept)
    more = partial(compare_runs, seconds=seconds, above="naive", at_most=False)
    yield more("naive / ours, all float32, online", below=["online fp32"], reach=1.35)
    yield more("naive / ours, all float32, cached", below=["cached fp32"], reach=2.0, note=kept)
    yield more("naive / floor (what there is to win)", below=["floor"], reach=2.6)


def floor_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
               world: World, rounds: int) -> Iterator[Row]:
    """The whole training step of a recipe of any task, with one frozen teacher, against the floor."""
    floor = floor_of({node: models[node] for node in graph.named(Trained)}, data, settings, tuned.choices, world,
                     recorded=tuned.recorded)
    made, kept = dict[str, Step](), ""
    for way in ("online", "cached"):
        made[way], note = _ours(graph, models, data, settings, tuned.choices, world, cached=way == "cached",
                                tuned=tuned)
        kept = kept or note
    seconds = ratios({"floor": floor} | made, rounds, world.device)
    limits = (1.02, 1.28) if world.device.type == "cpu" else (1.05, 1.20)
    yield compare_runs("whole step, cached teacher / floor", seconds, "cached", ["floor"], limits[0], note=kept)
    yield compare_runs("whole step, online teacher / floor", seconds, "online", ["floor"], limits[1])


def single_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
                world: World, rounds: int) -> Iterator[Row]:
    """Plain distillation of one teacher into one student, the work that other tools do too, against a naive loop.

    Those tools are within a few percent of that loop; `make bench-peers` measures against them themselves.
    """
    teacher, student = graph.named(Frozen)[0], graph.named(Trained)[0]
    pair = distill(teacher, student)
    settings = _of_one(settings, student)
    steps, kept = _four_ways(pair, models, data, settings, tuned, world)
    seconds = ratios({"naive": by_hand(pair, models, data, settings, world.device)} | steps, rounds, world.device)
    for name, reach, note in (("online", 2.0, ""), ("cached", 2.6, kept), ("online fp32", 1.2, ""),
                              ("cached fp32", 1.8, kept)):
        yield compare_runs(f"one student, naive / ours {name}", seconds, "naive", [name], reach, at_most=False,
                           note=note)


def student_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
                 world: World, rounds: int, counts: Sequence[int] = (2, 3, 4, 5, 6, 7, 8)) -> Iterator[Row]:
    """N students like the recipe's first with a cached teacher, against the sum of their floors."""
    teacher, student = graph.named(Frozen)[0], graph.named(Trained)[0]
    settings = _of_one(settings, student)
    for count in counts:
        names = [f"s{number}" for number in range(count)]
        networks = {"teacher": models[teacher], **dict.fromkeys(names, models[student])}  # each is copied where it runs
        choices = {"teacher": tuned.choices[teacher], **dict.fromkeys(names, tuned.choices[student])}
        graph = dual_student("teacher", names)
        ours, kept = _ours(graph, networks, data, settings, choices, world, cached=True, tuned=tuned)
        floor = floor_of({name: networks[name] for name in names}, data, settings, choices, world,
                       recorded=tuned.recorded)
        seconds = ratios({"ours": ours, "floor": floor}, rounds, world.device)
        yield compare_runs(f"{count} students, cached / sum of their floors", seconds, "ours", ["floor"], 1.02,
                           note=kept)


def sameness_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
                  world: World, steps: int = 20, size: int = 16) -> Iterator[Row]:
    """How far apart the losses of what is compared are, as a share, over some steps on the same small batches.

    In float64: untrained networks blow a difference of 1e-7 up to 1e-2 within ten steps, and rounding is no other
    work. A cache rounds what it keeps, so with it the weights stay where they are and only the batches change.
    Dropout is switched off, since each loop draws its own; nothing is compiled.
    """
    size = min(size, settings.batch_size)
    settings = replace(settings, batch_size=size, rate=partial(constant, value=GENTLY), warmup_epochs=0, accumulate=1,
                       clip_norm=None)
    choices = {node: replace(choice, bf16=False, compiled=False) for node, choice in tuned.choices.items()}
    rows = torch.arange(len(data.train.ids) // size * size).repeat(steps)[: steps * size].split(size)
    # Labels as they are, also where a recipe mixes images.
    batches = [Batch(batch.inputs, data.train.labels[place].to(world.device), batch.ids)
               for place, batch in zip(rows, data.train.batches(rows, draw=0), strict=True)]
    students = graph.named(Trained)
    bare = Graph({node: Trained() for node in students}, [Edge("labels", node, cross_entropy) for node in students])
    wide, still = {node: _still(model).double() for node, model in models.items()}, replace(
        settings, rate=partial(constant, value=0.0))
    for model in wide.values():
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
    run, _ = _run(graph, wide, data, settings, choices, world, cached=False, compiled=False)
    yield _apart(f"losses of {steps} steps apart, ours and naive", _our_losses(run, batches),
                 _hand_losses(graph, wide, settings, batches, world.device, GENTLY), SAME)
    same = {node: _still(model) for node, model in models.items()}
    run, _ = _run(graph, same, data, still, choices, world, cached=True, compiled=False)
    yield _apart(f"losses of {steps} batches apart, ours cached and naive", _our_losses(run, batches),
                 _hand_losses(graph, same, still, batches, world.device, 0.0), SAME_CACHED)
    floor = floor_step({node: wide[node] for node in students}, settings, choices, world, gently=GENTLY)
    yield _apart(f"losses of {steps} steps apart, floor and naive",
                 [float(floor(laid_out(batch.inputs), one_tensor(batch.labels))) for batch in batches],
                 _hand_losses(bare, wide, settings, batches, world.device, GENTLY), SAME)


def loss_rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """All losses of `dual_student` and their gradients, compiled in closed form, against `objective` in eager mode."""
    for batch, classes, reach in ((256, 10, 4), (256, 100, 4), (256, 1000, 4), (1024, 21841, 10)):
        generator = torch.Generator().manual_seed(0)
        graph = dual_student("t", ["a", "b"])
        logits = {node: (3 * torch.randn(batch, classes, generator=generator)).to(device).requires_grad_(node != "t")
                  for node in "tab"}
        labels = torch.randint(classes, (batch,), generator=generator).to(device)
        steps = {"eager": partial(_losses, objective.losses, graph, logits, labels),
                 "ours": partial(_losses, partial(fused_losses.losses, compiled=True), graph, logits, labels)}
        if device.type == "cuda":  # a step on a GPU is recorded, so its losses are; the copy moves as many bytes
            held = torch.zeros(10 * batch * classes, dtype=torch.uint8, device=device)
            steps |= {"ours": warm_graph(steps["ours"]), "copy": warm_graph(held.clone)}
        seconds = ratios(steps, rounds, device, repeats=max(1, 20_000_000 // (batch * classes * 10)))
        yield compare_runs(f"losses and gradients at {batch} x {classes}, eager / ours", seconds, "eager", ["ours"],
                           reach,
                           at_most=False)
        if device.type == "cuda":
            yield compare_runs(f"losses and gradients at {batch} x {classes}, ours / copy of the bytes they move",
                               seconds,
                               "ours", ["copy"], 1.25)


def augmentation_rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Crop and flip of 20 whole batches of 128 images of 32 pixels, against PIL image by image."""
    images = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8)
    how, ids = Augmentation(padding=4, flip=True), torch.arange(len(images)).to(device)
    padded = F.pad(images, [4] * 4).to(device)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    draw = draw_by_pil(how, (3, 32, 32))

    def ours() -> None:
        for rows in ids.split(128):
            unit_range(crop_and_flip(padded, rows, rows, how, draw=0, view=""))

    def pil() -> None:
        for first in range(0, len(pictures), 128):
            torch.stack([draw(picture) for picture in pictures[first : first + 128]])
    seconds = ratios({"pil": pil, "ours": ours}, rounds, device)
    yield compare_runs("augmentation, PIL image by image / ours", seconds, "pil", ["ours"], 15, at_most=False)


def overhead_rows(world: World, rounds: int) -> Iterator[Row]:
    """A step of trivial networks at batch size 8, against the same step written by hand."""
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    data = from_tensors((images, torch.arange(64) % 4), validation=0.25, augment="none")
    models = {node: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for node in ("t", "a", "b")}
    make = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    settings = Settings(10**6, make, batch_size=8)
    graph = dual_student("t", ["a", "b"])
    run = start(graph, deepcopy(models), data, settings, world, compiled_losses=True)
    set_modes(run)
    batch = on_device(next(iter(data.train.batches([torch.arange(8)], draw=0))), world.device)
    networks = copies_on(graph, models, world.device)
    hand = partial(hand_step, loss_by_hand(graph), graph, networks, optimizers_of(graph, networks, settings), batch)
    seconds = ratios({"ours": partial(train_step, run, [batch]), "hand": hand}, rounds, world.device, repeats=200)
    microseconds = 1e6 * (statistics.median(seconds["ours"]) - statistics.median(seconds["hand"]))
    yield compare_runs("step of trivial networks / the same by hand", seconds, "ours", ["hand"], 1.10,
                       note=f"{microseconds:+.0f} microseconds a step")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _losses(function: Callable, graph: Graph, logits: Mapping[str, Tensor], labels: Tensor) -> None:
    for tensor in logits.values():
        tensor.grad = None
    torch.stack(list(function(graph, logits, labels).values())).sum().backward()


def _four_ways(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
               world: World) -> tuple[dict[str, Step], str]:
    """Our step online and cached, as tuned and in float32; and what the cache took."""
    made, kept = dict[str, Step](), ""
    fp32 = {node: replace(choice, bf16=False) for node, choice in tuned.choices.items()}
    for name, choices in (("", tuned.choices), (" fp32", fp32)):
        for way in ("online", "cached"):
            made[f"{way}{name}"], note = _ours(graph, models, data, settings, choices, world, cached=way == "cached",
                                               tuned=tuned)
            kept = kept or note
    return made, kept


def _ours(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
          choices: Mapping[str, Execution], world: World, *, cached: bool, tuned: Tuned) -> tuple[Step, str]:
    run, kept = _run(graph, models, data, settings, choices, world, cached=cached, compiled=tuned.compiled_losses)
    if tuned.recorded and may_capture(run):
        run.recording = CapturedStep(run.optimizers.values(), run.world.device)
    batches = _endless(run)

    def step() -> None:
        run.step %= run.steps_per_epoch  # stay in the first draw
        train_step(run, [next(batches)])
    return step, kept


def _run(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
         choices: Mapping[str, Execution], world: World, *, cached: bool, compiled: bool) -> tuple[Run, str]:
    """A run of ours that is ready for its first step, and what its cache took to fill."""
    networks = {node: deepcopy(models[node]) for node in models if node in graph.nodes}
    prepared = check(graph, networks, data, settings, world)
    run = start_prepared(prepared, data, settings, world,
                         {node: choices[node] for node in choices if node in graph.nodes}, compiled_losses=compiled)
    set_modes(run)
    if not cached:
        return run, ""
    folder = cache_folder(prepared, run.choices, data, settings, world, memory_folder() / "bench")
    assert folder is not None, "a recipe with a teacher and data of this package"
    found, began = folder.exists(), _now(world.device)
    attach(run, folder)
    for _ in fill_cache(run, 1):
        pass
    run.step = 0
    took = "found on disk" if found else f"took {_now(world.device) - began:.1f} s ahead, not counted"
    return run, f"1 draw of {len(data.train.ids)} images {took}"


def _our_losses(run: Run, batches: Iterable[Batch]) -> list[float]:
    found = []
    for batch in batches:
        run.step %= run.steps_per_epoch
        run.means = Means()
        train_step(run, [batch])
        found.append(sum(mean_losses(run).values()))
    return found


def _hand_losses(graph: Graph, models: Mapping[str, nn.Module], settings: Settings, batches: Iterable[Batch],
                 device: torch.device, gently: float) -> list[float]:
    networks = copies_on(graph, models, device)
    optimizers = optimizers_of(graph, networks, settings)
    slow_down(optimizers, gently)
    step = partial(hand_step, loss_by_hand(graph), graph, networks, optimizers)
    return [float(step(batch)) for batch in batches]


def _apart(name: str, found: Sequence[float], right: Sequence[float], limit: float) -> Row:
    apart = [abs(one - other) / abs(other) for one, other in zip(found, right, strict=True)]
    return Row(name, f"<= {limit:g}", max(apart), min(apart), max(apart), max(apart) <= limit)


def _still(model: nn.Module) -> nn.Module:
    """A copy without dropout and without skipped blocks."""
    copy = deepcopy(model)
    for module in copy.modules():
        for name in ("p", "drop_prob"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return copy


def _of_one(settings: Settings, student: str) -> Settings:
    """The settings with the optimizer of one student for whatever is trained."""
    given = settings.optimizer
    return settings if callable(given) else replace(settings, optimizer=given.get(student, given.get("")))


def _endless(run: Run) -> Iterator[Batch]:
    rows = torch.arange(len(run.data.train.ids))[: run.steps_per_epoch * run.settings.batch_size]
    while True:
        yield from run.data.train.batches(rows.split(run.settings.batch_size), draw=0)
