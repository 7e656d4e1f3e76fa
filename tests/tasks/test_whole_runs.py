"""Whole runs of each task by a method that has state: stopped, killed, over ranks, with a cache, with fused losses.

Segmentation by `learning_styles`, whose adapters learn; series of unlike lengths by `stochastic_teacher`, whose draws
are told to the teacher batch by batch. Both networks have batch statistics and, of series, dropout.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from every import every
from toys import RowByRow, free_port
from tutelage import Trained, train
from tutelage.data import Data
from tutelage.data.balance import rows_of_epoch
from tutelage.data.settings import DataSettings
from tutelage.data.source import Source
from tutelage.engine.loop import start, steps_of
from tutelage.engine.run import Losses, Run
from tutelage.engine.settings import Settings
from tutelage.engine.train import train_in_folder
from tutelage.errors import Interrupted, UsageError
from tutelage.graph import fused_losses, objective
from tutelage.graph.graph import Graph
from tutelage.methods.learning_styles import learning_styles
from tutelage.methods.stochastic_teacher import stochastic_teacher
from tutelage.models.series import series_cnn
from tutelage.models.unet import unet
from tutelage.models.wrappers import draw
from tutelage.runs import checkpoint
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.system.random import derive, uniform
from tutelage.tasks.named import data_for
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.series import SERIES
from tutelage.types import Batch

pytestmark = pytest.mark.slow
CPU = World(torch.device("cpu"))
BATCH, STEPS, EPOCHS = 6, 3, 2
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.AdamW, lr=0.01)
each_task = pytest.mark.parametrize("task", ["segmentation", "series"])
each_precision = pytest.mark.parametrize("precision", ["exact", "auto"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the other ranks compute, and the child of a fork must."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    return tmp_path / "memory" / "teachers"


# --- data, networks and graphs ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ignored:
    """Masks of which some pixels do not count: hardly one counts of the rows `few`, and none of the rows `nothing`."""

    whole: Source
    few: Tensor
    nothing: Tensor

    @property
    def ids(self) -> Tensor:
        return self.whole.ids

    @property
    def labels(self) -> Tensor:
        return self.whole.labels

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        for rows, batch in zip(plan, self.whole.batches(plan, draw=draw, views=views), strict=True):
            odds = uniform(derive("ignored"), batch.ids, batch.labels[0].numel()).view_as(batch.labels)
            limit = torch.where(torch.isin(rows, self.few), 0.97, 0.1)
            limit = torch.where(torch.isin(rows, self.nothing), 1.0, limit)
            yield batch._replace(labels=batch.labels.where(odds >= limit[:, None, None], -1))


@cache
def data_of(task: str) -> Data:
    """18 rows, three batches an epoch, augmented; of masks, nothing counts in the second batch of the second epoch.

    Of the first half of each batch of the first epoch hardly a pixel counts: there two ranks count unlike.
    """
    if task == "series":
        return data_for(DataSettings("waves", limit=BATCH * STEPS, augment="jitter"))
    data = data_for(DataSettings("shapes", limit=BATCH * STEPS, image_size=12, batch_size=BATCH))
    orders = [rows_of_epoch(data.train.labels, "none", 0, epoch).view(STEPS, BATCH) for epoch in range(EPOCHS)]
    return replace(data, train=Ignored(data.train, orders[0][:, : BATCH // 2].flatten(), orders[1][1]))


def graph_of(task: str) -> Graph:
    if task == "series":
        return stochastic_teacher("t", "s", {"t": "features", "s": "features"}, percentile=50.0, task=SERIES)
    return styles_of_maps()


def styles_of_maps() -> Graph:
    layers = {"t": "encoder.1", "a": "encoder.1", "b": "decoder.0"}  # of unlike channels, and one of another grid
    return learning_styles("t", ["a", "b"], layers, temperature=2.0, task=SEGMENTATION)


def styles_of_series() -> Graph:
    return learning_styles("t", ["a", "b"], dict.fromkeys("tab", "features"), task=SERIES)


def networks_of(task: str) -> dict[str, nn.Module]:
    """Networks of some hundred weights, always the same."""
    made = {}
    for seed, node in enumerate("tabs" if task == "series" else "tab"):
        torch.manual_seed(seed)
        if task == "series":
            made[node] = series_cnn(4, 2, width=2, depth=2, dropout=0.2)
        else:
            made[node] = unet(3, 3, width=3 if node == "t" else 2, depth=1)
    if task == "series":
        draw(made["t"], 5)
    return made


def networks_for(task: str, graph: Graph) -> dict[str, nn.Module]:
    return {node: network for node, network in networks_of(task).items() if node in graph.nodes}


def settings(epochs: int = EPOCHS, **options) -> Settings:
    return Settings(epochs, options.pop("optimizer", ADAM), batch_size=BATCH, **options)


def begun(task: str, world: World = CPU, **options) -> Run:
    graph = graph_of(task)
    return start(graph, networks_for(task, graph), data_of(task), settings(**options), world)


# --- stopped and killed ----------------------------------------------------------------------------------------


def trained(folder: Path, task: str, *, stop: bool = False) -> dict[str, str]:
    """The seal of each piece of the state that a run in a folder ends with; Interrupted after one step if `stop`."""
    graph = graph_of(task)
    networks = networks_for(task, graph)
    for _ in train_in_folder(folder, graph, networks, data_of(task), settings(checkpoint_steps=1, best=True), CPU,
                             tensorboard=False, interrupted=lambda: signal.SIGINT if stop else 0):
        pass
    _, state, damaged = checkpoint.newest(folder / "checkpoints", read_json(folder / "run.json")["id"])
    assert not damaged
    given = {f"{node} in hand": fingerprint(network.state_dict()) for node, network in networks.items()}
    return given | {name: fingerprint(tensors) for name, tensors in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Of each task the state at the end of a run that nothing stopped."""
    return {task: trained(tmp_path_factory.mktemp(task) / "whole", task) for task in ("segmentation", "series")}


