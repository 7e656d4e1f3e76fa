"""Whole runs of detectors: stopped after every step, over two ranks with unlike numbers of objects, with a cache."""

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
from torch import Tensor, nn

from toys import free_port
from tutelage import Trained, train
from tutelage.data import Data
from tutelage.data.balance import rows_of_epoch
from tutelage.data.settings import DataSettings
from tutelage.data.source import Part
from tutelage.engine.loop import start, steps_of
from tutelage.engine.settings import Settings
from tutelage.engine.train import train_in_folder
from tutelage.errors import Interrupted, ModelError, UsageError
from tutelage.graph.graph import Graph
from tutelage.methods.class_aware import class_aware
from tutelage.methods.dual_student import dual_student
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.models.dense_boxes import ABSENT, grid_places, pack_places
from tutelage.models.fcos import tiny_fcos
from tutelage.runs import checkpoint
from tutelage.runs.folder import read_json
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.detection.task import DETECTION
from tutelage.tasks.named import data_for

pytestmark = pytest.mark.slow
CPU = World(torch.device("cpu"))
BATCH, STEPS, EPOCHS = 4, 2, 2
SGD = partial(torch.optim.SGD, lr=0.05)
ADAM = partial(torch.optim.AdamW, lr=0.01)


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
def data() -> Data:
    """8 images, two batches an epoch, augmented."""
    return data_for(DataSettings("shapes_boxes", limit=BATCH * STEPS, image_size=32, batch_size=BATCH))


def networks(graph: Graph, *, norms: bool = True) -> dict[str, nn.Module]:
    """Networks of some hundred weights, always the same."""
    made = {}
    for seed, node in enumerate(node for node in "tab" if node in graph.nodes):
        torch.manual_seed(seed)
        made[node] = tiny_fcos(3, width=3 if node == "t" else 2, depth=1, strides=(4, 8))
        if not norms:
            for name, layer in list(made[node].named_modules()):
                if isinstance(layer, nn.BatchNorm2d):
                    made[node].set_submodule(name, nn.Identity())
    return made


def trained(folder: Path, *, stop: bool = False) -> dict[str, str]:
    """The seal of each piece of the state that a cohort ends with; Interrupted after one step if `stop`."""
    graph = peer_cohort("t", ["a", "b"], task=DETECTION)
    models, settings = networks(graph), Settings(EPOCHS, ADAM, batch_size=BATCH, checkpoint_steps=1, best=True)
    for _ in train_in_folder(folder, graph, models, data(), settings, CPU, tensorboard=False,
                             interrupted=lambda: signal.SIGINT if stop else 0):
        pass
    _, state, damaged = checkpoint.newest(folder / "checkpoints", read_json(folder / "run.json")["id"])
    assert not damaged
    return {name: fingerprint(tensors) for name, tensors in state.items()}


def test_a_cohort_that_is_stopped_after_every_step_has_the_bits_of_one_that_was_not(tmp_path):
    whole = trained(tmp_path / "whole")
    for _ in range(STEPS * EPOCHS):
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", stop=True)
    assert trained(tmp_path / "run") == whole


def epoch_of(world: World) -> dict:
    """Weights after an epoch, and how many objects this rank has in the first batch."""
    graph = dual_student("t", ["a", "b"], task=DETECTION)
    run = start(graph, networks(graph, norms=False), data(),
                Settings(1, SGD, batch_size=BATCH, precision="exact"), world)
    for _ in steps_of(run):
        pass
    first = world.own(rows_of_epoch(run.data.train.labels, "none", 0, 0)[:BATCH])
    (batch,) = run.data.train.batches([first], draw=0)
    return {"objects": int((batch.labels["classes"] >= 0).sum()),
            "weights": {f"{name}.{key}": p.tolist() for name, part in run.learners.items()
                        for key, p in part.named_parameters()}}


