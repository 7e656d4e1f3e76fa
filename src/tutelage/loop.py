"""The loop. A step: every network once, every edge one number, one `backward`, one step of each optimizer.

What stands around it (the run folder, resuming, `train` itself) is in `training`.
"""

import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tutelage.data.source import Data
from tutelage.errors import DataError, NumericError, UsageError
from tutelage.evaluation import evaluate
from tutelage.files import fingerprint
from tutelage.graph import Ema, Frozen, Graph, Trained, parse_end
from tutelage.models.taps import Tapped, read
from tutelage.objective import forward, losses
from tutelage.optim import (
    MakeOptimizer,
    guarded_step,
    learning_rate_factor,
    make_optimizers,
    set_learning_rate,
)
from tutelage.preparation import prepare, with_followers
from tutelage.randomness import derive, permutation, reseed
from tutelage.schedules import cosine
from tutelage.types import Batch, Outputs, Reader, Schedule
from tutelage.world import World, average, gather_rows

PRECISIONS = ("auto", "exact", "bf16")


@dataclass(frozen=True)
class Epoch:
    """What an epoch brought: mean loss by edge, accuracy in [0, 1] by node on validation data."""

    number: int
    step: int
    losses: Mapping[str, float]
    accuracy: Mapping[str, float]
    seconds: float
    images_per_second: float

    def __str__(self) -> str:
        accuracy = "  ".join(f"{node} {share:.2%}" for node, share in self.accuracy.items())
        loss = "  ".join(f"{edge} {value:.4f}" for edge, value in self.losses.items())
        return f"epoch {self.number}  {accuracy}  |  {loss}  |  {self.images_per_second:.0f} images/s"


