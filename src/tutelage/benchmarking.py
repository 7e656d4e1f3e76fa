"""`tutelage bench`: how fast this is on your machine, as ratios that a noisy machine does not move.

Every row takes turns step by step with what it is compared to, in one process; a ratio is the median over rounds.
On a CPU, time is this process's CPU time (user and system), which other processes hardly touch; on a GPU it is wall
time between synchronisations. `floor` is the best that training the students alone can do: images already on the
device and laid out, cross-entropy alone, each student in the fastest of the formats that the tuner knows, the same
optimizers. `naive` is the loop that most people write: images through PIL one by one, float32, every loss by itself.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from tutelage import closed_form, objective
from tutelage.caching import attach, build, cache_folder
from tutelage.data.augment import Augmentation, crop_and_flip, unit_range
from tutelage.data.source import Data
from tutelage.graph import Frozen, Graph, Trained
from tutelage.loop import Run, Settings, set_modes, start, train_step
from tutelage.methods.dual_student import dual_student
from tutelage.optim import make_optimizers
from tutelage.running import Choice, compute, lay_out, runner
from tutelage.tuning import Tuned, memory_folder
from tutelage.types import Batch
from tutelage.world import World

Step = Callable[[], object]


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
    for step in steps.values():
        step()
    for number in range(rounds):
        for name in (list(steps) if number % 2 else list(steps)[::-1]):
            began = _now(device)
            for _ in range(repeats):
                steps[name]()
            seconds[name].append((_now(device) - began) / repeats)
    return seconds


def compare(name: str, seconds: Mapping[str, Sequence[float]], above: str, below: Sequence[str], reach: float, *,
            at_most: bool = True, note: str = "") -> Row:
    """The row of seconds of `above` divided by the sum of those `below`, round by round."""
    totals = [sum(times) for times in zip(*(seconds[part] for part in below), strict=True)]
    found = [one / other for one, other in zip(seconds[above], totals, strict=True)]
    value = statistics.median(found)
    sign = "<=" if at_most else ">="
    return Row(name, f"{sign} {reach:g}", value, min(found), max(found), (value <= reach) == at_most, note)


def dual_rows(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, tuned: Tuned,
              world: World, rounds: int) -> Iterator[Row]:
    """The whole training step of a recipe with one frozen teacher, against the floor and against naive loops."""
    teacher, students = graph.named(Frozen)[0], graph.named(Trained)
    fp32 = {node: replace(choice, bf16=False, compiled=False) for node, choice in tuned.choices.items()}
    steps: dict[str, Step] = {
        "naive": _naive(teacher, students, models, data, settings, world),
        "floor": _floor({node: models[node] for node in students}, data, settings, tuned.choices, world)}
    for node in students:
        steps[f"naive {node}"] = _naive(teacher, [node], models, data, settings, world)
    for name, choices, cached in (("online", tuned.choices, False), ("cached", tuned.choices, True),
                                  ("online fp32", fp32, False), ("cached fp32", fp32, True)):
        steps[name] = _ours(graph, models, data, settings, choices, world, cached=cached,
                            compiled=tuned.compiled_losses)
    seconds = ratios(steps, rounds, world.device)
    limits = (1.02, 1.28) if world.device.type == "cpu" else (1.05, 1.20)
    separate = [f"naive {node}" for node in students]
    yield compare("dual step, cached teacher / floor", seconds, "cached", ["floor"], limits[0])
    yield compare("dual step, online teacher / floor", seconds, "online", ["floor"], limits[1])
    yield compare("dual, online / separate naive runs", seconds, "online", separate, 0.38)
    yield compare("dual, cached / separate naive runs", seconds, "cached", separate, 0.30)
    yield compare("naive dual / ours, all fp32, online", seconds, "naive", ["online fp32"], 1.35, at_most=False)
    yield compare("naive dual / ours, all fp32, cached", seconds, "naive", ["cached fp32"], 2.0, at_most=False)
    yield compare("naive dual / floor (what there is to win)", seconds, "naive", ["floor"], 2.6, at_most=False)


def student_rows(model: nn.Module, teacher: nn.Module, data: Data, settings: Settings, choice: Choice, world: World,
                 rounds: int, counts: Sequence[int] = (2, 4, 8)) -> Iterator[Row]:
    """N students of one kind with a cached teacher, against N times the floor of one."""
    for count in counts:
        names = [f"s{number}" for number in range(count)]
        models = {"teacher": teacher, **{name: deepcopy(model) for name in names}}
        choices = {"teacher": Choice(), **dict.fromkeys(names, choice)}
        steps: dict[str, Step] = {
            "ours": _ours(dual_student("teacher", names), models, data, settings, choices, world, cached=True,
                          compiled=True),
            "floor": _floor({name: models[name] for name in names}, data, settings, choices, world)}
        yield compare(f"{count} students, cached / sum of their floors", ratios(steps, rounds, world.device), "ours",
                      ["floor"], 1.02)


def loss_rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """All losses of `dual_student` and their gradients, compiled in closed form, against `objective` in eager mode."""
    for batch, classes, reach in ((256, 10, 4), (256, 100, 4), (256, 1000, 4), (1024, 21841, 10)):
        generator = torch.Generator().manual_seed(0)
        graph = dual_student("t", ["a", "b"])
        logits = {node: (3 * torch.randn(batch, classes, generator=generator)).to(device).requires_grad_(node != "t")
                  for node in "tab"}
        labels = torch.randint(classes, (batch,), generator=generator).to(device)
        steps = {"eager": partial(_losses, objective.losses, graph, logits, labels),
                 "ours": partial(_losses, partial(closed_form.losses, compiled=True), graph, logits, labels)}
        seconds = ratios(steps, rounds, device, repeats=max(1, 20_000_000 // (batch * classes * 10)))
        yield compare(f"losses and gradients at {batch} x {classes}, eager / ours", seconds, "eager", ["ours"], reach,
                      at_most=False)


def augmentation_rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Crop and flip of 20 whole batches of 128 images of 32 pixels, against PIL image by image."""
    images = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8)
    how, ids = Augmentation(padding=4, flip=True), torch.arange(len(images)).to(device)
    padded = F.pad(images, [4] * 4).to(device)
    pictures, draw = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], _by_pil(32)

    def ours() -> None:
        for rows in ids.split(128):
            unit_range(crop_and_flip(padded, rows, rows, how, draw=0, view=""))

    def pil() -> None:
        for first in range(0, len(pictures), 128):
            torch.stack([draw(picture) for picture in pictures[first : first + 128]])
    seconds = ratios({"pil": pil, "ours": ours}, rounds, device)
    yield compare("augmentation, PIL image by image / ours", seconds, "pil", ["ours"], 15, at_most=False)


