"""One test for every known trap of distillation code that concerns this package.

The numbers are those of our survey of other frameworks; each trap has silently cost someone accuracy. Those that need
several processes, recipes or the source text are named in `test_ranks` (19, 26, 31), `test_config` (29),
`models/test_cifar` (32) and `test_architecture` (33).
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from every import every
from tutelage.data import Data, from_tensors
from tutelage.engine import precision
from tutelage.engine.dry_run import prepare
from tutelage.engine.loop import start, steps_of
from tutelage.engine.precision import Execution
from tutelage.engine.predict import evaluate
from tutelage.engine.run import Epoch, Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.codecs import Whole
from tutelage.engine.teacher_cache.store import TeacherCache
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy, js, kl, mse, reverse_kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import mean_probability
from tutelage.graph.nodes import Computed, Ema, Ensemble, Frozen, Trained
from tutelage.graph.objective import forward, losses
from tutelage.graph.sample_weights import confidence, correct, entropy, margin, mean_one
from tutelage.methods.abkd import abkd
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.dynamic_rectification import dynamic_rectification
from tutelage.methods.mutual import mutual
from tutelage.methods.pld import pld
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.system.distributed import World
from tutelage.types import Batch

CLASSES, ROWS = 3, 24


class Net(nn.Sequential):
    """A tiny network with all that a mode changes: batch statistics and dropout."""

    def __init__(self, seed: int, classes: int = CLASSES, dropout: float = 0.5) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(dropout),
                             nn.Linear(6, classes))


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (ROWS + 6, 1, 2, 2), generator=generator, dtype=torch.uint8)
    labels = torch.arange(ROWS + 6) % CLASSES
    return from_tensors((images[:ROWS], labels[:ROWS]), (images[ROWS:], labels[ROWS:]))


def begin(graph: Graph, models: dict[str, nn.Module] | None = None, epochs: int = 2) -> Run:
    models = models or {node: Net(k) for k, node in enumerate(graph.nodes) if not isinstance(graph.nodes[node], Ema)}
    settings = Settings(epochs, partial(torch.optim.SGD, lr=0.1, momentum=0.9), batch_size=8)
    return start(graph, models, data(), settings, World(torch.device("cpu")))


def train(run: Run) -> list[Epoch]:
    return [epoch for epoch in steps_of(run) if epoch is not None]


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and every(first[name].equal(second[name]) for name in first)


@contextmanager
def watched(network: nn.Module) -> Iterator[list[tuple[bool, bool]]]:
    """(training mode, whether gradients are recorded) of every pass of the network."""
    seen: list[tuple[bool, bool]] = []
    handle = network.register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, torch.is_grad_enabled())))
    yield seen
    handle.remove()


def random_logits(seed: int, rows: int = 6, classes: int = 5) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEACH = Edge("t", "s", kl, temperature=4.0)
PAIR = Graph({"t": Frozen(), "s": Trained()}, [TEACH])
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def test_trap_01_kl_is_not_divided_by_the_number_of_classes():
    outputs = {"s": random_logits(0), "t": random_logits(1)}
    batchmean = F.kl_div(outputs["s"].log_softmax(-1), outputs["t"].softmax(-1), reduction="batchmean")
    (loss,) = losses(Graph(PAIR.nodes, [Edge("t", "s", kl)]), outputs, LABELS).values()
    torch.testing.assert_close(loss, batchmean)


@pytest.mark.parametrize("divergence", [kl, reverse_kl, js])
def test_trap_02_t_squared_keeps_the_gradient_of_one_size_over_temperatures(divergence):
    def pull(temperature: float) -> float:
        student, teacher = random_logits(0).requires_grad_(), random_logits(1)
        graph = Graph(PAIR.nodes, [Edge("t", "s", divergence, temperature=temperature)])
        sum(losses(graph, {"s": student, "t": teacher}, LABELS).values()).backward()
        return student.grad.norm().item()

    assert pull(1000.0) == pytest.approx(pull(500.0), rel=0.01)
    assert pull(1000.0) > 0.1 * pull(4.0)


@pytest.mark.parametrize(("options", "edges"), [
    ({}, 2), ({"hard": 0.0}, 1), ({"soft": 0.0}, 1), ({"hard": 0.0, "soft": 0.0}, 0)])
def test_trap_03_a_share_left_out_or_zero_is_no_crash(options, edges):
    outputs = {"s": random_logits(0), "t": random_logits(1)}
    assert len(losses(distill("t", "s", **options), outputs, LABELS)) == edges


def test_trap_04_the_teacher_stays_in_eval_mode_and_its_statistics_do_not_drift():
    teacher = Net(0).train()
    before, run = state(teacher), begin(distill("t", "s"), {"t": teacher, "s": Net(1)})
    with watched(teacher) as passes:
        train(run)
    assert passes
    assert {training for training, _ in passes} == {False}
    assert same(state(teacher), before)


def test_trap_05_the_student_is_back_in_training_mode_after_every_validation():
    run = begin(distill("t", "s"))
    modes = []
    with watched(run.models["s"]) as passes:
        for epoch in steps_of(run):
            modes.append(run.models["s"].training)
            if epoch is not None:
                assert (False, False) in passes, "validation ran in eval mode"
    assert every(modes)
    recorded = [training for training, records in passes if records]
    assert recorded == [True] * run.steps


@pytest.mark.parametrize("divergence", [kl, js, mse])
def test_trap_06_no_gradient_reaches_the_target_of_a_peer(divergence):
    outputs = {"a": random_logits(0).requires_grad_(), "b": random_logits(1).requires_grad_()}
    graph = Graph({"a": Trained(), "b": Trained()}, [Edge("a", "b", divergence), Edge("b", "a", divergence)])
    terms = losses(graph, outputs, LABELS)
    for (name, term), me in zip(terms.items(), ("b", "a"), strict=True):
        outputs["a"].grad = outputs["b"].grad = None
        term.backward()
        assert [node for node in outputs if outputs[node].grad is not None] == [me], name


@pytest.mark.parametrize("peers", [2, 3, 4])
def test_trap_07_n_peers_run_n_passes_a_step(peers):
    run = begin(mutual([f"s{k}" for k in range(peers)]), epochs=1)
    counts = Counter()
    for node, network in run.models.items():
        network.register_forward_pre_hook(lambda module, inputs, node=node: counts.update(
            [node] if torch.is_grad_enabled() else []))
    train(run)
    assert counts == dict.fromkeys(run.models, run.steps)
    batchnorms = [module for network in run.models.values() for module in network if isinstance(module, nn.BatchNorm1d)]
    assert [int(norm.num_batches_tracked) for norm in batchnorms] == [run.steps] * peers


def test_trap_08_peers_share_their_weight_and_no_loss_replaces_another():
    students = ["s0", "s1", "s2"]
    outputs = {"t": random_logits(9), **{s: random_logits(k) for k, s in enumerate(students)}}
    for graph in (mutual(students, peer=1.0), dual_student("t", students, peer=1.0)):
        terms = losses(graph, outputs, LABELS)
        assert len(terms) == len(graph.edges)
        for me in students:
            weights = [edge.weight for edge in graph.edges if edge.student == me and edge.teacher in students]
            assert weights == [0.5, 0.5]


def test_trap_08_a_second_loss_of_one_name_is_refused():
    with pytest.raises(UsageError, match="two edges of one name"):
        Graph(PAIR.nodes, [TEACH, TEACH])


@pytest.mark.parametrize("divergence", [kl, reverse_kl, js])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_divergences_of_low_precision_networks_are_finite_with_finite_gradients(divergence, dtype):
    most = torch.finfo(torch.float16).max
    teacher = torch.tensor([[most, -most, 0.0], [-20.0, 0.0, 20.0], [0.0, 0.0, 0.0]], dtype=dtype)
    weight = torch.tensor([[-most, most, 0.0], [20.0, 0.0, -20.0], [0.0, 0.0, 0.0]], dtype=dtype)
    student = nn.Embedding.from_pretrained(weight, freeze=False)
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", divergence), Edge("t", "s", divergence, 1.0, 4.0)])
    outputs = forward(graph, {"s": student}, torch.arange(3), known={"t": teacher.float()})
    total = sum(losses(graph, outputs, torch.zeros(3, dtype=torch.long)).values())
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert student.weight.grad[1:].isfinite().all()


def test_trap_09_a_small_probability_is_not_lost_in_an_epsilon():
    student, teacher = torch.tensor([[0.0, 50.0]]), torch.tensor([[0.0, -50.0]])
    assert kl(student, teacher).item() == pytest.approx(50.0, rel=1e-6)


def kept(folder, ids: Tensor, logits: Tensor, *, exact: bool = True) -> TeacherCache:
    """A cache that has been told what the teacher says of these samples in draw 0."""
    cache = TeacherCache(folder / "key", ids, {"t": Whole(logits=True, exact=exact)}, limit=2**30)
    cache.open(0)
    cache.look_up(ids)
    cache.record("t", logits)
    cache.finish(write=False)
    return cache


def test_trap_10_what_is_kept_of_a_teacher_is_found_by_the_sample_and_not_by_its_place(tmp_path):
    ids, logits = torch.tensor([40, 7, 19, 3]), random_logits(0, rows=4).float()
    shuffled = torch.tensor([2, 0, 3, 1])
    assert torch.equal(kept(tmp_path, ids, logits).look_up(ids[shuffled])["t"], logits[shuffled])


def test_trap_11_what_a_teacher_said_of_one_augmentation_is_not_taken_for_another(tmp_path):
    cache = kept(tmp_path, torch.arange(4), random_logits(0, rows=4).float())
    cache.open(1)
    assert cache.look_up(torch.arange(4)) == {}


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_trap_12_what_is_kept_serves_any_temperature_and_loses_no_mass(tmp_path, temperature):
    logits, student = random_logits(0, rows=4, classes=100).float(), random_logits(1, rows=4, classes=100).float()
    again = kept(tmp_path, torch.arange(4), logits, exact=False).look_up(torch.arange(4))["t"]
    assert again.shape == logits.shape
    torch.testing.assert_close(kl(student / temperature, again / temperature),
                               kl(student / temperature, logits / temperature), rtol=1e-3, atol=1e-6)


def test_trap_13_networks_of_unlike_classes_are_refused_before_the_first_step():
    with pytest.raises(ModelError, match="another number of classes") as caught:
        begin(distill("t", "s"), {"t": Net(0, CLASSES + 1), "s": Net(1)})
    assert caught.value.where == "node 't'"


@pytest.mark.parametrize("divergence", [kl, reverse_kl, js, mse])
def test_trap_13_nothing_is_broadcast(divergence):
    batch = Batch(torch.rand(2, 1, 2, 2), torch.tensor([0, 0]), torch.arange(2))
    with pytest.raises(ModelError) as caught:
        prepare(Graph(PAIR.nodes, [Edge("t", "s", divergence)]), {"t": Net(0, 3), "s": Net(1, 1)}, batch)
    assert caught.value.where == f"edge t->s:{divergence.__name__}"


def test_trap_14_each_network_sees_the_same_images_with_its_own_normalisation():
    constants, seen = {"t": (0.1, 0.5), "s": (0.7, 0.2)}, {}
    models = {node: build(Architecture("resnet8", mean=(mean,), std=(std,)), class_names="abc", channels=1, name=node)
              for node, (mean, std) in constants.items()}
    for node, model in models.items():
        model.body.register_forward_pre_hook(lambda module, inputs, node=node: seen.update({node: inputs[0]}))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    forward(PAIR, models, images)
    for node, (mean, std) in constants.items():
        torch.testing.assert_close(seen[node], (images - mean) / std)


def test_trap_15_an_average_follows_the_student_with_its_decay_and_gets_no_gradient():
    graph = Graph({"s": Trained(), "slow": Ema("s", decay=0.6)},
                  [Edge("labels", "s", cross_entropy), Edge("slow", "s", kl)])
    run = begin(graph)
    slow = [p.detach().clone() for p in run.models["slow"].parameters()]
    assert every(a.equal(b) for a, b in zip(slow, run.models["s"].parameters(), strict=True))
    for t, _ in enumerate(steps_of(run), start=1):
        decay = min(1 - 1 / (t + 1), 0.6)
        slow = [decay * old + (1 - decay) * new.detach()
                for old, new in zip(slow, run.models["s"].parameters(), strict=True)]
        torch.testing.assert_close([p.detach() for p in run.models["slow"].parameters()], slow)
    assert every(p.grad is None for p in run.models["slow"].parameters())
    assert every(not a.equal(b) for a, b in zip(slow, run.models["s"].parameters(), strict=True))


def test_trap_16_a_network_cannot_be_its_own_teacher_by_sharing_weights():
    shared = Net(0)
    with pytest.raises(ModelError, match="two nodes share weights"):
        begin(distill("t", "s"), {"t": shared, "s": shared})


def test_trap_16_a_teacher_in_eval_mode_leaves_the_students_dropout_on():
    run = begin(distill("t", "s"))
    next(steps_of(run))
    assert [run.models[node].training for node in ("t", "s")] == [False, True]
    images = torch.rand(64, 1, 2, 2)
    with torch.no_grad():
        assert not run.models["s"](images).equal(run.models["s"](images))
        assert run.models["t"](images).equal(run.models["t"](images))


def test_trap_16_no_networks_presence_moves_the_random_numbers_of_another():
    alone = begin(mutual_free("a"))
    beside = begin(mutual_free("b", "a"), {"b": Net(7), "a": Net(0)})
    train(alone)
    train(beside)
    assert same(state(alone.models["a"]), state(beside.models["a"]))


def mutual_free(*students: str) -> Graph:
    return Graph({s: Trained() for s in students}, [Edge("labels", s, cross_entropy) for s in students])


def test_trap_16_how_often_one_evaluates_changes_no_weight():
    quiet, curious = begin(distill("t", "s")), begin(distill("t", "s"))
    train(quiet)
    for _ in steps_of(curious):
        for _ in range(2):
            evaluate(curious.graph, curious.models, curious.data.validation, classes=CLASSES)
            torch.rand(5)  # nor does it matter who else draws
    assert same(state(quiet.models["s"]), state(curious.models["s"]))


def test_trap_17_a_teacher_has_no_optimizer():
    run = begin(distill("t", "s"))
    assert list(run.optimizers) == ["s"]
    assert list(run.learners) == ["s"]


@contextmanager
def a_group_of_ranks() -> Iterator[World]:
    """What two ranks would make of their networks, in a group that this process has for itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield World(torch.device("cpu"), 0, 2)
    finally:
        dist.destroy_process_group()


