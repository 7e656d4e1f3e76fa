"""The loop. A step: every network once, every edge one number, one `backward`, one step of each optimizer.

What stands around it (the run folder, resuming, `train` itself) is in `train`.
"""

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tutelage.data.balance import rows_of_classes, rows_of_epoch
from tutelage.data.source import Data, OwnOrder
from tutelage.engine import precision
from tutelage.engine.cuda_graph import FUSED, CapturedStep, NetworkStreams
from tutelage.engine.dry_run import Prepared, prepare, with_followers
from tutelage.engine.monitor import Means, Seen, look, warn_outweighed
from tutelage.engine.optimizers import (
    guarded_step,
    learning_rate_factor,
    make_optimizers,
    set_learning_rate,
)
from tutelage.engine.precision import Execution, default_executions, on_device
from tutelage.engine.predict import evidence_of, scored
from tutelage.engine.run import Epoch, Run
from tutelage.engine.settings import Settings as Settings
from tutelage.engine.settings import (
    check_accumulation,
    check_batches,
    check_batchnorm,
    check_one_process,
    judging_score,
)
from tutelage.engine.teacher_cache import use
from tutelage.graph import fused_losses
from tutelage.graph.ends import End
from tutelage.graph.graph import Graph
from tutelage.graph.label_balance import with_class_counts
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.graph.objective import forward
from tutelage.graph.rows import total_of
from tutelage.models.freezing import rest
from tutelage.models.lazy import finish, is_unfinished
from tutelage.system.distributed import World, average, gather_rows
from tutelage.system.files import fingerprint
from tutelage.system.machine import keep_memory
from tutelage.system.random import drawn, reseed
from tutelage.tasks.classification.skill import mark_of
from tutelage.tasks.named import task_of
from tutelage.types import (
    Batch,
    Inputs,
    Outputs,
    Reader,
    RowsFn,
    Scores,
    View,
    image_ends,
    inputs_like,
    label_ends,
    labels_of,
    plain_view,
)

logger = logging.getLogger("tutelage")
TOGETHER_JUDGED = 256
"""Images that an accelerator is given at a time where nothing is learned, or more if a batch has more."""
NO_SHARES: Mapping[str, float] = {}
"""Of a step that is taken at once."""


def start(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, world: World,
          choices: Mapping[str, Execution] | None = None, *, compiled_losses: bool = False) -> Run:
    """Check everything, copy the graph, make the optimizers: a run at step 0.

    `choices` say how each network computes, "auto" what `precision.default_executions` gives.
    """
    return start_prepared(check(graph, models, data, settings, world), data, settings, world, choices,
                          compiled_losses=compiled_losses)


