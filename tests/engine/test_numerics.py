"""Runs that share their number formats: the first that needs one settles it, and the others compute alike."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from torch import nn

from toys import data, models, network, settings
from tutelage.engine import autotune
from tutelage.engine import train as training
from tutelage.engine.autotune import Tuned, choose
from tutelage.engine.loop import check
from tutelage.engine.numerics import Settled, adopt, network_key, processors, read_settled, write_settled
from tutelage.engine.precision import Execution
from tutelage.engine.train import train_in_folder
from tutelage.errors import Interrupted, ModelError
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Ema, Frozen, Trained
from tutelage.system.distributed import World
from tutelage.system.files import is_locked, locked

CPU = World(torch.device("cpu"))
LAST, BOTH, COMPILED = Execution(channels_last=True), Execution(True, True), Execution(True, True, True)
GRAPH = Graph({"t": Frozen(), "a": Trained(), "slow": Ema("a", 0.9)},
              [Edge("labels", "a", cross_entropy), Edge("t", "a", kl), Edge("slow", "a", mse, 0.1)])
ALONE = Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)])
SHAPE = (1, 8, 8)


def three() -> dict[str, nn.Module]:
    return {"t": network(1, width=6), "a": network(2), "slow": network(2)}


def settled_on(choice: Execution, graph: Graph = GRAPH) -> Settled:
    settled, held = Settled(), {node: held for node, held in three().items() if node in graph.nodes}
    settled.settle(graph, held, SHAPE, dict.fromkeys(held, choice), False)
    return settled


def chosen(settled: Settled | None, graph: Graph = GRAPH, **options) -> Tuned:
    held = {node: model for node, model in models().items() if node in graph.nodes}
    given = settings(**options)
    return choose(check(graph, held, data(), given, CPU), data(), given, CPU, settled)


@pytest.fixture
def fast_bf16(monkeypatch, tmp_path) -> None:
    """Every run is long, and every network twice as fast in bfloat16."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "memory"))
    for name, value in {"SHORTEST": 0.0, "FEWEST": 1, "SHARE": 1e6, "_keeps_the_signal": lambda *_: True,
                        "_compiles": lambda *_: True}.items():
        monkeypatch.setattr(autotune, name, value)
    monkeypatch.setattr(autotune, "_seconds", lambda graph, node, network, inputs, choice, *rest, **more:
                        0.1 - 0.05 * choice.bf16 - 0.01 * choice.channels_last)


def test_what_is_settled_holds_whatever_is_fastest_now(fast_bf16):
    assert chosen(None).choices["a"] == BOTH
    assert chosen(settled_on(LAST)).choices == dict.fromkeys(["t", "a", "slow"], LAST)


def test_what_a_run_chooses_holds_for_the_next_which_measures_nothing(fast_bf16, monkeypatch):
    settled = Settled()
    first = chosen(settled)
    monkeypatch.setattr(autotune, "_seconds", lambda *rest, **more: pytest.fail("measured"))
    assert chosen(settled).choices == first.choices == dict.fromkeys(["t", "a", "slow"], BOTH)


def test_a_short_run_that_measures_nothing_does_as_was_settled():
    assert chosen(None).choices["a"] == LAST
    assert chosen(settled_on(BOTH)).choices == dict.fromkeys(["t", "a", "slow"], BOTH)


def test_a_network_that_is_new_is_tried_beside_those_that_are_settled(fast_bf16):
    found = chosen(settled_on(LAST, ALONE))
    assert found.choices == {"t": BOTH, "a": LAST, "slow": LAST}


@pytest.mark.parametrize(("precision", "told"), [("exact", Execution()), ("bf16", BOTH)])
def test_a_precision_that_is_told_is_neither_changed_nor_settled(precision, told):
    settled, other = settled_on(LAST), Settled()
    assert chosen(settled, precision=precision).choices["a"] == told
    chosen(other, precision=precision)
    assert settled.networks == settled_on(LAST).networks
    assert other.networks == {}
    assert other.compiled_losses is None


@pytest.mark.parametrize("first", [True, False])
def test_whether_losses_are_compiled_is_settled_too(fast_bf16, monkeypatch, first):
    settled = Settled()
    monkeypatch.setattr(autotune, "COMPILE_SHARE", 0 if first else 1e9)
    assert chosen(settled, ALONE).compiled_losses is first
    monkeypatch.setattr(autotune, "COMPILE_SHARE", 1e9 if first else 0)
    assert chosen(settled).compiled_losses is first


@pytest.mark.parametrize("first", [True, False])
def test_whether_a_teachers_outputs_are_kept_as_float16_is_settled_where_the_recipe_leaves_it_open(first):
    graph, settled = Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", kl)]), Settled()
    few, all_ = {"limit_draws": 1}, {"limit_draws": None}
    assert not chosen(settled, ALONE, **few).cached
    assert settled.cached is None, "a run without a teacher says nothing of it"
    assert chosen(settled, graph, **(few if first else all_)).cached is first
    assert chosen(settled, graph, **(all_ if first else few)).cached is first
    assert chosen(settled, graph, cache=not first).cached is not first
    assert not chosen(settled, ALONE, **few).cached


def test_a_teacher_that_loses_its_signal_in_what_was_settled_computes_like_the_others_and_it_is_said(monkeypatch):
    monkeypatch.setattr(autotune, "FEWEST", 1)
    graph = Graph({"t": Frozen(), "a": Trained()}, [Edge("t", "a", kl)])
    held = models()
    sharp = held["t"]
    with torch.no_grad():
        sharp[-1].weight.mul_(300)
    found = choose(check(graph, {"t": sharp, "a": held["a"]}, data(), settings(), CPU), data(), settings(), CPU,
                   settled_on(BOTH, graph))
    assert found.choices == {"t": BOTH, "a": BOTH}
    (note,) = found.notes
    assert note.startswith("t computes as was settled, in bf16: KL at T = 4 is ")


