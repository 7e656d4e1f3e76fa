"""Boxes follow their pixels, by numbers of (seed, draw, id) alone."""

import math

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as moves

from every import every
from tutelage.data.augment import Augmentation
from tutelage.data.box_augment import (
    KEPT_SHARE,
    LARGEST,
    LONGEST,
    PADDING,
    SMALLEST,
    UNKNOWN,
    Window,
    boxes_in,
    moved_boxes,
)
from tutelage.data.decoding import GREY

IDS = torch.tensor([3, 11, 4, 100, 57, 21])
HOWS = {"none": Augmentation(1), "crop": Augmentation(1, padding=5), "crop-flip": Augmentation(1, 5, flip=True),
        "flip": Augmentation(1, flip=True), "resized": Augmentation(1, flip=True, resized_crop=True)}
each_how = pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
HEIGHT, WIDTH = 40, 56


def painted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Grey pictures with one image part in the upper left that is dark, and in it a bright rectangle; its box is known.

    Extents, boxes and classes of two objects: the second one is padding.
    """
    images = torch.full((len(IDS), 3, HEIGHT, WIDTH), GREY, dtype=torch.uint8)
    extents = torch.tensor([[40.0, 56], [40, 30], [20, 56], [40, 56], [33, 41], [40, 56]])
    boxes, classes = torch.zeros(len(IDS), 2, 4), torch.full((len(IDS), 2), PADDING)
    for row in range(len(IDS)):
        height, width = extents[row].int().tolist()
        images[row, :, :height, :width] = 0
        left, top, right, lower = 6 + row, 4 + row, 18 + 2 * row, 14 + row
        images[row, :, top:lower, left:right] = 250
        boxes[row, 0], classes[row, 0] = torch.tensor([left, top, right, lower]).float(), row
    return images, boxes, classes, extents


def moved(how: Augmentation, draw: int | None, rows: list[int] | None = None):
    images, boxes, classes, extents = painted()
    rows = rows if rows is not None else [*range(len(IDS))]
    return moved_boxes(images[rows], boxes[rows], classes[rows], extents[rows], IDS[rows], how, draw)


@each_how
def test_a_box_is_around_its_pixels_wherever_they_went(how):
    looked = 0
    for draw in range(6):
        pictures, boxes, classes = moved(how, draw)
        assert pictures.shape == (len(IDS), 3, HEIGHT, WIDTH)
        for picture, box, kind in zip(pictures, boxes[:, 0], classes[:, 0], strict=True):
            bright = picture[0] > 0.62  # half of 250 and nothing of grey: an edge that is blurred counts by its half
            if kind < 0:
                assert not bright.any() or _share(bright) < 0.5
                continue
            looked += 1
            down, across = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
            found = torch.stack([across[0], down[0], across[-1] + 1, down[-1] + 1]).float()
            assert (found - box).abs().max() < (1.6 if how.resized_crop else 1e-4), (draw, found, box)
    assert looked >= 25


def _share(bright: torch.Tensor) -> float:
    return float(bright.sum()) / 150


@each_how
def test_a_sample_is_the_same_bits_in_any_batch(how):
    whole = moved(how, 2)
    for rows in ([0], [2, 1], [3, 3, 0]):
        for part, own in zip(moved(how, 2, rows), whole, strict=True):
            assert torch.equal(part, own[rows])


@each_how
def test_without_a_draw_nothing_is_moved(how):
    images, boxes, classes, _ = painted()
    pictures, found, kinds = moved(how, None)
    assert torch.equal(pictures, images.float() / 255)
    assert torch.equal(found, boxes)
    assert torch.equal(kinds, classes)


@each_how
def test_boxes_stay_within_the_picture_and_what_is_left_comes_first(how):
    ids = torch.arange(400)
    boxes = torch.rand(400, 7, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([40.0, 28, 15, 11])
    boxes[..., 2:] += boxes[..., :2] + 0.3
    classes = torch.randint(-1, 3, (400, 7), generator=torch.Generator().manual_seed(1))
    boxes[classes < 0] = 0
    images = torch.zeros(400, 1, HEIGHT, WIDTH, dtype=torch.uint8)
    extents = torch.tensor([[HEIGHT, WIDTH]]).float().expand(400, 2)
    _, found, kinds = moved_boxes(images, boxes, classes, extents, ids, how, 3)
    there = kinds >= 0
    if how != HOWS["none"]:
        assert bool((there[:, 1:] <= there[:, :-1]).all())
    assert every((found[there] >= 0).all(1))
    assert bool((found[there] <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).all())
    assert bool((found[there][:, 2:] > found[there][:, :2]).all())
    assert bool((found[~there] == 0).all())
    assert int(there.sum()) <= int((classes >= 0).sum())
    assert int(there.sum()) >= 0.6 * int((classes >= 0).sum())


def window(corner: tuple[float, float], size: tuple[float, float], mirrored: bool) -> Window:
    return Window(torch.tensor([corner]), torch.tensor([size]), torch.tensor([mirrored]))


BOXES = torch.tensor([[[6.0, 4, 18, 14], [30, 20, 50, 38], [0, 0, 56, 40], [1, 1, 5, 6]]])
KINDS = torch.tensor([[0, 1, 2, 0]])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("corner", "size"), [((0, 0), (40, 56)), ((5, 7), (20, 29)), ((12, 20), (25, 33)),
                                              ((-4, -8), (50, 70))])
def test_boxes_are_where_another_library_puts_them(corner, size, mirrored):
    wanted = tv_tensors.BoundingBoxes(BOXES[0], format="XYXY", canvas_size=(HEIGHT, WIDTH), clamping_mode=None)
    top, left, height, width = *corner, *size
    wanted = moves.resized_crop(wanted, top, left, height, width, [HEIGHT, WIDTH])
    wanted = moves.horizontal_flip(wanted) if mirrored else wanted
    clipped = moves.clamp_bounding_boxes(wanted, clamping_mode="hard")
    share = ((clipped[:, 2:] - clipped[:, :2]).prod(1) / (wanted[:, 2:] - wanted[:, :2]).prod(1))
    thin = (clipped[:, 2:] - clipped[:, :2]).min(1).values < 1
    kept = (share >= KEPT_SHARE) & ~thin
    found, kinds = boxes_in(window(corner, size, mirrored), BOXES, KINDS, (HEIGHT, WIDTH))
    count = int(kept.sum())
    assert kinds[0].tolist() == [*KINDS[0][kept].tolist(), *[PADDING] * (4 - count)]
    assert torch.allclose(found[0, :count], clipped[kept].as_subclass(torch.Tensor), atol=1e-4)


def test_flipping_twice_is_nothing():
    once, kinds = boxes_in(window((0, 0), (40, 56), True), BOXES, KINDS, (HEIGHT, WIDTH))
    assert once[0, 0].tolist() == [38, 4, 50, 14]
    again, kinds = boxes_in(window((0, 0), (40, 56), True), once, kinds, (HEIGHT, WIDTH))
    assert torch.equal(again, BOXES)
    assert torch.equal(kinds, KINDS)


@pytest.mark.parametrize(("left", "kept"), [(0, True), (8.9, True), (9.1, False), (12, False), (30, False)])
def test_a_box_is_dropped_where_less_than_a_quarter_is_left(left, kept):
    box = torch.tensor([[[0.0, 10, 12, 20]]])
    found, kinds = boxes_in(window((0, left), (40, 56), False), box, torch.tensor([[2]]), (HEIGHT, WIDTH))
    assert kinds.tolist() == [[2 if kept else PADDING]]
    assert bool((found == 0).all()) != kept


def test_a_thin_box_that_is_seen_whole_stays_and_a_rest_of_less_than_a_pixel_does_not():
    thin = torch.tensor([[[20.0, 10, 20.5, 30], [19.2, 10, 20.5, 30]]])
    _, kinds = boxes_in(window((0, 20), (40, 56), False), thin, torch.tensor([[0, 1]]), (HEIGHT, WIDTH))
    assert kinds.tolist() == [[0, PADDING]]


def test_an_image_of_which_nothing_is_known_stays_so():
    images, boxes, classes, extents = painted()
    classes[1] = UNKNOWN
    for how in HOWS.values():
        _, _, kinds = moved_boxes(images, boxes, classes, extents, IDS, how, 0)
        assert kinds[1].tolist() == [UNKNOWN, UNKNOWN]
        assert UNKNOWN not in kinds[[0, 2, 3, 4, 5]].tolist()


def test_resized_windows_are_of_the_sizes_stated_and_lie_on_the_image():
    ids = torch.arange(300)
    extents = torch.tensor([[24.0, WIDTH]]).expand(300, 2)
    images = torch.full((300, 1, HEIGHT, WIDTH), GREY, dtype=torch.uint8)
    images[:, :, :24] = 255
    box = torch.tensor([[0.0, 0, WIDTH, 24]]).expand(300, 1, 4)
    pictures, found, _ = moved_boxes(images, box, torch.zeros(300, 1, dtype=torch.int64), extents, ids,
                                     HOWS["resized"], 0)
    shown = (pictures > 0.7).float().sum((1, 2, 3))
    assert shown.min() > 0.3 * HEIGHT * WIDTH  # never mostly grey, though two fifths of the picture are
    tall, wide = found[:, 0, 3] - found[:, 0, 1], found[:, 0, 2] - found[:, 0, 0]
    assert tall.min() >= 24 / LARGEST / math.sqrt(LONGEST) - 1e-3
    assert wide.max() <= WIDTH
    cut = tall < HEIGHT
    assert tall[cut].max() <= 24 / SMALLEST * math.sqrt(LONGEST) + 1e-3


def test_draws_and_seeds_differ():
    how = HOWS["resized"]
    first = moved(how, 0)[1]
    assert not torch.equal(first, moved(how, 1)[1])
    assert not torch.equal(first, moved(Augmentation(2, flip=True, resized_crop=True), 0)[1])
    assert torch.equal(first, moved(how, 0)[1])