def overhead_rows(world: World, rounds: int) -> Iterator[Row]:
    """A step of trivial networks at batch size 8, against the same step written by hand."""
    from tutelage.data import from_tensors

    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    data = from_tensors((images, torch.arange(64) % 4), validation=0.25, augment="none")
    models = {node: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for node in ("t", "a", "b")}
    make = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    settings = Settings(10**6, make, batch_size=8)
    run = start(dual_student("t", ["a", "b"]), deepcopy(models), data, settings, world, compiled_losses=True)
    set_modes(run)
    batch = next(iter(data.train.batches([torch.arange(8)], draw=0)))
    networks = deepcopy(models)
    optimizers = [make(networks[node].parameters()) for node in "ab"]
    by_hand = partial(_hand_step, networks, "t", ["a", "b"], optimizers)
    seconds = ratios({"ours": partial(train_step, run, [batch]), "hand": partial(by_hand, batch)}, rounds, world.device,
                     repeats=200)
    microseconds = 1e6 * (statistics.median(seconds["ours"]) - statistics.median(seconds["hand"]))
    yield compare("step of trivial networks / the same by hand", seconds, "ours", ["hand"], 1.10,
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


def _ours(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
          choices: Mapping[str, Choice], world: World, *, cached: bool, compiled: bool) -> Step:
    run = start(graph, {node: deepcopy(model) for node, model in models.items()}, data, settings, world, choices,
                compiled_losses=compiled)
    set_modes(run)
    if cached:
        folder = cache_folder(run.graph, run.models, run.choices, data, settings, world, memory_folder() / "bench")
        assert folder is not None, "a recipe with a teacher and data of this package"
        attach(run, folder)
        for _ in build(run, 1):
            pass
        run.step = 0
    batches = _endless(run)

    def step() -> None:
        run.step %= run.steps_per_epoch  # stay in the first draw
        train_step(run, [next(batches)])
    return step


def _endless(run: Run) -> Iterator[Batch]:
    rows = torch.arange(len(run.data.train.ids))[: run.steps_per_epoch * run.settings.batch_size]
    while True:
        yield from run.data.train.batches(rows.split(run.settings.batch_size), draw=0)


def _floor(students: Mapping[str, nn.Module], data: Data, settings: Settings, choices: Mapping[str, Choice],
           world: World) -> Step:
    networks = {node: deepcopy(model).to(world.device).train() for node, model in students.items()}
    for node, network in networks.items():
        lay_out(network, choices[node])
    ready = {node: runner(network, choices[node], frozen=False, tapped=False) for node, network in networks.items()}
    optimizers = make_optimizers(settings.optimizer if callable(settings.optimizer) else
                                 {node: make for node, make in settings.optimizer.items() if node in (*networks, "")},
                                 networks)
    (batch,) = data.train.batches([torch.arange(settings.batch_size)], draw=0)
    assert isinstance(batch.inputs, Tensor), "one view was asked for"
    plain = batch.inputs.to(world.device)
    inputs = {last: plain.contiguous(memory_format=torch.channels_last) if last else plain for last in (False, True)}
    labels = batch.labels.to(world.device)

    def step() -> None:
        for node, network in ready.items():
            logits = compute(network, choices[node], inputs[choices[node].channels_last], [""])[""]
            optimizers[node].zero_grad(set_to_none=True)
            F.cross_entropy(logits, labels).backward()
            optimizers[node].step()
    return step


def _naive(teacher: str, students: Sequence[str], models: Mapping[str, nn.Module], data: Data, settings: Settings,
           world: World) -> Step:
    networks = {node: deepcopy(models[node]).to(world.device).train() for node in (teacher, *students)}
    networks[teacher].eval()
    plain = {node: _unfused(settings, node)(networks[node].parameters()) for node in students}
    pictures, labels = _pictures(data, 4 * settings.batch_size)
    draw, side = _by_pil(data.shape[-1]), settings.batch_size
    place = 0

    def step() -> None:
        nonlocal place
        rows = range(place, place + side)
        place = (place + side) % len(pictures)
        inputs = torch.stack([draw(pictures[row]) for row in rows])
        batch = Batch(inputs.to(world.device), labels[rows.start : rows.stop].to(world.device), torch.arange(side))
        _hand_step(networks, teacher, students, list(plain.values()), batch).item()
    return step


def _unfused(settings: Settings, node: str) -> Callable:
    given = settings.optimizer
    make = given if callable(given) else given.get(node, given.get(""))
    assert make is not None, "every network has an optimizer"
    return make


def _pictures(data: Data, count: int) -> tuple[list[Image.Image], Tensor]:
    rows = torch.arange(min(count, len(data.train.ids)))
    (batch,) = data.train.batches([rows], draw=None)
    assert isinstance(batch.inputs, Tensor), "one view was asked for"
    images = (batch.inputs * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1)
    grey = images.shape[-1] == 1
    return [Image.fromarray(image[..., 0].numpy() if grey else image.numpy()) for image in images], batch.labels.cpu()


def _by_pil(side: int) -> Callable[[Image.Image], Tensor]:
    return transforms.Compose([transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip(),
                               transforms.ToTensor()])


def _hand_step(networks: Mapping[str, nn.Module], teacher: str, students: Sequence[str],
               optimizers: Sequence[torch.optim.Optimizer], batch: Batch) -> Tensor:
    """Our dual student (or, with one student, plain distillation) as one writes it without a library."""
    with torch.no_grad():
        target = networks[teacher](batch.inputs)
        p = target.softmax(-1)
        weight = 1 + (p * p.clamp_min(1e-12).log()).sum(-1) / torch.tensor(float(p.shape[-1])).log()
    logits = [networks[student](batch.inputs) for student in students]
    loss = torch.zeros((), device=target.device)
    for number, mine in enumerate(logits):
        loss = loss + 0.5 * F.cross_entropy(mine, batch.labels) + 0.5 * (weight * _hand_kl(mine, target)).mean()
        for other in (*logits[:number], *logits[number + 1 :]):
            loss = loss + 0.5 / (len(logits) - 1) * _hand_kl(mine, other.detach()).mean()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()


def _hand_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    rows = F.kl_div(F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="none")
    return temperature**2 * rows.sum(-1)