def start_prepared(prepared: Prepared, data: Data, settings: Settings, world: World,
                   choices: Mapping[str, Execution] | None = None, *, compiled_losses: bool = False) -> Run:
    """`start` of what has been checked already."""
    if world.device.type == "cpu":
        keep_memory()
    graph, networks = prepared.graph, prepared.networks
    for module in [*graph.controllers.values(), *graph.parts().values()]:
        module.to(world.device)
    run = Run(graph, networks, data, settings, world, {}, len(data.train.ids) // settings.batch_size)
    run.choices = dict(choices or default_executions(networks, settings.precision, world.device))
    run.runners = precision.prepared_networks(graph, networks, run.choices, prepared.few, world)
    run.optimizers = make_optimizers(settings.optimizer, run.learners)  # now that weights lie as they will
    run.readers, run.healthy = readers(run), run.healthy.to(world.device)
    if settings.precision != "exact":
        run.losses = partial(fused_losses.losses, compiled=compiled_losses)
    run.frozen = dict(prepared.frozen)
    return run


def check(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
          world: World) -> Prepared:
    """Refuse what cannot train, by one dry run; else what a run starts from."""
    check_batches(len(data.train.ids), settings, world)
    task = task_of(data)
    judging_score(task, settings.best)  # refuses one that there is not
    task.check(data)
    check_accumulation(graph, settings)
    check_one_process(graph, world)
    if task.classifies:
        graph = with_class_counts(graph, rows_of_classes(data.train.labels, data.balance, len(data.classes)).tolist())
    finish_lazy(models, data, settings, world)
    networks = {node: network.to(world.device) for node, network in with_followers(graph, models).items()}
    check_batchnorm(graph, networks, settings.batch_size // (world.size * settings.accumulate))
    few = next(iter(data.train.batches([torch.arange(2)], draw=0, views=_views(graph))))
    few = on_device(few, world.device)
    return Prepared(prepare(graph, networks, few, settings.seed, data.classes, data.train.ids), networks, few)


def finish_lazy(models: Mapping[str, nn.Module], data: Data, settings: Settings, world: World) -> None:
    """Give lazy layers their sizes, before anything counts, copies or learns their weights."""
    if any(map(is_unfinished, models.values())):
        few = next(iter(data.train.batches([torch.arange(2)], draw=None)))
        for network in models.values():
            network.to(world.device)
        finish(models, plain_view(on_device(few, world.device).inputs), settings.seed)


def may_capture(run: Run) -> bool:
    """Whether each step of a run does the same to the numbers it is given: nothing but the graph and its optimizers."""
    graph, world = run.graph, run.world
    return (world.device.type == "cuda" and world.size == 1 and run.settings.accumulate == 1
            and not graph.controllers and not graph.named(Ema)
            and run.settings.cache_top is None  # its sample weights are looked up beside what is known
            and not any(True for part in graph.parts().values() for _ in part.buffers())  # a memory
            and all(isinstance(optimizer, FUSED) and optimizer.defaults.get("fused")
                    for optimizer in run.optimizers.values()))


def streams_for(run: Run) -> NetworkStreams | None:
    """A stream for each network of a captured step; None where there is one network."""
    return NetworkStreams(run.models) if run.world.device.type == "cuda" and len(run.models) > 1 else None


def hash_frozen(run: Run) -> dict[str, str]:
    """Frozen node -> SHA-256 of its weights and buffers."""
    return {node: fingerprint(run.models[node].state_dict()) for node in run.graph.named(Frozen)}


def steps_of(run: Run) -> Generator[Epoch | None, None, None]:
    """Take the steps that are left: None after each; after the last of an epoch, once it is evaluated, an `Epoch`."""
    with closing(run.cache) if run.cache is not None else nullcontext():
        yield from _steps(run)


def _steps(run: Run) -> Generator[Epoch | None, None, None]:
    while run.step < run.steps:
        number, first, began = run.epoch + 1, run.step, time.perf_counter()
        set_modes(run)
        if run.cache is not None:
            use.open_draw(run, run.cache)
        for batches in _batches(run):
            train_step(run, batches)
            if run.step % run.steps_per_epoch:
                yield None
        run.guard.read()
        if run.cache is not None:
            use.finish_draw(run, run.cache)
        seconds = time.perf_counter() - began
        means, run.means = mean_losses(run), Means()
        _tell_of_silence(run, number, means)
        if run.world.main:
            warn_outweighed(run.graph, means)
        run.scores = _evaluate(run)
        speed = (run.step - first) * run.settings.batch_size / seconds
        yield Epoch(number, run.step, means, run.first_scores, seconds, speed, run.task.scores[0],
                    run.task.samples)


def _tell_of_silence(run: Run, epoch: int, means: Mapping[str, float]) -> None:
    """A note of edges of which no row counted in a whole epoch, such as those of a class that no image has."""
    for edge in run.graph.edges if run.world.main else ():
        if edge.rows is not None and means.get(edge.name) == 0:
            logger.warning("note: edge %s taught nothing in epoch %d: no row of it counted, or both ends say the same",
                           edge.name, epoch)


def _evaluate(run: Run) -> Scores:
    rows = run.settings.batch_size if run.world.device.type == "cpu" else max(run.settings.batch_size, TOGETHER_JUDGED)
    judge = run.task.judge(run.data)
    see = partial(evidence_of, run.graph, run.models, run.data.validation, judge, batch_size=rows, world=run.world)
    if run.predicted is None:  # of the same images frozen networks say the same after every epoch
        run.predicted = see(nodes=run.graph.named(Frozen))
    found = see(known=run.predicted)
    if run.task.classifies:
        run.marks = {node: mark for node, seen in found.items()
                     if (mark := mark_of(seen["logits"], seen["labels"], run.data.classes)) is not None}
    return scored(judge, found, run.task.epoch_scores)


def train_step(run: Run, batches: Sequence[Batch]) -> None:
    """One step from the micro-batches of this rank; afterwards `run.step` is one more."""
    weights = run.graph.weights(run.progress)
    reseed(run.world.device, run.settings.seed, "step", run.step)
    factor = learning_rate_factor(run.step, run.steps, round(run.settings.warmup_epochs * run.steps_per_epoch),
                                  run.settings.rate)
    for optimizer in run.optimizers.values():
        set_learning_rate(optimizer, factor)
        optimizer.zero_grad(set_to_none=True)
    if run.recording is None or not _replay(run, run.recording, on_device(batches[0], run.world.device), weights):
        _take(run, batches, weights)
    run.step += 1


def _take(run: Run, batches: Sequence[Batch], weights: Mapping[str, float]) -> None:
    """The step as it is written."""
    shares = _shares(run, batches)
    for run.micro, batch in enumerate(batches):
        with ExitStack() as stack:
            if run.micro + 1 < len(batches):
                for network in run.runners.values():
                    if isinstance(network, DistributedDataParallel):
                        stack.enter_context(network.no_sync())
            _learn(run, batch, dict(weights), shares[run.micro])
    if run.world.device.type == "cpu":
        run.guard.read()  # on the CPU nothing is waited for: a bad number stops the run before a weight is touched
    _update(run)
    if run.recording is not None and drawn(run.world.device):
        run.recording.refuse("something draws random numbers")


def _shares(run: Run, batches: Sequence[Batch]) -> list[dict[str, float]]:
    """Of each micro-batch: edge -> what its weight is divided by, so that the parts sum to the whole step's loss.

    That is how many there are or, where rows count unlike, the total of the step over that of the micro-batch.
    """
    if len(batches) == 1:
        return [{}]
    totals: dict[RowsFn, Tensor] = {}
    for edge in run.graph.edges:
        if edge.rows is not None and edge.rows not in totals:
            total = total_of(edge.rows)
            assert total is not None, "`check_accumulation` refuses rows without one"
            own = torch.stack([total(batch.labels).double().cpu() for batch in batches])
            totals[edge.rows] = gather_rows(own[None].to(run.world.device), run.world).sum(0).cpu().clamp(min=1e-12)
    return [{edge.name: float(len(batches) if edge.rows is None else totals[edge.rows].sum() / totals[edge.rows][place])
             for edge in run.graph.edges} for place in range(len(batches))]


def _replay(run: Run, recording: CapturedStep, batch: Batch, weights: Mapping[str, float]) -> bool:
    """The step from its recording, if there is one; what frozen networks say is part of it where nothing keeps it."""
    images = image_ends(batch.inputs)
    if not recording.takes(weights, images.values()):
        return False
    known = label_ends(batch.labels) | {"ids": batch.ids}
    if run.cache is not None:
        passes = run.graph.plan(run.graph.ends(weights), known).passes
        frozen = [end for one in passes if isinstance(run.graph.nodes[one.node], Frozen) for end in one.ends]
        known = forward(run.graph, run.readers, batch.inputs, frozen, known | run.cache.look_up(batch.ids))

    def body(given: Mapping[str, Tensor]) -> Seen | None:
        lanes = streams_for(run)
        inputs = inputs_like(batch.inputs, given)
        seen = _forward_and_backward(run, inputs, {name: given[name] for name in known}, dict(weights), lanes=lanes)
        _update(run)
        return seen

    taken, seen = recording.play(images | known, body)
    _note(run, seen)
    return taken


def _learn(run: Run, batch: Batch, weights: dict[str, float], shares: Mapping[str, float] = NO_SHARES) -> None:
    """Forward and backward of one micro-batch."""
    batch = on_device(batch, run.world.device)
    for controller in run.graph.controllers.values():
        batch = controller.before_forward(run, batch)
    known = {end: gather_rows(rows, run.world) for end, rows in (label_ends(batch.labels) | {"ids": batch.ids}).items()}
    known |= run.cache.look_up(known["ids"]) if run.cache is not None else {}
    _note(run, _forward_and_backward(run, batch.inputs, known, weights, shares))


def _note(run: Run, seen: Seen | None) -> None:
    if seen is not None:
        run.guard.watch(run.step, seen)
        run.means.add(seen.edges, seen.values)


def _forward_and_backward(run: Run, inputs: Inputs, known: Mapping[str, Tensor], weights: dict[str, float],
                          shares: Mapping[str, float] = NO_SHARES, lanes: NetworkStreams | None = None) -> Seen | None:
    graph = run.graph
    ends, known = graph.ends(weights), dict(known)
    if lanes:
        networks = [end for one in graph.plan(ends, known).passes for end in one.ends]
        known = forward(graph, lanes.branch(run.readers), inputs, networks, known)
        lanes.join()
    outputs = forward(graph, run.readers, inputs, ends, known)
    for controller in graph.controllers.values():
        controller.before_losses(run, outputs, weights)
    # What controllers set is the weight in the whole step, so that the share comes after them.
    parts = {name: weight / shares.get(name, 1) for name, weight in weights.items()} if shares else weights
    terms = run.losses(graph, outputs, labels_of(known), parts)
    if not terms:
        return None
    values = torch.stack(list(terms.values()))
    seen = look(tuple(terms), values.detach(), outputs, known["ids"])
    run.healthy.logical_and_(seen.finite)  # once a number was bad nothing moves any more, however late that is read
    if values.requires_grad:
        values.sum().backward()
    return seen


def _update(run: Run) -> None:
    for name, optimizer in run.optimizers.items():
        if run.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(run.learners[name].parameters(), run.settings.clip_norm)
        guarded_step(optimizer, run.healthy)
    for node in run.graph.named(Ema):
        _follow(run, node)
    moving = [*run.graph.named(Trained), *run.graph.named(Ema)]
    average((buffer for node in moving for buffer in run.models[node].buffers()), run.world)


@torch.no_grad()
def _follow(run: Run, node: str) -> None:
    kind = run.graph.nodes[node]
    assert isinstance(kind, Ema)
    if not kind.every:
        return
    update, wait = divmod(run.step + 1, kind.every)
    if wait:
        return
    decay = min(1 - 1 / (update + 1), kind.decay)
    own, followed = run.models[node], run.models[kind.of]
    share = 1 - decay if run.world.device.type == "cpu" else (1 - decay) * run.healthy.float()
    for mine, theirs in zip(own.parameters(), followed.parameters(), strict=True):
        mine.lerp_(theirs, share)
    if all(one.node != node for one in run.graph.plan(run.graph.ends()).passes):
        # No edge reads it, so no forward of its own moves its statistics: it takes those of what it follows.
        for mine, theirs in zip(own.buffers(), followed.buffers(), strict=True):
            mine.copy_(theirs)


def readers(run: Run) -> dict[str, Reader]:
    """How the loop runs each network: seeded by (seed, node, step, share, view), the rows of all ranks gathered.

    A share is the rows that one rank takes at one time: two ranks draw what one process with two micro-batches draws.
    """
    return {node: partial(_read, run, node) for node in run.models}


def _read(run: Run, node: str, inputs: View, taps: Sequence[str], view: str) -> Outputs:
    world = run.world
    if run.recording is not None and drawn(world.device):
        run.recording.refuse("something draws random numbers")
    reseed(world.device, run.settings.seed, node, run.step, run.micro * world.size + world.rank, view)
    tensors = precision.run_network(run.runners[node], run.choices[node], inputs, taps)
    if run.settings.precision == "exact" and isinstance(run.graph.nodes[node], Frozen):
        tensors = {tap: tensor.contiguous() for tap, tensor in tensors.items()}  # as a cache gives it: the same bits
    rows = {tap: gather_rows(tensor, world) for tap, tensor in tensors.items()}
    if run.cache is None or not isinstance(run.graph.nodes[node], Frozen):
        return rows
    return {tap: run.cache.record(End(node, tap, view).name, tensor) for tap, tensor in rows.items()}


def set_modes(run: Run) -> None:
    """Frozen nodes, and the norms of frozen parts, in eval mode; everything else in training mode."""
    for node, network in run.models.items():
        network.train(not isinstance(run.graph.nodes[node], Frozen))
        rest(network)
    for part in run.graph.parts().values():
        part.train()


def _batches(run: Run) -> Iterator[list[Batch]]:
    """The rest of this epoch: for each step the micro-batches of this rank."""
    train, size, first = run.data.train, run.settings.batch_size, run.step % run.steps_per_epoch
    order = train.rows_of_epoch(run.settings.seed, run.epoch, size) if isinstance(train, OwnOrder) else None
    if order is None:
        order = rows_of_epoch(train.labels, run.data.balance, run.settings.seed, run.epoch)
    plan = [run.world.own(rows) for step in range(first, run.steps_per_epoch)
            for rows in order[step * size : (step + 1) * size].chunk(run.settings.accumulate)]
    batches = train.batches(plan, draw=run.draw, views=_views(run.graph))
    for _ in range(first, run.steps_per_epoch):
        yield [next(batches) for _ in range(run.settings.accumulate)]


def mean_losses(run: Run) -> dict[str, float]:
    """Edge -> mean of its loss over the steps of this epoch in which it was live."""
    return run.means.read((edge.name for edge in run.graph.edges), run.settings.accumulate)


def _views(graph: Graph) -> tuple[str, ...]:
    return ("", *graph.views())
