"""Training where rows are no samples: ranks and micro-batches that count unlike, the cache, and scores."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rows_toys import FORECAST, MAPS, Line, Slices, forecast_data, map_data, map_network, pixels, squared
from toys import free_port
from tutelage import Edge, Frozen, Graph, Trained, train
from tutelage.data import Data
from tutelage.engine.loop import start, steps_of
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.codecs import Whole
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.sample_weights import entropy
from tutelage.runs.folder import read_records
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.task import Score

SGD = partial(torch.optim.SGD, lr=1.0)
GRAPH = Graph({"t": Frozen(), "a": Trained(), "b": Trained()},
              [*MAPS.from_labels("a", weight=0.5), *MAPS.from_labels("b"),
               *MAPS.from_network("t", "a", temperature=4.0, sample_weight=entropy),
               *MAPS.from_network("b", "a", weight=0.3)])


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    return tmp_path / "memory" / "teachers"


def networks() -> dict[str, nn.Module]:
    return {"t": map_network(1, 5), "a": map_network(2), "b": map_network(3, 4)}


def step_of(world: World, accumulate: int) -> dict[str, list]:
    """Weights and losses after one step with batches whose first half has hardly a labelled pixel."""
    settings = Settings(1, SGD, batch_size=24, accumulate=accumulate, precision="exact")
    run = start(GRAPH, networks(), map_data(uneven=True), settings, world)
    (epoch,) = steps_of(run)
    return {"losses": list(epoch.losses.values()),
            "weights": [p.flatten().tolist() for node in "ab" for p in run.models[node].parameters()]}


def close(one: dict[str, list], other: dict[str, list]) -> None:
    for key in ("losses", "weights"):
        torch.testing.assert_close(flat(other[key]), flat(one[key]), rtol=1e-6, atol=1e-6)


def flat(numbers: list) -> Tensor:
    return torch.cat([torch.tensor(x).flatten() for x in numbers])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_that_count_unlike_take_the_step_of_the_whole_batch(accumulate):
    world = World(torch.device("cpu"))
    whole = step_of(world, 1)
    close(whole, step_of(world, accumulate))


RANK = """
import json, sys
sys.path.insert(0, sys.argv[2])
from test_rows_training import step_of
from tutelage.system.distributed import connect, disconnect
world = connect("cpu")
open(f"{sys.argv[1]}/{world.rank}.json", "w").write(json.dumps(step_of(world, int(sys.argv[3]))))
disconnect()
"""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_that_count_unlike_take_the_step_of_one_process(tmp_path, accumulate):
    port, processes = str(free_port()), []
    for rank in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(Path(__file__).parent),
                                           str(accumulate)], env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert (tmp_path / "0.json").exists(), errors
    one = step_of(World(torch.device("cpu")), 1)
    for rank in range(2):
        close(one, json.loads((tmp_path / f"{rank}.json").read_text()))


def test_accumulation_is_refused_where_rows_do_not_know_their_total():
    def rows(ends, labels):
        return pixels(ends, labels)

    graph = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy, rows=rows)])
    settings = Settings(1, SGD, batch_size=24, accumulate=2)
    with pytest.raises(UsageError, match=r"(?s)cannot be accumulated.*give rows an attribute total"):
        start(graph, networks(), map_data(), settings, World(torch.device("cpu")))


def test_no_pixel_that_counts_leaves_every_weight_where_it_was():
    made = map_data()
    nothing = replace(made.train, masks=torch.full((24, 4, 4), -1))
    run = start(GRAPH, networks(), replace(made, train=nothing),
                Settings(1, SGD, batch_size=24, precision="exact"), World(torch.device("cpu")))
    (epoch,) = steps_of(run)
    assert set(epoch.losses.values()) == {0.0}
    assert fingerprint(run.models["a"].state_dict()) == fingerprint(networks()["a"].state_dict())


def hashes(graph: Graph, models: dict[str, nn.Module], data: Data, **options) -> list[str]:
    for _ in train(graph, models, data, epochs=4, optimizer=partial(SGD, lr=0.1), batch_size=8, draws=2, **options):
        pass
    return [fingerprint(models[node].state_dict()) for node in graph.named(Trained)]


@pytest.mark.parametrize("precision", ["exact", "auto"])
def test_ends_that_are_slices_have_the_same_bits_while_filling_and_reading_and_in_exact_without_a_cache(precision):
    graph = Graph({"t": Frozen(), "a": Trained()},
                  [*MAPS.from_labels("a"), *MAPS.from_network("t", "a", temperature=2.0),
                   Edge("t.sides", "a.sides", squared)])

    def of(cache: bool) -> list[str]:
        return hashes(graph, {"t": Slices(1), "a": Slices(2)}, map_data(), cache=cache, precision=precision)

    filling = of(True)
    assert of(True) == filling
    assert precision == "auto" or of(False) == filling


@pytest.mark.parametrize("scale", [[0.001, 8.0, 0.001, 8.0], [3e6, 1.0, 3e6, 1.0]])
def test_numbers_that_are_learned_as_they_are_come_back_from_the_cache_as_they_went_in(scale):
    graph = Graph({"t": Frozen(), "a": Trained()}, [*FORECAST.from_labels("a"), *FORECAST.from_network("t", "a")])
    seen = {}

    def of(cache: bool) -> None:
        models = {"t": Line(1, scale), "a": Line(2, scale)}
        for _ in train(graph, models, forecast_data(), epochs=2, draws=1, batch_size=8, cache=cache,
                       optimizer=partial(torch.optim.Adam, lr=1e-3)):
            pass
        seen[cache] = models["a"].linear.weight.detach().clone()

    of(False)
    of(True)
    torch.testing.assert_close(seen[True], seen[False], rtol=0, atol=0)


def test_maps_of_logits_are_kept_in_half_the_bits_and_rows_of_logits_as_differences():
    rows = torch.tensor([[3.0, 1.0], [-8.0, 70000.0]])
    form = Whole(logits=True, exact=False)
    assert torch.equal(form.decode(form.encode(rows))[0], rows[0])
    maps = torch.randn(2, 3, 4, 4)
    columns = form.encode(maps)
    assert columns["values"].dtype == torch.float16
    torch.testing.assert_close(form.decode(columns), maps, rtol=1e-3, atol=1e-3)


def test_a_draw_that_is_larger_than_the_cache_may_be_is_told_in_bytes_and_not_kept(tmp_path, caplog):
    graph = Graph({"t": Frozen(), "a": Trained()}, MAPS.from_labels("a") + MAPS.from_network("t", "a"))
    models = {"t": map_network(1), "a": map_network(2)}
    for _ in train(graph, models, map_data(size=32), epochs=2, draws=1, batch_size=8, cache=True, optimizer=SGD,
                   cache_gib=1e-5):
        pass
    size = 24 * (2 * 32 * 32 * 2 + 4)
    assert f"one draw of t takes {size / 2**20:.1f} MiB" in caplog.text
    assert "are not kept" in caplog.text


def test_the_largest_logits_alone_are_refused_for_maps():
    graph = Graph({"t": Frozen(), "a": Trained()}, MAPS.from_labels("a") + MAPS.from_network("t", "a"))
    with pytest.raises(UsageError, match="one choice a sample"):
        hashes(graph, {"t": map_network(1), "a": map_network(2)}, map_data(), cache=True, cache_top=1)


@pytest.mark.parametrize("name", ["mae", True])
def test_the_best_weights_are_those_of_the_lowest_error_where_lower_is_better(tmp_path, name):
    graph = Graph({"a": Trained()}, FORECAST.from_labels("a"))
    errors = [epoch.accuracy["a"] for epoch in
              train(graph, {"a": Line(0)}, forecast_data(), epochs=5, batch_size=8, out=tmp_path / "run", best=name,
                    optimizer=partial(torch.optim.SGD, lr=1.3))]
    assert errors.index(min(errors)) < 4, "the last epoch is not the best: the steps are too long"
    finished = read_records(tmp_path / "run")[-1]
    assert finished["metrics"]["nodes"]["a"]["mae"] == min(errors)


def test_a_line_of_progress_shows_the_first_score_of_the_task():
    graph = Graph({"a": Trained()}, FORECAST.from_labels("a"))
    (epoch,) = train(graph, {"a": Line(0)}, forecast_data(), epochs=1, batch_size=8, optimizer=partial(SGD, lr=0.01))
    assert f"a {epoch.accuracy['a']:.4g}  |  labels.next->a:squared" in str(epoch)


def test_a_score_that_the_task_does_not_have_cannot_choose_the_best():
    graph = Graph({"a": Trained()}, FORECAST.from_labels("a"))
    with pytest.raises(UsageError, match=r"(?s)unknown score 'top1'.*mae"):
        next(train(graph, {"a": Line(0)}, forecast_data(), epochs=1, batch_size=8, optimizer=SGD, best="top1"))


def test_labels_that_there_are_not_are_named():
    graph = Graph({"a": Trained()}, [Edge("labels.nxt", "a", squared)])
    with pytest.raises(ModelError, match=r"(?s)labels.nxt.*labels.next"):
        next(train(graph, {"a": Line(0)}, forecast_data(), epochs=1, batch_size=8, optimizer=SGD))


def test_rows_that_cannot_be_made_of_an_end_are_told_before_the_first_step():
    graph = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy, rows=pixels)])
    with pytest.raises(ModelError, match=r"(?s)edge labels->a.*rows Pixels.*2 of a, 32 of labels"):
        next(train(graph, {"a": Line(0)}, map_data(), epochs=1, batch_size=8, optimizer=SGD))


def test_a_killed_run_on_pixels_has_the_bits_of_one_that_was_not(tmp_path):
    def of(out: Path, stop: int) -> list[str]:
        models = networks()
        for epoch in train(GRAPH, models, map_data(uneven=True), epochs=3, batch_size=6, accumulate=2, out=out,
                           optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), checkpoint_steps=1):
            if epoch.number == stop:
                break
        return [fingerprint(models[node].state_dict()) for node in "ab"]

    whole = of(tmp_path / "whole", 0)
    of(tmp_path / "run", 1)
    assert of(tmp_path / "run", 0) == whole


def test_what_is_not_a_number_is_never_better():
    lower = Score("mae", "error", "number", "lower")
    assert lower.beats(0.5, float("nan"))
    assert not lower.beats(float("nan"), 0.5)
    assert not Score("right", "right").beats(0.2, 0.3)


def test_a_divergence_must_give_one_number_for_each_of_its_rows():
    graph = Graph({"a": Trained()}, [Edge("labels", "a", lambda s, t, y: s.sum(), rows=pixels)])
    with pytest.raises(ModelError, match=r"(?s)one number a row.*\[32\]"):
        next(train(graph, {"a": map_network(1)}, map_data(), epochs=1, batch_size=8, optimizer=SGD))
