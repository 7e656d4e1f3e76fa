"""Regions of images in a file: read, refused, moved with their images, and heard from a teacher of two stages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from every import every
from tutelage import train
from tutelage.data.box_source import BoxSource
from tutelage.data.settings import DataSettings
from tutelage.data.shapes_boxes import write_shapes_boxes
from tutelage.data.source import Data
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.methods.class_aware import class_aware
from tutelage.models.architecture import Architecture
from tutelage.models.detectors import torchvision_detector
from tutelage.models.fcos import tiny_fcos
from tutelage.models.network import Network
from tutelage.tasks.detection.task import DETECTION
from tutelage.tasks.named import data_for

CLASSES = ("disc", "square")


@pytest.fixture
def root(tmp_path) -> Path:
    write_shapes_boxes(tmp_path, CLASSES, {"train": 6, "val": 4, "test": 4})
    held = json.loads((tmp_path / "boxes.json").read_text())
    regions = {name: [row[1:] for row in rows] for name, rows in held["boxes"].items()}
    tell(tmp_path, {f"images/{name}": rows for name, rows in regions.items()})
    return tmp_path


def tell(root: Path, regions: object) -> None:
    (root / "regions.json").write_text(json.dumps({"regions": regions}))


def data(root: Path, **options) -> Data:
    return data_for(DataSettings("folder", root=str(root), task="detection", image_size=64, regions="regions.json",
                                 **options))


def test_regions_that_are_the_boxes_move_as_the_boxes_do(root):
    source = data(root).train
    for draw in (None, 0, 1):
        (batch,) = source.batches([torch.arange(4)], draw=draw)
        view = batch.inputs[""]
        assert isinstance(view, dict)
        assert view["images"].shape == (4, 3, 64, 64)
        assert torch.equal(view["regions"], batch.labels["boxes"])
    alone = replace(source, regions=None)
    assert isinstance(alone, BoxSource)
    (plain,) = alone.batches([torch.arange(4)], draw=1)
    assert torch.equal(plain.inputs, view["images"])


def test_an_image_that_is_not_named_has_no_regions_and_the_file_is_part_of_the_data(root):
    before = data(root)
    name = next(iter(json.loads((root / "regions.json").read_text())["regions"]))
    tell(root, {name: [[-0.5, 0, 30, 40], [1, 1, 9, 9]]})
    after = data(root)
    assert before.digest != after.digest
    rows = torch.cat([batch.inputs[""]["regions"] for split in (after.train, after.validation, after.test)
                      for batch in split.batches([torch.arange(len(split.ids))], draw=None)
                      if batch.inputs[""]["regions"].shape[1] == 2])
    assert rows[rows.any(-1).any(-1)].tolist() == [[[0, 0, 30, 40], [1, 1, 9, 9]]]


@pytest.mark.parametrize(("regions", "words"), [
    ({"images/nobody": []}, "a name of an image without a file"), ([], "no regions of images"),
    ({"FIRST": [[4, 4, 4, 9]]}, "a region that is none"), ({"FIRST": [[4, 4, 9]]}, "a region that is none"),
    ({"FIRST": [[70, 4, 90, 9]]}, "a region that is none"), ({"FIRST": "all"}, "too many regions"),
    ({"FIRST": [[0, 0, 1, 1]] * 2001}, "too many regions")])
def test_what_is_no_region_is_refused_with_its_place(root, regions, words):
    first = next(iter(json.loads((root / "regions.json").read_text())["regions"]))
    tell(root, {first if name == "FIRST" else name: rows for name, rows in regions.items()} if regions else regions)
    with pytest.raises(DataError, match=words) as refused:
        data(root)
    assert str(refused.value.where).startswith(str(root / "regions.json"))


def test_a_file_outside_of_the_folder_is_refused_and_so_are_regions_of_other_data(root):
    (root.parent / "elsewhere.json").write_text('{"regions": {}}')
    with pytest.raises(SecurityError, match="outside of the folder"):
        data_for(DataSettings("folder", root=str(root), task="detection", regions="../elsewhere.json"))
    with pytest.raises(UsageError, match="regions of images with boxes"):
        DataSettings("shapes", regions="regions.json")


def test_a_student_of_one_stage_learns_one_class_from_a_frozen_faster_rcnn_on_common_regions(root):
    torch.manual_seed(0)
    body = torchvision_detector("fasterrcnn_mobilenet_v3_large_320_fpn",
                                torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
                                    weights=None, weights_backbone=None, num_classes=2))
    teacher = Network(body, Architecture("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"), mean=(0.0,), std=(1.0,),
                      channels=3, body_classes=("square",), columns=(-1, 0))
    student = Network(tiny_fcos(2, width=2), Architecture("tiny_fcos"), mean=(0.0,), std=(1.0,), channels=3,
                      body_classes=CLASSES)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    graph = class_aware("teacher", "student", task=DETECTION)
    (epoch,) = train(graph, {"teacher": teacher, "student": student}, data(root), epochs=1, batch_size=3,
                     precision="exact", optimizer=torch.optim.SGD)
    loss = epoch.losses["teacher->student:one_class[relevant]"]
    assert 0 < loss < float("inf")
    assert every(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
