import sys
import types

import pytest
import torch
import torchvision
from torch import nn

from every import every
from tutelage.errors import ModelError, SecurityError, UsageError
from tutelage.graph.taps import logits_of
from tutelage.models import download
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.network import Network, preprocessing_of, weights_of

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def plugin():
    """An importable module `lab.nets` with a network, a thing that is none, and a name from elsewhere."""
    module = types.ModuleType("lab_nets")

    def tiny(num_classes, channels=3, width=2):
        return nn.Sequential(nn.Conv2d(channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(width, num_classes))

    def nothing(num_classes):
        return num_classes
    for function in (tiny, nothing):
        function.__module__ = "lab_nets"
        vars(module)[function.__name__] = function
    vars(module)["system"] = __import__("os").system
    sys.modules["lab_nets"] = module
    yield "lab_nets"
    del sys.modules["lab_nets"]


def test_images_are_normalised_before_the_body_sees_them():
    network = build(Architecture("resnet8", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)), class_names=NAMES).eval()
    image = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(image[:, 0] - 0.1) / 0.5, (image[:, 1] - 0.2) / 0.25, (image[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(network(image), network.body(by_hand))


@pytest.mark.parametrize(("arch", "channels", "mean", "std"), [
    ("resnet8", 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ("resnet8", 1, (0.5,), (0.5,)),
    ("timm:resnet18", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("timm:resnet18", 1, (0.449,), (0.226,)),
    ("timm:vit_tiny_patch16_224", 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("torchvision:resnet18", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])
def test_the_normalisation_is_the_network_s_own(arch, channels, mean, std):
    told = preprocessing_of(build(Architecture(arch), class_names=NAMES, channels=channels))
    assert told == {"mean": pytest.approx(mean), "std": pytest.approx(std), "channels": channels}


def test_grey_images_are_repeated_for_torchvision():
    network = build(Architecture("torchvision:resnet18"), class_names=NAMES, channels=1).eval()
    grey = torch.rand(1, 1, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (grey.expand(1, 3, 32, 32) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(network(grey), network.body(colour))


def test_images_with_other_channels_are_refused():
    network = build(Architecture("torchvision:resnet18"), class_names=NAMES)
    with pytest.raises(ModelError, match="another number of channels") as caught:
        network(torch.rand(1, 1, 32, 32))
    assert caught.value.found == "1 channels"


def test_normalisation_is_not_saved_and_names_are_the_plain_network_s():
    network = build(Architecture("torchvision:resnet18"), class_names=NAMES)
    assert set(network.state_dict()) == {f"body.{name}" for name in weights_of(network)}
    assert set(weights_of(network)) == set(torchvision.models.resnet18().state_dict())
    assert set(weights_of(nn.Linear(2, 2))) == {"weight", "bias"}


def test_first_weights_depend_on_seed_and_name_alone():
    alone = weights_of(build(Architecture("resnet8"), class_names=NAMES, name="a", seed=3))
    torch.rand(5)
    build(Architecture("wrn_16_1"), class_names=NAMES, name="b", seed=3)
    beside = weights_of(build(Architecture("resnet8"), class_names=NAMES, name="a", seed=3))
    assert every(torch.equal(alone[key], beside[key]) for key in alone)
    for other in ({"name": "b", "seed": 3}, {"name": "a", "seed": 4}):
        assert not torch.equal(alone["fc.weight"],
                               weights_of(build(Architecture("resnet8"), class_names=NAMES, **other))["fc.weight"])


@pytest.mark.parametrize("spec", [Architecture("resnet8"), Architecture("timm:resnet18", stem="cifar"),
                                  Architecture("torchvision:resnet18")])
def test_global_random_numbers_stay_as_they_were(spec):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(spec, class_names=NAMES)
    assert torch.equal(torch.get_rng_state(), before)


def test_options_reach_the_network_s_function():
    assert build(Architecture("timm:resnet18", options={"drop_rate": 0.4}), class_names=NAMES).body.drop_rate == 0.4


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "num_classes", "features_only"])
def test_options_that_are_not_the_network_s_own_are_refused(option):
    with pytest.raises(UsageError, match="not the network's own") as caught:
        build(Architecture("timm:resnet18", options={option: "x"}), class_names=NAMES)
    assert caught.value.fix


def test_an_option_that_the_network_does_not_take_is_named():
    with pytest.raises(UsageError, match="does not take these options") as caught:
        build(Architecture("resnet8", options={"dorp": 1}), class_names=NAMES)
    assert "dorp" in str(caught.value)


@pytest.mark.parametrize(("arch", "meant"), [
    ("resnt20", "resnet20"), ("timm:resnt18", "resnet18"), ("torchvision:resnet19", "resnet18"),
    ("mobilenetv3_small_100", "timm:mobilenetv3_small_100"), ("timm:resnet18.a1_in2k", "a1_in1k"),
])
def test_an_unknown_name_brings_the_one_that_was_meant(arch, meant):
    with pytest.raises(UsageError, match="unknown") as caught:
        build(Architecture(arch), class_names=NAMES)
    assert f"did you mean '{meant}'" in caught.value.fix


@pytest.mark.parametrize("arch", ["torchhub:evil", "hub:evil", "timm:hf-hub:someone/net", "nets/mine.py", "evil.py",
                                  "timm:local-dir:/tmp/x", "os:system", "timmm:resnet18", "https://x.y/z"])
def test_code_from_elsewhere_is_refused_with_exit_code_9(arch):
    with pytest.raises(SecurityError) as caught:
        build(Architecture(arch), class_names=NAMES)
    assert caught.value.exit_code == 9
    assert caught.value.expected
    assert caught.value.fix


def test_a_mistyped_prefix_names_both_ways_out():
    with pytest.raises(SecurityError) as caught:
        build(Architecture("timmm:resnet18"), class_names=NAMES)
    assert "--plugin timmm" in caught.value.fix
    assert "timm:resnet18" in caught.value.fix


def test_a_plugin_is_run_only_where_it_is_allowed(plugin):
    spec = Architecture(f"{plugin}:tiny", options={"width": 5})
    with pytest.raises(SecurityError, match="not allowed") as caught:
        build(spec, class_names=NAMES)
    assert f"--plugin {plugin}" in caught.value.fix
    network = build(spec, class_names=NAMES, channels=1, plugins=[plugin])
    assert preprocessing_of(network) == {"mean": [0.0], "std": [1.0], "channels": 1}
    assert network(torch.rand(2, 1, 6, 6)).shape == (2, 3)
    assert network.body[0].out_channels == 5


@pytest.mark.parametrize(("arch", "error", "text"), [
    ("lab_nets:tony", UsageError, "did you mean 'tiny'"), ("lab_nets:system", UsageError, "unknown network 'system'"),
    ("lab_nets:nothing", ModelError, "does not make a network"), ("lab_missing:net", UsageError, "cannot import")])
def test_a_plugin_that_is_wrong_says_how(plugin, arch, error, text):
    with pytest.raises(error, match=text):
        build(Architecture(arch), class_names=NAMES, plugins=["lab_nets", "lab_missing"])


def test_a_mapping_keeps_its_other_entries_when_its_logits_are_cut():
    class Body(nn.Module):
        def forward(self, x):
            return {"logits": x.flatten(1), "feature": x}
    network = Network(Body(), Architecture("x"), mean=(0.0,), std=(1.0,), channels=1, body_classes=("a", "b", "c", "d"),
                      columns=(3, 0))
    image = torch.arange(4.0).view(1, 1, 2, 2)
    output = network(image)
    assert output["logits"].tolist() == [[3.0, 0.0]]
    assert torch.equal(output["feature"], image)


@pytest.mark.parametrize("output", [(torch.zeros(1, 2),), {"features": torch.zeros(1)}, None])
def test_an_output_without_logits_is_refused(output):
    with pytest.raises(ModelError, match="does not return logits") as caught:
        logits_of(output)
    assert caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize("fields", [
    {"weights": "a.safetensors", "pretrained": True}, {"head": "old"}, {"stem": "cifr"}, {"std": (0.0,)},
    {"head": "new", "classes": "by-name"}, {"mean": (0.1, 0.2), "std": (1.0,)}, {"options": {"layer": object()}}])
def test_an_architecture_that_contradicts_itself_is_refused(fields):
    with pytest.raises(UsageError):
        Architecture("resnet8", **fields)


def test_mean_needs_one_number_for_each_channel():
    with pytest.raises(UsageError, match="one number for each channel"):
        build(Architecture("resnet8", mean=(0.1, 0.2)), class_names=NAMES)


# -- pretrained ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:resnet18"])
def test_pretrained_weights_with_other_classes_need_a_word_in_the_recipe(arch):
    with pytest.raises(ModelError, match="other classes than the data") as caught:
        build(Architecture(arch, pretrained=True), class_names=NAMES)
    assert "1000 classes" in caught.value.found
    assert 'head = "new"' in caught.value.fix
    assert 'classes = "by-name"' in caught.value.fix


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:resnet18"])
def test_without_a_connection_pretrained_is_one_clear_error(arch, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "_reachable", lambda url: False)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _no_connection)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", _no_connection)
    with pytest.raises(ModelError, match="cannot be had") as caught:
        build(Architecture(arch, pretrained=True, head="new"), class_names=NAMES)
    assert caught.value.where == arch
    assert caught.value.found
    assert "pretrained = false" in caught.value.fix


def test_the_hub_is_not_asked_again_and_again_where_there_is_no_connection(monkeypatch):
    before = download.hub.HF_HUB_OFFLINE
    monkeypatch.setattr(download, "_reachable", lambda url: False)
    with download.downloading("timm:resnet18"):
        assert download.hub.HF_HUB_OFFLINE
    assert before == download.hub.HF_HUB_OFFLINE
    monkeypatch.undo()
    assert not download._reachable("http://127.0.0.1:9")


def test_classes_that_the_weights_do_know_are_not_called_unknown():
    with pytest.raises(ModelError) as caught:
        build(Architecture("timm:resnet18", pretrained=True), class_names=["tench", "hen", "gremlin"])
    assert caught.value.expected == "the data's 3 classes, not in the weights: 'gremlin'"
    assert "(998 in all)" in caught.value.found


def test_a_cifar_network_has_no_pretrained_weights():
    with pytest.raises(UsageError, match="come pretrained"):
        build(Architecture("resnet8", pretrained=True), class_names=NAMES)


def test_pretrained_weights_are_all_loaded_and_a_new_head_is_fresh(monkeypatch):
    offered = torchvision.models.resnet18()
    monkeypatch.setattr("torchvision.models.resnet.ResNet18_Weights.get_state_dict",
                        lambda self, **_: offered.state_dict())
    fresh = weights_of(build(Architecture("torchvision:resnet18"), class_names=NAMES))
    tuned = weights_of(build(Architecture("torchvision:resnet18", pretrained=True, head="new"), class_names=NAMES))
    for name, tensor in tuned.items():
        assert torch.equal(tensor, fresh[name] if name.startswith("fc.") else offered.state_dict()[name])


def test_pretrained_networks_without_a_classifier_have_words_of_their_own():
    for classes in (None, "by-name"):
        with pytest.raises(ModelError, match="come without a classifier"):
            build(Architecture("timm:vit_small_patch14_dinov2", pretrained=True, classes=classes),
                  class_names=["cat", "dog"])


def test_pretrained_weights_are_cut_by_name(monkeypatch):
    offered = torchvision.models.resnet18().eval()
    monkeypatch.setattr("torchvision.models.resnet.ResNet18_Weights.get_state_dict",
                        lambda self, **_: offered.state_dict())
    spec = Architecture("torchvision:resnet18", pretrained=True, classes="by-name", mean=(0.0,), std=(1.0,))
    network = build(spec, class_names=["goldfish", "n01440764"]).eval()
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(image), offered(image)[:, [1, 0]])


def _no_connection(*_args, **_options):
    raise OSError("no route to host")
