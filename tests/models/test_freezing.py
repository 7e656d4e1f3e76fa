"""Parts of a network that do not learn: no gradient, no moving statistics, and it is said."""

from functools import partial

import pytest
import torch
from torch import nn

import toys
from every import every
from tutelage import Edge, Ema, Graph, Trained, train
from tutelage.engine.loop import set_modes, steps_of
from tutelage.errors import ModelError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.freezing import freeze, frozen_notes, frozen_parts, moving_statistics
from tutelage.models.saved import metadata_of
from tutelage.runs.folder import read_json, read_records

CLASSES = ("a", "b")
SGD = partial(torch.optim.SGD, lr=0.1)


def resnet(freeze: str | tuple[str, ...] | None) -> nn.Module:
    return build(Architecture("resnet8", freeze=freeze), class_names=CLASSES)


def learns(network: nn.Module) -> set[str]:
    return {name.split(".")[1] for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_a_prefix_is_a_layer_and_all_that_lies_in_it():
    whole = learns(resnet(None))
    assert learns(resnet("layer1")) == whole - {"layer1"}
    assert learns(resnet(("conv1", "bn1", "layer1"))) == whole - {"conv1", "bn1", "layer1"}


def test_a_prefix_ends_where_a_name_ends():
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    freeze(network, "1")
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["1.weight", "1.bias"]


def test_an_unknown_prefix_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match="did you mean 'layer1'") as caught:
        resnet("layr1")
    assert caught.value.exit_code == 4
    with pytest.raises(ModelError, match="unknown part of the network 'layer'"):
        resnet(("layer1", "layer"))


def test_something_must_be_left_to_learn():
    with pytest.raises(ModelError, match="nothing is left to learn"):
        freeze(nn.Sequential(nn.Linear(2, 2)), "0")


def frozen_toy() -> nn.Sequential:
    network = toys.network(2)
    freeze(network, ["0", "1"])
    return network


def test_frozen_parts_keep_weights_and_statistics_while_the_rest_learns():
    graph = Graph({"s": Trained(), "slow": Ema("s", 0.9)}, [Edge("labels", "s", cross_entropy), Edge("slow", "s", kl)])
    network = frozen_toy()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run = toys.run(graph, {"s": network}, epochs=1)
    list(steps_of(run))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"5.weight", "5.bias"}
    assert every(torch.equal(run.models["slow"].state_dict()[name], before[name]) for name in before
                 if name not in changed)
    held = {p for group in run.optimizers["s"].param_groups for p in group["params"]}
    assert held == set(network[5].parameters())


def test_norms_rest_and_dropout_does_not():
    graph = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)])
    run = toys.run(graph, {"s": frozen_toy()})
    set_modes(run)
    assert [type(m).__name__ for m in run.models["s"] if not m.training] == ["BatchNorm2d"]


def test_without_freeze_the_statistics_move():
    network = toys.network(2)
    for parameter in (*network[0].parameters(), *network[1].parameters()):
        parameter.requires_grad_(False)
    assert moving_statistics(network) == ["1"]
    assert moving_statistics(frozen_toy()) == []
    assert moving_statistics(toys.network(2)) == []


def test_it_is_said_in_the_records(tmp_path):
    graph = Graph({"s": Trained()}, [Edge("labels", "s", cross_entropy)])
    network = frozen_toy()
    list(train(graph, {"s": network}, toys.data(), epochs=1, optimizer=SGD, batch_size=12, out=tmp_path / "run"))
    (note,) = frozen_notes({"s": network})
    assert note.startswith("s: 0, 1 do not learn (")
    assert note in read_records(tmp_path / "run")[0]["notes"]
    assert read_json(tmp_path / "run" / "graph.json")["freeze"] == {"s": ["0", "1"]}


def test_a_file_of_weights_says_what_a_network_is_and_not_what_learned():
    assert "freeze" not in metadata_of(resnet("layer1"), CLASSES, "s")["architecture"]
    assert frozen_parts(resnet(None)) == ()
