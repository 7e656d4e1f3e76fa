"""Training, and the run folder around it: saved so that a kill at any moment costs time, never a bit.

`train` is a generator: what other tools call a callback is the body of your `for` loop.
"""

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from tutelage.data.source import Data
from tutelage.engine.autotune import Tuned, begin, choose, from_json
from tutelage.engine.checks import Check, check_networks, checks_json, warnings_of
from tutelage.engine.dry_run import prepare as prepare
from tutelage.engine.loop import check, finish_lazy, hash_frozen, mean_losses, steps_of
from tutelage.engine.numerics import Settled, read_settled, write_settled
from tutelage.engine.optimizers import MakeOptimizer
from tutelage.engine.python_config import described_in
from tutelage.engine.run import Epoch as Epoch
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings, judging_score
from tutelage.engine.state import capture, learned, restore
from tutelage.errors import BusyError, DataError, Interrupted, ModelError, NumericError, SecurityError
from tutelage.graph.graph import Graph
from tutelage.graph.graph_data import GRAPH_FILE, data_of
from tutelage.graph.schedules import cosine
from tutelage.models.freezing import all_frozen_parts, frozen_notes
from tutelage.models.network import body_of, weights_of
from tutelage.models.saved import load_network, metadata_of
from tutelage.runs import checkpoint
from tutelage.runs.folder import (
    Records,
    finished,
    marks_of_run,
    open_run,
    read_json,
    read_records,
    refuse_others,
    report_mended,
    reported,
    versions,
    write_finished,
)
from tutelage.system.distributed import World, choose_device, largest, lead
from tutelage.system.files import fingerprint, locked, pack, sweep, unpack, write, write_json
from tutelage.system.machine import peak_memory, processor_of
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.named import task_of
from tutelage.tasks.scores import scores_json
from tutelage.tasks.task import Score, Task
from tutelage.types import Schedule, Scores

logger = logging.getLogger("tutelage")
PROGRESS_SECONDS = 1.0
WAIT_SECONDS = 0.1
CHECKS_FILE = "checks.json"
AGREE_STEPS = 10
"""How often several ranks ask each other whether to stop."""


@dataclass(frozen=True)
class Progress:
    """Where a run is within an epoch: mean losses so far by edge, last first score of the task by node."""

    epoch: int
    step: int
    steps: int
    batch_size: int
    losses: Mapping[str, float]
    accuracy: Mapping[str, float]
    images_per_second: float
    score: Score = CLASSIFICATION.scores[0]
    samples: str = "images"


@dataclass(frozen=True)
class Folder:
    """A run's folder while it is open."""

    path: Path
    id: str
    records: Records | None

    @property
    def checkpoints(self) -> Path:
        """Where the states to resume from lie."""
        return self.path / "checkpoints"


def train(graph: Graph, models: Mapping[str, nn.Module], data: Data, *, epochs: int,
          optimizer: MakeOptimizer | Mapping[str, MakeOptimizer], rate: Schedule = cosine, warmup_epochs: float = 0,
          accumulate: int = 1, clip_norm: float | None = None, precision: str = "auto", seed: int = 0,
          out: str | Path | None = None, batch_size: int = 128, device: str = "auto",
          checkpoint_steps: int | None = None, best: bool | str = False, draws: int | None = None,
          cache: bool | str = "auto", cache_gib: float = 20.0,
          cache_top: int | None = None, warn: Sequence[str] = ()) -> Generator[Epoch, None, None]:
    """Train the networks of `graph`, in place, and yield an `Epoch` after each epoch.

    `optimizer` makes an optimizer from parameters, or is a dict of such by node (and "" for all others); its learning
    rate is multiplied by a straight warm-up over `warmup_epochs` and then by `rate`, a schedule. A step learns from
    `batch_size` rows, over all ranks and in `accumulate` micro-batches; the rest of an epoch's rows, fewer than a
    batch, wait for another epoch. `clip_norm` bounds the gradient's norm, network by network. `precision` is "exact"
    (float32), "bf16" (autocast; losses stay float32) or "auto" (bf16 on a GPU that has it). With `out` there is a run
    folder; a run found there is resumed, its past epochs are yielded again from the records, and the result has the
    bits of the uninterrupted run. `checkpoint_steps` saves within an epoch too; `best` keeps each network's best
    weights on validation data, besides the last: if it is true by the first score of the task (`top1`), else by the one
    that it names, such as "balanced_accuracy", among those that are told after each epoch (`Task.epoch_scores`).
    `draws` limits how many augmentations of an image there are: epoch e has draw e modulo that. What frozen networks
    say of a draw is kept in `cache_gib` GiB at most of a folder for all runs if `cache` is true, or "auto" and draws
    come again or are there already; with `cache_top` of its logits the so many largest alone, which is less than the
    teacher says (docs/speed.md) and is noted. Networks that are not what they claim are refused at the start; the
    checks named in `warn` only warn (docs/checks.md).
    """
    settings = Settings(epochs, optimizer, rate, warmup_epochs, batch_size, accumulate, clip_norm, precision, seed,
                        checkpoint_steps, best, draws, cache, cache_gib, cache_top, tuple(warn))
    world = World(choose_device(device))
    if out is None:
        prepared = check(graph, models, data, settings, world)
        log_warnings(check_networks(prepared, data, settings, world))
        tuned = choose(prepared, data, settings, world)
        run = begin(prepared, data, settings, world, tuned)
        events = steps_of(run)
    else:
        run, events = None, train_in_folder(Path(out), graph, models, data, settings, world)
    with closing(events):
        yield from (event for event in events if isinstance(event, Epoch))
    marks = marks_of_run(Path(out or "")) if run is None else {node: mark["text"] for node, mark in run.marks.items()}
    for node, text in marks.items() if world.main else ():
        logger.warning("note: %s %s", node, text)


