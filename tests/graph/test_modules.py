"""Parts that a graph holds, and `prepare`, which makes their weights and finds what cannot work."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from every import every
from tutelage.engine.dry_run import prepare, with_followers
from tutelage.errors import ModelError
from tutelage.graph.divergences import cross_entropy, kl, mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected, Table, mean_probability
from tutelage.graph.nodes import Computed, Ensemble, Frozen, Trained
from tutelage.graph.objective import forward, losses
from tutelage.types import Batch

B, D, C = 4, 6, 3
CLASSES = ("a", "b", "c")


def network(classes: int = C, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, width), nn.Dropout(0.5), nn.Linear(width, classes))


def batch(rows: int = B) -> Batch:
    images = torch.arange(rows * D, dtype=torch.float32).reshape(rows, D) / 10
    return Batch(images, torch.arange(rows) % C, torch.arange(rows))


NODES = {"t": Frozen(), "s": Trained()}


class Remembering(nn.Module):
    """A part that counts what it sees in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return mse(student, teacher)


class LazyScale(nn.Module):
    """A part that makes its weight when it first sees a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: nn.Parameter | None = None

    def forward(self, *ends: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = nn.Parameter(torch.randn(ends[0].shape[-1]))
        return ends[0] * self.scale


# --- parts -----------------------------------------------------------------------------------------------------


def test_mean_probability_is_the_log_of_the_mean_of_the_probabilities():
    logits = [torch.randn(4, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(3)]
    mean = sum(z.softmax(-1) for z in logits) / 3
    torch.testing.assert_close(mean_probability(*logits).exp(), mean)
    torch.testing.assert_close(kl(logits[0], mean_probability(*logits)),
                               (mean * (mean.log() - logits[0].log_softmax(-1))).sum(-1))


@pytest.mark.parametrize("size", [1e4, 65504.0])
def test_mean_probability_is_finite_for_any_size_of_logits(size):
    sure, other = torch.tensor([[size, -size]]), torch.tensor([[-size, size]])
    mean = mean_probability(sure, other)
    assert mean[0].tolist() == pytest.approx([math.log(0.5)] * 2)
    assert mean_probability(sure, sure).isfinite().all()


@pytest.mark.parametrize(("student", "teacher", "weight"), [
    ((B, 5), (B, 7), (7, 5)), ((B, 9, 5), (B, 9, 7), (7, 5)), ((B, 5, 4, 4), (B, 7, 4, 4), (7, 5, 1, 1)),
    ((B, 5, 8, 8), (B, 7, 4, 2), (7, 5, 1, 1))])
def test_projected_brings_the_students_shape_to_the_teachers(student, teacher, weight):
    part = Projected(mse)
    rows = part(torch.randn(student, requires_grad=True), torch.randn(teacher), torch.zeros(B, dtype=torch.long))
    assert rows.shape == (B,)
    assert [tuple(p.shape) for p in part.parameters()] == [weight]
    rows.sum().backward()
    assert part.projection.weight.grad.any()


def test_projected_is_the_divergence_of_the_projection():
    part, student, teacher = Projected(mse), torch.randn(B, 5), torch.randn(B, 7)
    rows = part(student, teacher, torch.zeros(B, dtype=torch.long))
    torch.testing.assert_close(rows, (student @ part.projection.weight.T - teacher).square().mean(-1))


def test_projected_pools_feature_maps_before_it_projects():
    part, student, teacher = Projected(mse), torch.randn(B, 2, 4, 4), torch.zeros(B, 3, 2, 2)
    rows = part(student, teacher, torch.zeros(B, dtype=torch.long))
    pooled = student.reshape(B, 2, 2, 2, 2, 2).mean((3, 5))
    projected = torch.einsum("oc,bchw->bohw", part.projection.weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(rows, projected.square().mean((1, 2, 3)))


def test_projected_keeps_float64():
    part = Projected(mse)
    part(torch.randn(B, 5).double(), torch.randn(B, 7).double(), torch.zeros(B, dtype=torch.long))
    assert part.projection.weight.dtype == torch.float64


@pytest.mark.parametrize(("student", "teacher"), [((B, 5), (B, 7, 2, 2)), ((B, 5, 2), (B, 7)), ((B,), (B,)),
                                                  ((B, 2, 2, 2, 2), (B, 2, 2, 2, 2))])
def test_projected_refuses_what_no_projection_brings_together(student, teacher):
    with pytest.raises(ModelError, match="no projection brings together") as caught:
        Projected(mse)(torch.zeros(student), torch.zeros(teacher), torch.zeros(B, dtype=torch.long))
    assert caught.value.found == f"student {list(student)}, teacher {list(teacher)}"


def test_a_table_begins_with_its_numbers_and_gives_every_row_its_own():
    part = Table({"hard": 0.25, "soft": 2.0})
    assert part.state_dict() == {}, "before it has seen ids it holds nothing"
    found = part(torch.tensor([3, 0]))
    assert {name: rows.tolist() for name, rows in found.items()} == {"hard": [0.25] * 2, "soft": [2.0] * 2}
    part.numbers[3] = torch.tensor([5.0, 6.0])
    found = part(torch.tensor([0, 3, 3]))
    assert found["hard"].tolist() == [0.25, 5.0, 5.0]
    assert found["soft"].tolist() == [2.0, 6.0, 6.0]
    assert not list(part.parameters())


def test_prepare_makes_tables_for_all_ids_also_inside_other_parts():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = Table({"w": 1.0})

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids)["w"]

    nodes = {**NODES, "w": Computed(("ids",), Holder())}
    graph = Graph(nodes, [Edge("labels", "s", cross_entropy, sample_weight="w")])
    networks = {"t": network(), "s": network()}
    prepared = prepare(graph, networks, batch(), ids=torch.tensor([7, 11, 2]))
    assert prepared.parts()["w"].table.numbers.shape == (12, 1)
    assert graph.parts()["w"].table.numbers is None, "the graph you hold is left as it is"


# --- prepare: what works ---------------------------------------------------------------------------------------

PROJECTED = Graph({**NODES, "scaled": Computed(("s",), LazyScale())},
                  [Edge("t.0", "s.0", Projected(mse)), Edge("t", "scaled", kl)])
UNLIKE = {"t": network(width=8), "s": network()}


def test_the_graph_you_hold_is_not_changed():
    part = Projected(mse)
    graph = Graph(NODES, [Edge("t.0", "s.0", part)])
    prepared = prepare(graph, UNLIKE, batch())
    assert part.projection is None
    assert not list(part.parameters())
    assert prepared.parts()["t.0->s.0:Projected"].projection.weight.shape == (8, 5)


def weights(graph: Graph, seed: int = 0, rows: int = B) -> dict[str, Tensor]:
    parts = prepare(graph, UNLIKE, batch(rows), seed).parts()
    return {name: parameter.detach() for name, part in parts.items() for parameter in part.parameters()}


def test_weights_of_a_part_depend_on_the_seed_and_its_name_alone():
    torch.manual_seed(1)
    first = weights(PROJECTED)
    torch.manual_seed(2)
    alone = weights(Graph(NODES, [Edge("t.0", "s.0", Projected(mse))]), rows=2)
    name = "t.0->s.0:Projected"
    assert weights(PROJECTED)[name].equal(first[name])
    assert alone[name].equal(first[name])
    assert not weights(PROJECTED, seed=1)[name].equal(first[name])


def test_two_parts_start_from_weights_of_their_own():
    graph = Graph({**NODES, "a": Computed(("s",), LazyScale()), "b": Computed(("s",), LazyScale())},
                  [Edge("t", "a", kl), Edge("t", "b", kl)])
    first, second = weights(graph).values()
    assert not first.equal(second)


def test_a_second_seed_does_not_start_from_the_first_seeds_part():
    assert not weights(PROJECTED, seed=3)["scaled"].equal(weights(PROJECTED, seed=4)["scaled"])


def test_the_global_random_numbers_are_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    prepare(PROJECTED, UNLIKE, batch())
    assert torch.get_rng_state().equal(before)


def test_a_part_that_remembers_in_training_mode_is_not_touched():
    part = Remembering()
    prepared = prepare(Graph(NODES, [Edge("t", "s", part)]), UNLIKE, batch())
    (copy,) = prepared.parts().values()
    assert (part.seen.item(), copy.seen.item()) == (0, 0)
    assert copy.training


def test_networks_are_not_touched_and_keep_their_modes():
    models = {"t": nn.Sequential(nn.Linear(D, C), nn.BatchNorm1d(C)).eval(), "s": nn.Sequential(
        nn.Linear(D, C), nn.BatchNorm1d(C)).train()}
    before = {node: {k: v.clone() for k, v in net.state_dict().items()} for node, net in models.items()}
    prepare(Graph(NODES, [Edge("t", "s", kl)]), models, batch())
    assert [models[node].training for node in ("t", "s")] == [False, True]
    assert every(models[node].state_dict()[k].equal(v) for node in models for k, v in before[node].items())
    assert every(p.grad is None for net in models.values() for p in net.parameters())


def test_a_prepared_graph_trains_its_parts():
    graph = prepare(PROJECTED, UNLIKE, batch(), classes=CLASSES)
    outputs = forward(graph, UNLIKE, batch().inputs)
    sum(losses(graph, outputs, batch().labels).values()).backward()
    assert every(p.grad is not None and p.grad.any() for part in graph.parts().values() for p in part.parameters())


# --- prepare: what cannot work ---------------------------------------------------------------------------------


def mistake(graph: Graph, models: dict[str, nn.Module], classes: tuple[str, ...] | None = CLASSES) -> ModelError:
    with pytest.raises(ModelError) as caught:
        prepare(graph, models, batch(), classes=classes)
    assert caught.value.exit_code == 4
    return caught.value


def test_a_missing_tap_is_told_with_the_nearest():
    models = {"t": nn.Sequential(), "s": network()}
    models["t"].add_module("feature", nn.Linear(D, C))
    error = mistake(Graph(NODES, [Edge("t.featrue", "s", mse)]), models)
    assert (error.what, error.where) == ("unknown tap 'featrue'", "node 't'")
    assert error.fix == "did you mean 'feature'?"


def test_images_that_a_network_does_not_take_are_told_with_its_name():
    error = mistake(Graph(NODES, [Edge("t", "s", kl)]), {"t": nn.Sequential(nn.Linear(D + 1, C)), "s": network()})
    assert (error.what, error.where) == ("a network does not run on these images", "node 't'")
    assert f"images [4, {D}]" in error.found


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_one_column_is_not_broadcast_against_ten(classes):
    graph = Graph(NODES, [Edge("t.0", "s.0", mse)])
    error = mistake(graph, {"t": network(width=10), "s": network(width=1)}, classes)
    assert error.where == "edge t.0->s.0:mse"
    assert "student [4, 1], teacher [4, 10]" in error.found


def test_a_teacher_with_another_head_is_told_by_name():
    error = mistake(Graph(NODES, [Edge("t", "s", kl)]), {"t": network(C + 1), "s": network()})
    assert (error.where, error.found) == ("node 't'", "4 outputs")
    assert 'classes = "by-name"' in error.fix


def test_a_student_with_another_head_than_the_data_is_told_by_name():
    error = mistake(Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)]), {"s": network(C + 2)})
    assert (error.where, error.found, error.expected) == ("node 's'", "5 outputs", "the data have 3 classes")


@pytest.mark.parametrize("smooth", [cross_entropy, partial(cross_entropy, smoothing=0.1)])
def test_a_head_too_small_for_the_labels_is_told_without_class_names_too(smooth):
    error = mistake(Graph({"s": Trained()}, [Edge("labels", "s", smooth)]), {"s": network(2)}, None)
    assert error.where == "edge labels->s:cross_entropy"


@pytest.mark.parametrize(("divergence", "shape"), [
    (lambda s, t, y: (s - t).square().mean(), []), (lambda s, t, y: (s - t).square(), [B, C]),
    (lambda s, t, y: (s - t).square().mean(0), [C])])
def test_a_divergence_must_give_one_number_a_row(divergence, shape):
    error = mistake(Graph(NODES, [Edge("t", "s", divergence)]), {"t": network(), "s": network()})
    assert error.where == "edge t->s:<lambda>"
    assert (error.found, error.expected) == (f"shape {shape}", "[4]")


@pytest.mark.parametrize("weight", ["gate", lambda student, teacher, labels: teacher.amax(-1, keepdim=True)])
def test_a_sample_weight_must_give_one_number_a_row(weight):
    gate = Computed(("t",), lambda logits: logits.amax(-1, keepdim=True))
    graph = Graph({**NODES, "gate": gate}, [Edge("t", "s", kl, sample_weight=weight)])
    error = mistake(graph, {"t": network(), "s": network()})
    assert (error.what, error.where) == ("a sample weight must give one number a row", "edge t->s:kl")
    assert error.found == "shape [4, 1]"


def test_features_that_no_projection_brings_together_name_their_edge():
    models = {"t": nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Flatten(), nn.Linear(D, C)), "s": network()}
    error = mistake(Graph(NODES, [Edge("t.0", "s.0", Projected(mse))]), models)
    assert error.where == "edge t.0->s.0:Projected"
    assert error.found == "student [4, 5], teacher [4, 1, 2, 3]"


def test_an_edge_that_is_not_live_yet_is_tried_all_the_same():
    graph = Graph(NODES, [Edge("t.0", "s", mse, weight=lambda progress: 0.0)])
    assert mistake(graph, {"t": network(), "s": network()}).where == "edge t.0->s:mse"


def test_a_failed_dry_pass_leaves_everything_as_it_was():
    models, part = {"t": network(), "s": network()}, Remembering()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mistake(Graph(NODES, [Edge("t", "s", part), Edge("t.0", "s", mse)]), models)
    assert torch.get_rng_state().equal(before)
    assert models["s"].training
    assert part.training
    assert part.seen == 0


# --- the networks of a graph -----------------------------------------------------------------------------------


def test_a_missing_network_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="unknown network 'student'") as caught:
        with_followers(Graph({"student": Trained()}, []), {"studnet": network()})
    assert caught.value.fix == "did you mean 'studnet'?"


def test_two_nodes_may_not_share_weights():
    net = network()
    with pytest.raises(ModelError, match="two nodes share weights") as caught:
        with_followers(Graph(NODES, []), {"t": net, "s": net})
    assert caught.value.where == "nodes 't' and 's'"


def test_a_computed_node_needs_no_network():
    assert list(with_followers(Graph({**NODES, "both": Ensemble(["s", "t"])}, []), UNLIKE)) == ["t", "s"]
