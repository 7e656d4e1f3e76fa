"""The heart against a naive loop over samples, and its two laws: one pass each, and gradient to students alone."""

import math
import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import every
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy, js, kl, mse, value
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Computed, Ema, Ensemble, Frozen, Trained
from tutelage.graph.objective import edge_loss, forward, losses
from tutelage.graph.sample_weights import confidence, entropy, margin
from tutelage.graph.schedules import ramp_up, window

B, D, C = 5, 4, 3


class Counting(nn.Module):
    """A linear network that counts its passes; `feature` can be tapped."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.feature = nn.Linear(D, C, bias=False, dtype=dtype)
        self.feature.weight = nn.Parameter(torch.randn(C, D, generator=generator, dtype=torch.float64).to(dtype))
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        return self.feature(inputs)


class Features(nn.Module):
    """Like a network of transformers: what it returns is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(D, 2), nn.Linear(2, C)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs)
        return {"logits": self.head(hidden), "hidden": hidden}


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (B,), generator=generator)
    labels[seed % B] = -1
    return torch.randn(B, D, generator=generator, dtype=torch.float64), labels


def networks(*nodes: str, dtype: torch.dtype = torch.float64) -> dict[str, Counting]:
    return {node: Counting(seed, dtype) for seed, node in enumerate(nodes)}


def gradients(models: dict[str, nn.Module]) -> dict[str, bool]:
    """Which networks have been reached by a gradient that is not 0."""
    return {node: any(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
            for node, net in models.items()}


# --- random graphs against a loop ------------------------------------------------------------------------------


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def naive_row(divergence: object, s: list[float], t: list[float] | int, T: float) -> tuple[float, list[float]]:  # noqa: N803
    """T^2 * divergence(s / T, t / T) of one row, and its gradient for s, from their formulas."""
    if divergence is cross_entropy:
        p = softmax(s)
        return (-math.log(p[t]), [x - (c == t) for c, x in enumerate(p)]) if t >= 0 else (0.0, [0.0] * C)
    if divergence is mse:
        gaps = [a - b for a, b in zip(s, t, strict=True)]
        return sum(gap**2 for gap in gaps) / C, [2 * gap / C for gap in gaps]
    p, q = softmax(t, T), softmax(s, T)
    if divergence is kl:
        loss = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        return T**2 * loss, [T * (b - a) for a, b in zip(p, q, strict=True)]
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    slope = [math.log(b / c) for b, c in zip(q, m, strict=True)]
    to_student = sum(b * x for b, x in zip(q, slope, strict=True))
    to_teacher = sum(a * math.log(a / c) for a, c in zip(p, m, strict=True))
    pull = [T * b * (x - to_student) / 2 for b, x in zip(q, slope, strict=True)]
    return T**2 * (to_student + to_teacher) / 2, pull


def naive_weight(weight: object, t: list[float]) -> float:
    p = sorted(softmax(t))
    if weight is None:
        return 1.0
    if weight is entropy:
        return 1 + sum(x * math.log(x) for x in p) / math.log(C)
    return p[-1] - p[-2] if weight is margin else p[-1]


def random_graph(seed: int) -> Graph:
    draw = random.Random(seed)
    students = [f"s{k}" for k in range(draw.randint(2, 4))]
    nodes = ["t", *students]
    edges = [Edge("labels", s, cross_entropy, weight=draw.uniform(0.1, 2)) for s in students if draw.random() < 0.8]
    for student in students:
        for teacher in draw.sample([n for n in nodes if n != student], draw.randint(1, len(nodes) - 1)):
            edges.append(Edge(teacher, student, draw.choice([kl, js, mse]), draw.choice([0.0, draw.uniform(0.1, 2)]),
                              draw.choice([1.0, draw.uniform(0.5, 6)]),
                              draw.choice([None, entropy, margin, confidence])))
    draw.shuffle(edges)
    return Graph({"t": Frozen(), **{s: Trained() for s in students}}, edges)


@pytest.mark.parametrize("seed", range(25))
def test_a_random_graph_has_the_losses_and_gradients_of_a_loop_over_its_samples(seed):
    graph, (inputs, labels) = random_graph(seed), batch(seed)
    models = networks(*graph.nodes)
    outputs = forward(graph, models, inputs, ends=graph.nodes)
    terms = losses(graph, outputs, labels)
    sum(terms.values()).backward()

    rows = {node: output.tolist() for node, output in outputs.items()}
    expected, pulls = {}, {node: torch.zeros(B, C, dtype=torch.float64) for node in graph.nodes}
    for edge in graph.edges:
        if edge.weight == 0:
            continue
        total = 0.0
        for i in range(B):
            target = int(labels[i]) if edge.teacher == "labels" else rows[edge.teacher][i]
            counts = 1.0 if edge.sample_weight is None else naive_weight(edge.sample_weight, target)
            loss, pull = naive_row(edge.divergence, rows[edge.student][i], target, edge.temperature)
            total += counts * loss
            pulls[edge.student][i] += edge.weight * counts / B * torch.tensor(pull, dtype=torch.float64)
        expected[edge.name] = edge.weight * total / B

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-10, abs=1e-13)
    for node in graph.named(Trained):
        gradient = models[node].feature.weight.grad
        gradient = torch.zeros(C, D, dtype=torch.float64) if gradient is None else gradient
        torch.testing.assert_close(gradient, pulls[node].T @ inputs, rtol=1e-9, atol=1e-12)
    assert models["t"].feature.weight.grad is None


