"""The losses of our rows are those of torchvision's own FCOS and RetinaNet, of the same outputs and objects."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from tutelage.graph import objective
from tutelage.graph.divergences import binary_cross_entropy, focal, giou
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.models.detectors import torchvision_detector
from tutelage.tasks.detection.rows import anchor_boxes, anchor_classes, boxes, centres, classes

SIZE, NUMBER = (96, 128), 3


class Backbone(nn.Module):
    """Maps of strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 32, 9, 8, padding=4), nn.Conv2d(32, 32, 3, 2, padding=1),
                                     nn.Conv2d(32, 32, 3, 2, padding=1)])
        self.out_channels = 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = {}
        for number, stage in enumerate(self.stages):
            x = torch.tanh(stage(x))
            made[str(number)] = x
        return made


def fcos() -> FCOS:
    return FCOS(Backbone(), NUMBER, anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3))


def retinanet() -> RetinaNet:
    """With the head and the loss of torchvision's second version."""
    head = RetinaNetHead(32, 6, NUMBER, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    anchors = AnchorGenerator(((12, 18), (24, 36), (48, 72)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(Backbone(), NUMBER, anchor_generator=anchors, head=head)


def objects(images: int, most: int) -> dict[str, Tensor]:
    """Labels of some images; the second has no object, and others have fewer than the most."""
    generator = torch.Generator().manual_seed(0)
    corner, side = (torch.rand(images, most, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    made = torch.cat([corner * 60, corner * 60 + 6 + side**2 * 60], -1)
    kinds = torch.randint(0, NUMBER, (images, most), generator=generator)
    for image, count in enumerate([most, 0, 2, 1][:images]):
        made[image, count:], kinds[image, count:] = 0, -1
    return {"boxes": made, "classes": kinds}


def torchvisions(theirs: Any, images: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """What torchvision computes for these images and objects."""
    maps = list(theirs.backbone(images).values())
    anchors = theirs.anchor_generator(ImageList(images, [SIZE] * len(images)), maps)
    targets = [{"boxes": box[kind >= 0], "labels": kind[kind >= 0]}
               for box, kind in zip(labels["boxes"], labels["classes"], strict=True)]
    per_level = [x.shape[2] * x.shape[3] for x in maps]
    more = (per_level,) if isinstance(theirs, FCOS) else ()
    return theirs.compute_loss(targets, theirs.head(maps), anchors, *more)


def ours(network: nn.Module, images: Tensor, labels: dict[str, Tensor], edges: list[Edge]) -> list[Tensor]:
    """What the rows make of what the adapted network says."""
    return list(objective.losses(Graph({"a": Trained()}, edges), {"a": network(images)}, labels).values())


def started(theirs: Any) -> tuple[Any, Tensor]:
    """In double precision, with outputs of every kind, and four images."""
    generator = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1
    return theirs.double(), torch.rand(4, 3, *SIZE, generator=generator, dtype=torch.float64)


def test_fcos():
    theirs, images = started(fcos())
    labels = objects(4, 5)
    expected = torchvisions(theirs, images, labels)
    found = ours(torchvision_detector("fcos_resnet50_fpn", theirs), images, labels, [
        Edge("labels.classes", "a", focal, rows=classes), Edge("labels.boxes", "a", giou, rows=boxes),
        Edge("labels.centres", "a", binary_cross_entropy, rows=centres)])
    assert list(expected) == ["classification", "bbox_regression", "bbox_ctrness"]
    assert min(value.item() for value in expected.values()) > 0.1
    torch.testing.assert_close(found, list(expected.values()), rtol=1e-6, atol=1e-9)
    last = list(theirs.head.parameters())
    for mine, its in zip(torch.autograd.grad(sum(found), last, retain_graph=True),
                         torch.autograd.grad(sum(expected.values()), last), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("image", range(4))
def test_retinanet_which_torchvision_divides_image_by_image(image):
    theirs, images = started(retinanet())
    labels = {name: value[image:image + 1] for name, value in objects(4, 5).items()}
    expected = torchvisions(theirs, images[image:image + 1], labels)
    found = ours(torchvision_detector("retinanet_resnet50_fpn_v2", theirs), images[image:image + 1], labels, [
        Edge("labels.classes", "a", focal, rows=anchor_classes), Edge("labels.boxes", "a", giou, rows=anchor_boxes)])
    assert list(expected) == ["classification", "bbox_regression"]
    assert (expected["bbox_regression"] > 0.1) == (image != 1)
    torch.testing.assert_close(found, list(expected.values()), rtol=1e-6, atol=1e-9)


def test_nothing_is_to_be_found_where_there_is_no_object():
    for theirs, name, rows in ((fcos(), "fcos_", classes), (retinanet(), "retinanet_", anchor_classes)):
        theirs, images = started(theirs)
        labels = {name: value[1:2] for name, value in objects(4, 5).items()}
        expected = torchvisions(theirs, images[1:2], labels)
        found = ours(torchvision_detector(name, theirs), images[1:2], labels,
                     [Edge("labels.classes", "a", focal, rows=rows)])
        assert expected["bbox_regression"].item() == 0
        torch.testing.assert_close(found[0], expected["classification"], rtol=1e-6, atol=1e-9)
