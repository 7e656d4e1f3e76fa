"""Augmentation against naive loops, and as a pure function of (seed, draw, view, id)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.stats import beta, chisquare, kstest

from tutelage.data.augment import (
    Augmentation,
    crop_and_flip,
    mix_images,
    mix_labels,
    mixture,
    movements,
    unit_range,
)
from tutelage.data.memory import MemorySource, in_memory

CPU = torch.device("cpu")


def random_images(rows: int = 40, channels: int = 3, side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (rows, channels, side, side), dtype=torch.uint8, generator=generator)


def source(how: Augmentation, rows: int = 40, classes: int = 5, labels: torch.Tensor | None = None) -> MemorySource:
    ids = torch.arange(rows) * 7 + 3
    return in_memory(ids, torch.arange(rows) % classes if labels is None else labels, random_images(rows), classes,
                     how, CPU)


def test_crop_and_flip_are_those_of_pillow():
    images, how = random_images(), Augmentation(seed=5, padding=3, flip=True)
    ids = torch.arange(40) + 100
    padded = torch.nn.functional.pad(images, [3] * 4)
    rows = torch.randperm(40)
    result = crop_and_flip(padded, rows, ids[rows], how, draw=2, view="a")
    tops, lefts, mirrored = movements(ids[rows], how, 2, "a")
    for place, row in enumerate(rows.tolist()):
        image = ImageOps.expand(Image.fromarray(images[row].permute(1, 2, 0).numpy()), 3)
        left, top = int(lefts[place]), int(tops[place])
        image = image.crop((left, top, left + 12, top + 12))
        image = ImageOps.mirror(image) if mirrored[place] else image
        assert np.array_equal(result[place].permute(1, 2, 0).numpy(), np.asarray(image))
    assert mirrored.any()
    assert not mirrored.all()


def test_every_corner_is_as_likely_as_any_other():
    ids = torch.arange(81 * 200)
    top, left, _ = movements(ids, Augmentation(padding=4), 0, "")
    counts = torch.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_half_of_the_images_are_flipped_and_independently_of_the_crop():
    ids, how = torch.arange(40_000), Augmentation(padding=4, flip=True)
    top, left, mirrored = movements(ids, how, 0, "")
    assert abs(mirrored.double().mean() - 0.5) < 0.01
    for other in (top, left, movements(ids, how, 1, "")[2], movements(ids, how, 0, "b")[2]):
        assert abs(torch.corrcoef(torch.stack([mirrored.double(), other.double()]))[0, 1]) < 0.02


@pytest.mark.parametrize("how", [Augmentation(padding=2, flip=True), Augmentation(padding=2, flip=True, mixup=0.4),
                                 Augmentation(padding=2, cutmix=1.0), Augmentation(mixup=0.4, cutmix=1.0)])
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=12), place=st.integers(0, 11))
def test_a_sample_looks_the_same_whatever_batch_it_is_in(how, rows, place):
    row = rows[place % len(rows)]
    split = source(how)
    alone = next(split.batches([torch.tensor([row])], draw=3, views=("", "b")))
    among = next(split.batches([torch.tensor(rows)], draw=3, views=("", "b")))
    for view in ("", "b"):
        assert torch.equal(alone.inputs[view][0], among.inputs[view][place % len(rows)])
    assert torch.equal(alone.labels[0], among.labels[place % len(rows)])
    assert alone.ids[0] == among.ids[place % len(rows)] == row * 7 + 3


def test_seed_draw_and_view_each_give_another_image_and_the_same_again():
    rows = [torch.arange(40)]

    def images(seed: int, draw: int, view: str) -> torch.Tensor:
        how = Augmentation(seed, padding=4, flip=True)
        return next(source(how).batches(rows, draw=draw, views=("", view))).inputs[view]

    first = images(0, 0, "a")
    assert torch.equal(first, images(0, 0, "a"))
    for other in (images(1, 0, "a"), images(0, 1, "a"), images(0, 0, "b")):
        assert not torch.equal(first, other)


def test_no_batch_moves_the_global_generator():
    split = source(Augmentation(padding=2, flip=True, mixup=0.2))
    before = torch.get_rng_state()
    list(split.batches([torch.arange(8)], draw=0))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_shows_the_plain_image_and_the_plain_labels():
    split = source(Augmentation(padding=2, flip=True, mixup=0.2))
    batch = next(split.batches([torch.tensor([5, 2])], draw=None))
    assert torch.equal(batch.inputs, random_images()[[5, 2]].float() / 255)
    assert torch.equal(batch.labels, torch.tensor([0, 2]))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_mixtures_are_those_of_a_loop_over_rows_and_pixels(mixup, cutmix):
    labels = torch.arange(40) % 5
    labels[::4] = -1
    split = source(Augmentation(padding=2, flip=True, mixup=mixup, cutmix=cutmix), labels=labels)
    plain = source(Augmentation(padding=2, flip=True), labels=labels)
    rows = torch.arange(40)
    batch = next(split.batches([rows], draw=1, views=("", "b")))
    mix = mixture(split.ids, split.how, draw=1, rows=40, size=(12, 12))
    for view in ("", "b"):
        own = next(plain.batches([rows], draw=1, views=("", "b"))).inputs[view].numpy()
        for row in range(40):
            partner, share = int(mix.partner[row]), float(mix.share[row])
            top, bottom, left, right = mix.box[row].tolist()
            expected, label = np.empty_like(own[row]), np.zeros(5)
            for down in range(12):
                for across in range(12):
                    inside = top <= down < bottom and left <= across < right
                    weight = share if bottom == top else float(not inside)
                    expected[:, down, across] = (weight * own[row][:, down, across]
                                                 + (1 - weight) * own[partner][:, down, across])
            for number, part in ((labels[row], share), (labels[partner], 1 - share)):
                if number >= 0:
                    label[number] += part
            np.testing.assert_allclose(batch.inputs[view][row].numpy(), expected, atol=1e-6)
            np.testing.assert_allclose(batch.labels[row].numpy(), label, atol=1e-6)


def test_the_share_of_a_cutmix_is_the_area_that_is_left():
    mix = mixture(torch.arange(500), Augmentation(cutmix=1.0), draw=0, rows=500, size=(12, 16))
    images = mix_images(torch.ones(500, 1, 12, 16), torch.zeros(500, 1, 12, 16), mix)
    torch.testing.assert_close(images.mean((1, 2, 3)), mix.share)
    assert (mix.share == 0).sum() < 20
    assert (mix.share < 1).sum() > 400


def test_shares_of_mixup_follow_the_beta_distribution_and_partners_are_uniform():
    mix = mixture(torch.arange(20_000), Augmentation(mixup=0.3), draw=0, rows=50, size=(8, 8))
    assert kstest(mix.share.numpy(), beta(0.3, 0.3).cdf).pvalue > 0.001
    assert chisquare(torch.bincount(mix.partner, minlength=50).numpy()).pvalue > 0.001


def test_with_both_on_each_mixes_half_of_the_rows():
    mix = mixture(torch.arange(20_000), Augmentation(mixup=1.0, cutmix=0.2), draw=0, rows=50, size=(64, 64))
    by_cutmix = mixture(torch.arange(20_000), Augmentation(cutmix=0.2), draw=0, rows=50, size=(64, 64))
    same = (mix.share == by_cutmix.share).double().mean()
    assert abs(same - 0.5) < 0.02


def test_a_row_without_label_whose_partner_has_none_is_a_row_of_zeros():
    none = torch.tensor([-1, -1])
    assert mix_labels(none, none, torch.tensor([0.3, 1.0]), 4).sum() == 0


def test_bytes_become_numbers_between_zero_and_one():
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(unit_range(images), torch.tensor([[[[0, 0.2, 1.0]]]]))
    assert images[0, 0, 0, 2] == 255


def test_partners_and_shares_are_drawn_anew_in_every_draw_and_seed():
    ids = torch.arange(200)
    one = mixture(ids, Augmentation(mixup=0.5), draw=0, rows=200, size=(8, 8))
    for how, draw in ((Augmentation(mixup=0.5), 1), (Augmentation(seed=1, mixup=0.5), 0)):
        other = mixture(ids, how, draw=draw, rows=200, size=(8, 8))
        assert (one.partner == other.partner).sum() < 10
        assert (one.share == other.share).sum() < 10