# --- the first law: one pass, and only where a live edge reads ------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_every_network_runs_once_however_many_edges_read_it(seed):
    graph = random_graph(seed)
    models = networks(*graph.nodes)
    forward(graph, models, batch()[0])
    read = {end for edge in graph.edges for end in edge.ends}
    assert {node: net.passes for node, net in models.items()} == {node: int(node in read) for node in graph.nodes}


def test_a_network_runs_once_for_each_view_with_all_its_taps():
    graph = Graph({"t": Frozen(), "s": Trained()},
                  [Edge("t", "s@strong", kl), Edge("t.feature", "s.feature", mse), Edge("t.feature", "s", mse)])
    models, (inputs, _) = networks("t", "s"), batch()
    outputs = forward(graph, models, {"": inputs, "strong": 2 * inputs})
    assert (models["t"].passes, models["s"].passes) == (1, 2)
    torch.testing.assert_close(outputs["s@strong"], 2 * outputs["s"])
    assert set(outputs) == {"t", "s@strong", "t.feature", "s.feature", "s"}


SCHEDULED = Graph(
    {"t": Frozen(), "s": Trained(), "r": Trained(), "both": Ensemble(["t", "r"])},
    [Edge("labels", "s", cross_entropy), Edge("both", "s", kl, weight=partial(window, start=0.5), temperature=2.0)])


@pytest.mark.parametrize(("progress", "passes"), [(0.2, (0, 1, 0)), (0.6, (1, 1, 1))])
def test_a_network_that_no_live_edge_needs_does_not_run(progress, passes):
    models, (inputs, labels) = networks("t", "s", "r"), batch()
    weights = SCHEDULED.weights(progress)
    outputs = forward(SCHEDULED, models, inputs, SCHEDULED.ends(weights), {"labels": labels})
    assert tuple(net.passes for net in models.values()) == passes
    assert len(losses(SCHEDULED, outputs, labels, weights)) == 1 + passes[0]


def test_an_edge_of_weight_0_is_not_computed():
    def never(student, teacher, labels):
        raise AssertionError("this edge has weight 0")

    graph = Graph({"s": Trained(), "r": Trained()}, [Edge("labels", "s", cross_entropy), Edge("r", "s", never, 0.0)])
    outputs = forward(graph, networks("s", "r"), batch()[0])
    assert list(losses(graph, outputs, batch()[1])) == ["labels->s:cross_entropy"]


