"""How each network computes fastest on this machine, found by trying.

bfloat16 makes one network twice as fast and another slower, and so does the layout of its images; no rule tells
which, a few steps do. The choice belongs to a run: it is written into its folder, and every rank and every resume
uses it, so that the bits stay the same. It is also remembered for this machine.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.data.source import Data
from tutelage.engine.cuda_graph import CapturedStep, warm_graph
from tutelage.engine.dry_run import Prepared
from tutelage.engine.loop import may_capture, set_modes, start_prepared
from tutelage.engine.numerics import Settled
from tutelage.engine.precision import (
    Execution,
    default_executions,
    is_tapped,
    lay_out,
    on_device,
    prepared_for,
    run_network,
    taps_read,
)
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.use import attach, cache_folder, wanted
from tutelage.errors import ResourceError
from tutelage.graph.divergences import binary_kl
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen, Trained
from tutelage.graph.taps import read
from tutelage.models.dense_boxes import unpack_places
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint, write_json
from tutelage.system.machine import describe_machine
from tutelage.system.random import seeded
from tutelage.types import View, plain_view

logger = logging.getLogger("tutelage")
FEWEST = 100
"""Steps: in a shorter run not even a first measurement is made."""
SHORTEST = 120.0
"""Seconds: a shorter run is not worth a trial."""
SHARE = 0.05
"""Of the expected run, what all trials together may take."""
COMPILE_SECONDS = 40.0
"""What compiling one network takes; a run must be 20 times as long to try it."""
COMPILE_SHARE = 20
SIGNAL_KL, SIGNAL_AGREE = 5e-6, 0.99
"""How far a faster teacher may be from the exact one: KL at T = 4, and agreement of the first choices."""


@dataclass
class Tuned:
    """What was chosen, and why: node -> seconds of a step by choice; notes for the user."""

    choices: dict[str, Execution]
    compiled_losses: bool = False
    cached: bool = False
    recorded: bool = False
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For the run folder and the records."""
        return {"choices": {node: asdict(choice) for node, choice in self.choices.items()},
                "compiled_losses": self.compiled_losses, "cached": self.cached, "recorded": self.recorded,
                "seconds": self.seconds, "notes": self.notes}


def from_json(value: Mapping) -> Tuned:
    """What `as_json` wrote."""
    return Tuned({node: Execution(**choice) for node, choice in value["choices"].items()}, value["compiled_losses"],
                 value["cached"], value.get("recorded", False), value["seconds"], value["notes"])


