"""Scores of boxes against torchmetrics called by hand, against loops, and by hand."""

import math
import time

import pytest
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from box_toys import as_lists, made_split
from tutelage.errors import ModelError
from tutelage.tasks.detection import metrics
from tutelage.tasks.detection.metrics import (
    agreement_of_boxes,
    box_scores,
    image_map,
    matched,
    recall_at,
    sure_boxes,
)

K = 4
NONE = [0.0, 0, 0, 0, 0, -1]


def by_torchmetrics(detections: Tensor, truth: Tensor, **options: object) -> dict[str, Tensor]:
    metric = MeanAveragePrecision(backend="faster_coco_eval", **options)
    metric.update(*as_lists(detections, truth))
    return metric.compute()


def test_scores_are_those_of_torchmetrics_called_by_hand():
    detections, truth = made_split(25, K)
    found, wanted = box_scores(detections, truth, K), by_torchmetrics(detections, truth, class_metrics=True)
    for key, theirs in {"map": "map", "map50": "map_50", "map75": "map_75", "map_small": "map_small",
                        "map_medium": "map_medium", "map_large": "map_large"}.items():
        assert found[key] == pytest.approx(wanted[theirs].item(), abs=1e-6)
    assert wanted["classes"].tolist() == list(range(K))
    assert found["per_class"]["map"] == pytest.approx(wanted["map_per_class"].tolist(), abs=1e-6)
    each = by_torchmetrics(detections, truth, class_metrics=True, iou_thresholds=[0.5])["map_per_class"]
    assert found["per_class"]["map50"] == pytest.approx(each.tolist(), abs=1e-6)
    assert len(found["curves"]) == K
    for curve, average in zip(found["curves"], found["per_class"]["map50"], strict=True):
        assert len(curve) == 101
        assert curve == sorted(curve, reverse=True)
        assert sum(curve) / 101 == pytest.approx(average, abs=1e-4)


def test_a_class_with_as_many_objects_as_recalls_are_read_has_the_score_of_torchmetrics():
    detections, truth = made_split(20, 1, seed=6, most=5)
    full = made_split(20, 1, seed=7, most=5)[1]
    truth = torch.where(truth[..., 4:] >= 0, truth, torch.cat([full[..., :4], torch.zeros(20, 5, 1)], -1))
    assert int((truth[..., 4] >= 0).sum()) == 100
    found = box_scores(detections, truth, 1)
    assert found["per_class"]["map"] == [pytest.approx(found["map"], abs=1e-6)]
    assert found["per_class"]["map50"] == [pytest.approx(found["map50"], abs=1e-6)]


def test_both_programs_that_are_known_for_it_agree():
    pytest.importorskip("pycocotools", reason="the other one is not installed")
    detections, truth = made_split(25, K, seed=1)
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.update(*as_lists(detections, truth))
    wanted, found = metric.compute(), box_scores(detections, truth, K)
    assert [found["map"], found["map50"], found["map75"]] == pytest.approx(
        [wanted[key].item() for key in ("map", "map_50", "map_75")], abs=1e-6)


def test_average_precision_by_hand():
    """Three objects; right, wrong, right: precision 1 to recall 1/3, then 2/3 to recall 2/3, then 0."""
    truth = torch.tensor([[[0.0, 0, 10, 10, 0], [20, 0, 30, 10, 0], [40, 0, 50, 10, 0]]])
    detections = torch.tensor([[[0.0, 0, 10, 10, 0.9, 0], [0, 50, 10, 60, 0.8, 0], [20, 0, 30, 10, 0.7, 0], NONE]])
    found = box_scores(detections, truth, 2)
    wanted = (34 * 1 + 33 * 2 / 3) / 101  # 0, 0.01 .. 0.33, and 0.34 .. 0.66
    assert found["map"] == found["map50"] == pytest.approx(wanted)
    assert found["per_class"] == {"map": [pytest.approx(wanted), None], "map50": [pytest.approx(wanted), None]}
    assert found["curves"][0] == [1.0] * 34 + [0.6667] * 33 + [0.0] * 34
    assert found["curves"][1] is None
    assert found["map_small"] == pytest.approx(wanted)  # all are of 100 pixels
    assert math.isnan(found["map_medium"])
    assert math.isnan(found["map_large"])
    assert found["recall"] == pytest.approx(2 / 3)  # with one false box in one image
    assert image_map(detections, truth).item() == pytest.approx(wanted)


def test_a_split_in_which_nothing_is_said_has_scores_of_0_and_one_without_objects_none():
    truth = torch.tensor([[[0.0, 0, 10, 10, 1]], [[0.0, 0, 0, 0, -1]]])
    nothing = torch.tensor(NONE).expand(2, 100, 6)
    found = box_scores(nothing, truth, K)
    assert (found["map"], found["map50"], found["recall"]) == (0, 0, 0)
    assert found["per_class"]["map"] == [None, 0, None, None]
    assert found["curves"][1] == [0.0] * 101
    for detections in (nothing, made_split(2, K)[0]):
        found = box_scores(detections, torch.tensor([[[0.0, 0, 0, 0, -1]]]).expand(2, 1, 5), K)
        assert math.isnan(found["map"])
        assert math.isnan(found["recall"])
        assert found["per_class"]["map"] == found["curves"] == [None] * K