def test_a_known_end_costs_no_pass():
    models, (inputs, _) = networks("t", "s"), batch()
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", kl)])
    remembered = torch.ones(B, C, dtype=torch.float64)
    outputs = forward(graph, models, inputs, known={"t": remembered})
    assert models["t"].passes == 0
    assert outputs["t"] is remembered


def test_what_a_known_computed_end_is_made_of_costs_no_pass_either():
    models, (inputs, _) = networks("t", "s", "r"), batch()
    forward(SCHEDULED, models, inputs, known={"both": torch.zeros(B, C)})
    assert [models[node].passes for node in ("t", "s", "r")] == [0, 1, 0]


def test_labels_and_ids_are_left_out_when_they_are_not_known():
    graph = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy), Edge("ids", "s", lambda s, i, y: s.sum(-1))])
    inputs, labels = batch()
    assert list(forward(graph, networks("s"), inputs)) == ["s"]
    known = {"labels": labels, "ids": torch.arange(B)}
    outputs = forward(graph, networks("s"), inputs, known=known)
    assert outputs["labels"] is labels
    assert outputs["ids"].equal(torch.arange(B))


# --- the second law: gradient reaches the student end alone ---------------------------------------------------


@pytest.mark.parametrize("divergence", [kl, js, mse])
@pytest.mark.parametrize("sample_weight", [None, entropy])
def test_no_gradient_reaches_the_teacher_end_even_if_it_learns_elsewhere(divergence, sample_weight):
    graph = Graph({"s": Trained(), "r": Trained()},
                  [Edge("r", "s", divergence, temperature=2.0, sample_weight=sample_weight)])
    models, (inputs, labels) = networks("s", "r"), batch()
    sum(losses(graph, forward(graph, models, inputs), labels).values()).backward()
    assert gradients(models) == {"s": True, "r": False}
    assert models["r"].feature.weight.grad is None


def test_nothing_is_learned_through_a_sample_weight():
    def surprise(student, teacher, labels):
        assert not student.requires_grad
        assert not teacher.requires_grad
        return student.square().sum(-1)

    def halves(student, teacher, labels):
        return student.sum(-1) / 2

    (inputs, labels), models = batch(), networks("s", "r", "g")
    nodes = {"s": Trained(), "r": Trained(), "g": Trained(), "row": Computed(("g",), lambda g: g.sum(-1))}
    for weight in (surprise, "row"):
        edge = Edge("r", "s", halves, sample_weight=weight)
        outputs = forward(Graph(nodes, [edge]), models, inputs)
        counts = outputs["s"].detach().square().sum(-1) if weight is surprise else outputs["row"].detach()
        pull = torch.autograd.grad(edge_loss(edge, outputs, labels), outputs["s"], retain_graph=True)[0]
        torch.testing.assert_close(pull, (counts / B / 2)[:, None].expand(B, C))
        edge_loss(edge, outputs, labels).backward()
    assert gradients(models) == {"s": True, "r": False, "g": False}


def test_frozen_and_averaged_networks_run_without_a_graph_of_gradients():
    graph = Graph({"t": Frozen(), "s": Trained(), "slow": Ema("s")}, [Edge("t", "s", kl), Edge("slow", "s", js)])
    outputs = forward(graph, networks("t", "s", "slow"), batch()[0])
    assert {end: output.requires_grad for end, output in outputs.items()} == {"t": False, "s": True, "slow": False}


def test_gradient_flows_through_a_computed_student_into_what_it_reads():
    graph = Graph({"t": Frozen(), "s": Trained(), "r": Trained(), "both": Ensemble(["s", "r", "t"])},
                  [Edge("labels", "both", cross_entropy)])
    models, (inputs, labels) = networks("t", "s", "r"), batch()
    sum(losses(graph, forward(graph, models, inputs), labels).values()).backward()
    assert gradients(models) == {"t": False, "s": True, "r": True}