def ranked(graph: Graph, models: dict[str, nn.Module], world: World, images: Tensor) -> dict[str, nn.Module]:
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images)))
    return precision.prepared_networks(graph, models, {node: Execution() for node in models}, batch, world)


def test_trap_18_only_what_learns_is_wrapped_for_ranks_and_nothing_is_searched_for_unused_weights():
    graph = Graph({"t": Frozen(), "slow": Ema("s"), "s": Trained()}, [TEACH, Edge("slow", "s", kl)])
    with a_group_of_ranks() as world:
        runners = ranked(graph, {node: Net(k) for k, node in enumerate(graph.nodes)}, world, torch.rand(4, 1, 2, 2))
        wrapped = [node for node, runner in runners.items() if isinstance(runner, DistributedDataParallel)]
        assert wrapped == ["s"]
        assert not runners["s"].find_unused_parameters


def test_trap_20_every_epoch_has_its_own_number_and_step():
    epochs = list(train(begin(distill("t", "s"), epochs=3)))
    assert [(epoch.number, epoch.step) for epoch in epochs] == [(1, 3), (2, 6), (3, 9)]


def test_trap_21_the_teacher_runs_without_gradient_and_validation_without_any():
    run = begin(distill("t", "s"))
    with watched(run.models["t"]) as teacher, watched(run.models["s"]) as student:
        train(run)
    assert {records for _, records in teacher} == {False}
    assert {(True, True), (False, False)} == set(student)


