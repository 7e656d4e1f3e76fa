"""The CIFAR networks against the counts that CRD's and mdistiller's own code give at 100 classes."""

import pytest
import torch
from torch import nn

from every import every
from tutelage.graph.taps import read
from tutelage.models.sources import cifar_networks

# Counted once from HobbitLong/RepDistiller at b84f547; mobilenetv2 from megvii-research/mdistiller at a08d46f too.
PARAMETERS = {
    "resnet8": 83_892, "resnet14": 181_108, "resnet20": 278_324, "resnet32": 472_756, "resnet56": 861_620,
    "resnet110": 1_736_564, "resnet8x4": 1_233_540, "resnet32x4": 7_433_860,
    "resnet_stages": 278_324,
    "wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_40_1": 569_780, "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028, "vgg13": 9_462_180,
    "mobilenetv2": 812_836, "shufflenetv1": 949_258, "shufflenetv2": 1_355_528,
}
MAPS = {
    "resnet8": {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8), "pool": (64,)},
    "wrn_16_1": {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8), "pool": (64,)},
    "vgg8": {"layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8), "layer4": (512, 4, 4),
             "layer5": (512, 4, 4), "pool": (512,)},
    "mobilenetv2": {"layer1": (8, 16, 16), "layer2": (12, 16, 16), "layer3": (16, 8, 8), "layer4": (32, 4, 4),
                    "layer5": (48, 4, 4), "layer6": (80, 2, 2), "layer7": (160, 2, 2), "last": (1280, 2, 2)},
    "shufflenetv1": {"layer1": (240, 16, 16), "layer2": (480, 8, 8), "layer3": (960, 4, 4), "pool": (960,)},
    "shufflenetv2": {"layer1": (116, 16, 16), "layer2": (232, 8, 8), "layer3": (464, 4, 4), "pool": (1024,)},
}


def test_the_pages_hold_these_networks_and_no_other():
    assert set(cifar_networks()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_trap_32_parameter_count_is_the_published_one(name):
    with torch.device("meta"):
        network = cifar_networks()[name](100)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(("pixels", "channels"), [(32, 3), (16, 1), (8, 1)])
def test_runs_on_colour_and_on_small_grey_pictures(name, pixels, channels):
    with torch.device("meta"):  # shapes without the arithmetic; the tests below run each family in earnest
        network = cifar_networks()[name](7, channels=channels)
        assert network(torch.rand(2, channels, pixels, pixels)).shape == (2, 7)


@pytest.mark.parametrize("name", MAPS)
def test_taps_have_the_documented_sizes(name):
    network = cifar_networks()[name](10).eval()
    taps = read(network, torch.rand(1, 3, 32, 32), list(MAPS[name]))
    assert {tap: tuple(value.shape[1:]) for tap, value in taps.items()} == MAPS[name]


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"])
def test_every_parameter_learns(name):
    network = cifar_networks()[name](5)
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert every(parameter.grad is not None for parameter in network.parameters())


def test_shuffle_deals_channels_out_in_turn():
    from tutelage.models.cifar.shufflenet import _shuffle
    assert _shuffle(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_a_residual_block_adds_its_input():
    from tutelage.models.cifar.resnet import BasicBlock
    block = BasicBlock(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(block(x), x)
