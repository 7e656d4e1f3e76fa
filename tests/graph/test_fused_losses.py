"""The losses in closed form say and teach what `objective.losses` does, to the last digits that arithmetic holds."""

import inspect
import random
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from every import every
from rows_toys import pixels
from toys import Gate, Memory
from tutelage.errors import UsageError
from tutelage.graph import fused_losses, objective
from tutelage.graph.divergences import cross_entropy, js, kl, mse, reverse_kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Computed, Ensemble, Frozen, Trained
from tutelage.graph.sample_weights import confidence, correct, entropy, labelled, margin, mean_one
from tutelage.graph.schedules import ramp_up
from tutelage.methods.dual_student import dual_student
from tutelage.methods.mutual import mutual

B, C = 9, 7
EXACT = 1e-12


def doubts(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """A user's own sample weight: it sees both ends, raw, and the labels."""
    return (student - teacher).square().mean(-1).sqrt() * (1 + (labels.sum(-1) if labels.dim() == 2 else labels >= 0))


WEIGHTS = [None, entropy, partial(entropy, temperature=3.0, power=2.0), partial(entropy, power=0.5), confidence, margin,
           correct, partial(mean_one, of=entropy), partial(mean_one, of=confidence), "gate.w", doubts]
FALLBACKS: list[Callable[[], object]] = [lambda: mse, lambda: js, lambda: reverse_kl, lambda: Projected(mse), Memory,
                                         lambda: Projected(kl)]


def random_labels(generator: torch.Generator, soft: bool) -> Tensor:
    known = torch.rand(B, generator=generator) > 0.3
    known[:2] = torch.tensor([True, False])
    if not soft:
        return torch.randint(0, C, (B,), generator=generator).where(known, -1)
    mixed = torch.rand(B, C, generator=generator, dtype=torch.float64).softmax(-1)
    return mixed * known[:, None] * torch.where(torch.arange(B) == 0, 0.5, 1.0)[:, None]


def random_graph(seed: int) -> Graph:
    """Students that learn from labels, from teachers, from each other and from a gate that learns from them."""
    draw = random.Random(seed)
    students = [f"s{k}" for k in range(2 + seed % 4)]
    nodes = {"t": Frozen(), "u": Frozen(), **{student: Trained() for student in students},
             "gate": Computed((students[0], students[1]), Gate()), "both": Ensemble(students)}
    edges = [Edge("labels", student, partial(cross_entropy, smoothing=smoothing) if smoothing else cross_entropy,
                  draw.uniform(0.1, 2), sample_weight=draw.choice([None, None, labelled, "gate.w",
                                                                   partial(mean_one, of=labelled)]))
             for student in [*students, "gate"] for smoothing in [draw.choice([0.0, 0.0, 0.1, 0.3])]
             if draw.random() < 0.8]
    for student in [*students, "gate"]:
        for teacher in draw.sample([node for node in nodes if node != student], draw.randint(1, 4)):
            for temperature in draw.sample([0.5, 1.0, 2.0, 3.0, 4.0, 20.0], draw.randint(1, 2)):
                divergence = kl if draw.random() < 0.75 else draw.choice(FALLBACKS)()
                weight = draw.choice([0.0, *(draw.uniform(0.1, 2) for _ in range(4))])
                edges.append(Edge(teacher, student, divergence, weight, temperature, draw.choice(WEIGHTS)))
    draw.shuffle(edges)
    return Graph(nodes, edges)


def outputs_of(graph: Graph, seed: int) -> dict[str, Tensor]:
    """Logits of the networks, which learn where their node does, and what is computed from them."""
    generator = torch.Generator().manual_seed(seed)
    networks = {node: torch.randn(B, C, generator=generator, dtype=torch.float64) * 3
                for node, kind in graph.nodes.items() if not isinstance(kind, Computed)}
    for node in graph.named(Trained):
        networks[node].requires_grad_()
    return objective.forward(graph, {}, torch.zeros(B), known=networks)


def with_parts(graph: Graph, seed: int, labels: Tensor) -> Graph:
    """The graph, once its parts have seen shapes and made their weights, in float64."""
    torch.manual_seed(seed)
    for part in graph.parts().values():
        part.double().eval()
    with torch.no_grad():
        objective.losses(graph, outputs_of(graph, seed), labels)
    for part in graph.parts().values():
        part.train()
    return graph


Result = tuple[dict[str, Tensor], dict[str, Tensor]]


def learn(by: Callable, graph: Graph, outputs: dict[str, Tensor], labels: Tensor, factor: float = 1.0,
          weights: dict[str, float] | None = None) -> Result:
    """The value of each live edge, and what the plain sum teaches each network and part."""
    parts = {f"{name}.{key}": weight for name, part in graph.parts().items() for key, weight in part.named_parameters()}
    learners = parts | {end: tensor for end, tensor in outputs.items() if tensor.is_leaf and tensor.requires_grad}
    terms = by(graph, outputs, labels, weights)
    pulls = torch.autograd.grad(sum(terms.values()) * factor, list(learners.values()), allow_unused=True)
    found = {name: pull for name, pull in zip(learners, pulls, strict=True) if pull is not None}
    return {name: term.detach() for name, term in terms.items()}, found


def learn_both(graph: Graph, seed: int, labels: Tensor) -> tuple[Result, Result]:
    """What the closed form and the reference find, each with a copy of the parts, which remember."""
    copies = deepcopy(graph), deepcopy(graph)
    return tuple(learn(by, copy, outputs_of(copy, seed), labels)
                 for by, copy in zip((fused_losses.losses, objective.losses), copies, strict=True))


def assert_same(found: Result, expected: Result, relative: float = EXACT) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine) == list(theirs)
        for name, tensor in mine.items():
            error, size = float((tensor - theirs[name]).abs().max()), float(theirs[name].abs().max())
            assert error <= relative * max(size, 1e-3), (name, error, size)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("seed", range(24))