@each_task
def test_a_run_that_is_stopped_after_every_step_has_the_bits_of_one_that_was_not(tmp_path, whole, task):
    for step in range(1, STEPS * EPOCHS + 1):
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", task, stop=True)
        assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").exists()
    assert trained(tmp_path / "run", task) == whole[task]


def at_call(number: int, act):
    """A function of anything that acts when it is called for the so manieth time."""
    calls = count(1)
    return lambda *_: act() if next(calls) == number else None


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize(("task", "call"), [("segmentation", 4 * 4 + 1), ("series", 5)])
def test_a_run_that_is_killed_within_a_step_has_the_bits_of_one_that_was_not(tmp_path, whole, task, call):
    """In the fifth step: of segmentation one of four optimizers has stepped, of series the only one."""
    child = os.fork()
    if child == 0:
        try:
            register_optimizer_step_post_hook(at_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            trained(tmp_path / "run", task)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == "step-00000004"
    assert not (tmp_path / "run" / "FINISHED").exists()
    assert trained(tmp_path / "run", task) == whole[task]


# --- two ranks -------------------------------------------------------------------------------------------------


def assert_near(found: Tensor, expected: Tensor, name: str) -> None:
    """Alike to a millionth of the largest: features at norm 1 enlarge what is rounded where they are almost 0."""
    assert (found - expected).abs().max() <= 1e-6 * max(1, float(expected.abs().max())), name


def epoch_of(task: str, world: World) -> dict:
    """Gradients of the first step, weights after the first epoch and how many pixels counted for this rank.

    One process takes the micro-batches of two ranks, for norms learn from the rows of one.
    """
    run = begun(task, world, epochs=1, optimizer=SGD, precision="exact", accumulate=2 // world.size)
    events = steps_of(run)
    next(events)
    gradients = {f"{name}.{key}": p.grad.tolist() for name, part in run.learners.items()
                 for key, p in part.named_parameters()}
    assert every(event is None or event.number == 1 for event in events)
    weights = {f"{name}.{key}": p.tolist() for name, part in run.learners.items() for key, p in part.named_parameters()}
    first = world.own(rows_of_epoch(run.data.train.labels, "none", 0, 0)[:BATCH])
    (batch,) = run.data.train.batches([first], draw=0)
    return {"gradients": gradients, "weights": weights, "counted": int((batch.labels >= 0).sum())}


RANK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_whole_runs import epoch_of
from tutelage.system.distributed import connect, disconnect
world = connect("cpu")
found = {task: epoch_of(task, world) for task in ("segmentation", "series")}
Path(sys.argv[2], f"{world.rank}.json").write_text(json.dumps(found))
disconnect()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict]]:
    folder, here, port, processes = tmp_path_factory.mktemp("ranks"), Path(__file__).parent, str(free_port()), []
    for rank in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK, str(here), str(folder)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert (folder / "1.json").exists(), errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@each_task