def test_trap_22_training_sees_the_validation_data_and_never_the_test_data():
    images, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2
    whole = from_tensors((images, labels), (images, labels), (images, labels), leakage="allow")

    def forbidden(*args, **kwargs):
        raise AssertionError("test data were read")

    object.__setattr__(whole.test, "batches", forbidden)
    settings = Settings(1, partial(torch.optim.SGD, lr=0.1), batch_size=4)
    run = start(mutual_free("a"), {"a": Net(0, 2)}, whole, settings, World(torch.device("cpu")))
    (epoch,) = train(run)
    scores = evaluate(run.graph, run.models, whole.validation, classes=2, batch_size=4)
    assert epoch.accuracy == {"a": scores["nodes"]["a"]["top1"]}


@pytest.mark.parametrize("graph", [
    distill("t", "s"), dual_student("t", ["s", "r"]), mutual(["s", "r"]), pld("t", "s"), abkd("t", "s"),
    dynamic_rectification("t", "s"),
    Graph({"t": Frozen(), "s": Trained()}, [Edge("t", "s", kl, sample_weight=weight) for weight in (correct,)]),
], ids=["distill", "dual_student", "mutual", "pld", "abkd", "dynamic_rectification", "correct"])
def test_trap_23_soft_labels_of_mixtures_serve_wherever_hard_ones_do(graph):
    outputs = {node: random_logits(k).requires_grad_() for k, node in enumerate(graph.nodes)}
    hard = losses(graph, outputs, LABELS)
    soft = losses(graph, outputs, F.one_hot(LABELS, 5).double())
    torch.testing.assert_close(hard, soft)
    mixed = losses(graph, outputs, 0.3 * F.one_hot(LABELS, 5).double() + 0.7 * F.one_hot(LABELS.flip(0), 5).double())
    assert every(term.isfinite() for term in mixed.values())