def test_a_random_graph_has_the_losses_and_gradients_of_the_reference(seed, soft):
    labels = random_labels(torch.Generator().manual_seed(seed), soft)
    assert_same(*learn_both(with_parts(random_graph(seed), seed, labels), seed, labels))


def test_the_random_graphs_hold_both_what_has_a_closed_form_and_what_has_not(monkeypatch):
    closed, others = set(), set()
    inside, outside = fused_losses._closed, fused_losses.edge_loss
    monkeypatch.setattr(fused_losses, "_closed", lambda edges, *rest: closed.update(map(kind_of, edges))
                        or inside(edges, *rest))
    monkeypatch.setattr(fused_losses, "edge_loss", lambda edge, *rest: others.add(kind_of(edge))
                        or outside(edge, *rest))
    for seed in range(24):
        labels = random_labels(torch.Generator().manual_seed(seed), soft=bool(seed % 2))
        graph = with_parts(random_graph(seed), seed, labels)
        fused_losses.losses(graph, outputs_of(graph, seed), labels)
    assert closed == {"cross_entropy", "kl"}
    assert others == {"mse", "js", "reverse_kl", "Projected", "Memory"}


def kind_of(edge: Edge) -> str:
    return re.split("[:/]", edge.name)[1]


# --- one thing at a time -----------------------------------------------------------------------------------------

NODES = {"t": Frozen(), "a": Trained(), "b": Trained()}


def logits(*shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def three(dtype: torch.dtype = torch.float64, scale: float = 2.0) -> dict[str, Tensor]:
    return {"t": logits(B, C, seed=1, scale=scale, dtype=dtype),
            "a": logits(B, C, seed=2, scale=scale, dtype=dtype).requires_grad_(),
            "b": logits(B, C, seed=3, scale=scale, dtype=dtype).requires_grad_()}


HARD = torch.tensor([0, 1, 2, 3, 4, 5, 6, -1, -1])


def test_the_gradient_of_one_edge_is_the_difference_of_two_softmaxes():
    graph, outputs = Graph(NODES, [Edge("t", "a", kl, 0.3, 4.0, confidence)]), three()
    p, q = (outputs["t"] / 4).softmax(-1), (outputs["a"].detach() / 4).softmax(-1)
    sure = outputs["t"].softmax(-1).amax(-1)
    values, pulls = learn(fused_losses.losses, graph, outputs, HARD)
    torch.testing.assert_close(pulls["a"], 0.3 * 4 / B * sure[:, None] * (q - p), rtol=EXACT, atol=0)
    assert values["t->a:kl/4"].item() == pytest.approx(0.3 * 16 * float((sure * (p * (p / q).log()).sum(-1)).mean()),
                                                       rel=EXACT)


def test_peers_and_teachers_get_no_gradient():
    outputs = three()
    outputs["t"].requires_grad_()
    graph = Graph(NODES, [Edge("b", "a", kl, temperature=2.0, sample_weight=entropy), Edge("t", "a", kl),
                          Edge("t", "a", mse, sample_weight="b.w")])
    outputs["b.w"] = outputs["b"].softmax(-1).amax(-1)
    assert list(learn(fused_losses.losses, graph, outputs, HARD)[1]) == ["a"]


def test_what_a_student_teaches_its_peer_does_not_move_itself():
    alone = Graph(NODES, [Edge("labels", "b", cross_entropy)])
    both = Graph(NODES, [Edge("labels", "b", cross_entropy), Edge("b", "a", kl, temperature=4.0)])
    pulls = [learn(fused_losses.losses, graph, three(), HARD)[1]["b"] for graph in (alone, both)]
    torch.testing.assert_close(*pulls, rtol=EXACT, atol=1e-16)


@pytest.mark.parametrize("factor", [0.125, 3.0, 1.0, 0.0])
def test_the_sum_may_be_multiplied_by_a_constant(factor):
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("t", "b", kl, 0.5, 4.0), Edge("a", "b", js)])
    assert_same(learn(fused_losses.losses, graph, three(), HARD, factor),
                learn(objective.losses, graph, three(), HARD, factor))


