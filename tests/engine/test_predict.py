"""Held-out data: each number against scikit-learn or a sum by hand, each row once, and nothing is moved by looking."""

import json
import math
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from every import every
from toys import Rows, free_port
from tutelage import Computed, Edge, Ema, Ensemble, Frozen, Graph, Trained
from tutelage.engine.predict import evaluate, predict, robustness
from tutelage.errors import DataError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.system.distributed import World
from tutelage.system.files import fingerprint
from tutelage.tasks.classification.attacks import Attack
from tutelage.tasks.classification.task import score

CLASSES, ROWS = 7, 53
TWO_RANKS = (1, 2, 13, 52, ROWS)


def source(rows: int = ROWS, unlabelled: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(rows, 4, generator=generator), torch.arange(rows) % CLASSES
    labels[torch.randperm(rows, generator=generator)[:unlabelled]] = -1
    return Rows(inputs, labels)


def network(seed: int, classes: int = CLASSES) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net


def models() -> dict[str, nn.Module]:
    return {"t": network(0), "a": network(1), "slow": network(2)}


def graph(**more: Computed) -> Graph:
    return Graph({"t": Frozen(), "a": Trained(), "slow": Ema("a"), **more},
                 [Edge("labels", "a", cross_entropy), Edge("t", "a", kl)])


def logits_by_hand(net: nn.Sequential, x: Tensor) -> Tensor:
    """What the network says in eval mode, in float64: no batch statistics, no dropout."""
    first, norm, _, last = net
    h = x.double() @ first.weight.double().T + first.bias.double()
    h = (h - norm.running_mean) / (norm.running_var.double() + norm.eps).sqrt() * norm.weight + norm.bias
    return (h @ last.weight.double().T + last.bias.double()).detach()


def ece_by_hand(p: Tensor, labels: Tensor, bins: int = 15) -> float:
    total = 0.0
    for k in range(bins):
        rows = [(max(row), row.index(max(row)) == label) for row, label in zip(p.tolist(), labels.tolist(), strict=True)
                if k / bins < max(row) <= (k + 1) / bins]
        total += abs(sum(right - sure for sure, right in rows))
    return total / len(labels)


def expected(logits: Tensor, labels: Tensor) -> dict[str, float]:
    p, every = logits.softmax(-1), list(range(CLASSES))
    return {"top1": accuracy_score(labels, p.argmax(-1)),
            "balanced_accuracy": balanced_accuracy_score(labels, p.argmax(-1)),
            "top5": top_k_accuracy_score(labels, p, k=5, labels=every),
            "nll": log_loss(labels, p, labels=every), "ece": ece_by_hand(p, labels)}


@pytest.mark.parametrize("batch_size", [1, 10, ROWS, 500])
def test_every_number_is_scikit_learns_whatever_the_batch(batch_size):
    data, nets = source(), models()
    found = evaluate(graph(), nets, data, classes=CLASSES, batch_size=batch_size)
    assert set(found) == {"nodes", "pairs"}
    assert set(found["nodes"]) == {"t", "a", "slow"}
    logits = {node: logits_by_hand(net, data.inputs) for node, net in nets.items()}
    for node in nets:
        assert found["nodes"][node] == pytest.approx(expected(logits[node], data.labels), rel=1e-5)
    assert found["pairs"] == {f"{a}|{b}": {"agreement": accuracy_score(logits[a].argmax(-1), logits[b].argmax(-1))}
                              for a, b in (("t", "a"), ("t", "slow"), ("a", "slow"))}
    assert len({scores["top1"] for scores in found["nodes"].values()}) > 1
    assert torch.equal(torch.cat(data.asked), torch.arange(ROWS)), "each row once, the last part of a batch too"
    assert [len(rows) for rows in data.asked[:-1]] == [batch_size] * (len(data.asked) - 1)


def test_score_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], dtype=torch.float64).log()
    found = score(logits, torch.tensor([0, 0, 1]))
    assert found == pytest.approx({"top1": 2 / 3, "balanced_accuracy": 3 / 4, "top5": 1.0,
                                   "nll": -math.log(0.5 * 0.2 * 0.8) / 3, "ece": (0.5 + 0.6 + 0.2) / 3})


