"""Image and mask are moved together, by numbers of (seed, draw, id) alone."""

import math

import numpy as np
import pytest
import torch

from every import every
from tutelage.data.augment import Augmentation, crop_and_flip, unit_range
from tutelage.data.mask_augment import LEAST_AREA, labels_of_pairs, lit, moved_pairs
from tutelage.system.random import derive, uniform

IDS = torch.tensor([3, 11, 4, 100])


def pairs(rows: int = 4, height: int = 16, width: int = 24, channels: int = 3) -> torch.Tensor:
    """Images in which every channel shows the class, in steps of 60; some pixels of no class, and black."""
    classes = torch.randint(0, 4, (rows, 1, height // 4, width // 4), generator=torch.Generator().manual_seed(0))
    classes = classes.repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = (60 * (classes + 1)).expand(-1, channels, -1, -1)
    return torch.cat([images, classes], 1).to(torch.uint8)


HOWS = {"none": Augmentation(1), "crop": Augmentation(1, padding=3), "crop-flip": Augmentation(1, 3, flip=True),
        "flip": Augmentation(1, flip=True), "resized": Augmentation(1, flip=True, resized_crop=True)}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_a_pixel_and_its_label_move_together(how):
    for draw in range(5):
        images, labels = moved_pairs(pairs(), IDS, how, draw)
        assert labels.dtype == torch.int64
        assert images.shape[2:] == labels.shape[1:]
        shown = images[:, 0] * 255 / 60 - 1  # the class as the image shows it; outside of the image it is black: -1
        if how.resized_crop:  # where the image is flat, it is exact; at an edge it is a mixture of two neighbours
            around = torch.stack([shown[:, 1:-1, 2:], shown[:, 1:-1, :-2], shown[:, 2:, 1:-1], shown[:, :-2, 1:-1]])
            flat = (around.amax(0) - around.amin(0)) < 1e-3
            assert flat.float().mean() > 0.2
            assert (shown[:, 1:-1, 1:-1] - labels[:, 1:-1, 1:-1])[flat].abs().max() < 1e-2
        else:
            assert (shown - labels).abs().max() < 1e-4
        assert bool((labels >= 0).all()) == (not how.padding)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_a_sample_is_the_same_bits_in_any_batch(how):
    whole, labels = moved_pairs(pairs(), IDS, how, 2)
    for rows in ([0], [2, 1], [3, 3, 0]):
        images, own = moved_pairs(pairs()[rows], IDS[rows], how, 2)
        assert torch.equal(images, whole[rows])
        assert torch.equal(own, labels[rows])


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_without_a_draw_nothing_is_moved(how):
    images, labels = moved_pairs(pairs(), IDS, how, None)
    assert torch.equal(images, pairs()[:, :3].float() / 255)
    assert torch.equal(labels, pairs()[:, 3].long())


def test_crops_and_flips_are_those_of_images_in_the_plain_view():
    how = HOWS["crop-flip"]
    padded = torch.nn.functional.pad(pairs()[:, :3], [3] * 4)
    wanted = unit_range(crop_and_flip(padded, torch.arange(4), IDS, how, draw=7, view=""))
    assert torch.equal(moved_pairs(pairs(), IDS, how, 7)[0], wanted)


def test_labels_outside_of_the_image_and_pixels_of_255_do_not_count():
    mask = torch.tensor([[[0, 255], [7, 254]]], dtype=torch.uint8)
    assert labels_of_pairs(mask).tolist() == [[[0, -1], [7, 254]]]
    blank = torch.full((1, 4, 8, 8), 255, dtype=torch.uint8)
    for how in HOWS.values():
        assert bool((moved_pairs(blank, IDS[:1], how, 0)[1] == -1).all())


def naive_resized(pair: np.ndarray, identity: int, seed: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """The same in loops: a box, then each pixel of the result by bilinear interpolation, or by the nearest pixel."""
    channels, height, width = len(pair) - 1, *pair.shape[1:]
    odds = uniform(derive(seed, "crop", draw, ""), torch.tensor([identity]), 5)[0].tolist()
    area, longer = LEAST_AREA + (1 - LEAST_AREA) * odds[0], math.exp((2 * odds[1] - 1) * math.log(4 / 3))
    tall, wide = min(1, math.sqrt(area / longer)), min(1, math.sqrt(area * longer))
    top, left = odds[2] * (1 - tall), odds[3] * (1 - wide)
    image, mask = np.zeros((channels, height, width)), np.zeros((height, width), int)
    for row in range(height):
        for column in range(width):
            place = width - 1 - column if odds[4] < 0.5 else column
            y, x = (top + tall * (row + 0.5) / height) * height, (left + wide * (place + 0.5) / width) * width
            mask[row, column] = pair[-1, min(int(y), height - 1), min(int(x), width - 1)]
            y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
            up, before = int(y), int(x)
            down, after = min(up + 1, height - 1), min(before + 1, width - 1)
            for channel in range(channels):
                plane = pair[channel] / 255
                upper = plane[up, before] * (1 - (x - before)) + plane[up, after] * (x - before)
                lower = plane[down, before] * (1 - (x - before)) + plane[down, after] * (x - before)
                image[channel, row, column] = upper * (1 - (y - up)) + lower * (y - up)
    return image, mask


@pytest.mark.parametrize("draw", [0, 1, 5])
def test_resized_crops_are_those_of_a_naive_loop(draw):
    images, labels = moved_pairs(pairs(), IDS, HOWS["resized"], draw)
    for row, identity in enumerate(IDS.tolist()):
        image, mask = naive_resized(pairs()[row].numpy(), identity, 1, draw)
        assert np.abs(images[row].numpy() - image).max() < 1e-4
        assert (labels[row].numpy() != mask).mean() < 0.01  # a place right between two pixels may be rounded otherwise


def test_boxes_have_a_quarter_of_the_area_at_least_and_stay_inside():
    height = width = 32
    place = torch.arange(height * width).reshape(1, 1, height, width)
    ids = torch.arange(300)
    coded = torch.cat([(place // width * 8).expand(300, -1, -1, -1), (place % width).expand(300, -1, -1, -1)], 1)
    _, columns = moved_pairs(coded.to(torch.uint8), ids, HOWS["resized"], 0)
    wide = (columns.amax((1, 2)) - columns.amin((1, 2)) + 1) / width
    assert columns.min() >= 0
    assert columns.max() < width
    assert wide.min() > math.sqrt(LEAST_AREA * 3 / 4) - 2 / width
    assert wide.max() >= 1 - 1 / width
    mirrored = columns[:, 0, 0] > columns[:, 0, -1]
    assert 0.4 < mirrored.float().mean() < 0.6


def test_views_have_the_places_of_the_plain_one_and_a_light_of_their_own():
    how = HOWS["resized"]
    images = torch.full((4, 3, 8, 8), 0.5)
    first, other, again = (lit(images, IDS, how, 2, view) for view in ("a", "b", "a"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    light = first[:, 0, 0, 0] / 0.5
    assert every(0.8 <= float(one) <= 1.2 for one in light)
    assert len(set(light.tolist())) == 4
    assert float(lit(torch.ones(4, 3, 8, 8), IDS, how, 2, "a").max()) <= 1
    assert torch.equal(lit(images, IDS, how, None, "a"), images)
    assert torch.equal(lit(images, IDS, HOWS["crop-flip"], 2, "a"), images)
    one = lit(images[[2]], IDS[[2]], how, 2, "b")
    assert torch.equal(one[0], other[2])
