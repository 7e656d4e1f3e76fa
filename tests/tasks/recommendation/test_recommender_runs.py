"""Whole runs of recommenders: stopped after every step, over two ranks, with a cache, and on candidates alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn

from every import every
from toys import free_port
from tutelage.data import Data
from tutelage.data.settings import DataSettings
from tutelage.engine.loop import start, steps_of
from tutelage.engine.settings import Settings
from tutelage.engine.train import train_in_folder
from tutelage.errors import Interrupted, UsageError
from tutelage.graph.graph import Graph
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.methods.unkd import unkd
from tutelage.models.recommend import lightgcn, mf
from tutelage.runs import checkpoint
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.named import data_for
from tutelage.tasks.recommendation.task import RECOMMENDATION
from tutelage.tasks.recommendation.teaching import connected, with_rankings

CPU = World(torch.device("cpu"))
BATCH, STEPS, EPOCHS = 12, 2, 2
ADAM = partial(torch.optim.AdamW, lr=0.01)
SGD = partial(torch.optim.SGD, lr=1.0)
UNKD = partial(unkd, "t", "a", pairs=8, task=RECOMMENDATION)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the other ranks compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))


@cache
def shop() -> Data:
    """24 users of the shop, two batches an epoch, and all of its items."""
    return data_for(DataSettings("shop", limit=BATCH * STEPS, batch_size=BATCH))


def networks(graph: Graph, *, spread: bool = True) -> dict[str, nn.Module]:
    """A teacher "t" and students "a" and, spread over the interactions, "b", as far as the graph has them."""
    made = {}
    for seed, (node, make) in enumerate({"t": mf, "a": mf, "b": lightgcn if spread else mf}.items()):
        if node in graph.nodes:
            torch.manual_seed(seed)
            made[node] = make(len(shop().classes), shop().shape[0], dim=8 if node == "t" else 3)
            connected(made[node], shop().train)
    return made


def trained(folder: Path, *, stop: bool = False) -> dict[str, str]:
    """The seal of each piece of the state that unkd ends with; Interrupted after one step if `stop`."""
    graph = UNKD()
    models = networks(graph)
    settings = Settings(EPOCHS, ADAM, batch_size=BATCH, checkpoint_steps=1, best=True)
    for _ in train_in_folder(folder, graph, models, with_rankings(shop(), graph, models), settings, CPU,
                             tensorboard=False, interrupted=lambda: signal.SIGINT if stop else 0, skilled=False):
        pass
    _, state, damaged = checkpoint.newest(folder / "checkpoints", read_json(folder / "run.json")["id"])
    assert not damaged
    return {name: fingerprint(tensors) for name, tensors in state.items()}


def test_a_run_that_is_stopped_after_every_step_has_the_bits_of_one_that_was_not(tmp_path):
    whole = trained(tmp_path / "whole")
    for _ in range(STEPS * EPOCHS):
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", stop=True)
    assert trained(tmp_path / "run") == whole


@pytest.mark.parametrize("graph", [
    distill("t", "a", task=RECOMMENDATION), mutual(["a", "b"], task=RECOMMENDATION),
    peer_cohort("t", ["a", "b"], task=RECOMMENDATION), dual_student("t", ["a", "b"], task=RECOMMENDATION), UNKD(),
], ids=["distill", "mutual", "peer_cohort", "dual_student", "unkd"])
def test_every_edge_of_a_method_brings_down_its_loss(graph):
    models = networks(graph)
    settings = Settings(15, partial(torch.optim.AdamW, lr=0.02), batch_size=BATCH, precision="exact")
    run = start(graph, models, with_rankings(shop(), graph, models), settings, CPU)

    epochs = [event for event in steps_of(run) if event is not None]

    assert every(torch.isfinite(torch.tensor(list(epoch.losses.values()))).all() for epoch in epochs)
    own = [name for name in epochs[0].losses if name.startswith("labels")]
    assert every(epochs[-1].losses[name] < epochs[0].losses[name] for name in own)
    assert set(epochs[-1].accuracy) >= set(graph.nodes) - {"t"}


class Watched(nn.Module):
    """A network that notes how many scores it gave at once, and in which mode."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of, self.given = of, list[tuple[bool, tuple[int, ...]]]()

    def forward(self, users: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
        scores = self.of(users=users, items=items)
        self.given.append((self.training, tuple(scores.shape)))
        return scores


@pytest.mark.parametrize(("graph", "drawn"), [(UNKD(), 2 * 16 + 2 * 8), (distill("t", "a", task=RECOMMENDATION), 32)],
                         ids=["unkd", "distill"])
def test_of_many_items_only_drawn_ones_are_scored_and_never_all_users_at_once(monkeypatch, graph, drawn):
    monkeypatch.setattr("tutelage.data.user_source.SCORED_AT_ONCE", 50)
    models = networks(graph)
    data = with_rankings(shop(), graph, models)
    watched = {node: Watched(network) for node, network in models.items()}
    run = start(graph, watched, data, Settings(1, SGD, batch_size=BATCH, precision="exact"), CPU)

    for _ in steps_of(run):
        pass

    training = [shape for is_training, shape in watched["a"].given if is_training]
    assert set(training) == {(BATCH, drawn)}
    assert len(training) == STEPS
    assert (BATCH, drawn) in {shape for _, shape in watched["t"].given}
    assert every(shape[0] < len(shop().train.names) for network in watched.values() for _, shape in network.given)


def test_a_cache_of_scores_is_refused_and_auto_keeps_none(tmp_path):
    graph = distill("t", "a", task=RECOMMENDATION)
    settings = Settings(2, SGD, batch_size=BATCH, precision="exact", limit_draws=1)

    with pytest.raises(UsageError, match="nothing to cache"):
        list(train_in_folder(tmp_path / "yes", graph, networks(graph), shop(), replace(settings, cache=True), CPU,
                             tensorboard=False, skilled=False))
    list(train_in_folder(tmp_path / "auto", graph, networks(graph), shop(), settings, CPU, tensorboard=False,
                         skilled=False))

    assert not (tmp_path / "memory" / "teachers").exists()


def test_groups_of_users_without_two_free_items_are_skipped_and_counted():
    groups = torch.ones_like(shop().train.groups)
    groups[0] = 0
    alone = replace(shop(), train=replace(shop().train, groups=groups))
    graph = UNKD()

    found = with_rankings(alone, graph, networks(graph))

    (batch,) = found.train.batches([torch.arange(BATCH)], draw=0)
    assert any(note.startswith(f"{len(shop().train.ids)} groups of users") for note in found.notes)
    assert (batch.labels["preferred"][:, :4] == -1).all()
    assert (batch.labels["preferred"][:, 4:] >= 0).all()


def epoch_of(world: World) -> dict[str, object]:
    """Losses and weights after an epoch."""
    graph = UNKD()
    models = networks(graph)
    run = start(graph, models, with_rankings(shop(), graph, models),
                Settings(1, SGD, batch_size=BATCH, precision="exact"), world)
    (epoch,) = (event for event in steps_of(run) if event is not None)
    return {"losses": dict(epoch.losses), "recall": epoch.accuracy["a"],
            "weights": {name: p.tolist() for name, p in models["a"].named_parameters()}}


RANK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_recommender_runs import epoch_of
from tutelage.system.distributed import connect, disconnect
world = connect("cpu")
(Path(sys.argv[2]) / f"{world.rank}.json").write_text(json.dumps(epoch_of(world)))
disconnect()
"""


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    port, here = str(free_port()), Path(__file__).parent
    processes = []
    for rank in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(here.parents[1]), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK, str(here), str(tmp_path)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert len(list(tmp_path.glob("?.json"))) == 2, errors
    alone, ranks = epoch_of(CPU), [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    for found in ranks:
        for name, loss in alone["losses"].items():
            assert found["losses"][name] == pytest.approx(loss, abs=1e-6)
        for name, weights in alone["weights"].items():
            torch.testing.assert_close(torch.tensor(found["weights"][name]), torch.tensor(weights), rtol=0, atol=1e-6)
        assert found["recall"] == pytest.approx(alone["recall"])
