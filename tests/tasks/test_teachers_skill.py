"""Teachers of masks and of boxes are asked at the start whether the image matters to what they say."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from every import every
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data, Part
from tutelage.engine.checks import Check, check_networks
from tutelage.engine.loop import check
from tutelage.engine.settings import Settings
from tutelage.methods.distill import distill
from tutelage.models.dense_boxes import grid_places, pack_places
from tutelage.models.fcos import tiny_fcos
from tutelage.models.unet import unet
from tutelage.system.distributed import World
from tutelage.tasks.detection.task import DETECTION
from tutelage.tasks.named import data_for
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.task import Task

CPU = World(torch.device("cpu"))
TASKS: Mapping[str, Task] = {"shapes": SEGMENTATION, "shapes_boxes": DETECTION}
each_set = pytest.mark.parametrize("name", TASKS)


@cache
def data(name: str) -> Data:
    return data_for(DataSettings(name, image_size=32, limit=8))


class Colours(nn.Module):
    """What colours say: red is of discs, blue of squares; of boxes, at the place where most of a colour is."""

    def __init__(self, of_boxes: bool) -> None:
        super().__init__()
        self.of_boxes, self.scale = of_boxes, nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Tensor:
        red, blue = x[:, 0] - x[:, 2], x[:, 2] - x[:, 0]
        if not self.of_boxes:
            return self.scale * torch.stack([torch.full_like(red, 0.1), red, blue], 1)
        places = grid_places((32, 32), (8,))
        means = nn.functional.avg_pool2d(torch.stack([red, blue, red - 1], 1), 8).flatten(2).transpose(1, 2)
        return pack_places(places, torch.full((len(x), 16, 4), 0.7), None, self.scale * (means - 0.1))


def asked(name: str, teacher: nn.Module, student: nn.Module, source: Data | None = None) -> Check:
    """What was found of a frozen teacher."""
    graph = distill("teacher", "student", temperature=1.0, task=TASKS[name])
    settings, models = Settings(1, torch.optim.SGD, batch_size=4), {"teacher": teacher, "student": student}
    prepared = check(graph, models, source or data(name), settings, CPU)
    (found,) = [one for one in check_networks(prepared, source or data(name), settings, CPU) if one.name == "chance"]
    return found


@each_set
def test_an_untrained_teacher_is_told_from_one_that_looks_at_the_image(name):
    torch.manual_seed(0)
    untrained = tiny_fcos(3, width=2, strides=(8,)) if name == "shapes_boxes" else unet(3, width=2)
    student = tiny_fcos(3, width=2, strides=(8,)) if name == "shapes_boxes" else unet(3, width=2)
    random, looking = asked(name, untrained, student), asked(name, Colours(name == "shapes_boxes"), student)
    assert random.result == "warned"
    assert random.found.startswith("cannot be told from a network that ignores the image: by image, ")
    assert looking.result == "passed"
    assert random.looked_at == "64 images of validation"


@each_set
def test_a_teacher_that_says_the_same_of_every_image_is_not_better_by_its_own_labels(name):
    student = tiny_fcos(3, width=2, strides=(8,)) if name == "shapes_boxes" else unet(3, width=2)
    first = next(iter(data(name).validation.batches([torch.arange(1)], draw=None))).inputs

    class Same(Colours):
        def forward(self, x: Tensor) -> Tensor:
            said, light = super().forward(first.expand_as(x)), 0.05 * x.mean((1, 2, 3))
            if self.of_boxes:
                return torch.cat([said[..., :9], said[..., 9:] + light[:, None, None]], -1)
            return said + light[:, None, None, None]

    assert asked(name, Same(name == "shapes_boxes"), student).result == "warned"


def test_with_few_labelled_images_nothing_is_judged():
    few = data("shapes")
    found = asked("shapes", unet(3, width=2), unet(3, width=2),
                  replace(few, validation=Part(few.validation, torch.arange(4))))
    assert found.result == "not judged"
    assert every(word in found.found for word in ("16", "labelled"))