def test_rows_without_a_label_do_not_count_but_are_predicted():
    data, nets = source(unlabelled=20), models()
    found = evaluate(graph(), nets, data, classes=CLASSES, batch_size=10)
    known, logits = data.labels >= 0, {node: logits_by_hand(net, data.inputs) for node, net in nets.items()}
    assert known.sum() == ROWS - 20
    for node in nets:
        assert found["nodes"][node] == pytest.approx(expected(logits[node][known], data.labels[known]), rel=1e-5)
    assert found["pairs"]["t|a"]["agreement"] == accuracy_score(logits["t"].argmax(-1), logits["a"].argmax(-1))
    assert len(predict(graph(), nets, data, classes=CLASSES)["a"]) == ROWS
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate(graph(), nets, source(unlabelled=ROWS), classes=CLASSES)


def test_an_ensemble_is_the_mean_of_probabilities():
    data, nets = source(), models()
    found = evaluate(graph(both=Ensemble(["t", "a"])), nets, data, classes=CLASSES, batch_size=10)
    p = sum(logits_by_hand(nets[node], data.inputs).softmax(-1) for node in ("t", "a")) / 2
    assert found["nodes"]["both"] == pytest.approx(expected(p.log(), data.labels), rel=1e-5)
    assert found["nodes"]["both"]["nll"] != pytest.approx(found["nodes"]["t"]["nll"])
    choices = logits_by_hand(nets["slow"], data.inputs).argmax(-1)
    assert found["pairs"]["slow|both"]["agreement"] == accuracy_score(p.argmax(-1), choices)


def test_a_node_may_have_the_name_of_a_key_or_of_a_metric():
    names = ("agreement", "nodes", "pairs", "ensemble", "top1")
    nets, data = {name: network(i) for i, name in enumerate(names)}, source()
    found = evaluate(Graph({name: Trained() for name in names}, []), nets, data, classes=CLASSES)
    assert list(found["nodes"]) == list(names)
    for name, net in nets.items():
        assert found["nodes"][name] == pytest.approx(expected(logits_by_hand(net, data.inputs), data.labels), rel=1e-5)
    assert list(found["pairs"]) == [f"{a}|{b}" for a, b in combinations(names, 2)]


def test_predictions_are_logits_in_the_order_of_the_rows():
    data, nets = source(), models()
    found = predict(graph(), nets, data, classes=CLASSES, batch_size=10)
    for node, net in nets.items():
        assert found[node].device.type == "cpu"
        assert not found[node].requires_grad
        torch.testing.assert_close(found[node].double(), logits_by_hand(net, data.inputs), rtol=1e-5, atol=1e-5)


def test_only_nodes_that_classify_from_images_alone_count():
    other = {**models(), "coarse": network(3, classes=3)}
    nodes = {**graph().nodes, "coarse": Frozen(), "cheat": Computed(("a", "labels"), lambda a, labels: a),
             "by id": Computed(("a", "ids"), lambda a, ids: a), "again": Computed(("cheat",), lambda cheat: cheat),
             "viewed": Computed(("a@strong",), lambda a: a), "pair": Computed(("a", "t"), lambda a, t: {
                 "logits": a + t, "w": a[:, 0]}), "flat": Computed(("a",), lambda a: a[:, 0])}
    nodes["by-id"] = nodes.pop("by id")
    mixed = Graph(nodes, [Edge("labels", "a", cross_entropy), Edge("coarse", "a.3", lambda s, t, y: s[:, 0])])
    found = evaluate(mixed, other, source(), classes=CLASSES)
    assert set(found["nodes"]) == {"t", "a", "slow", "pair"}


def test_some_nodes_can_be_asked_for_and_one_agrees_with_nobody():
    data = source()
    two = evaluate(graph(), models(), data, classes=CLASSES, nodes=["a", "t"])
    assert (list(two["nodes"]), list(two["pairs"])) == (["a", "t"], ["a|t"])
    one = evaluate(graph(), models(), data, classes=CLASSES, nodes=["a"])
    assert (list(one["nodes"]), one["pairs"]) == (["a"], {})
    assert predict(graph(), {"a": network(1)}, data, classes=CLASSES, nodes=["a"]).keys() == {"a"}


def test_an_empty_source_has_predictions_for_no_row():
    found = predict(graph(), models(), source(0), classes=CLASSES)
    assert {logits.shape for logits in found.values()} == {(0, CLASSES)}


# Nothing is moved by looking