def test_trap_24_an_ensemble_is_the_mean_of_probabilities_not_of_logits():
    logits = [random_logits(k) for k in range(3)]
    graph = Graph({"a": Frozen(), "b": Frozen(), "c": Frozen(), "all": Ensemble(["a", "b", "c"]), "s": Trained()},
                  [Edge("all", "s", kl)])
    outputs = forward(graph, {}, torch.zeros(0), ends=["all"], known=dict(zip("abc", logits, strict=True)))
    torch.testing.assert_close(outputs["all"].softmax(-1), sum(z.softmax(-1) for z in logits) / 3)
    assert not outputs["all"].softmax(-1).allclose(sum(logits).div(3).softmax(-1), atol=1e-2)


def test_trap_25_two_runs_in_one_process_do_not_touch_each_other():
    alone = begin(distill("t", "s"))
    expected = train(alone)
    first, second = begin(distill("t", "s")), begin(dual_student("t", ["s", "r"]))
    together, other = steps_of(first), steps_of(second)
    found = []
    for epoch in together:
        next(other, None)
        found += [] if epoch is None else [epoch]
    assert [epoch.losses for epoch in found] == [epoch.losses for epoch in expected]
    assert same(state(first.models["s"]), state(alone.models["s"]))


def test_trap_27_a_shelf_method_and_the_graph_written_out_are_one_objective():
    nodes, third = {"t": Frozen(), "a": Trained(), "b": Trained()}, 1 / 3
    written = Graph(nodes, [
        Edge("labels", "a", cross_entropy, weight=third), Edge("labels", "b", cross_entropy, weight=third),
        Edge("t", "a", kl, temperature=4.0, weight=third, sample_weight=entropy),
        Edge("t", "b", kl, temperature=4.0, weight=third, sample_weight=entropy),
        Edge("b", "a", kl, temperature=4.0, weight=third), Edge("a", "b", kl, temperature=4.0, weight=third)])
    runs = [begin(graph) for graph in (written, dual_student("t", ["a", "b"]))]
    epochs = [train(run) for run in runs]
    assert [epoch.losses for epoch in epochs[0]] == [epoch.losses for epoch in epochs[1]]
    assert same(state(runs[0].models["a"]), state(runs[1].models["a"]))