def train_in_folder(out: Path, graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
                    world: World, *, config: str | None = None, tensorboard: bool = True,
                    interrupted: Callable[[], int] = lambda: 0, numerics: Path | None = None, skilled: bool = True,
                    tell: Callable[[Sequence[Check]], None] | None = None
                    ) -> Generator[Epoch | Progress | None, None, None]:
    """Train in a run folder, from its newest whole checkpoint on: `Epoch`s, and about once a second a `Progress`.

    `config` is the text of config.toml, which with the data says whether the folder holds this very run.
    `interrupted` gives the number of a signal that asks to stop, or 0. `numerics` is a file of number formats that the
    runs of a study share. A new run's networks are looked at (`checks`), what they know only if `skilled`; `tell` gets
    what was found, by default its warnings are logged.
    """
    finish_lazy(models, data, settings, world)
    config = described_in(out, graph, models, settings) if config is None else config
    known = (out / "run.json").exists()
    prepared, checks = None, None
    if not known:  # what is refused leaves no folder behind
        prepared = check(graph, models, data, settings, world)
        checks = check_networks(prepared, data, settings, world, skilled=skilled)
        if world.main:
            (tell or log_warnings)(checks)
    with ExitStack() as stack:
        drawn = {**data_of(graph), **({"freeze": still} if (still := all_frozen_parts(models)) else {})}
        folder, run = _open(out, config, drawn, data, world, stack, tensorboard), None
        if checks is not None and world.main:
            write_json(out / CHECKS_FILE, checks_json(checks))
        try:
            done = finished(out)
            prepared = prepared or check(graph, models, data, settings, world)
            choose_ = partial(choose, prepared, data, settings, world)
            make = choose_ if numerics is None else partial(_settled, numerics, choose_, world, interrupted)
            tuned = _tuned(out, make, world)
            run = begin(prepared, data, settings, world, tuned)
            if done is None:
                yield from _resume(run, folder, tuned)
                yield from _rest(run, folder, interrupted)
            else:
                _take_final_weights(run, out, done)
                yield from _past(out, run.steps, run.task)
        except (DataError, SecurityError) as error:
            raise reported(error, out, data.files, run.step if run else 0) from None


def log_warnings(checks: Sequence[Check]) -> None:
    """Log what the checks warn of."""
    for text in warnings_of(checks):
        logger.warning("note: %s", text)


def _open(out: Path, config: str, drawn: Mapping[str, object], data: Data, world: World, stack: ExitStack,
          tensorboard: bool) -> Folder:
    if world.main:
        def open_() -> None:
            refuse_others(out)
            stack.enter_context(locked(out))
            sweep(out)
            sweep(out / "checkpoints")
            sweep(out / "models")
            open_run(out, config, data.digest, data.files)
            if not (out / GRAPH_FILE).exists():
                write_json(out / GRAPH_FILE, drawn)
        lead(world, open_)
    else:
        lead(world, None)
    records = Records(out, tensorboard=tensorboard) if world.main else None
    if records is not None:
        stack.callback(records.close)
    return Folder(out, str(read_json(out / "run.json")["id"]), records)


