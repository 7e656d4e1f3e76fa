"""Networks of other libraries that give a map of logits: as they are, with heads of the data's classes."""

import sys
from copy import deepcopy
from types import ModuleType

import pytest
import torch
import torchvision
from torch import nn

from every import every
from tutelage.errors import ModelError, SecurityError, UsageError
from tutelage.graph.taps import read
from tutelage.models import cost
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.classifier import classifiers_of
from tutelage.models.dense import torchvision_dense_names
from tutelage.models.saved import load_network, metadata_of
from tutelage.models.sources import find
from tutelage.models.weights import weights_of
from tutelage.system.files import pack

NAMES = ["background", "polyp"]
SMALL = "torchvision:lraspp_mobilenet_v3_large"
AUXILIARY = "torchvision:deeplabv3_mobilenet_v3_large"
"""Comes with a second head, for training alone, where it comes with weights."""


def other(network: nn.Module) -> nn.Module:
    """The same network with other weights."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    return network


@pytest.mark.parametrize("arch", ["unet", SMALL, AUXILIARY, "torchvision:fcn_resnet50"])
def test_a_network_gives_a_map_of_logits_in_training_and_in_evaluation(arch):
    network = build(Architecture(arch), class_names=["a", "b", "c"])
    images = torch.rand(2, 3, 32, 24)
    assert network(images).shape == (2, 3, 32, 24)
    assert network.eval()(images).shape == (2, 3, 32, 24)
    assert not [name for name in weights_of(network) if "aux" in name]


def test_torchvisions_weights_have_torchvisions_names_and_their_numbers_mean_the_same():
    ours = build(Architecture(SMALL, mean=(0.0,), std=(1.0,)), class_names=NAMES).eval()
    theirs = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None,
                                          num_classes=2).eval()
    theirs.load_state_dict(weights_of(ours))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images)["out"])


def test_nothing_is_downloaded_for_a_network_that_starts_untrained(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    assert len(torchvision_dense_names()) >= 6
    for arch in (SMALL, AUXILIARY):
        find(Architecture(arch), 3).make(2)


def test_pretrained_weights_lose_their_auxiliary_head_and_give_a_new_one_their_classes(monkeypatch):
    make = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    made = make(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, *, weights, **options: (
        deepcopy(made) if weights == "DEFAULT" else make(weights=None, **options)))
    network = build(Architecture(AUXILIARY, pretrained=True, head="new"), class_names=NAMES)
    assert network.body.classifier[4].out_channels == 2
    assert torch.equal(network.body.classifier[0].project[0].weight, made.classifier[0].project[0].weight)
    by_name = build(Architecture(AUXILIARY, pretrained=True, classes="by-name"), class_names=["cat", "background"])
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        theirs = made.eval()((images - by_name.mean) / by_name.std)["out"]
        assert torch.equal(by_name.eval()(images), theirs[:, [8, 0]])
    with pytest.raises(ModelError, match="the weights know other classes"):
        build(Architecture(AUXILIARY, pretrained=True), class_names=NAMES)


@pytest.mark.parametrize("arch", ["unet", SMALL])
def test_a_new_head_is_all_that_makes_logits_and_the_rest_keeps_the_weights_of_the_file(arch, tmp_path):
    before = other(build(Architecture(arch), class_names=["a", "b", "c"]))
    file = tmp_path / "before.safetensors"
    file.write_bytes(pack(weights_of(before), metadata_of(before, ["a", "b", "c"], "before")))
    fresh = build(Architecture(arch), class_names=NAMES, seed=1)
    after = build(Architecture(arch, weights=str(file), head="new"), class_names=NAMES, seed=1)
    heads = classifiers_of(after.body)
    of_heads = {name for name in weights_of(after) for head in heads if name.startswith(f"{head}.")}
    assert {name for name, tensor in weights_of(after).items() if tensor.shape != weights_of(before)[name].shape
            } <= of_heads
    for name, tensor in weights_of(after).items():
        assert torch.equal(tensor, weights_of(fresh if name in of_heads else before)[name]), name
    with pytest.raises(ModelError, match="the weights know other classes"):
        build(Architecture(arch, weights=str(file)), class_names=NAMES)


@pytest.mark.parametrize("arch", ["unet", SMALL])
def test_a_network_comes_back_from_its_file(arch, tmp_path):
    network = other(build(Architecture(arch, options={"width": 4} if arch == "unet" else {}), class_names=NAMES)).eval()
    file = tmp_path / "network.safetensors"
    file.write_bytes(pack(weights_of(network), metadata_of(network, NAMES, "student")))
    again, names = load_network(file)
    assert names == tuple(NAMES)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network(images))


def test_weights_of_more_classes_are_cut_to_those_of_the_data(tmp_path):
    before = build(Architecture("unet", options={"width": 2}), class_names=["a", "b", "c"]).eval()
    file = tmp_path / "before.safetensors"
    file.write_bytes(pack(weights_of(before), metadata_of(before, ["a", "b", "c"], "before")))
    cut = build(Architecture("unet", weights=str(file), classes="by-name", options={"width": 2}),
                class_names=["c", "a"]).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(cut(images), before(images)[:, [2, 0]])


def test_what_a_dense_network_costs_is_counted():
    network = build(Architecture("unet", options={"width": 2, "depth": 1}), class_names=NAMES)
    # Convolutions of 9 at full size (3 -> 2, 2 -> 2), at half (2 -> 4, 4 -> 4), at full (6 -> 2, 2 -> 2), and of 1.
    places = 8 * 8 * (9 * (3 * 2 + 2 * 2 + 6 * 2 + 2 * 2) + 2 * 2) + 4 * 4 * 9 * (2 * 4 + 4 * 4)
    assert cost.flops(network, (3, 8, 8), torch.device("cpu")) == 2 * places


def test_layers_of_a_dense_network_can_be_tapped_and_frozen():
    network = build(Architecture(SMALL, freeze="backbone"), class_names=NAMES)
    taps = read(network, torch.rand(2, 3, 64, 64), ["backbone", "classifier.cbr", ""][1:])
    assert taps["classifier.cbr"].shape == (2, 128, 4, 4)
    assert every(not p.requires_grad for p in network.body.backbone.parameters())


def test_auxiliary_heads_are_not_an_option():
    with pytest.raises(UsageError, match="the network does not take these options"):
        build(Architecture(AUXILIARY, options={"aux_loss": True}), class_names=NAMES)


def test_a_misspelt_network_is_told_the_right_one():
    with pytest.raises(UsageError) as caught:
        build(Architecture("torchvision:lraspp_mobilenet_v3"), class_names=NAMES)
    assert "lraspp_mobilenet_v3_large" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        build(Architecture("unett"), class_names=NAMES)
    assert "unet" in str(caught.value)
    with pytest.raises(SecurityError) as caught:
        build(Architecture("spm:Unet:resnet34"), class_names=NAMES)
    assert "'smp:Unet:resnet34'" in str(caught.value)


# --- segmentation_models_pytorch -------------------------------------------------------------------------------


class Unet(nn.Module):
    """Stands in for the library's: an encoder, a decoder, a head."""

    def __init__(self, encoder_name: str, encoder_weights: str | None, in_channels: int, classes: int,
                 decoder_channels: int = 4) -> None:
        super().__init__()
        assert encoder_weights is None, "nothing is downloaded"
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(4, decoder_channels, 3, padding=1), nn.Linear(8, 8))
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels, classes, 3, padding=1), nn.Identity())

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