def choose(prepared: Prepared, data: Data, settings: Settings, world: World,
           settled: Settled | None = None) -> Tuned:
    """How a new run computes: what is fastest, if `settings.precision` is "auto" and the run is long enough.

    What other runs have `settled` holds here too, and what this one chooses is added to it.
    """
    graph, networks = prepared.graph, prepared.networks
    tuned = Tuned(default_executions(networks, settings.precision, world.device))
    steps = len(data.train.ids) // settings.batch_size * settings.epochs
    auto = settings.precision == "auto"
    known = settled.choices(graph, networks, data.shape) if settled is not None and auto else {}
    tuned.choices |= known
    if auto and steps >= FEWEST:
        rows = torch.arange(max(2, settings.batch_size // (world.size * settings.accumulate)))
        (batch,) = data.train.batches([rows], draw=0)
        inputs = plain_view(on_device(batch, world.device).inputs)
        tuned = tune(graph, networks, inputs, steps * settings.accumulate,
                     tuned.choices, memory_folder(), recorded=records(world, settings), known=known)
        tuned.recorded = records(world, settings)
    if settled is not None and auto:
        tuned.choices, tuned.compiled_losses = settled.settle(graph, networks, data.shape, tuned.choices,
                                                              tuned.compiled_losses)
    folder = cache_folder(prepared, tuned.choices, data, settings, world, memory_folder())
    tuned.cached = wanted(settings, folder)
    if settled is not None and folder is not None and settings.cache == "auto" and settings.precision != "exact":
        tuned.cached = settled.settle_cached(tuned.cached)
    return tuned


def begin(prepared: Prepared, data: Data, settings: Settings, world: World, tuned: Tuned) -> Run:
    """A run at step 0 that computes as it was tuned; not compiled where the compiler has gone since."""
    compiled = tuned.compiled_losses or any(choice.compiled for choice in tuned.choices.values())
    if compiled and not _compiles(tuned, "nothing is"):
        tuned.choices = {node: replace(choice, compiled=False)
                         for node, choice in tuned.choices.items()}
        tuned.compiled_losses = False
    run = start_prepared(prepared, data, settings, world, tuned.choices, compiled_losses=tuned.compiled_losses)
    if tuned.recorded and may_capture(run):
        run.recording = CapturedStep(run.optimizers.values(), run.world.device)
    folder = cache_folder(prepared, run.choices, data, settings, world, memory_folder()) if tuned.cached else None
    if folder is not None:
        set_modes(run)
        tuned.notes += attach(run, folder)
    for note in tuned.notes if world.main else ():
        logger.warning("note: %s", note)
    return run


def tune(graph: Graph, networks: Mapping[str, nn.Module], inputs: View, steps: int,
         choices: Mapping[str, Execution], memory: Path | None = None, *, recorded: bool = False,
         known: Collection[str] = ()) -> Tuned:
    """The fastest choice for each network, starting from `choices`; the networks themselves are left as they are.

    What is timed is a step that learns what the graph reads, whatever its losses are.
    `inputs` are the images that one step of this process takes, `steps` how many the run has. Where the run is
    shorter than `SHORTEST` nothing is tried. `memory` is a folder that remembers over runs. With `recorded` what is
    timed are CUDA graphs, which the run's steps will be. The choices of `known` nodes are not for this run to change.
    """
    tuned = Tuned(dict(choices))
    for node in graph.named(Frozen):
        if node in known and choices[node].bf16:
            _keeps_the_signal(tuned, graph, node, networks[node], inputs, choices[node], "computes as was settled, in")
    if networks.keys() <= set(known):
        return tuned
    spent, began = dict[str, float](), time.perf_counter()
    for node, network in networks.items():
        if not isinstance(graph.nodes[node], Ema):
            spent[node] = _seconds(graph, node, network, inputs, choices[node], 2, recorded=recorded)
    expected = steps * sum(spent.values())
    if expected < SHORTEST:
        for node in graph.named(Frozen):  # bfloat16 is where a GPU begins, not what was found to be as good
            if node not in known and choices[node].bf16 and not _keeps_the_signal(
                    tuned, graph, node, networks[node], inputs, choices[node]):
                tuned.choices[node] = replace(choices[node], bf16=False)
        return tuned
    began -= sum(spent.values())
    for node in (node for node in spent if node not in known):
        key = _key(graph, node, networks[node], inputs, recorded)
        remembered = _remembered(memory, key)
        if remembered is not None:
            tuned.choices[node] = remembered
            continue
        _try_all(tuned, graph, node, networks[node], inputs, steps, began + SHARE * expected, recorded)
        _remember(memory, key, tuned.choices[node])
    for node, kind in graph.nodes.items():
        if isinstance(kind, Ema):  # it follows weights that lie in another's layout
            tuned.choices[node] = replace(tuned.choices[kind.of], compiled=False)
    tuned.compiled_losses = expected > COMPILE_SHARE * COMPILE_SECONDS / 2 and _compiles(tuned)
    return tuned


def _try_all(tuned: Tuned, graph: Graph, node: str, network: nn.Module, inputs: View, steps: int,
             until: float, recorded: bool) -> None:
    first = tuned.choices[node]
    timed = partial(_seconds, graph, node, network, inputs, recorded=recorded)
    seconds = {first: timed(first, 3)}
    formats = [Execution(bf16, last) for bf16 in (False, True) for last in (False, True)]
    for choice in (choice for choice in formats if choice != first):
        if time.perf_counter() > until:
            break
        try:
            seconds[choice] = timed(choice, 3, min(seconds.values()))
        except RuntimeError as error:  # a kernel that this machine has not got
            tuned.notes.append(f"{node} cannot run in {choice}: {str(error).splitlines()[0]}")
    good = [choice for choice in sorted(seconds, key=seconds.__getitem__)
            if not isinstance(graph.nodes[node], Frozen) or (choice == first and not choice.bf16)
            or _keeps_the_signal(tuned, graph, node, network, inputs, choice)] or [first]
    best = good[0]
    if steps * seconds[best] > COMPILE_SHARE * COMPILE_SECONDS and not is_tapped(graph, node):
        compiled = replace(best, compiled=True)
        try:
            seconds[compiled] = timed(compiled, 3)
            if (seconds[best] - seconds[compiled]) * steps > COMPILE_SECONDS:
                best = compiled
        except Exception as error:  # a missing compiler, or what it cannot compile: the network runs as it is
            tuned.notes.append(f"{node} is not compiled: {type(error).__name__}: {(str(error) or '?').splitlines()[0]}")
    tuned.choices[node] = best
    tuned.seconds[node] = {str(choice): round(number, 6) for choice, number in seconds.items()}


def _seconds(graph: Graph, node: str, network: nn.Module, inputs: View, choice: Execution, count: int,
             fastest: float | None = None, *, recorded: bool = False) -> float:
    """The shortest of `count` steps after one to warm up; given up after one that takes far longer than `fastest`."""
    frozen = isinstance(graph.nodes[node], Frozen)
    copy = deepcopy(network)
    lay_out(copy, choice if not frozen else Execution())
    ready = prepared_for(copy, choice, frozen=frozen, tapped=is_tapped(graph, node))
    step = partial(_step, ready, choice, inputs, taps_read(graph, node),
                   learns=isinstance(graph.nodes[node], Trained))
    device = _device_of(inputs)
    shortest = float("inf")
    with seeded("tuning"):
        if recorded:
            step = _recorded(step)
        for _ in range(count + 1):
            began = _now(device)
            step()
            shortest = min(shortest, _now(device) - began)
            if fastest is not None and shortest > 3 * fastest:
                break
    return shortest


def _step(network: nn.Module, choice: Execution, inputs: View, taps: Sequence[str], *, learns: bool) -> None:
    network.train(learns)
    with torch.set_grad_enabled(learns):
        outputs = run_network(network, choice, inputs, taps)
        if learns:
            torch.stack([rows.float().square().mean() for rows in outputs.values()]).sum().backward()
    network.zero_grad(set_to_none=True)


def _recorded(step: Callable[[], None]) -> Callable[[], object]:
    """The step as a CUDA graph, or as it is where it cannot be one."""
    try:
        return warm_graph(step)
    except Exception:
        return step


def _keeps_the_signal(tuned: Tuned, graph: Graph, node: str, network: nn.Module, inputs: View,
                      choice: Execution, verdict: str = "stays out of") -> bool:
    """Whether a teacher says the same in this format: it is trusted image by image, so its numbers matter."""
    plain = deepcopy(network).eval()
    with torch.no_grad(), seeded("tuning"):
        taps = taps_read(graph, node)
        whole = read(plain, inputs, taps)
        copy = prepared_for(plain, choice, frozen=True, tapped=is_tapped(graph, node))
        others = run_network(copy.eval(), choice, inputs, taps)
    if "" not in whole:
        return all(torch.allclose(rows.float(), others[tap].float(), rtol=1e-2, atol=1e-2)
                   for tap, rows in whole.items())
    kl, agree = _alike(whole[""].float(), others[""].float())
    if kl <= SIGNAL_KL and agree >= SIGNAL_AGREE:
        return True
    note = f"{node} {verdict} {'bf16' if choice.bf16 else choice}: KL at T = 4 is"
    if not any(told.startswith(note) for told in tuned.notes):  # the layout makes no difference to speak of
        tuned.notes.append(f"{note} {kl:.1e} (at most {SIGNAL_KL:.0e}), "
                           f"{agree:.1%} of its first choices stay (at least {SIGNAL_AGREE:.0%})")
    return False


def _alike(exact: Tensor, other: Tensor) -> tuple[float, float]:
    """KL of what a teacher says in two formats, at temperature 4, and the share of its first choices that stay.

    Of maps [B, C, ...] each place is a row. Of places with boxes [B, P, 9 + K] it is KL of yes and no of each class,
    and the share of the sides of boxes that stay within a fiftieth, of them or of their place.
    """
    if exact.dim() == 3:
        first, second = unpack_places(exact), unpack_places(other)
        kl = float(binary_kl(second.logits.flatten() / 4, first.logits.flatten() / 4).mean())
        return kl, float(torch.isclose(second.distances, first.distances, rtol=0.02, atol=0.02).float().mean())
    exact, other = (rows.movedim(1, -1).flatten(0, -2) for rows in (exact, other))
    log_exact, log_other = (exact / 4).log_softmax(-1), (other / 4).log_softmax(-1)
    kl = float((log_exact.exp() * (log_exact - log_other)).sum(-1).mean())
    return kl, float((exact.argmax(-1) == other.argmax(-1)).float().mean())


def _compiles(tuned: Tuned, what: str = "losses are not") -> bool:
    try:
        doubled = torch.compile(lambda x: (x * 2).sum())
        return float(doubled(torch.ones(3))) == 6
    except Exception as error:
        tuned.notes.append(f"{what} compiled: {type(error).__name__}: {(str(error) or '?').splitlines()[0]}")
        return False


def _device_of(inputs: View) -> torch.device:
    return inputs.device if isinstance(inputs, Tensor) else next(iter(inputs.values())).device


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_folder() -> Path:
    """Where choices and teachers' outputs are remembered: $TUTELAGE_CACHE, or tutelage in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TUTELAGE_CACHE") or Path(home) / "tutelage")


def records(world: World, settings: Settings) -> bool:
    """Whether a run like this records its steps, unless `may_capture` finds a reason against it."""
    return (world.device.type == "cuda" and world.size == 1 and settings.accumulate == 1
            and settings.precision != "exact")


def _key(graph: Graph, node: str, network: nn.Module, inputs: View, recorded: bool) -> str:
    shapes = [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]
    weights = fingerprint(network.state_dict()) if isinstance(graph.nodes[node], Frozen) else ""  # they must keep it
    given = (list(inputs.shape) if isinstance(inputs, Tensor) else
             [[name, list(tensor.shape)] for name, tensor in inputs.items()])
    words = [describe_machine(str(_device_of(inputs))), type(graph.nodes[node]).__name__, is_tapped(graph, node),
             str(network), shapes, given, weights, *["recorded"] * recorded]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _remembered(memory: Path | None, key: str) -> Execution | None:
    try:
        return Execution(**json.loads((memory / "choices" / f"{key}.json").read_bytes())) if memory else None
    except (OSError, ValueError, TypeError):
        return None  # none, or one that is damaged: it is found again


def _remember(memory: Path | None, key: str, choice: Execution) -> None:
    if memory is None:
        return
    try:
        (memory / "choices").mkdir(parents=True, exist_ok=True)
        write_json(memory / "choices" / f"{key}.json", asdict(choice))
    except (OSError, ResourceError):
        pass  # a full or read-only disk: the next run tries again
