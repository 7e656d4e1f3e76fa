"""The picture of an image with what it is and what was said of it."""

import io

import numpy as np
import torch
from PIL import Image

from every import every
from tutelage.tasks.overlays import COLOURS, FILLED, LEAST_SIDE, MOST_SIDE, overlay

GREY = 0.4


def picture(labels: torch.Tensor, predicted: torch.Tensor, channels: int = 3) -> np.ndarray:
    found = Image.open(io.BytesIO(overlay(torch.full((channels, *labels.shape), GREY), labels, predicted)))
    assert found.mode == "RGB"
    return np.asarray(found).astype(float)


def test_what_was_said_is_an_area_and_what_it_is_an_outline_in_the_colour_of_its_class():
    labels, predicted = torch.zeros(2, 200, 240, dtype=torch.int64)
    labels[40:80, 40:80] = 1
    predicted[100:140, 100:140] = 2
    found = picture(labels, predicted)
    assert found.shape == (200, 240, 3), "of its own size"
    base = np.full(3, round(GREY * 255))
    for y in range(200):
        for x in range(240):
            inside = 40 <= y < 80 and 40 <= x < 80
            if inside and (y in (40, 79) or x in (40, 79)):
                expected = np.array(COLOURS[0])
            elif 100 <= y < 140 and 100 <= x < 140:
                expected = (1 - FILLED) * base + FILLED * np.array(COLOURS[1])
            else:
                expected = base
            assert every(np.abs(found[y, x] - expected) <= 1), (y, x)


def test_pixels_that_do_not_count_are_hatched_and_no_outline_is_theirs():
    labels = torch.zeros(200, 200, dtype=torch.int64)
    labels[:50] = -1
    found = picture(labels, torch.zeros_like(labels))
    assert 0.2 < (found[:50] == 128).mean() < 0.8
    assert every(found[50:].ravel() == round(GREY * 255))


def test_small_images_are_enlarged_large_ones_made_smaller_and_grey_ones_coloured():
    small = picture(torch.ones(24, 12, dtype=torch.int64), torch.zeros(24, 12, dtype=torch.int64), channels=1)
    assert small.shape == (LEAST_SIDE, LEAST_SIDE // 2, 3)
    assert every(small.ravel() == round(GREY * 255)), "the rim of an image is no outline"
    large = torch.zeros(1000, 500, dtype=torch.int64)
    assert max(picture(large, large).shape) == MOST_SIDE


def test_classes_beyond_the_colours_begin_again():
    said = torch.full((200, 200), len(COLOURS) + 1)
    first = picture(torch.zeros_like(said), torch.ones_like(said))
    assert (picture(torch.zeros_like(said), said) == first).all()


def test_where_no_class_is_the_background_the_first_is_painted_too():
    zeros = torch.zeros(200, 200, dtype=torch.int64)
    found = Image.open(io.BytesIO(overlay(torch.full((3, 200, 200), GREY), zeros, zeros, first=0)))
    expected = (1 - FILLED) * round(GREY * 255) + FILLED * np.array(COLOURS[0])
    assert every((np.abs(np.asarray(found) - expected) <= 1).ravel())