def test_no_gradient_flows_through_a_computed_teacher():
    models, (inputs, labels) = networks("t", "s", "r"), batch()
    weights = SCHEDULED.weights(0.9)
    sum(losses(SCHEDULED, forward(SCHEDULED, models, inputs), labels, weights).values()).backward()
    assert gradients(models) == {"t": False, "s": True, "r": False}


def test_evaluation_without_gradient_stays_without_gradient():
    with torch.no_grad():
        outputs = forward(SCHEDULED, networks("t", "s", "r"), batch()[0])
    assert every(not output.requires_grad for output in outputs.values())


# --- one edge --------------------------------------------------------------------------------------------------


def test_an_edge_is_weight_times_mean_of_sample_weight_times_t_squared_times_divergence():
    seen = {}

    def divergence(student, teacher, labels):
        seen["divergence"] = (student, teacher)
        return torch.tensor([1.0, 2.0, 3.0])

    def counts(student, teacher, labels):
        seen["counts"] = (student, teacher)
        return torch.tensor([1.0, 0.0, 2.0])

    outputs = {"s": torch.full((3, 2), 8.0), "t": torch.full((3, 2), 6.0)}
    edge = Edge("t", "s", divergence, weight=0.5, temperature=2.0, sample_weight=counts)
    assert edge_loss(edge, outputs, torch.zeros(3, dtype=torch.long)).item() == pytest.approx(0.5 * 4 * (1 + 6) / 3)
    assert [float(end[0, 0]) for end in seen["divergence"]] == [4.0, 3.0]
    assert [float(end[0, 0]) for end in seen["counts"]] == [8.0, 6.0]
    assert edge_loss(edge, outputs, torch.zeros(3, dtype=torch.long), 3.0).item() == pytest.approx(3 * 4 * 7 / 3)


def test_the_mean_is_over_all_rows_and_a_row_without_a_label_counts_0():
    student, labels = torch.zeros(4, C), torch.tensor([0, -1, 1, -1])
    loss = edge_loss(Edge("labels", "s", cross_entropy), {"s": student}, labels)
    assert loss.item() == pytest.approx(2 * math.log(C) / 4)


def test_soft_labels_reach_the_edge_as_they_are():
    student, soft = torch.randn(B, C, generator=torch.Generator().manual_seed(0)), torch.eye(C)[[0, 1, 2, 0, 1]] * 0.9
    loss = edge_loss(Edge("labels", "s", cross_entropy), {"s": student}, soft)
    torch.testing.assert_close(loss, F.cross_entropy(student, soft))


def test_a_schedule_without_weights_is_an_error():
    outputs = forward(SCHEDULED, networks("t", "s", "r"), batch()[0])
    with pytest.raises(UsageError, match="a weight that changes over the run") as caught:
        losses(SCHEDULED, outputs, batch()[1])
    assert caught.value.where == "edge both->s:kl/2"
    assert "graph.weights(progress)" in caught.value.fix
    ramped = Edge("t", "s", kl, weight=partial(ramp_up, to=1.0))
    with pytest.raises(UsageError, match="a weight that changes over the run"):
        edge_loss(ramped, outputs, batch()[1])


def test_losses_are_linear_in_the_weights():
    graph, (inputs, labels) = random_graph(1), batch()
    outputs = forward(graph, networks(*graph.nodes), inputs)
    ones = losses(graph, outputs, labels, {edge.name: 1.0 for edge in graph.edges})
    twos = losses(graph, outputs, labels, {edge.name: 2.0 for edge in graph.edges})
    assert {name: 2 * term.item() for name, term in ones.items()} == pytest.approx(
        {name: term.item() for name, term in twos.items()})


# --- what networks may be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "becomes"), [
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32),
    (torch.float64, torch.float64)])
