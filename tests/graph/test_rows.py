"""Rows: what edges compare where a row is no sample, against loops over the rows."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from every import every
from rows_toys import Pixels, pixels
from tutelage.errors import ModelError, UsageError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.graph_data import data_of
from tutelage.graph.modules import mean_probability, teacher_doubt
from tutelage.graph.nodes import Computed, Ensemble, Frozen, Trained
from tutelage.graph.objective import edge_loss, forward
from tutelage.graph.rows import row_sets
from tutelage.graph.sample_weights import correct, entropy
from tutelage.types import Rows, image_ends, inputs_like, label_ends, labels_of

LOSSES = {"reference": objective.losses, "fused": fused_losses.losses}


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(**more: Tensor) -> dict[str, Tensor]:
    return {"t": maps(1, 2, 3, 2, 2), "s": maps(2, 2, 3, 2, 2).requires_grad_(), **more}


LABELS = torch.tensor([[[0, 2], [-1, 1]], [[-1, -1], [2, 0]]])
NODES = {"t": Frozen(), "s": Trained()}
GRAPH = Graph(NODES, [Edge("labels", "s", cross_entropy, 0.5, rows=pixels),
                      Edge("t", "s", kl, 0.7, 4.0, entropy, rows=pixels)])


def naive(teacher: Tensor, student: Tensor, labels: Tensor) -> tuple[float, float]:
    """The two losses of GRAPH, pixel by pixel."""
    hard = soft = count = 0.0
    for image, place in [(i, (y, x)) for i in range(2) for y in range(2) for x in range(2) if labels[i, y, x] >= 0]:
        s, t = student[image, :, *place].tolist(), teacher[image, :, *place].tolist()
        p, warm_p, warm_t, cold_t = (softmax(z, T) for z, T in ((s, 1), (s, 4), (t, 4), (t, 1)))
        hard -= math.log(p[int(labels[image, *place])])
        w = 1 + sum(q * math.log(q) for q in cold_t) / math.log(3)
        soft += w * 16 * sum(a * math.log(a / b) for a, b in zip(warm_t, warm_p, strict=True))
        count += 1
    return 0.5 * hard / count, 0.7 * soft / count


def softmax(z: list[float], temperature: float) -> list[float]:
    e = [math.exp(x / temperature) for x in z]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_losses_over_pixels_are_means_over_those_that_count(losses):
    given = outputs()
    found = losses(GRAPH, given, LABELS)
    assert list(found) == ["labels->s:cross_entropy[Pixels]", "t->s:kl/4[Pixels]"]
    assert [value.item() for value in found.values()] == pytest.approx(naive(given["t"], given["s"], LABELS), rel=1e-9)
    gradients = torch.autograd.grad(torch.stack(list(found.values())).sum(), given["s"])[0]
    small = torch.zeros_like(given["t"])
    small[0, 1, 0, 1] = 1e-5
    ahead, behind = (sum(naive(given["t"], given["s"].detach() + sign * small, LABELS)) for sign in (1, -1))
    assert float(gradients[0, 1, 0, 1]) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)
    assert bool((gradients.movedim(1, -1)[LABELS < 0] == 0).all())


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_where_no_row_counts_every_loss_is_0_and_so_is_its_gradient(losses):
    given = outputs()
    found = losses(GRAPH, given, torch.full_like(LABELS, -1))
    assert [value.item() for value in found.values()] == [0.0, 0.0]
    gradient = torch.autograd.grad(torch.stack(list(found.values())).sum(), given["s"])[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_function_of_rows_is_asked_once_for_all_ends_that_its_edges_and_nodes_read():
    asked = []

    def rows(ends, labels):
        asked.append(list(ends))
        return pixels(ends, labels)

    graph = Graph({**NODES, "r": Trained(), "doubt": Computed(("t",), partial(teacher_doubt, entropy), rows)},
                  [Edge("labels", "s", cross_entropy, rows=rows), Edge("r", "s", kl, sample_weight="doubt", rows=rows),
                   Edge("t", "s.x", kl, 0.0, rows=rows), Edge("labels", "r", cross_entropy, rows=rows)])
    given = outputs(r=maps(3, 2, 3, 2, 2))
    for losses in (objective.losses, fused_losses.losses):
        asked.clear()
        assert len(losses(graph, given, LABELS)) == 3, "the edge of weight 0 is not live"
        assert asked == [["s", "r", "t"]]


def test_two_equal_functions_of_rows_are_one():
    edges = [Edge("labels", "s", cross_entropy, rows=Pixels()), Edge("t", "s", kl, rows=Pixels())]
    assert list(row_sets(edges, outputs(), LABELS)) == [pixels]


def test_what_is_computed_of_rows_is_worked_out_with_them_and_not_in_forward():
    graph = Graph({**NODES, "right": Computed(("t", "labels"), lambda t, y: correct(t, t, y), pixels)},
                  [Edge("t", "s", kl, sample_weight="right", rows=pixels)])
    given = outputs()
    assert set(forward(graph, {}, torch.zeros(2, 1), known={end: given[end] for end in "ts"})) == {"t", "s"}
    (found,) = objective.losses(graph, given, LABELS).values()
    rows_t, rows_s = (given[end].movedim(1, -1).reshape(-1, 3) for end in "ts")
    flat = LABELS.flatten()
    kept = [i for i in range(8) if flat[i] >= 0]
    each = [kl(rows_s[i:i + 1], rows_t[i:i + 1], None).item() for i in kept if int(rows_t[i].argmax()) == flat[i]]
    assert 0 < len(each) < len(kept)
    assert found.item() == pytest.approx(sum(each) / len(kept), rel=1e-9)


def test_a_number_of_each_image_weighs_its_pixels():
    table = Computed(("ids",), lambda ids: ids.double() / 10)
    graph = Graph({**NODES, "w": table}, [Edge("t", "s", kl, sample_weight="w", rows=pixels)])
    given = outputs(ids=torch.tensor([10, 30]), w=torch.tensor([1.0, 3.0], dtype=torch.float64))
    (found,) = objective.losses(graph, given, LABELS).values()
    (fused,) = fused_losses.losses(graph, given, LABELS).values()
    rows_t, rows_s = (given[end].movedim(1, -1).reshape(-1, 3) for end in "ts")
    each = kl(rows_s, rows_t, None)
    weights = torch.tensor([1.0] * 4 + [3.0] * 4, dtype=torch.float64)
    expected = (each * weights)[LABELS.flatten() >= 0].mean().item()
    assert found.item() == pytest.approx(expected)
    assert fused.item() == pytest.approx(expected)


def test_unlike_numbers_of_rows_name_ends_and_counts():
    given = outputs(t=maps(1, 2, 3, 4, 4))
    with pytest.raises(ModelError, match=r"(?s)unlike numbers of rows.*rows Pixels.*8 of s.*32 of t.*8 of labels"):
        row_sets(GRAPH.edges, given, LABELS)


def test_an_edge_may_learn_from_one_of_several_labels_that_the_rows_function_made():
    def boxes(ends, labels):
        values = {end: x.reshape(-1, 2) for end, x in ends.items()}
        return Rows(values, {"corner": labels["corners"].reshape(-1, 2) * 2.0, "kind": labels["kinds"].reshape(-1)})

    def apart(student, teacher, labels):
        assert set(labels) == {"corner", "kind"}
        return (student - teacher).abs().sum(-1)

    edge = Edge("labels.corner", "s.boxes", apart, rows=boxes)
    assert edge.name == "labels.corner->s.boxes:apart[boxes]"
    graph = Graph({"s": Trained()}, [edge])
    given = {"s.boxes": torch.ones(2, 2, 2, requires_grad=True)}
    labels = {"corners": torch.tensor([[[1.0, 0.5], [0.5, 0.5]]] * 2), "kinds": torch.zeros(2, 2, dtype=torch.int64)}
    (found,) = objective.losses(graph, given, labels).values()
    (fused,) = fused_losses.losses(graph, given, labels).values()
    assert found.item() == fused.item() == 0.5, "rows (1, 0), (0, 0) twice: 1, 0, 1, 0"


@pytest.mark.parametrize(("nodes", "edge"), [
    ({"mean": Computed(("t",), lambda t: t, pixels)}, Edge("mean", "s", kl)),
    ({"mean": Computed(("t",), lambda t: t, pixels)}, Edge("mean", "s", kl, rows=Rows)),
    ({"mean": Computed(("t",), lambda t: t, pixels), "more": Computed(("mean",), lambda t: t)}, Edge("more", "s", kl)),
], ids=["whole", "others", "through"])
def test_what_is_computed_of_rows_is_read_as_these_rows_alone(nodes, edge):
    with pytest.raises(UsageError, match="rows of another kind"):
        Graph({**NODES, **nodes}, [edge])


def test_rows_are_seen_where_people_and_programs_look():
    graph = Graph({**NODES, "doubt": Computed(("t",), partial(teacher_doubt, entropy), pixels)},
                  [Edge("t", "s", kl, sample_weight="doubt", rows=pixels), Edge("labels", "s", cross_entropy)])
    assert "t      -> s  kl [Pixels]    T=1  x 1  x doubt" in str(graph)
    assert "of t [Pixels]" in str(graph)
    found = data_of(graph)
    assert [edge.get("rows") for edge in found["edges"]] == ["Pixels", None]
    assert found["nodes"][2].get("rows") == "Pixels"
    assert "rows" not in found["nodes"][1]


def test_an_ensemble_of_maps_needs_a_mean_of_its_own():
    with pytest.raises(ModelError, match="mean probability"):
        mean_probability(maps(1, 2, 3, 2, 2), maps(2, 2, 3, 2, 2))
    own = Ensemble(["t", "s"], lambda *all_maps: torch.stack(all_maps).mean(0))
    found = forward(Graph({**NODES, "both": own}, []), {}, torch.zeros(2, 1), ["both"], outputs())
    assert found["both"].shape == (2, 3, 2, 2)


@pytest.mark.parametrize("inputs", [torch.ones(2), {"": torch.ones(2), "strong": torch.zeros(2)},
                                    {"": {"values": torch.ones(2), "mask": torch.zeros(2)}}])
def test_inputs_are_taken_apart_and_put_together_again(inputs):
    ends = image_ends(inputs)
    assert every(isinstance(tensor, Tensor) and name.startswith("@") for name, tensor in ends.items())
    assert repr(inputs_like(inputs, ends)) == repr(inputs)


@pytest.mark.parametrize("labels", [torch.ones(2), {"boxes": torch.ones(2), "kinds": torch.zeros(2)}])
def test_labels_are_ends_and_back(labels):
    ends = label_ends(labels)
    assert set(ends) <= {"labels", "labels.boxes", "labels.kinds"}
    assert repr(labels_of({**ends, "ids": torch.ones(2)})) == repr(labels)


def test_the_reference_alone_reads_rows_that_are_there_already():
    given = outputs()
    edge = GRAPH.edges[0]
    seen = row_sets([edge], given, LABELS)[pixels]
    assert edge_loss(edge, given, LABELS, seen=seen).item() == edge_loss(edge, given, LABELS).item()
