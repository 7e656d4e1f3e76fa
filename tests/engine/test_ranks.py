"""Two processes are one: the same global batch gives the same losses, gradients and evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toys import free_port

pytestmark = pytest.mark.slow
SCRIPT = """
import json, sys, torch
from pathlib import Path
from toys import data, everything, models, network, settings
from tutelage import Edge, Graph, Trained
from tutelage.graph.divergences import cross_entropy
from tutelage.system.files import fingerprint
from tutelage.engine.loop import start, steps_of
from tutelage.methods.akd import akd
from tutelage.methods.alm import alm
from tutelage.methods.dual_student import dual_student
from tutelage.methods.peeraid import peeraid
from tutelage.methods.pesf import pesf
from tutelage.methods.stochastic_teacher import stochastic_teacher
from tutelage.methods.switokd import switokd
from tutelage.models.wrappers import draw
from tutelage.engine.train import capture
from tutelage.system.distributed import connect, disconnect

world, out, case = connect("cpu"), Path(sys.argv[1]), sys.argv[2]
uncertainty = True if case == "norm" else "mean_one"  # a mean over a micro-batch is not one over the batch
graph = everything() if case == "everything" else dual_student("t", ["a", "b"], uncertainty=uncertainty)
if case == "pesf":  # a part that learns on a frozen network
    graph = pesf("t", "a", "0")
if case == "alm":  # a table for all images, refreshed in the first step from work that the ranks share
    graph = alm(["t"], "a", "3", first=0, every=1, pool=2, validation_batch=5)
if case in ("discrepancy", "held_out"):  # parts that learn, one with a memory of the batch or one by held-out rows
    graph = akd("t", "a", balance=case)
if case in ("pesf", "alm", "discrepancy", "held_out"):
    graph = Graph({**graph.nodes, "b": Trained()}, [*graph.edges, Edge("labels", "b", cross_entropy)],
                  graph.controllers)
if case == "gate":  # at this temperature the teacher waits in the first step and learns in the others
    graph = switokd(["a"], ["b"], gap_temperature=0.03)
networks = models(norm=case == "norm")
if case == "draws":  # what a teacher drops is of the sample, whichever rank has it
    graph = stochastic_teacher("t", "b", {"t": "0", "b": "0"}, percentile=50.0)
    graph = Graph({**graph.nodes, "a": Trained()}, [*graph.edges, Edge("labels", "a", cross_entropy)],
                  graph.controllers)
    networks["t"] = network(1, width=5, norm=False)
    draw(networks["t"], 6, 0.3)
if case == "attack":  # each rank attacks its own rows
    graph = peeraid("a", "b", eps=0.1, step_size=0.03, steps=3)
if case == "norm":
    graph += Edge("labels", "a@strong", cross_entropy, weight=0.5)
accumulate = 2 if case == "norm" and world.size == 1 else 1
options = settings(1, accumulate=accumulate, batch_size=12)
job = start(graph, networks, data(52), options, world)
first = next(steps_of(job))
gradients = {f"{node}.{name}": p.grad.tolist() for node in "ab" for name, p in job.models[node].named_parameters()
             if p.grad is not None}
losses = job.means.read([edge.name for edge in job.graph.edges], accumulate)
for event in steps_of(job):
    pass
if case == "alm":
    assert job.graph.controllers["look_ahead"].change > 0.01
if case == "gate":
    assert job.graph.controllers["switch"].paused.tolist() == [[1]]
result = {"gradients": gradients, "losses": losses, "accuracy": event.accuracy, "scores": job.scores["nodes"]["a"],
          "digest": {name: fingerprint(tensors) for name, tensors in capture(job).items()},
          "weights": {f"{owner}.{name}": p.tolist() for owner, module in job.learners.items()
                      for name, p in module.named_parameters()}}
(out / f"{case}-{world.size}-{world.rank}.json").write_text(json.dumps(result))
disconnect()
"""


def launch(folder: Path, case: str, size: int) -> list[dict]:
    port = str(free_port())
    processes = []
    for rank in range(size):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank),
                       "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), case], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=240)
        results = folder / f"{case}-{size}-0.json"
        assert results.exists(), errors  # a finished gloo process may still abort in its teardown; the file counts
    return [json.loads((folder / f"{case}-{size}-{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module", params=["plain", "everything", "norm", "discrepancy", "held_out", "pesf", "alm",
                                        "gate", "draws", "attack"])
def runs(request, tmp_path_factory) -> tuple[str, dict, list[dict]]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, launch(folder, request.param, 1)[0], launch(folder, request.param, 2)


def close(one: dict, other: dict, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(other[name]), rtol=tolerance, atol=tolerance)


def test_two_ranks_give_the_gradients_and_losses_of_one(runs):
    case, one, two = runs
    close(one["gradients"], two[0]["gradients"], 1e-6)
    if case != "norm":  # with statistics of half the batch, a micro-batch's own losses are what agrees
        close(one["losses"], two[0]["losses"], 1e-6)


def test_trap_19_two_views_of_a_network_with_batch_statistics_go_backward_together_over_ranks(runs):
    case, _, two = runs
    assert {"a@strong" in edge for edge in two[1]["losses"]} == {False, case == "norm"}


def test_ranks_agree_with_each_other_to_the_bit(runs):
    _, _, two = runs
    assert two[0]["digest"] == two[1]["digest"]
    assert two[0]["losses"] == two[1]["losses"]


def test_traps_26_and_31_evaluation_counts_every_image_once_and_all_ranks_know_it(runs):
    case, one, two = runs
    assert two[0]["scores"] == two[1]["scores"]
    if case != "norm":
        close(one["weights"], two[0]["weights"], 1e-5)
        close({"accuracy": list(one["accuracy"].values())}, {"accuracy": list(two[0]["accuracy"].values())}, 1e-12)