@dataclass(frozen=True)
class Settings:
    """How to train; `training.train` explains each."""

    epochs: int
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer]
    rate: Schedule = cosine
    warmup_epochs: float = 0.0
    batch_size: int = 128
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "auto"
    seed: int = 0
    checkpoint_steps: int | None = None
    best: bool = False

    def __post_init__(self) -> None:
        _at_least("epochs", self.epochs, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("accumulate", self.accumulate, 1)
        _at_least("seed", self.seed, 0)
        _at_least("checkpoint_steps", self.checkpoint_steps, 1)
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UsageError("a warm-up that cannot be", where="warmup_epochs", found=self.warmup_epochs,
                             expected=f"0 or more, and less than epochs = {self.epochs}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError("a norm to clip at that cannot be", where="clip_norm", found=self.clip_norm,
                             expected="a number above 0")
        if self.precision not in PRECISIONS:
            raise UsageError("unknown precision", where="precision", found=repr(self.precision),
                             expected=", ".join(PRECISIONS))


@dataclass
class Run:
    """The state of a run, as a controller sees it."""

    graph: Graph
    models: dict[str, nn.Module]
    data: Data
    settings: Settings
    world: World
    optimizers: dict[str, torch.optim.Optimizer]
    steps_per_epoch: int
    step: int = 0
    micro: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    wrapped: dict[str, nn.Module] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    best: dict[str, dict] = field(default_factory=dict)
    scores: dict[str, dict] = field(default_factory=dict)
    guard: "Guard" = field(default_factory=lambda: Guard())

    @property
    def steps(self) -> int:
        """How many steps the whole run has."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1)."""
        return self.step / self.steps

    @property
    def learners(self) -> dict[str, nn.Module]:
        """What has an optimizer: trained networks and parts, by name."""
        return {name: self.models[name] for name in self.graph.named(Trained)} | self.graph.parts()


def start(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings, world: World) -> Run:
    """Check everything, copy the graph, make the optimizers: a run at step 0."""
    rows = len(data.train.ids)
    _check_batches(rows, settings, world)
    networks = {node: network.to(world.device) for node, network in with_followers(graph, models).items()}
    few = next(iter(data.train.batches([torch.arange(2)], draw=0, views=_views(graph))))
    few = _to_device(few, world.device)
    prepared = prepare(graph, networks, few, settings.seed, data.classes)
    for module in [*prepared.controllers.values(), *prepared.parts().values()]:
        module.to(world.device)
    run = Run(prepared, networks, data, settings, world, {}, rows // settings.batch_size)
    run.optimizers = make_optimizers(settings.optimizer, run.learners)
    run.wrapped = {node: _distributed(networks[node], node, prepared, few, world) for node in graph.named(Trained)}
    run.frozen = hash_frozen(run)
    _check_batchnorm(run)
    return run


def hash_frozen(run: Run) -> dict[str, str]:
    """Frozen node -> SHA-256 of its weights and buffers."""
    return {node: fingerprint(run.models[node].state_dict()) for node in run.graph.named(Frozen)}


def steps_of(run: Run) -> Generator[Epoch | None, None, None]:
    """Take the steps that are left: None after each; after the last of an epoch, once it is evaluated, an `Epoch`."""
    while run.step < run.steps:
        number, first, began = run.epoch + 1, run.step, time.perf_counter()
        set_modes(run)
        for batches in _batches(run):
            train_step(run, batches)
            if run.step % run.steps_per_epoch:
                yield None
        run.guard.read()
        seconds = time.perf_counter() - began
        means, run.sums = mean_losses(run), {}
        run.scores = evaluate(run.graph, run.models, run.data.validation, classes=len(run.data.classes),
                              batch_size=run.settings.batch_size, world=run.world)
        accuracy = {node: metrics["top1"] for node, metrics in run.scores.items() if node != "agreement"}
        speed = (run.step - first) * run.settings.batch_size / seconds
        yield Epoch(number, run.step, means, accuracy, seconds, speed)


def train_step(run: Run, batches: Sequence[Batch]) -> None:
    """One step from the micro-batches of this rank; afterwards `run.step` is one more."""
    weights = run.graph.weights(run.progress)
    reseed(run.world.device, run.settings.seed, "step", run.step)
    for optimizer in run.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    finite = torch.ones((), dtype=torch.bool, device=run.world.device)
    for run.micro, batch in enumerate(batches):
        with ExitStack() as stack:
            if run.micro + 1 < len(batches):
                for network in run.wrapped.values():
                    if isinstance(network, DistributedDataParallel):
                        stack.enter_context(network.no_sync())
            finite &= _learn(run, batch, dict(weights))
    if run.world.device.type == "cpu":
        run.guard.read()  # on the CPU nothing is waited for: a bad number stops the run before a weight is touched
    _update(run, finite)
    run.step += 1


def _learn(run: Run, batch: Batch, weights: dict[str, float]) -> Tensor:
    """Forward and backward of one micro-batch; whether all its numbers are finite, on the device."""
    batch = _to_device(batch, run.world.device)
    for controller in run.graph.controllers.values():
        batch = controller.before_forward(run, batch)
    labels, ids = gather_rows(batch.labels, run.world), gather_rows(batch.ids, run.world)
    readers: dict[str, nn.Module | Reader] = {node: _reader(run, node) for node in run.models}
    outputs = forward(run.graph, readers, batch.inputs, run.graph.ends(weights), {"labels": labels, "ids": ids})
    for controller in run.graph.controllers.values():
        controller.before_losses(run, outputs, weights)
    terms = losses(run.graph, outputs, labels, {name: w / run.settings.accumulate for name, w in weights.items()})
    finite = run.guard.watch(run.step, outputs, terms, ids)
    if terms:
        total = torch.stack(list(terms.values())).sum()
        if total.requires_grad:
            total.backward()
    for name, term in terms.items():
        value = torch.stack((term.detach().double(), term.new_ones((), dtype=torch.double) / run.settings.accumulate))
        run.sums[name] = run.sums[name] + value if name in run.sums else value
    return finite


def _update(run: Run, finite: Tensor) -> None:
    factor = learning_rate_factor(run.step, run.steps, round(run.settings.warmup_epochs * run.steps_per_epoch),
                                  run.settings.rate)
    for name, optimizer in run.optimizers.items():
        if run.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(run.learners[name].parameters(), run.settings.clip_norm)
        set_learning_rate(optimizer, factor)
        guarded_step(optimizer, finite)
    for node in run.graph.named(Ema):
        _follow(run, node)
    moving = [*run.graph.named(Trained), *run.graph.named(Ema)]
    average((buffer for node in moving for buffer in run.models[node].buffers()), run.world)


@torch.no_grad()
def _follow(run: Run, node: str) -> None:
    kind = run.graph.nodes[node]
    assert isinstance(kind, Ema)
    update, wait = divmod(run.step + 1, kind.every)
    if wait:
        return
    decay = min(1 - 1 / (update + 1), kind.decay)
    own, followed = run.models[node], run.models[kind.of]
    for mine, theirs in zip(own.parameters(), followed.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
    if all(parse_end(end).node != node for end in run.graph.order(run.graph.ends())):
        # No edge reads it, so no forward of its own moves its statistics: it takes those of what it follows.
        for mine, theirs in zip(own.buffers(), followed.buffers(), strict=True):
            mine.copy_(theirs)


def _reader(run: Run, node: str) -> Reader:
    """How the loop runs a network: seeded by (seed, node, step, share, view), under autocast, all rows gathered.

    A share is the rows that one rank takes at one time: two ranks draw what one process with two micro-batches draws.
    """
    device, settings, world = run.world.device, run.settings, run.world
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda"
                                            and torch.cuda.is_bf16_supported())
    network = run.wrapped.get(node, run.models[node])

    def run_network(inputs: Tensor, taps: Sequence[str], view: str) -> Outputs:
        reseed(device, settings.seed, node, run.step, run.micro * world.size + world.rank, view)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            wrapped = isinstance(network, DistributedDataParallel)
            tensors = network(inputs, taps) if wrapped else read(network, inputs, taps)
        return {tap: gather_rows(tensor.float() if bf16 else tensor, world) for tap, tensor in tensors.items()}

    return run_network


def _distributed(network: nn.Module, node: str, graph: Graph, batch: Batch, world: World) -> nn.Module:
    """The network in its own DDP. Taps leave through its forward, so that DDP knows which weights a step used."""
    if world.size == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
        return network
    ends = [parse_end(end) for end in graph.order(graph.ends())]
    tapped = any(end.node == node and end.tap for end in ends)
    plain = batch.inputs if isinstance(batch.inputs, Tensor) else batch.inputs[""]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `broadcast_buffers` has a new name from torch 2.15 on
        return DistributedDataParallel(Tapped(network), broadcast_buffers=False,
                                       find_unused_parameters=tapped or _leaves_weights_out(network, plain))


def _leaves_weights_out(network: nn.Module, images: Tensor) -> bool:
    """Whether some of the network's weights have no part in its logits; DDP would wait for their gradients."""
    mode = network.training
    network.eval()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(read(network, images, [""])[""].sum(), parameters, allow_unused=True)
    network.train(mode)
    return any(gradient is None for gradient in gradients)


def set_modes(run: Run) -> None:
    """Frozen nodes in eval mode, everything else in training mode."""
    for node, network in run.models.items():
        network.train(not isinstance(run.graph.nodes[node], Frozen))
    for part in run.graph.parts().values():
        part.train()


def _batches(run: Run) -> Iterator[list[Batch]]:
    """The rest of this epoch: for each step the micro-batches of this rank."""
    order = permutation(derive(run.settings.seed, "order", run.epoch), len(run.data.train.ids))
    size, first = run.settings.batch_size, run.step % run.steps_per_epoch
    plan = [run.world.own(rows) for step in range(first, run.steps_per_epoch)
            for rows in order[step * size : (step + 1) * size].chunk(run.settings.accumulate)]
    batches = run.data.train.batches(plan, draw=run.epoch, views=_views(run.graph))
    for _ in range(first, run.steps_per_epoch):
        yield [next(batches) for _ in range(run.settings.accumulate)]


def mean_losses(run: Run) -> dict[str, float]:
    """Edge -> mean of its loss over the steps of this epoch in which it was live."""
    return {edge.name: float(run.sums[edge.name][0] / run.sums[edge.name][1])
            for edge in run.graph.edges if edge.name in run.sums}


class Guard:
    """Looks at every output and loss without waiting for the device, and tells the first that was not finite."""

    def __init__(self) -> None:
        self.unread: list[tuple[int, list[str], Tensor, list[str], Tensor, Tensor]] = []

    def watch(self, step: int, outputs: Outputs, terms: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """Whether everything in this step is finite, as a scalar on the device."""
        ends = [end for end, rows in outputs.items() if rows.is_floating_point() and len(rows) == len(ids)]
        if not ends or not terms:
            return torch.ones((), dtype=torch.bool, device=ids.device)
        rows = torch.stack([outputs[end].detach().reshape(len(ids), -1).sum(-1) for end in ends]).isfinite()
        edges = torch.stack([term.detach() for term in terms.values()]).isfinite()
        self.unread.append((step, ends, rows, list(terms), edges, ids))
        return rows.all() & edges.all()

    def read(self) -> None:
        """Raise a NumericError if one of the steps since the last reading was not finite."""
        for step, ends, rows, edges, good, ids in self.unread:
            if not bool(rows.all() & good.all()):
                self.unread = []
                raise _not_finite(step, ends, rows, edges, good, ids)
        self.unread = []


def _not_finite(step: int, ends: list[str], rows: Tensor, edges: list[str], good: Tensor, ids: Tensor) -> NumericError:
    bad = [end for end, fine in zip(ends, rows.all(1).tolist(), strict=True) if not fine]
    terms = [edge for edge, fine in zip(edges, good.tolist(), strict=True) if not fine]
    samples = ids[~rows.all(0)].tolist()
    found = (f"outputs of {', '.join(bad)} for samples {samples[:10]}" if bad else f"losses of {', '.join(terms)}")
    return NumericError("a number is no longer finite", where=f"step {step}", found=found,
                        expected="finite outputs and losses; the networks keep the weights of the step before",
                        fix="lower lr, set clip_norm, or check the teacher's weights and these images")


def _views(graph: Graph) -> tuple[str, ...]:
    return ("", *graph.views())


def _to_device(batch: Batch, device: torch.device) -> Batch:
    inputs = batch.inputs
    moved = inputs.to(device) if isinstance(inputs, Tensor) else {view: x.to(device) for view, x in inputs.items()}
    return Batch(moved, batch.labels.to(device), batch.ids.to(device))


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and not value >= least:
        raise UsageError(f"{name} out of range", where=name, found=value, expected=f"{least} or more")


def _check_batches(rows: int, settings: Settings, world: World) -> None:
    if rows < settings.batch_size:
        raise DataError("fewer training images than one batch: an epoch would have no step", where="batch_size",
                        found=f"{rows} images, batch_size = {settings.batch_size}",
                        fix=f"set batch_size to {max(2, rows // 4)} or less")
    if settings.batch_size % (world.size * settings.accumulate):
        raise UsageError("a batch that cannot be shared out evenly", where="batch_size", found=settings.batch_size,
                         expected=f"a multiple of ranks x accumulate = {world.size} x {settings.accumulate}")


def _check_batchnorm(run: Run) -> None:
    rows = run.settings.batch_size // (run.world.size * run.settings.accumulate)
    for node in run.graph.named(Trained):
        if rows < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in run.models[node].modules()):
            raise UsageError("BatchNorm needs two images or more at a time", where=f"node {node!r}",
                             found=f"{rows} image for each rank and micro-batch",
                             fix="raise batch_size, or lower accumulate")