def _tuned(out: Path, make: Callable[[], Tuned], world: World) -> Tuned:
    """How this run computes: what its folder says, so that every resume and every rank does the same."""
    path = out / "tuning.json"

    def write_once() -> None:
        if not path.exists():
            write_json(path, make().as_json())

    lead(world, write_once if world.main else None)
    return from_json(read_json(path))


def _settled(numerics: Path, make: Callable[[Settled], Tuned], world: World, interrupted: Callable[[], int]) -> Tuned:
    """How this run computes where several share their number formats: the first that needs one settles it for all."""
    processor = processor_of(str(world.device))
    with alone(numerics.parent, interrupted):  # what others settle meanwhile is waited for
        settled = read_settled(numerics, processor)
        tuned = make(settled)
        write_settled(numerics, processor, settled)
    return tuned


@contextmanager
def alone(folder: Path, stop: Callable[[], int]) -> Iterator[None]:
    """Hold a folder; wait while another holds it. Interrupted if `stop` gives a signal's number meanwhile."""
    while True:
        try:
            with locked(folder):
                yield
                return
        except BusyError as error:
            if error.where != str(folder.resolve()):
                raise  # a run folder's
            if stop():
                raise Interrupted(stop()) from None
            time.sleep(WAIT_SECONDS)


def _resume(run: Run, folder: Folder, tuned: Tuned) -> Generator[Epoch, None, None]:
    manifest, state, damaged = checkpoint.newest(folder.checkpoints, folder.id)
    if manifest:
        restore(run, manifest, state)
    if folder.records is not None:
        folder.records.rewind(run.step)
        lost = [f"{name} {manifest['versions'].get(name)} -> {now}" for name, now in _conditions(run).items()
                if manifest and manifest["versions"].get(name) != now]
        report_mended(folder.records, run.step)
        folder.records.add("resume" if manifest else "start", run.step, damaged=damaged, not_bit_identical=lost,
                           computed={node: str(choice) for node, choice in run.choices.items()}, cached=tuned.cached,
                           notes=[*run.data.notes, *frozen_notes(run.models), *tuned.notes], **scores_json(run.task))
    yield from _past(folder.path, run.step, run.task)


def _past(out: Path, step: int, task: Task) -> Generator[Epoch, None, None]:
    """The epochs already trained, from the records: a loop that counts them counts on rightly after a resume."""
    for record in read_records(out):
        if record["event"] == "epoch" and record["step"] <= step:
            yield Epoch(record["epoch"], record["step"], record["losses"], record["accuracy"], record["seconds"],
                        record["images_per_second"], task.scores[0], task.samples)


def _rest(run: Run, folder: Folder, interrupted: Callable[[], int]) -> Generator[Epoch | Progress | None, None, None]:
    told, first, began = time.perf_counter(), run.step, time.perf_counter()
    try:
        for event in steps_of(run):
            if event is not None:
                _after_epoch(run, folder, event)
                first, began = run.step, time.perf_counter()
                yield event
            elif run.settings.checkpoint_steps and run.step % run.settings.checkpoint_steps == 0:
                _save(run, folder)
            _stop_if_asked(run, folder, interrupted)
            now = time.perf_counter()
            if event is None and now - told > PROGRESS_SECONDS:
                run.guard.read()
                told, speed = now, (run.step - first) * run.settings.batch_size / (now - began)
                yield Progress(run.epoch + 1, run.step, run.steps, run.settings.batch_size, mean_losses(run),
                               run.first_scores, speed, run.task.scores[0], run.task.samples)
    except GeneratorExit:  # the user's loop broke off: what was learned is theirs, and the run can go on later
        if run.world.main:
            _write_models(run, folder)
        raise
    except NumericError as error:
        saved = sorted(folder.checkpoints.glob("step-*"))
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
        raise NumericError(error.what, where=error.where, found=error.found, expected=error.expected,
                           fix=f"{error.fix}; {last}") from None
    _finish(run, folder)


def _after_epoch(run: Run, folder: Folder, epoch: Epoch) -> None:
    for node in learned(run):
        scores = run.scores["nodes"].get(node)
        if scores and _is_better(judging_score(run.task, run.settings.best), scores, run.best.get(node)):
            tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights_of(run.models[node]).items()}
            first = run.task.scores[0].key
            run.best[node] = {first: scores[first], "step": run.step, "scores": scores, "tensors": tensors,
                              "mark": run.marks.get(node)}
    if folder.records is not None:
        rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in run.optimizers.items()}
        facts = {name: found for name, controller in run.graph.controllers.items() if (found := controller.facts(run))}
        folder.records.add("epoch", run.step, epoch=epoch.number, losses=dict(epoch.losses),
                           accuracy=dict(epoch.accuracy), metrics=run.scores, learning_rate=rates,
                           seconds=epoch.seconds, images_per_second=epoch.images_per_second,
                           peak_bytes=peak_memory(run.world.device),
                           notes=[] if run.cache is None else run.cache.notes,
                           **({"controllers": facts} if facts else {}))
    _save(run, folder)


