"""Our own U-Net: any size of image, its parts, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from every import every
from tutelage.errors import UsageError
from tutelage.graph.taps import read
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.unet import unet


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 17), (37, 50)])
def test_logits_have_the_size_of_the_image(size):
    network = unet(3, channels=2, width=2).eval()
    assert network(torch.rand(2, 2, *size)).shape == (2, 3, *size)


def test_what_is_added_to_an_image_of_another_size_is_cut_off_again():
    network = unet(3, width=2).eval()
    images = torch.rand(2, 3, 13, 10)
    padded = torch.cat([images, images[:, :, -1:].expand(-1, -1, 3, -1)], 2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 6)], 3)
    assert padded.shape == (2, 3, 16, 16)
    torch.testing.assert_close(network(images), network(padded)[:, :, :13, :10], rtol=0, atol=0)


def test_taps_are_the_levels_of_encoder_and_decoder():
    network = unet(3, width=2, depth=2).eval()
    taps = read(network, torch.rand(1, 3, 16, 24), ["encoder.0", "encoder.2", "decoder.0", "decoder.1", ""])
    assert {name: tuple(value.shape) for name, value in taps.items()} == {
        "encoder.0": (1, 2, 16, 24), "encoder.2": (1, 8, 4, 6), "decoder.0": (1, 4, 8, 12), "decoder.1": (1, 2, 16, 24),
        "": (1, 3, 16, 24)}


def test_width_and_depth_are_options_of_a_recipe():
    network = build(Architecture("unet", options={"width": 4, "depth": 2}), class_names=["background", "polyp"])
    assert len(network.body.encoder) == 3
    assert network.body.encoder[0][0].out_channels == 4
    assert network(torch.rand(2, 3, 12, 12)).shape == (2, 2, 12, 12)
    assert sum(p.numel() for p in build(Architecture("unet"), class_names=["a", "b"]).parameters()) == 488018


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}])
def test_a_network_of_nothing_is_refused(options):
    with pytest.raises(UsageError, match="an option of the network that cannot be"):
        unet(2, **options)


def test_it_learns_to_tell_a_bright_half():
    torch.manual_seed(0)
    network, images = unet(2, channels=1, width=2, depth=2), torch.rand(4, 1, 16, 16)
    images[:, :, :, 8:] += 1
    labels = torch.zeros(4, 16, 16, dtype=torch.int64)
    labels[:, :, 8:] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert every((network.eval()(images).argmax(1) == labels).double().mean((1, 2)) > 0.97)