def test_a_factor_that_is_itself_differentiated_learns_too():
    graph, outputs = Graph(NODES, [Edge("labels", "a", cross_entropy)]), three()
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (term,) = fused_losses.losses(graph, outputs, HARD).values()
    (term * factor).backward()
    assert factor.grad == term.detach()


def test_an_edge_of_weight_0_is_not_computed():
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("t", "a", kl, 0.0), Edge("t", "b", kl, ramp_later)])
    outputs = three()
    del outputs["t"]  # which only edges of weight 0 read
    assert list(fused_losses.losses(graph, outputs, HARD, graph.weights(0.0))) == ["labels->a:cross_entropy"]


def ramp_later(progress: float) -> float:
    return ramp_up(progress, to=1.0, until=0.5) if progress else 0.0


def test_a_graph_without_a_live_edge_has_no_losses():
    graph = Graph(NODES, [Edge("t", "a", kl, 0.0)])
    assert fused_losses.losses(graph, three(), HARD) == {}


def test_a_schedule_without_weights_is_the_references_error():
    graph = Graph(NODES, [Edge("t", "b", kl, ramp_later)])
    with pytest.raises(UsageError, match="a weight that changes over the run"):
        fused_losses.losses(graph, three(), HARD)


def test_without_gradient_there_are_values_and_nothing_to_differentiate():
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("t", "b", kl)])
    with torch.no_grad():
        terms = fused_losses.losses(graph, three(), HARD)
    assert every(not term.requires_grad for term in terms.values())


@pytest.mark.parametrize("weight", [entropy, partial(entropy, temperature=0.5, power=3.0), confidence])
def test_rows_of_weight_0_and_1_count_nothing_and_fully(weight):
    outputs = three()
    outputs["t"][0], outputs["t"][1] = 0.0, torch.eye(C, dtype=torch.float64)[3] * 1000
    graph = Graph(NODES, [Edge("t", "a", kl, 1.0, 4.0, weight)])
    pull = learn(fused_losses.losses, graph, outputs, HARD)[1]["a"]
    q, p = (outputs["a"].detach() / 4).softmax(-1), (outputs["t"] / 4).softmax(-1)
    first = 0.0 if weight is not confidence else 1 / C
    torch.testing.assert_close(pull[0], first * 4 / B * (q - p)[0], rtol=EXACT, atol=1e-16)
    torch.testing.assert_close(pull[1], 4 / B * (q - p)[1], rtol=EXACT, atol=1e-16)
    assert_same(learn(fused_losses.losses, graph, outputs, HARD), learn(objective.losses, graph, outputs, HARD))


@pytest.mark.parametrize("size", [1e4, -1e4, 3e4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_logits_of_any_finite_size_give_finite_numbers_and_the_right_ones(size, temperature):
    outputs = {end: (tensor.detach() + size * torch.eye(C)[seed % C]).float()
               for seed, (end, tensor) in enumerate(three().items())}
    for end in "ab":
        outputs[end].requires_grad_()
    exact = {end: tensor.detach().double().requires_grad_(tensor.requires_grad) for end, tensor in outputs.items()}
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("t", "a", kl, 1.0, temperature, entropy),
                          Edge("a", "b", kl, 0.5, temperature)])
    values, pulls = learn(fused_losses.losses, graph, outputs, HARD)
    expected, right = learn(objective.losses, graph, exact, HARD)
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-6)
    for end, pull in pulls.items():
        assert pull.isfinite().all()
        torch.testing.assert_close(pull.double(), right[end], rtol=1e-5, atol=1e-7)