class Part(nn.Module):
    """A computed node that would remember if it were not told that this is not training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor) -> Tensor:
        self.calls += self.training
        return self.inner(logits)


def modes(nets: dict[str, nn.Module], part: Part) -> list[bool]:
    return [module.training for net in [*nets.values(), part] for module in net.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_left_in_the_mode_it_was_found_in(fails, monkeypatch):
    nets, part, data = models(), Part(), source()
    nets["t"].eval()
    nets["a"].train()
    nets["a"][1].eval()  # a norm that the user has frozen inside a network that trains
    nets["slow"].eval()
    nets["slow"][2].train()
    part.inner.eval()
    before, seen = modes(nets, part), []
    nets["slow"].register_forward_pre_hook(lambda *_: seen.append(modes(nets, part)))
    looked = graph(part=Computed(("a",), part))
    if fails:
        data.inputs = data.inputs[:, :2]
        with pytest.raises(RuntimeError):
            evaluate(looked, nets, data, classes=CLASSES)
    else:
        evaluate(looked, nets, data, classes=CLASSES)
        assert seen == [[False] * len(before)]
        assert part.calls == 0
    assert modes(nets, part) == before


def test_looking_changes_no_weight_no_statistic_no_gradient_and_no_random_number():
    nets, part = models(), Part()
    looked = graph(part=Computed(("a",), part))
    whole = {f"{name}.{key}": tensor for name, net in {**nets, "part": part}.items()
             for key, tensor in net.state_dict().items()}
    before, stream = fingerprint(whole), torch.random.get_rng_state()
    first = evaluate(looked, nets, source(), classes=CLASSES, batch_size=10)
    assert fingerprint(whole) == before
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert every(parameter.grad is None for net in nets.values() for parameter in net.parameters())
    torch.rand(5)
    assert evaluate(looked, nets, source(), classes=CLASSES, batch_size=10) == first


def test_a_network_that_draws_draws_the_same_every_time():
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), CLASSES)
    noisy = Graph({"a": Frozen()}, [])
    one = predict(noisy, {"a": Noisy()}, source(), classes=CLASSES)["a"]
    torch.rand(3)
    assert torch.equal(predict(noisy, {"a": Noisy()}, source(), classes=CLASSES)["a"], one)


# Ranks

SCRIPT = """
import json, sys
from pathlib import Path
from test_predict import CLASSES, TWO_RANKS, Ensemble, attacked, evaluate, graph, models, source
from tutelage.system.distributed import connect, disconnect

world = connect("cpu")
found = {}
for rows in TWO_RANKS:
    data = source(rows, unlabelled=rows // 4)
    whole = graph(both=Ensemble(["t", "a"]))
    scores = evaluate(whole, models(), data, classes=CLASSES, batch_size=5, world=world)
    taken = sorted({row for part in data.asked for row in part.tolist()})
    found[str(rows)] = [scores, taken, attacked(source(rows, unlabelled=rows // 4), world)]
Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps(found))
disconnect()
"""


def attacked(data: Rows, world: World) -> dict[str, dict[str, float]]:
    nets = {node: net.eval() for node, net in models().items()}
    return robustness(nets, Rows(data.inputs.sigmoid(), data.labels), Attack(0.3, 0.1, 2), attacked=["a", "t"],
                      batch_size=5, world=world)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    processes = []
    for rank in "01":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                       "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": "lo",
                       "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        processes.append(subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment,
                                          stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert len(list(folder.iterdir())) == 2, errors  # a finished gloo process may still abort in its teardown
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in "01"]


@pytest.mark.parametrize("rows", TWO_RANKS)
def test_two_ranks_count_every_row_once_and_both_know_the_numbers_of_one(ranks, rows):
    """Also if one of them has a row less, or none at all."""
    one = evaluate(graph(both=Ensemble(["t", "a"])), models(), source(rows, unlabelled=rows // 4), classes=CLASSES,
                   batch_size=5)
    for rank in ranks:
        found = rank[str(rows)][0]
        for kind in ("nodes", "pairs"):
            assert found[kind].keys() == one[kind].keys()
            for name in one[kind]:
                assert found[kind][name] == pytest.approx(one[kind][name], rel=1e-6)
    taken = [rank[str(rows)][1] for rank in ranks]
    assert sorted(taken[0] + taken[1]) == list(range(rows))
    assert 0 <= len(taken[0]) - len(taken[1]) <= 1
    alone = attacked(source(rows, unlabelled=rows // 4), World(torch.device("cpu")))
    assert [rank[str(rows)][2] for rank in ranks] == [alone, alone]


def test_the_world_of_one_rank_is_the_default():
    alone = World(torch.device("cpu"))
    assert evaluate(graph(), models(), source(), classes=CLASSES, world=alone) == evaluate(
        graph(), models(), source(), classes=CLASSES)