def test_trap_27_the_loop_computes_what_forward_and_losses_say():
    graph = distill("t", "s", temperature=2.0)
    networks = {"t": Net(0, dropout=0.0), "s": Net(1, dropout=0.0)}
    run = begin(graph, networks, epochs=1)
    outputs, seen = [], []
    networks["s"].register_forward_hook(lambda m, x, y: seen.append(x[0]) if torch.is_grad_enabled() else None)
    networks["s"].register_forward_hook(lambda m, x, y: outputs.append(y.detach()) if y.requires_grad else None)
    images = data().train
    whole = next(images.batches([torch.arange(ROWS)], draw=0))
    (epoch,) = train(run)
    by_image = {tuple(x.flatten().tolist()): int(y) for x, y in zip(whole.inputs, whole.labels, strict=True)}
    expected = {"labels->s:cross_entropy": 0.0, "t->s:kl/2": 0.0}
    for batch, logits in zip(seen, outputs, strict=True):
        labels = torch.tensor([by_image[tuple(x.flatten().tolist())] for x in batch])
        with torch.no_grad():
            terms = losses(graph, {"t": networks["t"](batch), "s": logits}, labels)
        for name, term in terms.items():
            expected[name] += term.item() / run.steps
    assert epoch.losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_trap_28_the_number_of_classes_is_that_of_the_logits(classes):
    uniform, sure = torch.zeros(7, classes), 1000 * torch.eye(classes)[:2]
    assert entropy(None, uniform).tolist() == pytest.approx([0.0] * 7, abs=1e-6)
    assert entropy(None, sure).tolist() == [1.0, 1.0]
    torn = torch.zeros(1, classes, dtype=torch.float64)
    torn[0, :2] = 1000.0
    assert entropy(None, torn).item() == pytest.approx(1 - math.log(2) / math.log(classes), abs=1e-12)


