"""Devices that learn from rows of their own: who hears whom, over links that fail, and what it costs."""

import pytest
import torch
from torch import nn

from every import every
from toys import SGD, data, network, saved, settings
from tutelage.data.shards import Shards, with_shards
from tutelage.data.source import Data
from tutelage.engine.loop import check, start, steps_of
from tutelage.engine.run import Run
from tutelage.engine.state import capture, restore
from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.fleet import Fleet, fleet, own, public
from tutelage.system.distributed import World
from tutelage.system.edge_devices import Device, RadioLink, arrivals, costs_of, flops_of_row
from tutelage.system.files import fingerprint

DEVICES = ("a", "b", "c")
SHARDS = Shards(len(DEVICES), 0.4, 1.0)


def dealt(rows: int = 120) -> Data:
    return with_shards(data(rows), SHARDS, seed=0)


def started(graph: Graph, **options) -> Run:
    made = {node: network(seed, width=3 + seed, norm=False) for seed, node in enumerate((*DEVICES, "t"))}
    networks = {node: net for node, net in made.items() if node in graph.nodes}
    return start(graph, networks, dealt(), settings(precision="exact", **options), World(torch.device("cpu")))


def taken(graph: Graph, steps: int = 15) -> Run:
    job = started(graph, epochs=30)
    for _ in steps_of(job):
        if job.step == steps:
            break
    return job


def weights(job: Run) -> dict[str, list[torch.Tensor]]:
    return {node: [x.detach().clone() for x in job.models[node].parameters()] for node in DEVICES}


def equal(one: dict, other: dict) -> bool:
    return every(torch.equal(x, y) for node in DEVICES for x, y in zip(one[node], other[node], strict=True))


def live(places: range) -> Graph:
    """Peers as they are now, by hand: the end that teaches is what the live network says of the public rows."""
    edges = [Edge(f"labels.shard{place}", f"{DEVICES[place]}@shard{place}", cross_entropy, rows=own)
             for place in places]
    edges += [Edge(DEVICES[other], f"{DEVICES[place]}@shard{place}", kl, 0.5, 2.0, rows=public)
              for place in places for other in places if other != place]
    return Graph({node: Trained() for node in DEVICES}, edges)


def test_with_an_exchange_in_every_step_and_no_loss_they_are_live_peers():
    assert equal(weights(taken(fleet(DEVICES, every=1))), weights(taken(live(range(3)))))


def test_with_every_message_lost_each_is_alone():
    alone = Graph({node: Trained() for node in DEVICES}, live(range(3)).edges[:3])
    lost = weights(taken(fleet(DEVICES, every=2, drop=1.0)))
    assert equal(lost, weights(taken(alone)))
    assert not equal(lost, weights(taken(fleet(DEVICES, every=2))))


def test_who_was_never_heard_teaches_nobody_and_who_was_heard_once_goes_on(monkeypatch):
    """Device 1 is never heard, device 2 in the second exchange alone."""
    arrived = {0: [True] * 9, 1: [False] * 9, 2: [False, True] + [False] * 7}
    monkeypatch.setattr("tutelage.methods.fleet.arrivals",
                        lambda seed, device, exchanges, drop: torch.tensor(arrived[device][:exchanges]))
    job, kept = started(fleet(DEVICES, every=3), epochs=30), list[torch.Tensor]()

    def silent() -> set[str]:
        weights = job.graph.weights()
        job.graph.controllers["fleet"].before_losses(job, {}, weights)
        return {name.partition("->")[0] for name, weight in weights.items() if not weight}

    assert silent() == {"b_heard", "c_heard"}
    for _ in steps_of(job):
        if job.step == 4:
            kept = [x.clone() for x in job.models["c_heard"].parameters()]
        if job.step == 12:
            break
    assert silent() == {"b_heard"}
    assert every(torch.equal(x, y) for x, y in zip(kept, job.models["c_heard"].parameters(), strict=True))


def test_between_exchanges_a_device_is_heard_as_it_was():
    job, past = started(fleet(DEVICES, every=4), epochs=30), []
    for _ in steps_of(job):
        past.append(every(torch.equal(x, y) for x, y in
                          zip(job.models["a_heard"].parameters(), job.models["a"].parameters(), strict=True)))
        if job.step == 9:
            break
    assert past == [False] * 9  # after each step the network has moved on from what it sent before that step


def test_a_ground_teacher_is_heard_of_the_public_rows_alone():
    graph = fleet(DEVICES, "t", peer=0.0, soft=0.7, temperature=3.0)
    assert graph.nodes["t"] == Frozen()
    assert {(edge.teacher, edge.weight, edge.temperature) for edge in graph.edges if not edge.from_labels} == {
        ("t", 0.7, 3.0)}
    assert {edge.rows for edge in graph.edges if not edge.from_labels} == {public}


def test_the_loss_of_one_device_by_a_naive_loop():
    torch.manual_seed(3)
    logits, message = torch.randn(8, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 4, -1, -1, -1, -1])
    seen = own({"a@shard0": logits}, {"shard0": labels})
    by_hand = sum(-logits[row].log_softmax(-1)[labels[row]] for row in range(4)) / 4
    assert torch.allclose(cross_entropy(seen.values["a@shard0"], seen.labels["shard0"], seen.labels).mean(), by_hand)
    seen = public({"a@shard0": logits, "b_heard": message}, {"shard0": labels})
    by_hand = sum((p * (p.log() - logits[4 + row].log_softmax(-1))).sum()
                  for row in range(4) for p in [message[row].softmax(-1)]) / 4
    assert torch.allclose(kl(seen.values["a@shard0"], seen.values["b_heard"], seen.labels).mean(), by_hand)


