import pytest
import torch
from torch import nn

from every import every
from tutelage.errors import ModelError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

LAST_MAP = {
    "timm:resnet18": "layer4", "timm:resnet18d": "layer4", "timm:mobilenetv2_100": "conv_head",
    "timm:efficientnet_b0": "conv_head", "torchvision:resnet18": "layer4", "torchvision:mobilenet_v2": "features",
    "torchvision:shufflenet_v2_x1_0": "conv5", "timm:regnety_002": "s4",
}


def last_map(arch, stem, pixels=32):
    network = build(Architecture(arch, stem=stem), class_names=["a", "b"]).eval()
    sizes = []
    network.body.get_submodule(LAST_MAP[arch]).register_forward_hook(
        lambda module, inputs, output: sizes.append(tuple(output.shape[-2:])))
    assert network(torch.rand(1, 3, pixels, pixels)).shape == (1, 2)
    return sizes[-1]


@pytest.mark.parametrize("arch", LAST_MAP)
def test_the_last_map_at_32_px_is_4_x_4(arch):
    assert last_map(arch, "cifar") == (4, 4)


def test_as_it_is_an_imagenet_network_ends_in_a_single_pixel():
    assert last_map("torchvision:mobilenet_v2", "as-is") == (1, 1)


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:resnet18"])
def test_a_resnet_gets_the_usual_cifar_stem(arch):
    body = build(Architecture(arch, stem="cifar"), class_names=["a", "b"]).body
    assert (body.conv1.kernel_size, body.conv1.stride, body.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(body.maxpool, nn.Identity)
    assert body.layer2[0].conv1.stride == (2, 2)


def test_fitting_leaves_training_mode_and_statistics_alone():
    body = build(Architecture("timm:resnet18", stem="cifar"), class_names=["a", "b"]).body
    assert every(module.training for module in body.modules())
    assert int(body.bn1.num_batches_tracked) == 0
    assert torch.equal(body.bn1.running_mean, torch.zeros(64))
    assert every(not module._forward_hooks for module in body.modules())


def test_a_fitted_network_takes_grey_pictures_of_16_px():
    network = build(Architecture("timm:mobilenetv3_small_050", stem="cifar"), class_names=["a", "b"], channels=1)
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 2)


@pytest.mark.parametrize("arch", ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "torchvision:alexnet"])
def test_a_family_that_cannot_be_fitted_is_refused_with_those_that_can(arch):
    with pytest.raises(ModelError, match="no CIFAR stem") as caught:
        build(Architecture(arch, stem="cifar"), class_names=["a", "b"])
    assert caught.value.where == arch
    assert "resnet" in caught.value.expected
    assert "mobilenetv2" in caught.value.expected
    assert caught.value.found
    assert 'stem = "as-is"' in caught.value.fix


def test_a_cifar_network_needs_no_cifar_stem():
    with pytest.raises(ModelError, match="only ImageNet networks"):
        build(Architecture("resnet20", stem="cifar"), class_names=["a", "b"])