# --- which network is the same ----------------------------------------------------------------------------------


def test_weights_and_the_nodes_name_say_nothing_of_which_network_it_is():
    other = Graph({"b": Trained()}, [Edge("labels", "b", cross_entropy)])
    assert network_key(ALONE, "a", network(1), SHAPE) == network_key(other, "b", network(2), SHAPE)


@pytest.mark.parametrize("change", ["role", "width", "images"])
def test_another_role_other_layers_or_other_images_make_another_network(change):
    graph = GRAPH if change != "role" else Graph({"a": Frozen(), "b": Trained()}, [Edge("a", "b", kl)])
    held = network(2, width=5 if change == "width" else 4)
    shape = (1, 9, 9) if change == "images" else SHAPE
    assert network_key(graph, "a", held, shape) != network_key(GRAPH, "a", network(2), SHAPE)
    assert settled_on(BOTH).choices(graph, {"a": held}, shape) == {}


def test_a_moving_average_follows_and_neither_it_nor_what_is_read_inside_is_compiled():
    nodes = {"a": Trained(), "inside": Computed(("a.0",), lambda x: x.flatten(1))}
    tapped = Graph(nodes, [Edge("labels", "a", cross_entropy), Edge("ids", "inside", lambda s, i, y: s.sum(-1))])
    settled = settled_on(COMPILED)
    assert settled.choices(GRAPH, three(), SHAPE) == {"t": COMPILED, "a": COMPILED, "slow": BOTH}
    assert settled.choices(tapped, {"a": network(2)}, SHAPE) == {"a": BOTH}


def test_of_two_alike_in_one_run_float32_holds_for_both():
    graph = Graph({"t": Frozen(), "u": Frozen(), "a": Trained()}, [Edge("t", "a", kl), Edge("u", "a", kl)])
    held = {"t": network(1), "u": network(3), "a": network(2)}
    assert Settled().settle(graph, held, SHAPE, {"t": BOTH, "u": LAST, "a": BOTH}, False)[0] == {
        "t": LAST, "u": LAST, "a": BOTH}


# --- the file -----------------------------------------------------------------------------------------------------


def test_each_processor_settles_its_own_and_begins_with_what_was_adopted(tmp_path):
    path = tmp_path / "numerics" / "settled.json"
    assert read_settled(path, "one") == Settled()
    adopt(path, Settled({"trained a": BOTH}, True, None))
    other = Settled({"trained a": LAST}, False, True)
    write_settled(path, "one", other)
    assert read_settled(path, "one") == other
    assert read_settled(path, "another") == Settled({"trained a": BOTH}, True, None)
    assert processors(path) == ["one"]


def test_what_was_adopted_by_its_nodes_name_holds_from_then_on_for_networks_like_it():
    settled = Settled({"trained a": BOTH})
    settled.settle(ALONE, {"a": network(2)}, SHAPE, settled.choices(ALONE, {"a": network(2)}, SHAPE), False)
    other = Graph({"b": Trained()}, [Edge("labels", "b", cross_entropy)])
    assert settled.choices(other, {"b": network(3)}, SHAPE) == {"b": BOTH}


@pytest.mark.parametrize("damage", ["[]", "{", "{}", '{"machines": {"one": 7}, "adopted": {}}',
                                    '{"machines": {"one": {"networks": {"a": {"bf17": true}}}}, "adopted": {}}'])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "settled.json").write_text(damage)
    with pytest.raises(ModelError) as caught:
        read_settled(tmp_path / "settled.json", "one")
    assert "settled.json" in str(caught.value)


# --- several runs at a time ---------------------------------------------------------------------------------------


def train(folder: Path, numerics: Path, interrupted=lambda: 0) -> dict:
    held = {"a": models()["a"]}
    for _ in train_in_folder(folder, ALONE, held, data(), settings(1), CPU, tensorboard=False, numerics=numerics,
                             interrupted=interrupted):
        pass
    return json.loads((folder / "tuning.json").read_text())["choices"]["a"]


def test_of_two_runs_begun_at_once_one_chooses_and_the_other_waits_for_it(tmp_path):
    numerics, both_here, asked = tmp_path / "numerics" / "settled.json", Event(), []
    held = {"a": models()["a"]}

    def slow(settled: Settled) -> Tuned:
        asked.append(1)
        if len(asked) == 1:
            assert is_locked(numerics.parent)
            both_here.wait(1)  # long enough for the other to come along
        return Tuned(settled.settle(ALONE, held, SHAPE, {"a": BOTH if len(asked) == 1 else LAST}, False)[0])

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: training._settled(numerics, slow, CPU, lambda: 0), range(2)))
    assert len(asked) == 2
    assert [tuned.choices for tuned in found] == [{"a": BOTH}] * 2


def test_a_run_that_waits_for_another_stops_when_it_is_asked_to_and_goes_on_later(tmp_path):
    numerics = tmp_path / "numerics" / "settled.json"
    with locked(numerics.parent), pytest.raises(Interrupted):
        train(tmp_path / "run", numerics, lambda: signal.SIGTERM)
    assert not (tmp_path / "run" / "tuning.json").exists()
    assert train(tmp_path / "run", numerics) == vars(LAST)


def test_a_run_that_is_resumed_keeps_its_own(tmp_path):
    numerics = tmp_path / "numerics" / "settled.json"
    train(tmp_path / "run", numerics)
    adopt(numerics, settled_on(BOTH, ALONE))
    assert train(tmp_path / "run", numerics) == vars(LAST)
    assert train(tmp_path / "other", numerics) == vars(BOTH)