RANK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_detection_runs import epoch_of
from tutelage.system.distributed import connect, disconnect
world = connect("cpu")
Path(sys.argv[2], f"{world.rank}.json").write_text(json.dumps(epoch_of(world)))
disconnect()
"""


def test_two_ranks_with_unlike_numbers_of_objects_take_the_steps_of_one_process(tmp_path):
    here, port, processes = Path(__file__).parent, str(free_port()), []
    for rank in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(here.parents[1]), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK, str(here), str(tmp_path)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    one = epoch_of(CPU)
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert (tmp_path / "1.json").exists(), errors
    two = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert two[0]["objects"] != two[1]["objects"], "ranks that count unlike"
    assert two[0]["weights"] == two[1]["weights"]
    assert one["weights"].keys() == two[0]["weights"].keys()
    for name, numbers in one["weights"].items():
        torch.testing.assert_close(torch.tensor(two[0]["weights"][name]), torch.tensor(numbers), rtol=1e-5, atol=1e-6)


def with_cache(precision: str, kept: bool) -> tuple[list[str], int]:
    """The seals of the students of a run of two draws, and how many images its teacher was asked for."""
    graph, asked = dual_student("t", ["a", "b"], task=DETECTION), list[int]()
    models = networks(graph)
    # On a layer, and no method: a hook that goes with the copy which the loop runs, and notes here all the same.
    first = next(layer for layer in models["t"].modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    for _ in train(graph, models, data(), epochs=4, draws=2, cache=kept, precision=precision, optimizer=ADAM,
                   batch_size=BATCH):
        pass
    return [fingerprint(models[node].state_dict()) for node in graph.named(Trained)], sum(asked)


@pytest.mark.parametrize("precision", ["exact", "auto"])
def test_a_cache_gives_the_same_bits_while_it_is_filled_and_read_and_in_exact_those_without_one(precision):
    (filling, asked), (reading, again) = (with_cache(precision, True) for _ in range(2))
    assert asked - again == 2 * STEPS * BATCH, "two draws were kept, and read"
    assert reading == filling
    assert precision == "auto" or with_cache(precision, False)[0] == filling


def test_micro_batches_are_refused_for_how_many_places_find_something_is_not_known_before():
    graph = dual_student("t", ["a", "b"], task=DETECTION)
    with pytest.raises(UsageError, match="accumulat"):
        start(graph, networks(graph), data(), Settings(1, SGD, batch_size=BATCH, accumulate=2), CPU)


def test_a_teacher_whose_places_lie_elsewhere_is_refused_before_the_first_step():
    graph = dual_student("t", ["a", "b"], task=DETECTION)
    models = networks(graph)
    models["t"] = tiny_fcos(3, width=2, depth=1, strides=(4, 8), corners=True)  # as many places, half a place away
    with pytest.raises(ModelError, match="unlike grids") as refused:
        start(graph, models, data(), Settings(1, SGD, batch_size=BATCH), CPU)
    assert str(refused.value.found).count("places of sizes 4, 8") == 2


def test_a_class_that_no_image_has_teaches_nothing_and_that_is_said_after_the_epoch(caplog):
    """A teacher that knows one class and finds it nowhere, on images that have no object of it."""
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            light = 1e-3 * x.mean((1, 2, 3))[:, None, None]
            logits = torch.full((len(x), 80, 3), ABSENT).index_fill(2, torch.tensor([2]), -4.0) + light
            return pack_places(grid_places((32, 32), (4, 8)), torch.ones(len(x), 80, 4), None, logits)

    some = data()
    nobody = replace(some, train=Part(some.train, torch.tensor(
        [row for row in range(len(some.train.ids)) if 2 not in labels_of_row(some, row)])))
    graph = class_aware("t", "a", task=DETECTION)
    models = {"t": Blind(), "a": tiny_fcos(3, width=2, depth=1, strides=(4, 8))}
    assert len(nobody.train.ids) >= 2
    run = start(graph, models, nobody, Settings(1, SGD, batch_size=2), CPU)
    for _ in steps_of(run):
        pass
    (told,) = [record.getMessage() for record in caplog.records if "taught nothing" in record.getMessage()]
    assert told == ("note: edge t->a:one_class[relevant] taught nothing in epoch 1: no row of it counted, or both ends "
                    "say the same")


def labels_of_row(some: Data, row: int) -> set[int]:
    (batch,) = some.train.batches([torch.tensor([row])], draw=None)
    return set(batch.labels["classes"].flatten().tolist())
