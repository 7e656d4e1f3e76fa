"""The judge of boxes, through the engine, and the pictures that it draws."""

import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tutelage as tl
from box_toys import made_split
from every import every
from tutelage.engine.predict import evidence_of, scored
from tutelage.errors import DataError
from tutelage.models.dense_boxes import ABSENT, pack_places
from tutelage.tasks.detection.drawing import COLOURS, Box, draw_on
from tutelage.tasks.detection.judge import SCORES, judge_of_boxes
from tutelage.tasks.detection.metrics import box_scores, image_map
from tutelage.types import Batch

NAMES = ("circle", "square", "star")
SIZE = (160, 160)
JUDGE = judge_of_boxes(NAMES, SIZE)


def packed_of(detections: Tensor) -> Tensor:
    """A detector that says just this, before suppression."""
    corners = detections[..., :4]
    logits = torch.full((*detections.shape[:2], len(NAMES)), ABSENT)
    there = detections[..., 5] >= 0
    scores = torch.where(there, detections[..., 4].clamp(1e-4, 1 - 1e-4).logit(), ABSENT)
    logits.scatter_(-1, detections[..., 5:].long().clamp(min=0), scores[..., None])
    size = (corners[..., 2:] - corners[..., :2]).clamp(min=1e-3)
    whole = pack_places(torch.zeros(1, 4), torch.full((*detections.shape[:2], 4), 0.5), None, logits)
    whole[..., :4] = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, size], -1)
    return whole


class Says(nn.Module):
    """Gives the packed tensors of a split, by the first pixel of its images, which is the number of the image."""

    def __init__(self, packed: Tensor) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, images: Tensor) -> Tensor:
        return self.packed[(images[:, 0, 0, 0] * 255).round().long()]


def source_of(truth: Tensor) -> Any:
    images = torch.zeros(len(truth), 3, *SIZE)
    images[:, 0, 0, 0] = torch.arange(len(truth)) / 255  # by which a detector knows them
    ids = torch.arange(len(truth))

    def batches(parts: Any, *, draw: int | None) -> Any:
        for part in parts:
            yield Batch(images[part], {"boxes": truth[part, :, :4], "classes": truth[part, :, 4].long()}, ids[part])

    return SimpleNamespace(ids=ids, labels=torch.zeros(len(truth), dtype=torch.int64), batches=batches)


def test_scores_are_the_same_however_large_the_batches_are():
    detections, truth = made_split(7, len(NAMES), seed=1)
    graph = tl.Graph({"a": tl.Trained(), "b": tl.Trained()}, [])
    models = {"a": Says(packed_of(detections)), "b": Says(packed_of(detections.flip(0)))}
    found = {size: evidence_of(graph, models, source_of(truth), JUDGE, batch_size=size) for size in (1, 3, 7)}
    for size in (1, 3):
        for node, seen in found[size].items():
            assert every(torch.equal(seen[name], found[7][node][name]) for name in ("detections", "truth"))
    assert set(found[7]["a"]) == {"detections", "truth"}
    whole = scored(JUDGE, found[7])
    seen = found[7]["a"]
    assert torch.equal(seen["truth"], truth)
    assert str(whole["nodes"]["a"]) == str(box_scores(seen["detections"], truth, 3))  # the mAP of no large one is NaN
    assert set(whole["nodes"]["a"]) == {score.key for score in SCORES} | {"per_class", "curves"}
    assert 0 < whole["pairs"]["a|b"]["agreement"] < 1
    assert JUDGE.by_sample is not None
    torch.testing.assert_close(JUDGE.by_sample(seen), image_map(seen["detections"], truth), equal_nan=True)
    epoch = scored(JUDGE, found[7], [score for score in SCORES if score.each_epoch])
    assert list(epoch["nodes"]["b"]) == ["map", "map50", "map75", "recall"]


def test_what_is_no_detector_of_these_classes_is_not_judged():
    labels = {"boxes": torch.zeros(2, 1, 4), "classes": torch.zeros(2, 1, dtype=torch.int64)}
    for said in (torch.zeros(2, 3), torch.zeros(2, 5, 9 + 4), torch.zeros(2, 12, 4, 4)):
        assert JUDGE.measure({"": said}, labels, torch.arange(2)) is None
    assert JUDGE.measure({"": torch.zeros(2, 5, 9 + 3)}, labels, torch.arange(2)) is not None


def test_a_split_without_an_object_is_nothing_to_evaluate_on():
    detections, truth = made_split(3, 3)
    with pytest.raises(DataError, match="nothing to evaluate on"):
        JUDGE.summary({"detections": detections, "truth": torch.full_like(truth, -1)})


def test_a_detector_that_says_what_is_true_has_full_marks():
    truth = torch.tensor([[[10.0, 10, 90, 60, 2], [100, 20, 140, 150, 0]]])
    said = torch.cat([truth[..., :4], torch.full((1, 2, 1), 0.9), truth[..., 4:]], -1)
    labels = {"boxes": truth[..., :4], "classes": truth[..., 4].long()}
    seen = JUDGE.measure({"": packed_of(said)}, labels, torch.arange(1))
    assert seen is not None
    found = JUDGE.summary(seen)
    assert (found["map"], found["map75"], found["recall"]) == pytest.approx((1, 1, 1))
    assert math.isnan(found["map_small"])
    assert found["per_class"]["map"] == [pytest.approx(1), None, pytest.approx(1)]


def test_pictures_show_sure_boxes_in_full_lines_and_true_ones_dashed():
    said = torch.tensor([[[16.0, 16, 80, 80, 0.9, 1], [100, 100, 150, 150, 0.2, 0]]])
    labels = {"boxes": torch.tensor([[[96.0, 16, 150, 64]]]), "classes": torch.tensor([[2]])}
    assert JUDGE.pictures is not None
    (data,) = JUDGE.pictures(torch.full((1, 3, *SIZE), 0.5), labels, {"": packed_of(said)})
    assert len(data) < 200_000
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (160, 160, 3)  # not so small that it is enlarged
    assert every_pixel(picture[79, 40:60], COLOURS[1])
    assert every_pixel(picture[17:40, 16], COLOURS[1])
    dashed = {tuple(pixel) for pixel in picture[16, 96:150].tolist()}
    assert dashed == {COLOURS[2], (255, 255, 255)}
    assert every_pixel(picture[120, 90:160], (128, 128, 128))  # the box that is not sure
    assert (picture[5:15, 17:60] != 128).any()  # its class and score


def every_pixel(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    assert len(pixels)
    return bool((pixels == colour).all())


def test_small_and_large_images_of_any_channels_are_drawn_and_no_class_where_there_is_one():
    judge = judge_of_boxes(("polyp",), (20, 30))
    assert judge.pictures is not None
    for channels, size, wanted in ((1, (20, 30), (180, 120)), (4, (400, 800), (256, 128))):
        labels = {"boxes": torch.zeros(1, 0, 4), "classes": torch.zeros(1, 0, dtype=torch.int64)}
        (data,) = judge.pictures(torch.rand(1, channels, *size), labels, {"": torch.full((1, 1, 10), 2.0)})
        assert Image.open(io.BytesIO(data)).size == wanted


def test_boxes_at_the_rim_with_long_words_stay_within_the_picture():
    picture = draw_on(Image.new("L", (50, 40)), [Box((-5, -5, 70, 60), 9, "a long name of a class 99%"),
                                                 Box((49, 39, 50, 40), 0, "x")], [Box((0, 0, 0, 0), 1)])
    assert picture.size == (50, 40)
    assert picture.mode == "RGB"
