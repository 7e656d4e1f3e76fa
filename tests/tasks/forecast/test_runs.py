"""Whole runs of dckd: beside a loop by hand, stopped and gone on with, with a cache, over two ranks."""

import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from every import every
from toys import free_port
from tutelage.data.balance import rows_of_epoch
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data
from tutelage.engine.loop import start, steps_of
from tutelage.engine.settings import Settings
from tutelage.engine.train import train
from tutelage.methods.dckd import dckd
from tutelage.models.forecast import forecast_gru, forecast_linear
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.forecast.task import FORECAST
from tutelage.tasks.named import data_for

pytestmark = pytest.mark.slow
BATCH, STEPS = 8, 3
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
CPU = World(torch.device("cpu"))
LEAST = 1e-3


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))


@cache
def data() -> Data:
    return data_for(DataSettings("waves_forecast", window=6, horizon=2, limit=BATCH * STEPS))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {"t": forecast_gru(2, 2, width=4), "s": forecast_linear(2, 2, width=3)}
    made["s"](torch.zeros(2, 2, 6))  # lazy layers
    return made


def by_hand(epochs: int) -> nn.Module:
    """The loss of the paper in plain loops over pairs, and SGD with a cosine schedule."""
    nets = networks()
    student, total = nets["s"].train(), epochs * STEPS
    optimizer = SGD(student.parameters())
    for step in range(total):
        rows = rows_of_epoch(data().train.labels, "none", 0, step // STEPS).view(STEPS, BATCH)[step % STEPS]
        (batch,) = data().train.batches([rows], draw=0)
        with torch.no_grad():
            said = nets["t"].eval()(batch.inputs)
            m, s = said[..., 0], F.softplus(said[..., 1]) + LEAST
        out = student(batch.inputs)
        mu, sigma = out[..., 0], F.softplus(out[..., 1]) + LEAST
        loss = -torch.distributions.Normal(mu, sigma).log_prob(batch.labels["target"]).mean()
        loss = loss + torch.distributions.kl_divergence(torch.distributions.Normal(m, s),
                                                        torch.distributions.Normal(mu, sigma)).mean()
        apart = alike = torch.zeros(())
        for k in range(2):
            tables = [related(mean[:, k], spread[:, k]) for mean, spread in ((mu, sigma), (m, s))]
            apart = apart + F.smooth_l1_loss(tables[0][0], tables[1][0]) / 2
            alike = alike + F.smooth_l1_loss(tables[0][1], tables[1][1]) / 2
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + float(torch.tensor(torch.pi * step / total).cos())) / 2
        optimizer.zero_grad()
        (loss + 0.5 * apart + 0.5 * alike).backward()
        optimizer.step()
    return student


def related(m: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances in units of their mean, and cosines, of each pair by itself."""
    count = len(m)
    far = torch.stack([torch.stack([(1 / s[i] ** 2 + 1 / s[j] ** 2) / 2 * ((s[i] - s[j]) ** 2 + (m[i] - m[j]) ** 2)
                                    for j in range(count)]) for i in range(count)])
    near = torch.stack([torch.stack([(2 * s[i] * s[j] / (s[i] ** 2 + s[j] ** 2)).sqrt()
                                     * (-(m[i] - m[j]) ** 2 / (2 * (s[i] ** 2 + s[j] ** 2))).exp()
                                     for j in range(count)]) for i in range(count)])
    return far / far[far > 0].mean(), near


def run_of(epochs: int = 2, **more: object) -> dict[str, nn.Module]:
    models = networks()
    for _ in train(dckd("t", "s", task=FORECAST), models, data(), epochs=epochs, optimizer=SGD, batch_size=BATCH,
                   device="cpu", **{"precision": "exact", "cache": False, **more}):  # pyright: ignore
        pass
    return models


def test_dckd_is_the_loop_by_hand():
    found, wanted = run_of()["s"], by_hand(2)
    for (name, one), other in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_a_run_that_was_left_goes_on_to_the_same_bits(tmp_path):
    whole = fingerprint(run_of(epochs=3, out=tmp_path / "whole")["s"].state_dict())
    graph, models = dckd("t", "s", task=FORECAST), networks()
    how: dict[str, Any] = {"epochs": 3, "optimizer": SGD, "batch_size": BATCH, "device": "cpu", "precision": "exact",
                           "cache": False, "out": tmp_path / "run"}
    for epoch in train(graph, models, data(), **how):
        if epoch.number == 1:
            break
    models = networks()
    assert [epoch.number for epoch in train(graph, models, data(), **how)] == [1, 2, 3]
    assert fingerprint(models["s"].state_dict()) == whole


def test_a_cache_gives_the_bits_of_a_run_without_one():
    assert fingerprint(run_of(draws=1, cache=True, epochs=3)["s"].state_dict()) == fingerprint(
        run_of(draws=1, epochs=3)["s"].state_dict())


def gradients_of(world: World) -> dict[str, list]:
    run = start(dckd("t", "s", task=FORECAST), networks(), data(),
                Settings(1, SGD, batch_size=BATCH, precision="exact"), world)
    next(steps_of(run))
    return {f"{name}.{key}": p.grad.tolist() for name, part in run.learners.items()
            for key, p in part.named_parameters()}


RANK = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parents[1])]
from test_runs import gradients_of
from tutelage.system.distributed import connect, disconnect
world = connect("cpu")
Path(sys.argv[2], f"{world.rank}.json").write_text(json.dumps(gradients_of(world)))
disconnect()
"""


def test_relations_of_two_ranks_see_the_whole_batch(tmp_path):
    here, port, processes = Path(__file__).parent, str(free_port()), []
    for rank in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(here.parents[1]), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK, str(here), str(tmp_path)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert (tmp_path / "1.json").exists(), errors
    alone = gradients_of(CPU)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.keys() == alone.keys()
        assert every(torch.allclose(torch.tensor(found[name]), torch.tensor(numbers), rtol=1e-5, atol=1e-7)
                     for name, numbers in alone.items())
