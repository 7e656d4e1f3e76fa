"""Networks that fuse: any size, outputs in [0, 1], how many weights; and fused files as a network."""

import pytest
import torch
from torch import nn

from tutelage.errors import ModelError, UsageError
from tutelage.graph.taps import call, read
from tutelage.models.architecture import Architecture
from tutelage.models.build import build


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 17)])
def test_an_image_of_any_size_in_the_unit_range(size):
    network = build(Architecture("fusion_dense", options={"width": 5, "depth": 3}), class_names=["fused"], channels=2)
    images = network(torch.rand(2, 2, *size))
    assert images.shape == (2, 1, *size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_it_begins_near_grey_for_a_sigmoid_that_is_full_hardly_learns():
    images = build(Architecture("fusion_dense"), class_names=["fused"], channels=2)(torch.rand(4, 2, 20, 20))
    assert images.min() > 0.2
    assert images.max() < 0.8


def test_each_layer_sees_all_before_it():
    network = build(Architecture("fusion_dense", options={"width": 3, "depth": 2}), class_names=["fused"], channels=2)
    assert [m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)] == [2, 5, 8]
    taps = read(network, torch.rand(1, 2, 9, 9), ["", "layers.0", "layers.1"])
    assert taps["layers.1"].shape == (1, 3, 9, 9)
    whole = build(Architecture("fusion_dense"), class_names=["fused"], channels=2)
    assert sum(p.numel() for p in whole.parameters()) == 15107


def test_a_network_of_no_width_is_refused():
    with pytest.raises(UsageError, match="cannot be"):
        build(Architecture("fusion_dense", options={"depth": 0}), class_names=["fused"], channels=2)


def test_fused_files_are_given_as_they_are_and_other_networks_do_not_see_them():
    view = {"images": torch.rand(2, 2, 12, 12), "fused": torch.rand(2, 1, 12, 12)}
    files = build(Architecture("fused_files"), class_names=["fused"], channels=2)
    assert torch.equal(call(files, view), view["fused"])
    dense = build(Architecture("fusion_dense"), class_names=["fused"], channels=2)
    assert torch.equal(call(dense, view), dense(view["images"]))
    with pytest.raises(ModelError, match="no fused images"):
        files(view["images"])