def test_outputs_are_at_least_float32(dtype, becomes):
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", kl), Edge("t.feature", "s.feature", mse)])
    outputs = forward(graph, networks("t", "s", dtype=dtype), batch()[0].to(dtype))
    assert {output.dtype for output in outputs.values()} == {becomes}
    assert {term.dtype for term in losses(graph, outputs, batch()[1]).values()} == {becomes}


def test_float64_labels_and_weights_keep_a_float64_network_in_float64():
    graph = Graph({"t": Frozen(), "s": Trained()},
                  [Edge("labels", "s", cross_entropy), Edge("t", "s", kl, 0.5, 4.0, entropy)])
    terms = losses(graph, forward(graph, networks("t", "s"), batch()[0]), batch()[1])
    assert {term.dtype for term in terms.values()} == {torch.float64}


def test_under_autocast_losses_are_float32():
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", kl, temperature=4.0)])
    models = networks("t", "s", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = forward(graph, models, batch()[0].float())
    assert outputs["s"].dtype == torch.float32
    assert losses(graph, outputs, batch()[1])["t->s:kl/4"].dtype == torch.float32


def test_a_network_may_return_a_mapping_and_be_tapped_by_its_keys():
    torch.manual_seed(0)
    models = {"t": Features(), "s": Features()}
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", kl), Edge("t.hidden", "s.body", mse)])
    inputs = batch()[0].float()
    outputs = forward(graph, models, inputs)
    torch.testing.assert_close(outputs["t"], models["t"](inputs)["logits"])
    torch.testing.assert_close(outputs["s.body"], models["s"].body(inputs))
    torch.testing.assert_close(outputs["t.hidden"], models["t"](inputs)["hidden"])


def test_a_tap_is_the_output_of_a_submodule_with_its_gradient():
    network = nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, C)).double()
    graph = Graph({"s": Trained(), "t": Frozen()}, [Edge("t.feature", "s.0", Projected(mse))])
    models, (inputs, labels) = {"s": network, "t": Counting(0)}, batch()
    outputs = forward(graph, models, inputs)
    torch.testing.assert_close(outputs["s.0"], network[0](inputs))
    sum(losses(graph, outputs, labels).values()).backward()
    assert network[0].weight.grad.any()
    assert network[2].weight.grad is None


def test_a_tap_that_does_not_exist_is_told_with_the_nearest():
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t.featur", "s", mse)])
    with pytest.raises(ModelError, match="unknown tap 'featur'") as caught:
        forward(graph, networks("t", "s"), batch()[0])
    assert caught.value.fix == "did you mean 'feature'?"


def test_a_computed_node_may_return_taps_and_rows():
    nodes = {"s": Trained(), "t": Frozen(),
             "c": Computed(("s", "t.feature"), lambda s, f: {"logits": s + f, "gap": (s - f).square().sum(-1)})}
    graph = Graph(nodes, [Edge("t", "c", kl), Edge("labels", "c.gap", value)])
    models, (inputs, labels) = networks("s", "t"), batch()
    outputs = forward(graph, models, inputs)
    torch.testing.assert_close(outputs["c"], outputs["s"] + outputs["t.feature"])
    terms = losses(graph, outputs, labels)
    torch.testing.assert_close(terms["labels->c.gap:value"], (outputs["s"] - outputs["t"]).square().sum(-1).mean())
    assert [models["s"].passes, models["t"].passes] == [1, 1]


def test_an_engine_may_bring_a_reader_instead_of_a_network():
    asked = []

    def reader(inputs, taps, view):
        asked.append((tuple(taps), view))
        return {tap: inputs.new_ones(B, C) for tap in taps}

    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t.a@v", "s", mse), Edge("t@v", "s", kl)])
    inputs = batch()[0]
    outputs = forward(graph, {"t": reader, "s": Counting(0)}, {"": inputs, "v": inputs})
    assert asked == [(("a", ""), "v")]
    assert set(outputs) == {"t.a@v", "t@v", "s"}
