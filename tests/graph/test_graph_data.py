"""A graph in a run folder: written as data, drawn by the report from it, and told apart in every field."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tutelage
from toys import SGD, Switch, data, network
from tutelage import Computed, Edge, Ema, Frozen, Graph, Trained
from tutelage.errors import ModelError
from tutelage.graph.divergences import alpha_beta, cross_entropy, kl
from tutelage.graph.graph_data import data_of
from tutelage.graph.sample_weights import entropy
from tutelage.graph.schedules import ramp_up
from tutelage.recipes.job import train_recipe
from tutelage.recipes.recipe import graph_of, read_recipe
from tutelage.reporting.graph_model import Diagram, Link, Node
from tutelage.reporting.graph_svg import draw_graph
from tutelage.reporting.run_folder import read_run
from tutelage.system.distributed import World
from two_generations import RECIPE


def sureness(logits: Tensor) -> Tensor:
    """How sure a network is: [B]."""
    return logits.softmax(-1).amax(-1)


GRAPH = Graph(
    {"t": Frozen(before="net"), "old": Frozen(), "a": Trained(before="net"), "b": Trained(),
     "slow": Ema("a", 0.9, every=2), "entropy": Computed(("a", "t"), lambda a, t: sureness(t))},
    [Edge("labels", "a", cross_entropy), Edge("labels", "b", partial(cross_entropy, smoothing=0.1), weight=2),
     Edge("t", "a", kl, weight=0.5, temperature=4.0, sample_weight="entropy"),
     Edge("t", "b", kl, weight=partial(ramp_up, to=0.5, until=0.25), temperature=2.5,
          sample_weight=partial(entropy, power=2.0)),
     Edge("old.0", "b.0", lambda s, t, labels: (s[:, :, 0] - t[:, :4, 0]).square().flatten(1).mean(-1), weight=0.125),
     Edge("slow", "b", partial(alpha_beta, alpha=0.5, beta=0.25))],
    {"switch": Switch("b")})
DATA = {
    "nodes": [
        {"name": "t", "kind": "frozen", "before": "net"},
        {"name": "old", "kind": "frozen", "before": None},
        {"name": "a", "kind": "trained", "before": "net"},
        {"name": "b", "kind": "trained", "before": None},
        {"name": "slow", "kind": "ema", "of": ["a"], "decay": 0.9, "every": 2},
        {"name": "entropy", "kind": "computed", "of": ["a", "t"], "by": "<lambda>"}],
    "edges": [
        {"name": "labels->a:cross_entropy", "teacher": "labels", "student": "a", "divergence": "cross_entropy",
         "weight": 1.0, "temperature": 1.0, "sample_weight": None, "ends": ["labels", "a"]},
        {"name": "labels->b:cross_entropy", "teacher": "labels", "student": "b",
         "divergence": "cross_entropy(smoothing=0.1)", "weight": 2.0, "temperature": 1.0, "sample_weight": None,
         "ends": ["labels", "b"]},
        {"name": "t->a:kl/4", "teacher": "t", "student": "a", "divergence": "kl", "weight": 0.5, "temperature": 4.0,
         "sample_weight": "entropy", "ends": ["t", "a", "entropy"]},
        {"name": "t->b:kl/2.5", "teacher": "t", "student": "b", "divergence": "kl",
         "weight": "ramp_up(to=0.5, until=0.25)", "temperature": 2.5, "sample_weight": "entropy(power=2.0)",
         "ends": ["t", "b"]},
        {"name": "old.0->b.0:<lambda>", "teacher": "old.0", "student": "b.0", "divergence": "<lambda>",
         "weight": 0.125, "temperature": 1.0, "sample_weight": None, "ends": ["old.0", "b.0"]},
        {"name": "slow->b:alpha_beta", "teacher": "slow", "student": "b",
         "divergence": "alpha_beta(alpha=0.5, beta=0.25)", "weight": 1.0, "temperature": 1.0, "sample_weight": None,
         "ends": ["slow", "b"]}],
    "controllers": {"switch": "Switch"}}
SMALL, LARGE = "Sequential, 196 parameters", "Sequential, 292 parameters"
DIAGRAM = Diagram(
    (Node("t", "frozen", (), SMALL, "net"), Node("old", "frozen", (), LARGE), Node("a", "trained", (), SMALL, "net"),
     Node("b", "trained", (), SMALL), Node("slow", "ema", ("a",)), Node("entropy", "computed", ("a", "t"))),
    (Link("labels", "a", "cross_entropy", "1", "1"), Link("labels", "b", "cross_entropy(smoothing=0.1)", "1", "2"),
     Link("t", "a", "kl", "4", "0.5", "entropy"),
     Link("t", "b", "kl", "2.5", "ramp_up(to=0.5, until=0.25)", "entropy(power=2.0)"),
     Link("old.0", "b.0", "<lambda>", "1", "0.125"),
     Link("slow", "b", "alpha_beta(alpha=0.5, beta=0.25)", "1", "1")))


def train(out: Path) -> None:
    models = {"t": network(1), "old": network(2, width=6), "a": network(3), "b": network(4)}
    for _ in tutelage.train(GRAPH, models, data(), epochs=1, optimizer=SGD, batch_size=12, out=out):
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("python") / "run"
    train(out)
    return out


def test_a_run_from_python_has_its_graph_as_data(run):
    assert json.loads((run / "graph.json").read_text()) == DATA


def test_the_report_draws_the_graph_that_python_made(run):
    diagram = read_run(run).diagram
    assert diagram == DIAGRAM
    svg = str(draw_graph(diagram, {}).svg)
    assert svg.count('class="node frozen') == svg.count('class="node trained') == 2
    assert svg.count('class="edge') == 6


def test_a_run_of_an_earlier_version_is_drawn_the_same_and_gets_the_data_when_it_is_opened_again(run, tmp_path):
    train(tmp_path)
    (tmp_path / "graph.json").unlink()
    assert read_run(tmp_path).diagram == DIAGRAM
    train(tmp_path)
    assert json.loads((tmp_path / "graph.json").read_text()) == DATA
    assert (tmp_path / "config.toml").read_text() == (run / "config.toml").read_text()


def test_a_kind_in_words_names_the_run_before():
    assert [node.words for node in DIAGRAM.nodes] == [
        "frozen, net of the run before", "frozen", "trained, net of the run before", "trained", "ema", "computed"]


def test_a_recipe_of_two_runs_has_the_graph_of_each_and_of_the_last_in_the_whole(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe, out = read_recipe(tmp_path / "recipe.toml", quick=True), tmp_path / "out"
    for _ in train_recipe(recipe, out, World(torch.device("cpu"))):
        pass
    for folder, path in ((out / "1", out / "1"), (out / "2", out / "2"), (out, out / "2")):
        graph = graph_of(read_recipe(path / "config.toml"))
        assert json.loads((folder / "graph.json").read_text()) == data_of(graph)
        with_data = read_run(folder).diagram
        (folder / "graph.json").unlink()
        assert read_run(folder).diagram == with_data, "a folder of an earlier version has the recipe alone"
    assert read_run(out / "2").diagram.nodes == (Node("teacher", "frozen", (), "resnet8", "net"),
                                                 Node("net", "trained", (), "resnet8"))


@pytest.mark.parametrize("change", [
    lambda graph: graph.pop("edges"), lambda graph: graph["nodes"][0].update(kind="melted"),
    lambda graph: graph["edges"][0].update(temperature="warm"), lambda graph: graph["edges"][0].update(student="c"),
    lambda graph: graph["edges"][0].update(teacher="a b"), lambda graph: graph["nodes"][4].update(of="a"),
], ids=["no edges", "no such kind", "a word for a number", "a student that is not there", "no name of an end",
        "a name for a list"])
def test_a_graph_that_is_none_is_named(run, tmp_path, change):
    for name in ("run.json", "config.toml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    damaged = json.loads((run / "graph.json").read_text())
    change(damaged)
    (tmp_path / "graph.json").write_text(json.dumps(damaged))
    with pytest.raises(ModelError) as error:
        read_run(tmp_path)
    assert f"{tmp_path / 'graph.json'}" in error.value.block()
