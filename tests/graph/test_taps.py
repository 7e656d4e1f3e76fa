from contextlib import nullcontext

import pytest
import timm
import torch
import torchvision
from torch import nn

from every import every
from tutelage.errors import ModelError
from tutelage.graph.taps import Tapped, call, read
from tutelage.models.architecture import Architecture
from tutelage.models.build import build


class HandMade(nn.Module):
    """x -> 2 x -> 2 x + 1, with a part that never runs and one that gives a tuple."""

    def __init__(self, fails=False, mapping=False):
        super().__init__()
        self.twice = nn.Linear(2, 2, bias=False)
        self.twice.weight = nn.Parameter(2 * torch.eye(2))
        self.pair = Pair()
        self.idle = nn.Identity()
        self.fails, self.mapping = fails, mapping

    def forward(self, x):
        if self.fails:
            raise RuntimeError("on purpose")
        y = self.pair(self.twice(x))[0] + 1
        return {"logits": y, "early": x, "twice": -y, "count": 3} if self.mapping else y


class Pair(nn.Module):
    def forward(self, x):
        return x, x


X = torch.tensor([[1.0, -2.0]])


def test_a_tap_is_the_output_of_the_sub_module():
    taps = read(HandMade(), X, ["", "twice"])
    assert taps[""].tolist() == [[3.0, -3.0]]
    assert taps["twice"].tolist() == [[2.0, -4.0]]


def test_gradient_flows_through_a_tap():
    network = HandMade()
    read(network, X, ["twice"])["twice"].sum().backward()
    assert network.twice.weight.grad.tolist() == [[1.0, -2.0], [1.0, -2.0]]


def test_a_key_of_the_mapping_comes_before_a_sub_module():
    taps = read(HandMade(mapping=True), X, ["", "logits", "early", "twice"])
    assert taps[""].tolist() == taps["logits"].tolist() == [[3.0, -3.0]]
    assert taps["early"].tolist() == X.tolist()
    assert taps["twice"].tolist() == [[-3.0, 3.0]]


def test_one_pass_serves_all_taps():
    network, passes = HandMade(), []
    network.register_forward_hook(lambda *_: passes.append(1))
    read(network, X, ["", "twice", ""])
    assert passes == [1]


def test_hooks_are_gone_afterwards_also_after_an_error():
    for network in (HandMade(), HandMade(fails=True)):
        with pytest.raises(RuntimeError, match="on purpose") if network.fails else nullcontext():
            read(network, X, ["twice"])
        assert every(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("tap", "text"), [
    ("twce", "unknown tap 'twce'"), ("pair", "does not give a tensor"), ("idle", "did not run"),
    ("body.twice", "unknown tap")])
def test_a_tap_that_cannot_be_read_is_named(tap, text):
    network = HandMade()
    with pytest.raises(ModelError, match=text):
        read(network, X, ["", tap])
    assert every(not module._forward_hooks for module in network.modules())


def test_an_unknown_tap_brings_the_one_that_was_meant():
    with pytest.raises(ModelError) as caught:
        read(HandMade(), X, ["twce"])
    assert caught.value.fix == "did you mean 'twice'?"


def test_an_entry_of_the_mapping_that_is_no_tensor_is_refused():
    with pytest.raises(ModelError, match="tap 'count' does not give a tensor"):
        read(HandMade(mapping=True), X, ["count"])


@pytest.mark.parametrize("training", [True, False])
def test_a_tap_that_the_next_layer_overwrites_is_refused(training):
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)).train(training)
    with pytest.raises(ModelError, match="tap '0' is overwritten") as caught, torch.set_grad_enabled(training):
        read(network, X, ["0"])
    assert "next layer" in caught.value.fix
    assert read(network, X, ["1"])["1"].min() >= 0


def test_inference_mode_can_read_taps_too():
    with torch.inference_mode():
        assert read(HandMade(), X, ["twice"])["twice"].tolist() == [[2.0, -4.0]]


def test_torchvision_s_resnet_by_its_own_names():
    network = torchvision.models.resnet18(num_classes=4).eval()
    images = torch.rand(2, 3, 32, 32)
    taps = read(network, images, ["", "layer3", "avgpool"])
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "": (2, 4), "layer3": (2, 256, 2, 2), "avgpool": (2, 512, 1, 1)}
    assert torch.equal(network.fc(taps["avgpool"].flatten(1)), network(images))
    with pytest.raises(ModelError, match="tap 'bn1' is overwritten"):
        read(network, images, ["bn1"])


def test_timm_s_mobilenet_by_its_own_names():
    network = timm.create_model("mobilenetv2_100", num_classes=4).eval()
    taps = read(network, torch.rand(2, 3, 32, 32), ["", "blocks.2", "conv_head"])
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "": (2, 4), "blocks.2": (2, 32, 4, 4), "conv_head": (2, 1280, 1, 1)}


def test_a_network_s_taps_are_its_body_s_names():
    network = build(Architecture("resnet8"), class_names=["a", "b"]).eval()
    images = torch.rand(2, 3, 16, 16)
    taps = read(network, images, ["", "layer2"])
    assert torch.equal(taps[""], network(images))
    assert taps["layer2"].shape == (2, 32, 8, 8)
    assert every(torch.equal(value, taps[tap]) for tap, value in Tapped(network)(images, ["", "layer2"]).items())


def test_logits_of_a_cut_network_are_cut_in_the_tap_too():
    network = build(Architecture("timm:resnet18", classes="by-name"), class_names=["hen", "tench"]).eval()
    taps = read(network, torch.rand(1, 3, 32, 32), ["", "fc"])
    assert taps["fc"].shape == (1, 1000)
    assert torch.equal(taps[""], taps["fc"][:, [8, 0]])


class Adding(nn.Module):
    """A network of two arguments."""

    def __init__(self):
        super().__init__()
        self.sum = nn.Identity()

    def forward(self, first, second=None):
        return 3 * self.sum(first if second is None else first + second)


def test_a_view_of_several_tensors_is_given_by_name():
    view = {"second": X, "first": 2 * X}
    assert torch.equal(call(Adding(), view), 9 * X)
    assert torch.equal(call(Adding(), X), 3 * X)
    for network in (Adding(), Tapped(Adding())):
        found = network(view, ["", "sum"]) if isinstance(network, Tapped) else read(network, view, ["", "sum"])
        assert torch.equal(found[""], 9 * X)
        assert torch.equal(found["sum"], 3 * X)
    assert torch.equal(read(Adding(), view, [""])[""], 9 * X)
