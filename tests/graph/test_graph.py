"""The graph: its ends, what it must refuse and how it says so, its table, and what it tells the engine."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tutelage.errors import UsageError
from tutelage.graph.controller import Controller
from tutelage.graph.divergences import alpha_beta, cross_entropy, js, kl, mse, plackett_luce, reverse_kl
from tutelage.graph.edge import Edge
from tutelage.graph.ends import End, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Ema, Ensemble, Frozen, Trained
from tutelage.graph.objective import edge_loss
from tutelage.graph.sample_weights import (
    confidence,
    correct,
    discrepancy,
    entropy,
    labelled,
    margin,
    mean_one,
    true_class,
)
from tutelage.graph.schedules import ramp_up, window


def double(logits):
    return 2 * logits


def add(first, second):
    return first + second


class Gate(nn.Module):
    def forward(self, *ends):
        return ends[0]


NODES = {"t": Frozen(), "s": Trained(), "r": Trained(), "slow": Ema("s")}
LEARN = Edge("labels", "s", cross_entropy)


def refusal(make) -> UsageError:
    with pytest.raises(UsageError) as caught:
        make()
    return caught.value


@pytest.mark.parametrize(("text", "end"), [
    ("s", End("s", "", "")),
    ("resnet-18_a", End("resnet-18_a", "", "")),
    ("s.layer4.1.conv", End("s", "layer4.1.conv", "")),
    ("s@strong", End("s", "", "strong")),
    ("s.layer4.1@strong", End("s", "layer4.1", "strong")),
    ("labels", End("labels", "", "")),
])
def test_an_end_is_taken_apart_and_put_together_again(text, end):
    assert parse_end(text) == end
    assert end.name == text


@pytest.mark.parametrize("text", ["", ".tap", "@view", "s.", "s@", "s.@v", "s@a@b", "s@v.tap", "a b", "straße", "s\n"])
def test_what_is_no_end_is_refused(text):
    error = refusal(lambda: parse_end(text))
    assert error.found == repr(text)
    assert "node.tap@view" in error.expected


@pytest.mark.parametrize("name", ["labels", "ids", "", "a.b", "a@b", "a b", "a/b", "ü"])
def test_what_is_no_name_for_a_node_is_refused(name):
    assert refusal(lambda: Graph({name: Trained()}, [])).found == repr(name)


@pytest.mark.parametrize(("make", "where", "says"), [
    (lambda: Edge("t", "x", kl), "edge t->x:kl", "unknown node 'x'"),
    (lambda: Edge("x.tap", "s", mse), "edge x.tap->s:mse", "unknown node 'x'"),
    (lambda: Edge("t", "s", kl, temperature=4.0, sample_weight="gate.w"), "edge t->s:kl/4", "unknown node 'gate'"),
    (lambda: Edge("s", "t", kl), "edge s->t:kl", "'t' cannot learn"),
    (lambda: Edge("s", "slow", kl), "edge s->slow:kl", "'slow' cannot learn"),
    (lambda: Edge("s", "labels", kl), "edge s->labels:kl", "'labels' cannot learn"),
    (lambda: Edge("s", "ids", kl), "edge s->ids:kl", "'ids' cannot learn"),
    (lambda: Edge("s", "t.layer4", partial(mse)), "edge s->t.layer4:mse", "'t.layer4' cannot learn"),
    (lambda: Edge("labels@strong", "s", kl), "edge labels@strong->s:kl", "unknown node 'labels'"),
])
def test_an_edge_with_a_wrong_end_is_refused_by_name(make, where, says):
    error = refusal(lambda: Graph(NODES, [make()]))
    assert (error.where, error.exit_code) == (where, 2)
    assert says in error.what


def test_a_misspelt_node_is_told_the_nearest():
    error = refusal(lambda: Graph({"teacher": Frozen(), "s": Trained()}, [Edge("techer", "s", kl)]))
    assert error.fix == "did you mean 'teacher'?"
    assert error.expected == "one of: ids, labels, s, teacher"


def test_a_student_that_cannot_learn_is_told_what_it_is_and_what_to_do():
    error = refusal(lambda: Graph(NODES, [Edge("s", "slow", kl)]))
    assert error.found == "ema of s, decay 0.999"
    assert error.fix == "exchange the ends, or make the node Trained()"


@pytest.mark.parametrize("edges", [
    [LEARN, LEARN],
    [LEARN, Edge("labels", "s", partial(cross_entropy, smoothing=0.1))],
    [Edge("t", "s", kl, temperature=4.0), Edge("t", "s", kl, temperature=4.0, weight=0.5, sample_weight=entropy)],
])
def test_two_edges_of_one_name_are_refused(edges):
    error = refusal(lambda: Graph(NODES, edges))
    assert error.where == f"edge {edges[0].name}"
    assert error.fix == "add their weights, or leave one out"


def test_edges_that_differ_in_ends_divergence_or_temperature_stand_side_by_side():
    edges = [Edge("t", "s", kl), Edge("t", "s", kl, temperature=4.0), Edge("t", "s", js), Edge("t", "r", kl),
             Edge("t", "s@strong", kl), Edge("t.a", "s", kl)]
    assert len(Graph(NODES, edges).weights(0.0)) == 6


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    error = refusal(lambda: Edge("t", "s", kl, temperature=temperature))
    assert (error.where, error.found) == ("edge t -> s", f"temperature = {temperature}")


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_weight_that_cannot_be_is_refused(weight):
    error = refusal(lambda: Edge("t", "s", kl, weight=weight))
    assert (error.where, error.found) == ("edge t -> s", f"weight = {weight}")


@pytest.mark.parametrize("divergence", [cross_entropy, partial(cross_entropy, smoothing=0.1)])
def test_cross_entropy_from_a_network_is_refused(divergence):
    error = refusal(lambda: Edge("t", "s", divergence))
    assert error.where == "edge t -> s"
    assert error.fix == "use kl to learn from a network"


@pytest.mark.parametrize("divergence", [kl, reverse_kl, js, mse, plackett_luce,
                                        partial(alpha_beta, alpha=1.0, beta=0.0), partial(partial(kl))])
def test_a_divergence_between_networks_is_refused_on_labels(divergence):
    error = refusal(lambda: Edge("labels", "s", divergence))
    assert error.where == "edge labels -> s"
    assert error.fix == "learn from labels by cross_entropy"


@pytest.mark.parametrize("weight", [entropy, confidence, margin, correct, discrepancy, true_class,
                                    partial(entropy, temperature=2.0)])
def test_a_weight_that_reads_logits_is_refused_on_labels(weight):
    assert "sample_weight" in refusal(lambda: Edge("labels", "s", cross_entropy, sample_weight=weight)).found


def test_a_weight_that_reads_labels_is_welcome_on_labels():
    edge = Edge("labels", "s", cross_entropy, sample_weight=partial(mean_one, of=labelled))
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    mean = F.cross_entropy(logits[:2], torch.tensor([1, 1]))
    torch.testing.assert_close(edge_loss(edge, {"s": logits}, torch.tensor([1, 1, -1])), mean)


def test_labels_have_no_temperature():
    assert refusal(lambda: Edge("labels", "s", cross_entropy, temperature=4.0)).found == "temperature = 4.0"


def test_a_sample_weight_that_learns_must_be_a_node():
    error = refusal(lambda: Edge("t", "s", kl, sample_weight=Gate()))
    assert error.fix == "make it a Computed node and name its end: sample_weight='gate'"


@pytest.mark.parametrize("make", [
    lambda: Ema("s", decay=1.1), lambda: Ema("s", decay=-0.1), lambda: Ema("s", decay=float("nan")),
    lambda: Ema("s", every=-1),
])
def test_an_average_that_cannot_be_is_refused(make):
    assert "decay in [0, 1]" in refusal(make).expected


@pytest.mark.parametrize("of", ["t", "slow", "nobody", "ensemble", "s.layer1"])
def test_an_average_follows_a_trained_node_only(of):
    error = refusal(lambda: Graph({**NODES, "ensemble": Ensemble(["s", "r"]), "other": Ema(of)}, []))
    assert error.where == "Ema node 'other'"
    assert error.expected == "one of: r, s"


def test_a_computed_node_has_no_views_of_its_own():
    nodes = {**NODES, "both": Ensemble(["s", "r"])}
    error = refusal(lambda: Graph(nodes, [Edge("both@strong", "s", kl)]))
    assert (error.where, error.found) == ("edge both@strong->s:kl", "both@strong")
    assert "name the view where the node reads" in error.fix
    assert refusal(lambda: Graph({**nodes, "more": Computed(("both@strong",), double)}, [])).where \
        == "computed node 'more'"


def test_a_computed_node_must_read_ends_that_there_are():
    error = refusal(lambda: Graph({**NODES, "c": Computed(("s", "x"), add)}, []))
    assert (error.what, error.where) == ("unknown node 'x'", "computed node 'c'")


def test_computed_nodes_in_a_circle_are_refused():
    nodes = {**NODES, "a": Computed(("s", "b"), add), "b": Computed(("a",), double)}
    assert refusal(lambda: Graph(nodes, [Edge("a", "r", kl)])).found == "a <- b <- a"


@pytest.mark.parametrize(("kind", "learns"), [
    (Computed(("t",), double), False),
    (Computed(("t", "slow", "labels"), double), False),
    (Computed(("t", "s"), add), True),
    (Computed(("t",), Gate()), True),
    (Computed(("t",), partial(Gate())), True),
    (Computed(("s.f@v",), double), True),
])
def test_a_computed_node_learns_through_what_it_reads_or_by_its_module(kind, learns):
    nodes = {**NODES, "c": kind}
    if learns:
        assert Graph(nodes, [Edge("r", "c", kl)]).ends() == ["r", "c"]
    else:
        assert refusal(lambda: Graph(nodes, [Edge("r", "c", kl)])).what == "'c' cannot learn"


def test_a_node_that_no_edge_reaches_is_allowed():
    assert Graph(NODES, [LEARN]).ends() == ["labels", "s"]
    assert Graph({}, []).ends() == []


@pytest.mark.parametrize(("edge", "name"), [
    (LEARN, "labels->s:cross_entropy"),
    (Edge("t", "s", kl), "t->s:kl"),
    (Edge("t", "s", kl, temperature=4.0), "t->s:kl/4"),
    (Edge("t", "s", kl, temperature=2.5), "t->s:kl/2.5"),
    (Edge("t.a.b@v", "s@w", partial(mse)), "t.a.b@v->s@w:mse"),
    (Edge("t", "s", Gate()), "t->s:Gate"),
])
def test_an_edge_is_named_by_its_ends_divergence_and_temperature(edge, name):
    assert edge.name == name


TABLE = """\
teacher  frozen
a        trained
b        trained
slow     ema of a, decay 0.99, every 5
both     mean_probability of a, b
gate     Gate of teacher.f

