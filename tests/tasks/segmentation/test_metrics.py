"""Scores of masks against counting by hand, and against torchmetrics."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.segmentation import dice_score, mean_iou

from tutelage.tasks.segmentation.metrics import count_pixels, dice_of, image_dice, iou_of, mask_scores

K = 3


def masks(seed: int, count: int = 5, size: int = 7) -> Tensor:
    return torch.randint(0, K, (count, size, size), generator=torch.Generator().manual_seed(seed))


def with_ignored(labels: Tensor) -> Tensor:
    return labels.where(torch.rand(labels.shape, generator=torch.Generator().manual_seed(9)) > 0.3, -1)


def test_counts_are_those_of_a_loop_over_pixels():
    predicted, labels = masks(0), with_ignored(masks(1))
    expected = torch.zeros(5, K, 3, dtype=torch.int64)
    for b in range(5):
        for said, true in zip(predicted[b].flatten().tolist(), labels[b].flatten().tolist(), strict=True):
            if true >= 0:
                expected[b, said, 1] += 1
                expected[b, true, 2] += 1
                expected[b, true, 0] += int(said == true)
    assert torch.equal(count_pixels(predicted, labels, K), expected)


def test_scores_are_those_of_torchmetrics():
    predicted, labels = masks(0), masks(1)
    counts = count_pixels(predicted, labels, K)
    each = dice_score(predicted, labels, K, include_background=False, average="macro", input_format="index")
    torch.testing.assert_close(image_dice(counts, 1), each.double(), rtol=1e-6, atol=1e-7)
    whole = predicted.reshape(1, -1), labels.reshape(1, -1)  # one image of all pixels
    found = mask_scores(counts, 1)
    assert found["dice"] == pytest.approx(dice_score(*whole, K, include_background=False, average="macro",
                                                     input_format="index").item(), rel=1e-6)
    assert found["iou"] == pytest.approx(mean_iou(*whole, K, input_format="index").item(), rel=1e-6)
    assert found["image_dice"] == pytest.approx(each.mean().item(), rel=1e-6)
    assert found["pixel_accuracy"] == pytest.approx((predicted == labels).double().mean().item(), rel=1e-12)


def test_scores_by_hand_with_pixels_that_do_not_count():
    predicted = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 1]]])
    labels = torch.tensor([[[1, 0, 0, -1]], [[0, 1, 1, -1]]])
    counts = count_pixels(predicted, labels, 2)
    assert dice_of(counts)[:, 1].tolist() == pytest.approx([2 / 3, 1.0])
    assert iou_of(counts)[:, 1].tolist() == pytest.approx([1 / 2, 1.0])
    found = mask_scores(counts, 1)
    assert found == pytest.approx({"dice": 2 * 3 / (4 + 3), "iou": (3 / 4 + 2 / 3) / 2, "image_dice": (2 / 3 + 1) / 2,
                                   "pixel_accuracy": 5 / 6})
    assert mask_scores(counts, 0)["dice"] == pytest.approx((2 * 3 / (4 + 3) + 2 * 2 / (2 + 3)) / 2)


def test_a_class_that_an_image_neither_has_nor_is_said_to_have_is_left_out_there():
    predicted = torch.tensor([[[0, 0]], [[0, 1]], [[0, 2]]])
    labels = torch.tensor([[[0, 0]], [[0, 1]], [[0, 0]]])
    each = image_dice(count_pixels(predicted, labels, K), 1)
    assert math.isnan(each[0])
    assert each[1:].tolist() == [1.0, 0.0]
    found = mask_scores(count_pixels(predicted, labels, K), 1)
    assert found["image_dice"] == 0.5
    assert found["dice"] == 0.5


def test_where_nothing_but_background_is_there_or_said_dice_is_not_defined():
    counts = count_pixels(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64), 2)
    found = mask_scores(counts, 1)
    assert math.isnan(found["dice"])
    assert math.isnan(found["image_dice"])
    assert found["pixel_accuracy"] == 1.0
    assert found["iou"] == 1.0