def test_trap_30_a_tap_costs_no_second_pass_and_keeps_the_mode():
    graph = Graph({"t": Frozen(), "s": Trained()}, [Edge("t.1", "s.1", mse), Edge("t", "s", kl)])
    run = begin(graph, epochs=1)
    with watched(run.models["s"]) as passes:
        train(run)
    assert passes.count((True, True)) == run.steps
    assert len(passes) == run.steps + 1


@pytest.mark.parametrize("weight", [entropy, confidence, margin])
def test_trap_34_weights_of_mean_one_leave_the_balance_of_the_edges_alone(weight):
    outputs = {"s": random_logits(0), "t": random_logits(1)}
    ones = Graph(PAIR.nodes, [Edge("t", "s", lambda s, t, y: s.new_ones(len(s)), 0.5,
                                   sample_weight=partial(mean_one, of=weight))])
    (loss,) = losses(ones, outputs, LABELS).values()
    assert loss.item() == pytest.approx(0.5)


def test_trap_34_the_mean_is_over_all_rows_so_that_raw_weights_say_how_much_in_all():
    outputs = {"s": random_logits(0), "t": random_logits(1)}
    graph = Graph(PAIR.nodes, [Edge("t", "s", lambda s, t, y: s.new_ones(len(s)), 0.5, sample_weight=entropy)])
    (loss,) = losses(graph, outputs, LABELS).values()
    p = outputs["t"].softmax(-1)
    assert loss.item() == pytest.approx(0.5 * (1 + (p * p.log()).sum(-1) / math.log(5)).mean().item())


def test_a_trained_peer_without_a_live_edge_is_not_stepped():
    graph = Graph({"a": Trained(), "b": Trained()},
                  [Edge("labels", "a", cross_entropy), Edge("labels", "b", cross_entropy, weight=0.0)])
    run = begin(graph)
    before = state(run.models["b"])
    train(run)
    assert same(state(run.models["b"]), before)
    assert not same(state(run.models["a"]), state(Net(0)))


def test_a_gate_over_a_frozen_teacher_learns_and_the_teacher_does_not():
    gate = nn.Linear(CLASSES, CLASSES)
    graph = Graph({"t": Frozen(), "s": Trained(), "adapted": Computed(("t",), gate), "mean": Computed(
        ("adapted", "s"), mean_probability)}, [Edge("labels", "adapted", cross_entropy), Edge("mean", "s", kl)])
    held = state(gate)
    run = begin(graph)
    first, teacher = state(run.graph.parts()["adapted"]), state(run.models["t"])
    train(run)
    assert list(run.optimizers) == ["s", "adapted"]
    assert same(state(run.models["t"]), teacher)
    assert not same(state(run.graph.parts()["adapted"]), first)
    assert same(state(gate), held)