def three_float32(rows: int, classes: int, scale: float, shift: float) -> dict[str, Tensor]:
    return {end: (logits(rows, classes, seed=seed, scale=scale, dtype=torch.float32) + shift).requires_grad_(end != "t")
            for seed, end in enumerate("tab")}


@pytest.mark.parametrize(("scale", "shift"), [(0.1, 0.0), (1.0, 0.0), (4.0, 0.0), (20.0, 0.0), (300.0, 0.0),
                                              (2.0, 100.0), (2.0, -1e4)])
@pytest.mark.parametrize("temperatures", [(1.0, 2.0), (1.0, 4.0), (0.5, 4.0), (1.0, 3.0), (1.0, 20.0), (2.5, 20.0)])
def test_gradients_in_float32_are_at_most_twice_as_far_off_as_autograds(scale, shift, temperatures):
    low, high = temperatures
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy, 0.5),
                          Edge("t", "a", kl, 0.7, high, entropy), Edge("t", "b", kl, 0.7, low),
                          Edge("b", "a", kl, 0.3, low), Edge("a", "b", kl, 0.3, high)])
    rows, classes = 64, 50
    outputs, labels = three_float32(rows, classes, scale, shift), torch.arange(rows) % classes
    exact = {end: tensor.detach().double().requires_grad_(end != "t") for end, tensor in outputs.items()}
    right = learn(objective.losses, graph, exact, labels)[1]
    mine, eager = (learn(by, graph, outputs, labels)[1] for by in (fused_losses.losses, objective.losses))
    for end in "ab":
        size = float(right[end].norm())
        off, allowed = (float((pulls[end].double() - right[end]).norm()) / size for pulls in (mine, eager))
        assert off <= 2 * max(allowed, 3e-8), (off, allowed)


@pytest.mark.parametrize("edge", [Edge("labels", "a", cross_entropy), Edge("t", "a", kl)], ids=["labels", "teacher"])
def test_a_loss_whose_student_end_learns_nothing_is_still_a_number(edge):
    outputs = {end: tensor.detach() for end, tensor in three().items()}
    graph = Graph(NODES, [edge])
    (mine,), (theirs,) = (by(graph, outputs, HARD).values() for by in (fused_losses.losses, objective.losses))
    assert mine.item() == pytest.approx(theirs.item(), rel=EXACT)


# --- ends of unlike shapes ---------------------------------------------------------------------------------------


def both(graph: Graph, outputs: dict[str, Tensor], labels: Tensor) -> tuple[Result, Result]:
    return learn(fused_losses.losses, graph, outputs, labels), learn(objective.losses, graph, outputs, labels)


def test_heads_of_unlike_size_are_each_measured_by_their_own_number_of_classes():
    outputs = {"t": logits(B, 2 * C, seed=1), "a": logits(B, C, seed=2).requires_grad_(),
               "b": logits(B, 2 * C, seed=3).requires_grad_()}
    smooth = partial(cross_entropy, smoothing=0.1)
    graph = Graph(NODES, [Edge("labels", "a", cross_entropy), Edge("labels", "b", smooth),
                          Edge("labels", "b.half", cross_entropy), Edge("t", "b", kl, 1.0, 2.0, entropy)])
    outputs["b.half"] = outputs["b"][:, :C]
    assert_same(*both(graph, outputs, HARD))


def test_ends_with_other_rows_than_the_labels_take_the_mean_over_their_own():
    outputs = three()
    nodes = NODES | {"few": Computed(("a",), lambda a: a[:4]), "theirs": Computed(("t",), lambda t: t[:4])}
    graph = Graph(nodes, [Edge("theirs", "few", kl, 1.0, 2.0)])
    outputs |= {"few": outputs["a"][:4], "theirs": outputs["t"][:4]}
    assert_same(*both(graph, outputs, HARD))


def error_of(by: Callable, graph: Graph, outputs: dict[str, Tensor], labels: Tensor) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, both give it
        by(graph, outputs, labels)
    return type(caught.value), str(caught.value)


LABELS = Edge("labels", "a", cross_entropy)


@pytest.mark.parametrize(("edge", "shapes", "labels"), [
    (Edge("t", "a", kl), {"t": (B, C + 1)}, HARD), (Edge("t", "a", kl), {"t": (B, 1)}, HARD),
    (Edge("t", "a", kl), {"t": (1, C)}, HARD), (Edge("t", "a", kl, 1.0, 4.0, entropy), {"t": (B, C, 1)}, HARD),
    (Edge("t", "a", kl), {"t": (B, C, 5), "a": (B, C, 5)}, HARD), (LABELS, {"a": (B, C, 5)}, HARD),
    (LABELS, {}, HARD[:-1]), (LABELS, {}, HARD[:1]), (LABELS, {}, torch.rand(B, C + 1)),
], ids=["classes", "one class", "one row", "dimensions", "maps", "maps and labels", "fewer labels", "one label",
        "soft classes"])