def test_a_message_of_5000_bytes_takes_40_milliseconds_and_20_millijoules():
    arrived = torch.tensor([True, False, True])
    costs = costs_of(Device(1e9, 2e9, 0.5), RadioLink(2e6, 0.02), 4_000_000_000, 5000, arrived)
    assert costs.bytes == 15_000
    assert (costs.sent, costs.lost) == (3, 1)
    assert costs.sending_seconds == pytest.approx(0.12)
    assert costs.sending_joules == pytest.approx(0.06)
    assert (costs.computing_seconds, costs.computing_joules) == (4.0, 2.0)


def test_the_bytes_are_exchanges_times_devices_times_public_rows_times_classes_times_two():
    job = taken(fleet(DEVICES, every=4), 13)  # exchanges before steps 0, 4, 8 and 12
    told = Fleet(DEVICES, 4, Device(), RadioLink()).facts(job)
    public_rows = len(job.data.train.ids)
    assert sum(costs["bytes"] for costs in told.values()) == 4 * 3 * public_rows * 4 * 2
    assert set(told) == set(DEVICES)


def test_operations_are_counted_as_by_hand():
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 36, 4)).train()
    assert flops_of_row(layers, torch.zeros(1, 1, 8, 8)) == 2 * (36 * 3 * 9 + 108 * 4)
    assert layers.training


def test_losses_of_messages_are_as_many_as_asked_for_and_nested():
    half, few = arrivals(1, 0, 20_000, 0.5), arrivals(1, 0, 20_000, 0.9)
    assert half.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert few.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert bool((half | ~few).all())
    assert not torch.equal(half, arrivals(1, 1, 20_000, 0.5))
    assert torch.equal(arrivals(1, 0, 7, 0.5), half[:7])
    assert bool(arrivals(1, 0, 100, 0.0).all())
    assert not bool(arrivals(1, 0, 100, 1.0).any())


def test_state_is_the_same_whenever_it_is_looked_at():
    """Nothing is remembered outside of weights: two runs that stand at one step are one, ledger included."""
    one, other = taken(fleet(DEVICES, every=3, drop=0.5), 11), taken(fleet(DEVICES, every=3, drop=0.5), 11)
    ours, theirs = capture(one), capture(other)
    assert every(torch.equal(ours[key][name], theirs[key][name]) for key in ours for name in ours[key])
    controllers = [job.graph.controllers["fleet"] for job in (one, other)]
    assert controllers[0].facts(one) == controllers[1].facts(other)


@pytest.mark.parametrize(("options", "problem"), [
    ({"every": 0}, "every"), ({"drop": 1.5}, "drop"), ({"drop": -0.1}, "drop"), ({"transmit_watts": 0.0}, "watts"),
    ({"bits_per_second": 0.0}, "bits"), ({"latency": -1.0}, "latency"), ({"flops_per_joule": 0.0}, "joule")])
def test_what_cannot_be_is_refused(options, problem):
    with pytest.raises(UsageError, match=problem):
        fleet(DEVICES, **options)


def test_a_name_of_its_own_is_refused():
    with pytest.raises(UsageError, match="a_heard"):
        fleet(["a", "a_heard"])


def test_every_run_learns():
    job = started(fleet(DEVICES, "t", every=2, drop=0.3), epochs=8, optimizer=SGD)
    first, *_, last = [epoch for epoch in steps_of(job) if epoch is not None]
    assert every(last.losses[edge] < first.losses[edge] for edge in last.losses if edge.startswith("labels"))


def test_ranks_are_refused():
    graph = fleet(DEVICES, every=2)
    networks = {node: network(seed, norm=False) for seed, node in enumerate(DEVICES)}
    with pytest.raises(UsageError, match="one process"):
        check(graph, networks, dealt(), settings(), World(torch.device("cpu"), 0, 2))


def test_who_hears_nobody_sends_nothing():
    job = taken(fleet(DEVICES, peer=0.0), 3)
    told = job.graph.controllers["fleet"].facts(job)
    assert {costs["bytes"] for costs in told.values()} == {0}
    assert min(costs["computing_joules"] for costs in told.values()) > 0


def test_a_run_that_goes_on_after_any_step_ends_with_the_same_bits():
    def fresh() -> Run:
        return started(fleet(DEVICES, "t", every=3, drop=0.5), epochs=2)

    whole = fresh()
    states = [saved(whole), *(saved(whole) for _ in steps_of(whole))]
    for after in range(1, whole.steps):
        again = fresh()
        restore(again, {"frozen": again.frozen, "best": {}, "step": after, "scores": {}}, states[after])
        for _ in steps_of(again):
            pass
        assert {file: fingerprint(x) for file, x in saved(again).items()} == {
            file: fingerprint(x) for file, x in states[whole.steps].items()}, after
        controllers = [job.graph.controllers["fleet"].facts(job) for job in (whole, again)]
        assert controllers[0] == controllers[1]
