"""The work that every tool is given: the first images of CIFAR-10, a teacher, a student, their loss and optimizer."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from tutelage.data import Data, from_tensors
from tutelage.data.published import cifar
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.network import Network
from tutelage.models.weights import load_weights, read_weights
from tutelage.system.random import derive, permutation

BATCH, STEPS, EPOCHS, TEMPERATURE, HARD = 128, 20, 500, 4.0, 0.5
"""20 steps an epoch, the ones that are checked; ours is tuned for a run of 500 such epochs."""
SGD = partial(torch.optim.SGD, lr=1e-6, momentum=0.9, weight_decay=5e-4)
"""So slow that rounding is not blown up: at 0.01 two float32 kernels of torch are 1e-4 apart after three steps of this
student. A gradient that is wrong by 1 % still shows in 20. How long a step takes does not depend on the rate."""
class Photos(Dataset):
    """(image, label): a PIL image cropped, flipped and normalised; in a check the common views, in their order.

    Notes the CPU seconds between the first images of two batches: one whole step of whatever asks for them.
    """

    def __init__(self, data: Data, network: Network) -> None:
        mean, std = network.mean.flatten().tolist(), network.std.flatten().tolist()
        (batch,) = data.train.batches([torch.arange(STEPS * BATCH)], draw=None)
        plain = (batch.inputs * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        self.pictures, self.labels = [Image.fromarray(image) for image in plain], batch.labels.tolist()
        self.draw = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
                                        transforms.ToTensor(), transforms.Normalize(mean, std)])
        order = permutation(derive(0, "order", 0), len(data.train.ids))[: STEPS * BATCH]  # of our first epoch
        (views,) = data.train.batches([order], draw=0)
        self.views = ((views.inputs - network.mean) / network.std, views.labels.tolist())
        self.checking, self.place = False, 0
        self.begin(1)

    def begin(self, steps: int) -> None:
        """A turn of so many steps."""
        self.steps, self.calls, self.last, self.seconds = steps, 0, None, []

    def tick(self) -> None:
        """A step ends here and the next one begins."""
        now = time.process_time()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now

    def __len__(self) -> int:
        return self.steps * BATCH

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.calls % BATCH == 0:
            self.tick()
        self.calls += 1
        if self.checking:
            self.place += 1
            return self.views[0][self.place - 1], self.views[1][self.place - 1]
        return self.draw(self.pictures[row]), self.labels[row]


class Numbered(Dataset):
    """(image, label, row), as mdistiller and RepDistiller have it."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> tuple[Tensor, int, int]:
        return *self.photos[row], row


@dataclass(frozen=True)
class Work:
    """What every tool is given; `facts` are what it wants to say of itself."""

    data: Data
    models: dict[str, Network]
    photos: Photos
    facts: dict[str, object]

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Teacher and student as torchvision made them."""
        return self.models["teacher"].body.eval(), self.models["student"].body.train()


def make_work(teacher_weights: Path | None) -> Work:
    """The first images of CIFAR-10 and two networks of torchvision, unchanged, for its 10 classes."""
    arrays = cifar(10, Path(os.environ.get("TUTELAGE_DATA", "data")), False)
    rows = round(STEPS * BATCH * 1.1)
    data = from_tensors((arrays.images[:rows], arrays.labels[:rows]), validation=0.09, classes=arrays.classes,
                        augment="crop-flip")
    models = {node: build(Architecture(f"torchvision:{arch}"), class_names=data.classes, name=node)
              for node, arch in (("teacher", "resnet50"), ("student", "resnet18"))}
    if teacher_weights is not None:
        load_weights(models["teacher"], read_weights(str(teacher_weights), "teacher").tensors, head="strict",
                     where=teacher_weights)
    return Work(data, models, Photos(data, models["teacher"]), {})


def hand_loss(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Hinton's loss as one writes it."""
    soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), F.softmax(target / TEMPERATURE, 1), reduction="batchmean")
    return HARD * F.cross_entropy(logits, labels) + (1 - HARD) * TEMPERATURE**2 * soft