def test_what_cannot_be_computed_is_told_in_the_references_words(edge, shapes, labels):
    graph, outputs = Graph(NODES, [edge]), three()
    outputs |= {end: logits(*shape).requires_grad_(end != "t") for end, shape in shapes.items()}
    assert error_of(fused_losses.losses, graph, outputs, labels) == error_of(objective.losses, graph, outputs, labels)


# --- generated code ----------------------------------------------------------------------------------------------


def compilations() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def unchecked(monkeypatch):
    """The page as it is outside of tests: without checks of types, which the compiler cannot follow."""
    for name, function in vars(fused_losses).items():
        if inspect.isfunction(function) and function.__module__ == fused_losses.__name__:
            monkeypatch.setattr(fused_losses, name, inspect.unwrap(function))
    fused_losses._compiled.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    fused_losses._compiled.cache_clear()


def test_there_is_no_limit_to_the_graphs_that_one_process_compiles(unchecked, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, but no code is made
    for count in range(2, 3 + torch._dynamo.config.recompile_limit):
        students = [f"s{number}" for number in range(count)]
        outputs = {student: logits(3, 4, seed=number).float() for number, student in enumerate(students)}
        found = fused_losses.losses(mutual(students), outputs, torch.tensor([0, 1, 2]), compiled=True)
        expected = objective.losses(mutual(students), outputs, torch.tensor([0, 1, 2]))
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_generated_code_says_the_same_keeps_one_tensor_for_each_student_and_is_made_once(unchecked):
    from torch._inductor.utils import run_and_get_code

    rows, classes = 40, 33
    dual = dual_student("t", ["a", "b"])
    graph = Graph(dual.nodes, [*dual.edges[:-1], replace(dual.edges[-1], weight=partial(ramp_up, to=0.7))])
    outputs, labels = three_float32(rows, classes, 3.0, 0.0), torch.arange(rows) % classes
    labels[::7] = -1
    exact = {end: tensor.detach().double().requires_grad_(end != "t") for end, tensor in outputs.items()}
    compiled = partial(fused_losses.losses, compiled=True)

    def take(progress: float) -> Result:
        weights = graph.weights(progress)
        values, pulls = learn(compiled, graph, outputs, labels, weights=weights)
        expected, right = learn(objective.losses, graph, exact, labels, weights=weights)
        eager = learn(objective.losses, graph, outputs, labels, weights=weights)[1]
        for name, value in values.items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-6)
        for end in "ab":
            off, allowed = (float((pull[end].double() - right[end]).norm() / right[end].norm())
                            for pull in (pulls, eager))
            assert off <= 2 * max(allowed, 3e-8)
        return values, pulls

    (first, _), (code,) = run_and_get_code(take, 0.5)
    assert compilations() == 1
    whole = re.findall(rf"empty_strided_cpu\(\({rows}, {classes}\)", code)
    assert len(whole) == 2, "one gradient for each of the two students, and nothing else of their size"
    assert not re.findall(rf"empty_strided_cpu\(\({rows * classes}", code)
    last = list(first)[-1]
    assert take(0.9)[0][last] > first[last]
    assert compilations() == 1, "a weight that changes compiles nothing"
    take(0.0)
    assert compilations() == 2, "an edge less is another region"
    take(0.7)
    assert compilations() == 2


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler asks it of what is no leaf
def test_compiled_losses_over_rows_that_count_unlike_are_the_reference_and_0_where_none_does(unchecked):
    student, teacher = (torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("labels", "s", cross_entropy, rows=pixels),
                                                    Edge("t", "s", kl, temperature=4.0, rows=pixels)])
    some, none = torch.tensor([[[0, -1], [2, 1]]] * 2), torch.full((2, 2, 2), -1)
    for labels in (some, none):
        given = {"s": student.clone().requires_grad_(), "t": teacher}
        expected = objective.losses(graph, given, labels)
        (pull,) = torch.autograd.grad(torch.stack(list(expected.values())).sum(), given["s"])
        found = fused_losses.losses(graph, given, labels, compiled=True)
        (ours,) = torch.autograd.grad(torch.stack(list(found.values())).sum(), given["s"])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(ours, pull)
    assert [value.item() for value in found.values()] == [0.0, 0.0]
    assert not bool(ours.any())