def test_two_ranks_take_the_steps_of_one_process(ranks, task):
    one, two = epoch_of(task, CPU), [found[task] for found in ranks]
    for rank in two:
        for key in ("gradients", "weights"):
            assert one[key].keys() == rank[key].keys()
            for name, numbers in one[key].items():
                assert_near(torch.tensor(rank[key][name]), torch.tensor(numbers), name)
    assert two[0]["weights"] == two[1]["weights"]
    if task == "segmentation":
        assert two[0]["counted"] != two[1]["counted"], "ranks that count unlike"


# --- the cache -------------------------------------------------------------------------------------------------


def with_cache(task: str, precision: str, kept: bool | str, graph: Graph | None = None) -> tuple[list[str], int]:
    """The seals of the students of a run of two draws, and how many rows its teacher was asked for."""
    graph = graph or (styles_of_series() if task == "series" else graph_of(task))
    networks, asked = networks_for(task, graph), list[int]()
    if task == "series":
        networks["t"].fc.__class__ = RowByRow
    # On a layer, and no method: a hook that goes with the copy which the loop runs, and notes here all the same.
    first = next(layer for layer in networks["t"].modules() if isinstance(layer, nn.Conv1d | nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    for _ in train(graph, networks, data_of(task), epochs=4, draws=2, cache=kept, precision=precision, optimizer=ADAM,
                   batch_size=BATCH):
        pass
    return [fingerprint(networks[node].state_dict()) for node in graph.named(Trained)], sum(asked)


@each_task
@each_precision
def test_a_cache_gives_the_same_bits_while_it_is_filled_and_read_and_in_exact_those_without_one(task, precision):
    (filling, asked), (reading, again) = (with_cache(task, precision, True) for _ in range(2))
    assert asked - again == 2 * STEPS * BATCH, "two draws were kept, and read"
    assert reading == filling
    assert precision == "auto" or with_cache(task, precision, False)[0] == filling


def test_what_a_teacher_draws_anew_in_every_step_is_not_kept(own_memory):
    runs = [with_cache("series", "auto", kept, graph_of("series")) for kept in ("auto", False)]
    assert runs[0] == runs[1]
    assert not own_memory.exists()
    with pytest.raises(UsageError, match="nothing to cache"):
        with_cache("series", "auto", True, graph_of("series"))


# --- losses ----------------------------------------------------------------------------------------------------


def step_of(task: str, precision: str, place: int = 0,
            losses: Losses | None = None) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The losses and gradients of one step of a fresh run, at one place of all its batches."""
    run = begun(task, precision=precision)
    assert (run.losses is objective.losses) == (precision == "exact")
    run.step, run.losses = place, losses or run.losses
    next(steps_of(run))
    found = run.means.read([edge.name for edge in run.graph.edges], 1)
    return found, {f"{name}.{key}": p.grad for name, part in run.learners.items() for key, p in part.named_parameters()}


@each_task
def test_fused_losses_teach_what_plain_ones_do(task):
    (plain, pulls), (fused, others) = step_of(task, "exact"), step_of(task, "exact", losses=fused_losses.losses)
    assert list(plain) == list(fused)
    assert every(loss > 0 for loss in plain.values())
    torch.testing.assert_close(list(fused.values()), list(plain.values()), rtol=1e-6, atol=1e-6)
    assert pulls.keys() == others.keys()
    for name, pull in pulls.items():
        assert_near(others[name], pull, name)


@each_precision
def test_where_no_pixel_counts_the_losses_of_pixels_are_0_and_gradients_finite(precision):
    losses, pulls = step_of("segmentation", precision, place=STEPS + 1)
    of_pixels = {edge: loss for edge, loss in losses.items() if edge.endswith("[pixels]")}
    assert len(of_pixels) == 4
    assert set(of_pixels.values()) == {0.0}
    assert every(loss > 0 for edge, loss in losses.items() if edge not in of_pixels), "features of places count"
    assert every(pull.isfinite().all() for pull in pulls.values())
    assert not pulls["a.head.weight"].any()
    assert pulls["a.encoder.1.0.weight"].any()
