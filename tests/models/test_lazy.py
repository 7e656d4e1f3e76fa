"""Layers without a size get one before anything counts, copies or learns their weights; tied weights stay one."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import toys
from every import every
from tutelage import Edge, Ema, Graph, Trained, load, train
from tutelage.data.images import Preparation
from tutelage.engine.checks import check_networks
from tutelage.engine.loop import check
from tutelage.errors import ModelError
from tutelage.exporting.export import Images, export_network
from tutelage.exporting.module import Choice, Student
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.models.lazy import finish, is_unfinished
from tutelage.system.distributed import World

SGD = partial(torch.optim.SGD, lr=0.1)
GRAPH = Graph({"s": Trained(), "slow": Ema("s", 0.5)}, [Edge("labels", "s", cross_entropy), Edge("slow", "s", kl)])
CPU = World(torch.device("cpu"))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


def test_first_weights_depend_on_seed_and_node_alone():
    found = []
    for order, noise in ((("a", "b"), 1), (("b", "a"), 2)):
        torch.manual_seed(noise)
        models = {node: lazy() for node in order}
        state = torch.get_rng_state()
        finish(models, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert every(network.training and not is_unfinished(network) for network in models.values())
        found.append({node: network[4].weight for node, network in models.items()})
    assert every(torch.equal(found[0][node], found[1][node]) for node in "ab")
    assert not torch.equal(found[0]["a"], found[0]["b"])


def test_a_lazy_layer_that_never_runs_is_refused():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(64, 4), nn.LazyLinear(3)

        def forward(self, images: Tensor) -> Tensor:
            return self.used(images.flatten(1))

    with pytest.raises(ModelError, match=r"lazy layers that do not run[\s\S]*node 's'[\s\S]*idle\.weight"):
        check(GRAPH, {"s": Idle()}, toys.data(), toys.settings(), CPU)


class Tied(nn.Module):
    """An encoder whose two layers have one weight, and a module that stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.second.weight = self.first.weight
        self.again = self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.again(self.second(self.first(images.flatten(1)).relu()).relu())


@pytest.mark.parametrize("make", [lazy, Tied])
def test_it_trains_resumes_and_is_loaded(make, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    run = partial(train, GRAPH, data=toys.data(), epochs=2, optimizer=SGD, batch_size=12, precision="exact")
    list(run({"s": make()}, out=once))
    for _ in run({"s": make()}, out=twice):
        break
    list(run({"s": make()}, out=twice))
    images = torch.rand(3, 1, 8, 8)
    for node in ("s", "slow"):
        networks = [load(out, node, into=make())[0] for out in (once, twice)]
        assert torch.equal(*(network(images) for network in networks))
    tied = load(once, "s", into=make())[0]
    assert make is lazy or tied.first.weight is tied.second.weight


class LargeTied(Tied):
    """Four megabytes under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 4)
        self.third = nn.Linear(1024, 1024)
        self.third.weight, self.again = self.second.weight, self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.again(self.third(self.second(self.first(images.flatten(1)).relu()).relu()))


@pytest.mark.parametrize("make", [lazy, Tied, LargeTied])
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_it_is_exported_each_tensor_counted_once(make, kind, tmp_path: Path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    data, network = toys.data(), make().eval()
    finish({"s": network}, torch.rand(2, 1, 8, 8), 0)
    student = Student(network, data.classes, Preparation(1, 8, 8), "s")
    report = export_network(student, tmp_path / f"s.{kind}", Choice(kind), Images(data.validation, data.train))
    assert report["parameters"] == sum(p.numel() for p in network.parameters())
    assert report["checked"]["relative_difference"] <= 1e-4
    assert report["checked"]["alone_or_together"] <= 1e-4


def test_lazy_and_tied_networks_pass_their_checks():
    for make in (lazy, Tied):
        settings, data = toys.settings(), toys.data()
        checks = check_networks(check(GRAPH, {"s": make()}, data, settings, CPU), data, settings, CPU)
        assert {one.result for one in checks} == {"passed"}