def matched_by_loop(detections: Tensor, truth: Tensor, overlap: float) -> list[list[int]]:
    images = []
    for said, true in zip(detections, truth, strict=True):
        taken, own = set(), []
        for box in said.tolist():
            best, at = overlap, -1
            for j, other in enumerate(true.tolist()):
                if box[5] < 0 or other[4] != box[5] or j in taken:
                    continue
                iou = box_iou(torch.tensor([box[:4]]).double(), torch.tensor([other[:4]]).double()).item()
                if iou >= best:
                    best, at = iou, j
            taken |= {at} - {-1}
            own.append(at)
        images.append(own)
    return images


def test_boxes_are_matched_as_by_a_loop():
    detections, truth = (part[:6] for part in made_split(6, 2, seed=2, said=12))
    detections = detections[:, :12]
    found = matched(detections, truth, (0.5, 0.75))
    assert found[0].tolist() == matched_by_loop(detections, truth, 0.5)
    assert found[1].tolist() == matched_by_loop(detections, truth, 0.75)


def test_images_that_are_compared_in_parts_are_those_compared_at_once(monkeypatch):
    detections, truth = made_split(9, K, seed=3)
    whole = matched(detections, truth, (0.5, 0.75))
    monkeypatch.setattr(metrics, "_AT_ONCE", 2 * 100 * truth.shape[1] * 2)
    assert torch.equal(matched(detections, truth, (0.5, 0.75)), whole)


def test_the_score_of_an_image_is_torchmetrics_of_it_alone():
    detections, truth = made_split(12, K, seed=4)
    found = image_map(detections, truth)
    there = (truth[..., 4] >= 0).any(1).nonzero()[:, 0].tolist()
    alone = [by_torchmetrics(detections[i : i + 1], truth[i : i + 1])["map"].item() for i in there]
    assert len(there) > 5
    assert found[there].tolist() == pytest.approx(alone, abs=1e-6)


def test_an_image_without_an_object_is_worst_if_something_is_said_there_for_sure():
    said = torch.tensor([[[0.0, 0, 9, 9, score, 0], NONE] for score in (0.51, 0.49)])
    found = image_map(said, torch.tensor([[[0.0, 0, 0, 0, -1]]]).expand(2, 1, 5))
    assert found[0] == 0
    assert math.isnan(found[1])


def test_recall_is_that_at_the_score_where_false_boxes_are_as_many_as_images():
    """Two images, three objects: the third false box is one too many, and a score goes in or out as a whole."""
    right, wrong = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    truth = torch.tensor([[[*right, 0], [20, 20, 30, 30, 1]], [[*right, 0], [0, 0, 0, 0, -1]]])

    def split(*boxes: tuple[int, list[float], float, int]) -> Tensor:
        images = [[[*corners, score, k] for at, corners, score, k in boxes if at == i] for i in range(2)]
        return torch.tensor([own + [NONE] * (6 - len(own)) for own in images])

    said = split((0, wrong, 0.9, 0), (0, right, 0.8, 0), (1, wrong, 0.7, 0), (1, right, 0.6, 0))
    assert recall_at(said, truth) == pytest.approx(2 / 3)
    third = split((0, wrong, 0.9, 0), (0, right, 0.8, 0), (1, wrong, 0.7, 0), (1, wrong, 0.65, 1), (1, right, 0.6, 0))
    assert recall_at(third, truth) == pytest.approx(1 / 3)
    tied = split((0, wrong, 0.9, 0), (1, wrong, 0.7, 0), (1, right, 0.6, 0), (0, wrong, 0.6, 1))
    assert recall_at(tied, truth) == 0
    assert recall_at(tied, truth, 1.5) == pytest.approx(1 / 3)
    assert recall_at(split((0, right, 0.9, 1)), truth) == 0  # another class


def test_networks_agree_on_the_boxes_that_find_each_other():
    one = torch.tensor([[[0.0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 1], [40, 0, 50, 10, 0.2, 0]]])
    other = torch.tensor([[[0.0, 0, 10, 9, 0.5, 0], [20, 0, 30, 10, 0.4, 0], NONE]])
    assert agreement_of_boxes(one, one) == 1
    assert agreement_of_boxes(one, other) == agreement_of_boxes(other, one) == 2 * 1 / 4
    nothing = torch.tensor([[NONE] * 3])
    assert agreement_of_boxes(nothing, nothing) == 1
    assert agreement_of_boxes(nothing, one) == 0
    assert sure_boxes(one)[0, :, 5].tolist() == [0, 1, -1]


def test_without_the_packages_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None if name == "faster_coco_eval" else object())
    with pytest.raises(ModelError, match=r"faster_coco_eval: pip install 'tutelage\[detection\]'"):
        box_scores(*made_split(2, K), K)


def test_all_scores_take_hardly_longer_than_torchmetrics_alone():
    detections, truth = made_split(150, K, seed=5, said=60)
    by_torchmetrics(detections, truth)
    ratios = []
    for _ in range(3):
        start = time.process_time()
        by_torchmetrics(detections, truth)
        between = time.process_time()
        box_scores(detections, truth, K)
        ratios.append((time.process_time() - between) / (between - start))
    assert min(ratios) < 1.5  # measured: about 1.1; more noise than that is no reason to fail