labels  -> a         cross_entropy(smoothing=0.1)  T=1  x 0.5
teacher -> a@strong  kl                            T=4  x ramp_up(to=0.5, until=0.2)  x entropy(temperature=2.0)
both    -> b         js                            T=1  x 1                           x gate
slow    -> b         kl                            T=1  x 2                           x mean_one(of=margin)

switch  Controller"""


def test_a_graph_prints_as_a_table():
    graph = Graph(
        {"teacher": Frozen(), "a": Trained(), "b": Trained(), "slow": Ema("a", 0.99, 5), "both": Ensemble(["a", "b"]),
         "gate": Computed(("teacher.f",), Gate())},
        [Edge("labels", "a", partial(cross_entropy, smoothing=0.1), weight=0.5),
         Edge("teacher", "a@strong", kl, partial(ramp_up, to=0.5, until=0.2), 4.0, partial(entropy, temperature=2.0)),
         Edge("both", "b", js, sample_weight="gate"),
         Edge("slow", "b", kl, weight=2.0, sample_weight=partial(mean_one, of=margin))],
        {"switch": Controller()},
    )
    assert str(graph) == TABLE


def test_a_graph_with_one_more_edge_is_another_graph():
    graph = Graph(NODES, [LEARN])
    grown = graph + Edge("t", "s", kl)
    assert [edge.name for edge in grown.edges] == ["labels->s:cross_entropy", "t->s:kl"]
    assert [edge.name for edge in graph.edges] == ["labels->s:cross_entropy"]
    assert refusal(lambda: grown + Edge("t", "s", kl)).where == "edge t->s:kl"


def test_a_graph_is_not_changed_by_its_makers_lists():
    nodes, edges = dict(NODES), [LEARN]
    graph = Graph(nodes, edges)
    nodes.clear()
    edges.clear()
    assert (len(graph.nodes), len(graph.edges)) == (4, 1)


SCHEDULED = Graph(NODES, [
    LEARN,
    Edge("t", "s.feature@strong", mse, weight=partial(window, start=0.5), sample_weight="r"),
    Edge("slow", "r", kl, weight=partial(ramp_up, to=2.0)),
    Edge("t", "r", kl, weight=0.0),
])


def test_weights_follow_the_progress():
    assert list(SCHEDULED.weights(0.25).values()) == [1.0, 0.0, 0.5, 0.0]
    assert list(SCHEDULED.weights(0.75).values()) == [1.0, 1.0, 1.5, 0.0]


def test_an_edge_of_weight_0_is_not_live_and_its_ends_are_not_read():
    assert [edge.name for edge in SCHEDULED.live(SCHEDULED.weights(0.0))] == ["labels->s:cross_entropy"]
    assert SCHEDULED.ends(SCHEDULED.weights(0.0)) == ["labels", "s"]
    assert SCHEDULED.ends(SCHEDULED.weights(0.25)) == ["labels", "s", "slow", "r"]
    assert SCHEDULED.ends() == ["labels", "s", "t", "s.feature@strong", "r", "slow"]


def test_views_are_those_that_any_edge_or_what_it_is_computed_from_names():
    nodes = {**NODES, "c": Computed(("s@weak", "t.f@weak"), add)}
    assert Graph(nodes, [Edge("t@strong", "s", kl), Edge("c", "r", kl), LEARN]).views() == ["strong", "weak"]
    assert Graph(nodes, [LEARN]).views() == []


def test_order_puts_every_end_after_what_it_is_computed_from():
    nodes = {**NODES, "a": Computed(("s", "t.f"), add), "b": Computed(("a.x", "r"), add)}
    graph = Graph(nodes, [Edge("b", "s", kl)])
    assert graph.order(["b", "s"]) == ["s", "t.f", "a.x", "r", "b"]
    assert graph.order(["b"], known=["a.x"]) == ["a.x", "r", "b"]
    assert graph.order(["b"], known=["b"]) == ["b"]


def test_a_part_is_named_after_its_edge_or_node_and_keeps_its_first_name():
    gate, projector = Gate(), Gate()
    graph = Graph({**NODES, "first": Computed(("s",), gate), "second": Computed(("r",), partial(gate))},
                  [Edge("t", "s", projector), Edge("t", "r", projector), LEARN])
    assert list(graph.parts()) == ["first", "t->s:Gate"]
    assert graph.parts()["first"] is gate
    assert graph.parts()["t->s:Gate"] is projector


def test_nodes_are_listed_by_kind_in_their_order():
    graph = Graph({**NODES, "both": Ensemble(["s", "r"])}, [])
    assert [graph.named(kind) for kind in (Trained, Frozen, Ema, Computed)] == [["s", "r"], ["t"], ["slow"], ["both"]]


def test_a_circle_that_no_edge_reaches_is_refused_as_well():
    nodes = {**NODES, "a": Computed(("s", "b"), add), "b": Computed(("a",), double)}
    assert refusal(lambda: Graph(nodes, [LEARN])).found == "a <- b <- a"
