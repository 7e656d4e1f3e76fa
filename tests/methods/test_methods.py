"""The other methods, and what every method has in common."""

import inspect
import pkgutil
from importlib import import_module
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import toys
from every import every
from tutelage import methods
from tutelage.engine.loop import steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import restore
from tutelage.engine.train import train
from tutelage.errors import UsageError
from tutelage.graph import fused_losses
from tutelage.graph.ends import BATCH_ENDS, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.graph.objective import forward, losses
from tutelage.methods.distill import distill
from tutelage.methods.mutual import mutual
from tutelage.methods.scratch import scratch
from tutelage.models.wrappers import compare_directions, cut, draw
from tutelage.recipes.methods import is_for
from tutelage.system.files import fingerprint
from tutelage.tasks.classification.task import CLASSIFICATION

NAMES = [page.name for page in pkgutil.iter_modules(methods.__path__)
         if is_for(page.name, CLASSIFICATION) and page.name != "fleet"]
"""The methods for classification; test_methods_on_tasks.py has the others, and test_fleet.py the one whose data are
dealt out."""
LABELS = torch.tensor([0, 3, 1, 2])


ARGUMENTS = {"teacher": "t", "peer": "p", "student": "s", "students": ["a", "b"], "teachers": ["u", "v"],
             "layer": "4"}
NODES = {"teacher": ["t"], "student": ["s"], "students": ["a", "b"]}
LAYERS = {"feature_only": {"t": "0", "s": "cut"}, "stochastic_teacher": {"t": "4", "s": "4"}}
WRAPPED = {"feature_only": ("s", lambda network: cut(network, "2")),
           "stochastic_teacher": ("t", lambda network: draw(network, 3)),
           "class_incremental": ("s before", compare_directions)}
"""The nodes whose recipe has one word more, and what that word does to their networks."""
OPTIONS = {"class_incremental": {"phases": 2}}
TAPPED = {"draws.4": (7, 3, 4, 4), "cosine": (5,), "cosine.features": (3,)}
"""Of taps that are no feature maps [B, 3, 4, 4]: the shape of a row."""


def example(name: str) -> Graph:
    """The method as it comes: only what has no default is given. Of several runs the last."""
    function = vars(import_module(f"tutelage.methods.{name}"))[name]
    required = [n for n, p in inspect.signature(function).parameters.items() if p.default is p.empty]
    layers = LAYERS.get(name) or {node: "0" for argument in required for node in NODES.get(argument, ())}
    made = function(*({**ARGUMENTS, "layers": layers}[argument] for argument in required), **OPTIONS.get(name, {}))
    return made if isinstance(made, Graph) else made[-1]


def example_run(name: str, batch_size: int = 12) -> Run:
    """Two epochs of two steps on tiny networks."""
    graph = example(name)
    nodes = [*graph.named(Trained), *graph.named(Frozen)]
    wrapped, wrap = WRAPPED.get(name, ("", None))
    alike = name in ("stochastic_teacher", "class_incremental")
    networks = {node: toys.network(seed, width=4 if alike else 4 + seed % 3) for seed, node in enumerate(nodes)}
    for node in wrapped.split():
        wrap(networks[node])
    return toys.run(graph, networks, data=toys.data(32), epochs=2, batch_size=batch_size)