@pytest.fixture
def library(monkeypatch) -> None:
    stand_in, encoders = ModuleType("segmentation_models_pytorch"), ModuleType("encoders")
    encoders.get_encoder_names = lambda: ["resnet34", "mobilenet_v2"]
    stand_in.encoders, stand_in.MODEL_ARCHITECTURES_MAPPING = encoders, {"unet": Unet}
    stand_in.create_model = lambda arch, **options: {"unet": Unet}[arch.lower()](**options)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", stand_in)


def test_a_network_of_the_library_gives_logits_and_its_head_is_known(library):
    network = build(Architecture("smp:Unet:mobilenet_v2", options={"decoder_channels": 6}), class_names=NAMES,
                    channels=1)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 2, 8, 8)
    assert classifiers_of(network.body) == ("segmentation_head",)


@pytest.mark.parametrize(("arch", "said"), [("smp:Unett:resnet34", "'Unet'"), ("smp:Unet:resnet33", "'resnet34'"),
                                            ("smp:Unet", "smp:NETWORK:ENCODER")])
def test_words_that_name_nothing_in_the_library_are_refused(library, arch, said):
    with pytest.raises(UsageError) as caught:
        build(Architecture(arch), class_names=NAMES)
    assert said in str(caught.value)


@pytest.mark.parametrize("option", ["classes", "activation", "encoder_weights"])
def test_what_a_recipe_says_elsewhere_is_no_option_of_the_library(library, option):
    with pytest.raises(UsageError, match="these options are not the network's own"):
        build(Architecture("smp:Unet:resnet34", options={option: 3}), class_names=NAMES)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelError, match=r"pip install 'tutelage\[segmentation\]'"):
        build(Architecture("smp:Unet:resnet34"), class_names=NAMES)