def _is_better(judge: Score | None, scores: Mapping[str, float], held: Mapping | None) -> bool:
    """Whether the score that judges is better than that of the weights that are held."""
    return judge is not None and judge.beats(scores[judge.key], None if held is None else held["scores"][judge.key])


def _stop_if_asked(run: Run, folder: Folder, interrupted: Callable[[], int]) -> None:
    if run.world.size > 1 and run.step % AGREE_STEPS and run.step % run.steps_per_epoch:
        return
    number = largest(interrupted(), run.world)
    if number:
        _save(run, folder)
        raise Interrupted(number)


def _save(run: Run, folder: Folder) -> None:
    run.guard.read()
    if run.world.main:
        about = {"run": folder.id, "epoch": run.epoch, "classes": list(run.data.classes), "data": run.data.digest,
                 "frozen": run.frozen, "versions": _conditions(run), "scores": run.scores,
                 "marks": run.marks,
                 "best": {node: {key: item for key, item in held.items() if key != "tensors"}
                          for node, held in run.best.items()}}
        checkpoint.save(folder.checkpoints, run.step, capture(run), about)


def _finish(run: Run, folder: Folder) -> None:
    if hash_frozen(run) != run.frozen:
        raise ModelError("a frozen network has changed during the run", found="other bytes than at the start",
                         fix="something outside the graph trains it: look for shared modules")
    if run.world.main:
        weights = _write_models(run, folder)
        kept = {node: held["scores"] for node, held in run.best.items()}
        scores = Scores(nodes={**run.scores["nodes"], **kept}, pairs=run.scores["pairs"])
        assert folder.records is not None
        marks = {**run.marks, **{node: held.get("mark") for node, held in run.best.items()}}
        marks = {node: mark for node, mark in marks.items() if mark is not None}
        folder.records.add("finished", run.step, metrics=scores, marks=marks)
        write_finished(folder.path, run.step, scores, weights, marks)
    lead(run.world, None if not run.world.main else lambda: None)


def _write_models(run: Run, folder: Folder) -> dict[str, str]:
    (folder.path / "models").mkdir(exist_ok=True)
    weights = {}
    for node in learned(run):
        tensors = run.best[node]["tensors"] if node in run.best else weights_of(run.models[node])
        metadata = metadata_of(run.models[node], run.data.classes, node)
        metadata["preprocessing"] = json.dumps(dict(run.data.preprocessing))
        if task_of(run.data).name != CLASSIFICATION.name:
            metadata["task"] = task_of(run.data).name
        metadata["sha256"] = weights[node] = fingerprint(tensors)
        write(folder.path / "models" / f"{node}.safetensors", pack(tensors, metadata))
    return weights


def _take_final_weights(run: Run, out: Path, done: Mapping) -> None:
    for node, expected in done["weights"].items():
        path = out / "models" / f"{node}.safetensors"
        tensors, _ = unpack(path.read_bytes() if path.exists() else b"", path)
        if fingerprint(tensors) != expected:
            raise ModelError("the weights of a finished run have changed", where=path, expected=f"SHA-256 {expected}")
        checkpoint.load_strictly(body_of(run.models[node]), tensors, str(path))


def load(run: str | Path, node: str, *, into: nn.Module | None = None,
         plugins: Sequence[str] = ()) -> tuple[nn.Module, tuple[str, ...]]:
    """A trained network of a run folder, in eval mode, and the names of its classes.

    A network that was made in Python, not by a recipe, is given in `into` and filled.
    """
    path = Path(run) / "models" / f"{node}.safetensors"
    if not path.exists():
        there = sorted(file.stem for file in path.parent.glob("*.safetensors"))
        raise ModelError(f"no trained network {node!r}", where=path.parent, found=", ".join(there) or "none",
                         fix="name one that is there" if there else "let the run finish: tutelage train --resume DIR")
    network, classes = load_network(path, into=into, plugins=plugins)
    return network.eval(), classes


def _conditions(run: Run) -> dict[str, object]:
    """What bit-identity stands on besides the recipe."""
    return {key: value for key, value in versions().items() if key != "command"} | {"ranks": run.world.size,
                                                                                    "device": run.world.device.type}
