"""Our own detector: where its places lie, any size of image, its parts, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from every import every
from tutelage.errors import UsageError
from tutelage.graph.taps import read
from tutelage.models import cost
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.classifier import classifiers_of
from tutelage.models.dense_boxes import boxes_of, grid_places, scores_of, unpack_places
from tutelage.models.fcos import tiny_fcos


def places_by_hand(height: int, width: int, strides: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([[(column + 0.5) * stride, (row + 0.5) * stride, stride, stride] for stride in strides
                         for row in range(height) if row * stride < height
                         for column in range(width) if column * stride < width])


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 70), (64, 24)])
def test_every_cell_that_begins_in_the_image_is_a_place(size):
    network = tiny_fcos(3, channels=2, width=2, depth=1).eval()
    said = network(torch.rand(2, 2, *size))
    places = places_by_hand(*size, (8, 16, 32))
    assert said.shape == (2, len(places), 12)
    assert said.is_contiguous()
    torch.testing.assert_close(unpack_places(said).places, places.expand(2, -1, 4), rtol=0, atol=0)


def test_a_place_sees_what_lies_where_it_says():
    torch.manual_seed(0)
    network = tiny_fcos(1, width=4, depth=1).eval()
    images = torch.rand(1, 3, 64, 128, requires_grad=True)
    parts = unpack_places(network(images))
    for number in (16, 25, 72, 110):  # of stride 8: 8 rows of 16 places
        (seen,) = torch.autograd.grad(parts.logits[0, number, 0], images, retain_graph=True)
        weight = seen[0].abs().sum(0)
        middle = [(weight.sum(side) * (torch.arange(weight.shape[1 - side]) + 0.5)).sum() / weight.sum()
                  for side in (0, 1)]
        # What lies beyond the image moves the middle of what a corner sees inwards.
        torch.testing.assert_close(torch.stack(middle), parts.places[0, number, :2].detach(), rtol=0, atol=20)


def test_what_is_added_to_an_image_of_another_size_is_left_out_again():
    network = tiny_fcos(2, width=2).eval()
    images = torch.rand(2, 3, 40, 64)
    padded = torch.cat([images, images[:, :, -1:].expand(-1, -1, 24, -1)], 2)
    cells = grid_places((64, 64), (8, 16, 32))
    inside = cells[:, 1] - cells[:, 3] / 2 < 40
    torch.testing.assert_close(network(images), network(padded)[:, inside], rtol=0, atol=0)


def test_before_training_every_class_is_rare_and_no_distance_is_below_nothing():
    network = build(Architecture("tiny_fcos"), class_names=["a", "b"]).eval()
    parts = unpack_places(network(torch.rand(2, 3, 64, 64)))
    torch.testing.assert_close(parts.logits.sigmoid(), torch.full((2, 84, 2), 0.01), rtol=0.2, atol=0)
    assert every(parts.distances.flatten() > 0)
    assert float(scores_of(parts).detach().max()) < 0.1


def test_options_of_a_recipe_and_how_many_weights_there_are():
    sizes = {(): 263930, (("width", 8),): 67074, (("width", 8), ("depth", 1)): 36898}
    for options, count in sizes.items():
        network = build(Architecture("tutelage:tiny_fcos", options=dict(options)), class_names=["a", "b"])
        assert cost.parameters(network) == count
    coarse = tiny_fcos(2, width=2, strides=[16, 64])
    assert coarse(torch.rand(2, 3, 128, 128)).shape == (2, 64 + 4, 11)


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}, {"strides": []}, {"strides": [16, 8]},
                                     {"strides": [8, 8]}, {"strides": [8, 12]}, {"strides": [1, 2]}])
def test_a_network_that_cannot_be_is_refused(options):
    with pytest.raises(UsageError, match="an option of the network that cannot be"):
        tiny_fcos(2, **options)


def test_its_layers_can_be_tapped_and_its_classifier_is_known():
    network = build(Architecture("tiny_fcos", options={"width": 2}), class_names=["a", "b"])
    taps = read(network, torch.rand(2, 3, 64, 32), ["neck.outputs.0", "neck.outputs.2", "backbone.stages.3", ""])
    assert {name: tuple(value.shape) for name, value in taps.items()} == {
        "neck.outputs.0": (2, 4, 8, 4), "neck.outputs.2": (2, 4, 2, 1), "backbone.stages.3": (2, 8, 4, 2),
        "": (2, 42, 11)}
    assert classifiers_of(network.body) == ("head.classes",)


def test_numbers_of_16_bits_do_not_move_its_places():
    network = tiny_fcos(2, width=2).eval()
    images = torch.rand(1, 3, 16, 1024)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        said = network(images)
    assert said.dtype == torch.float32
    assert torch.equal(unpack_places(said).places[0], grid_places((16, 1024), (8, 16, 32)))


def test_its_graph_takes_any_number_of_images_and_gives_the_same():
    network = tiny_fcos(2, width=2, depth=1, strides=[4, 8]).eval()
    images = torch.rand(3, 3, 20, 32)
    made = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    with torch.no_grad():
        torch.testing.assert_close(made(images[:2]), network(images[:2]))


def test_what_it_costs_is_counted():
    network = build(Architecture("tiny_fcos", options={"width": 2, "depth": 1, "strides": [2]}), class_names=["a"])
    # One stage 3 -> 2, a lateral 2 -> 4, two towers of two, and 1 class, 4 sides and 1 centre; each at 4 x 4.
    places = 16 * (9 * 3 * 2 + 2 * 4 + 9 * 4 * 4 * 4 + 9 * 4 * (1 + 4 + 1))
    assert cost.flops(network, (3, 8, 8), torch.device("cpu")) == 2 * places


def test_it_learns_where_a_bright_square_is():
    torch.manual_seed(0)
    network = tiny_fcos(1, channels=1, width=8, depth=1, strides=[8])
    images = torch.rand(8, 1, 32, 32) * 0.2
    corners = torch.randint(0, 17, (8, 2))
    for image, (x, y) in zip(images, corners.tolist(), strict=True):
        image[:, y:y + 16, x:x + 16] += 1
    boxes = torch.cat([corners, corners + 16], 1).float()
    places = grid_places((32, 32), (8,))
    inside = ((places[:, :2] > boxes[:, None, :2] + 4) & (places[:, :2] < boxes[:, None, 2:] - 4)).all(-1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        parts = unpack_places(network(images))
        loss = F.binary_cross_entropy_with_logits(parts.logits[..., 0], inside.float())
        wanted = boxes[:, None].expand(-1, 16, 4)[inside]
        loss = loss + (boxes_of(parts.places, parts.distances)[inside] - wanted).abs().mean() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts = unpack_places(network.eval()(images))
    best = parts.logits[..., 0].argmax(1)
    found = boxes_of(parts.places, parts.distances)[torch.arange(8), best]
    assert float((found - boxes).detach().abs().amax(1).median()) < 4, "half a cell"