def outputs(*nodes: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {node: torch.randn(4, 5, generator=generator, dtype=torch.float64) for node in nodes}


def outputs_of(graph: Graph) -> dict[str, Tensor]:
    """What the networks give at every end that the graph reads: logits, and feature maps at the taps."""
    ends = [parse_end(end) for end in graph.order(graph.ends()) if end not in BATCH_ENDS]
    ends = [end for end in ends if not isinstance(graph.nodes[end.node], Computed)]
    logits = outputs(*(end.name for end in ends if not end.tap))
    return logits | {end.name: torch.randn(4, *TAPPED.get(end.tap, (3, 4, 4)), dtype=torch.float64,
                                           generator=torch.Generator().manual_seed(k))
                     for k, end in enumerate(ends) if end.tap}


def values(graph: Graph, given: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in losses(graph, given, LABELS).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_a_function_of_its_files_name_with_a_docstring_and_defaults(name):
    page = import_module(f"tutelage.methods.{name}")
    function = vars(page)[name]
    assert page.__doc__
    assert function.__doc__
    graph = example(name)
    assert isinstance(graph, Graph)
    assert graph.named(Trained)
    blocks = [block for block in (graph.nodes, graph.edges, graph.controllers) if block]
    assert len(str(graph).splitlines()) == sum(map(len, blocks)) + len(blocks) - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_method_resumed_after_any_step_ends_with_the_same_bits(name):
    whole = example_run(name)
    states = [toys.saved(whole), *(toys.saved(whole) for _ in steps_of(whole))]
    for after in range(1, whole.steps):
        again = example_run(name)
        restore(again, {"frozen": again.frozen, "best": {}, "step": after, "scores": {}}, states[after])
        for _ in steps_of(again):
            pass
        assert toys.saved(again).keys() == states[whole.steps].keys()
        for file, tensors in toys.saved(again).items():
            assert fingerprint(tensors) == fingerprint(states[whole.steps][file]), (after, file)


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_network_of_a_method_learns_and_a_frozen_one_does_not(name):
    run = example_run(name)
    before = {node: {key: x.clone() for key, x in run.models[node].state_dict().items()} for node in run.models}
    for _ in steps_of(run):
        pass
    for node, state in before.items():
        moved = [key for key, x in run.models[node].state_dict().items() if not torch.equal(x, state[key])]
        learns = not isinstance(run.graph.nodes[node], Frozen)
        assert bool(moved) == learns, node
        assert every(torch.isfinite(x).all() for x in run.models[node].state_dict().values())


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_losses_of_a_method_are_those_of_the_reference(name):
    graph, found = example(name), []
    for way in (losses, fused_losses.losses):
        given = {end: rows.requires_grad_() for end, rows in outputs_of(graph).items()}
        torch.manual_seed(0)  # for the weights of parts
        all_ends = forward(graph, {}, torch.zeros(0), known={**given, "labels": LABELS, "ids": torch.arange(4)})
        terms = way(graph, all_ends, LABELS, graph.weights(0.5))
        sum(terms.values()).backward()
        found.append((terms, {node: rows.grad for node, rows in given.items()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


TAUGHT = [name for name in NAMES if example(name).named(Frozen)]
UNCACHED = {"stochastic_teacher": "the controller changes what its teacher says from batch to batch"}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_cached_teacher_gives_the_bits_of_one_that_is_asked_each_time_or_is_said_not_to_apply(
        name, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    ends = []
    for cache in (False, True, True):  # online, while it fills, looked up
        run = example_run(name)
        for node in run.graph.named(Frozen):
            if type(run.models[node][-1]) is nn.Linear:  # a classifier of cosines has no bias
                run.models[node][-1].__class__ = toys.RowByRow
        events = train(run.graph, run.models, run.data, epochs=2, optimizer=toys.SGD, batch_size=12, draws=1,
                       precision="exact", cache=cache)
        if cache and name in UNCACHED:
            with pytest.raises(UsageError, match="nothing to cache"):
                next(events)
            return
        for _ in events:
            pass
        ends.append({node: fingerprint(run.models[node].state_dict()) for node in run.graph.named(Trained)})
    kept = any(tmp_path.rglob("manifest.json"))
    assert kept or (name == "class_incremental" and "depend on its place in the batch" in caplog.text)
    assert ends[0] == ends[1] == ends[2]


def test_scratch_is_cross_entropy_with_the_labels():
    given = outputs("s")
    assert values(scratch("s"), given) == {
        "labels->s:cross_entropy": pytest.approx(F.cross_entropy(given["s"], LABELS).item())}


def test_distill_is_hintons_loss():
    given = outputs("t", "s")
    graph = distill("t", "s", temperature=3.0, hard=0.2, soft=0.7)
    assert graph.nodes == {"t": Frozen(), "s": Trained()}
    assert values(graph, given) == pytest.approx({
        "labels->s:cross_entropy": 0.2 * F.cross_entropy(given["s"], LABELS).item(),
        "t->s:kl/3": 0.7 * toys.torch_kl(given["s"], given["t"], 3.0)})


@pytest.mark.parametrize("count", [2, 3, 4])
def test_mutual_is_the_mean_over_the_others_at_temperature_1(count):
    students = [f"s{k}" for k in range(count)]
    given = outputs(*students)
    expected = {f"labels->{s}:cross_entropy": F.cross_entropy(given[s], LABELS).item() for s in students}
    for other, me in permutations(students, 2):
        expected[f"{other}->{me}:kl"] = 0.6 / (count - 1) * toys.torch_kl(given[me], given[other])
    assert values(mutual(students, peer=0.6), given) == pytest.approx(expected)


def test_the_order_of_the_students_changes_nothing():
    given = outputs("a", "b", "c")
    orders = [values(mutual(order), given) for order in permutations(["a", "b", "c"])]
    assert every(terms == orders[0] for terms in orders)


@pytest.mark.parametrize("students", [[], ["a"], ["a", "a"], "ab"])
def test_mutual_needs_two_students(students):
    with pytest.raises(UsageError) as caught:
        mutual(students)
    assert caught.value.where == "students"


@pytest.mark.parametrize("students", [["a", "b", "a"]])
def test_mutual_refuses_a_student_named_twice(students):
    with pytest.raises(UsageError):
        mutual(students)


@pytest.mark.parametrize("make", [lambda: distill("labels", "s"), lambda: mutual(["a", "ids"]),
                                  lambda: distill("t", "labels"), lambda: scratch("ids")])
def test_names_that_cannot_be_are_refused(make):
    with pytest.raises(UsageError):
        make()
