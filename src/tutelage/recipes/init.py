"""Two recipes for a folder of your own images: what `tutelage init` writes.

The defaults follow from what lies in the folder: how many images and classes there are, and how many pixels they have.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import huggingface_hub.constants as hub

from tutelage.data.folder import list_folder, require_sound
from tutelage.data.images import header
from tutelage.data.mask_folder import are_images_and_masks
from tutelage.errors import UsageError
from tutelage.graph.ends import BATCH_ENDS
from tutelage.models.architecture import Architecture
from tutelage.models.sources import find
from tutelage.system.files import write

SIZES = (32, 64, 96, 128, 160, 224)
SAMPLE = 200
"""How many images are looked at for their size."""
STEPS = 20_000
"""About how many steps a run takes, whatever the number of images is."""
PATIENCE = 3.0
"""Seconds to wait for the place where pretrained weights lie."""


@dataclass(frozen=True)
class FoundImages:
    """What lies in a folder: its splits, its classes and the median of the shorter sides; and what is not used."""

    root: Path
    images: int
    training: int
    classes: int
    side: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.root}: {self.images} images, {self.training} of them for training, {self.classes} "
                          f"classes, shorter side about {self.side} px", *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class TrainingPlan:
    """The defaults that fit."""

    image_size: int
    batch_size: int
    epochs: int
    lr: float
    augment: str


def write_recipes(folder: Path, teacher: str, students: Sequence[str], to: Path, *,
                  reachable: Callable[[], bool] | None = None) -> str:
    """Write `to`/teacher.toml and `to`/students.toml for the images of `folder`; what was found and what to run next.

    `reachable` says whether pretrained weights can be downloaded; by default their server is asked, for seconds only.
    """
    if len(students) < 2:
        raise UsageError("two students or more are needed", where="--students", found=", ".join(students) or "none",
                         fix="name them one after another: --students timm:resnet18 timm:mobilenetv2_100")
    for arch in (teacher, *students):
        find(Architecture(arch), 3)
    paths = {name: to / f"{name}.toml" for name in ("teacher", "students")}
    for path in paths.values():
        if path.exists():
            raise UsageError("this recipe is already there", where=path, fix="give another folder as --to")
    found = look_into(folder)
    plan = choose_plan(found)
    pretrained = ":" in teacher and (reachable or _reachable)()
    to.mkdir(parents=True, exist_ok=True)
    write(paths["teacher"], _teacher(found, plan, teacher, pretrained, paths["teacher"]).encode())
    write(paths["students"], _students(found, plan, teacher, pretrained, students, paths["students"]).encode())
    return (f"{found}\n\nwrote {paths['teacher']} and {paths['students']}; the teacher starts "
            f"{'from pretrained weights' if pretrained else 'from random weights'}\n\nnext:\n"
            f"  tutelage train {paths['teacher']} --out {to / 'runs' / 'teacher'}\n"
            f"  tutelage train {paths['students']} --out {to / 'runs' / 'students'}")


def look_into(folder: Path) -> FoundImages:
    """Count the images of a folder, and measure some of them."""
    listing = list_folder(folder)
    require_sound(listing)
    if are_images_and_masks(listing.classes):
        raise UsageError("a folder of images and masks: `init` writes recipes for classes", where=folder,
                         found=", ".join(listing.classes),
                         fix='begin with a recipe of segmentation, and give it root = "..." and task = "segmentation"')
    training = [image for image in listing.images if image.split in ("train", "all")]
    held_out = "all" in {image.split for image in listing.images}
    step = max(1, len(training) // SAMPLE)
    sides = [min(header(image.path).size) for image in training[::step]]
    return FoundImages(folder, len(listing.images), round(len(training) * (0.72 if held_out else 1)),
                       len(listing.classes), round(median(sides)), listing.notes)


def choose_plan(found: FoundImages) -> TrainingPlan:
    """Defaults for so many images and pixels: few images are seen more often, and in smaller batches.

    >>> choose_plan(FoundImages(Path("photos"), 1000, 800, 5, 300))
    TrainingPlan(image_size=224, batch_size=32, epochs=200, lr=0.025, augment='random-resized-crop')
    """
    size = min(SIZES, key=lambda candidate: abs(candidate - found.side))
    batch = next((b for b in (128, 64, 32, 16, 8, 4) if found.training >= 20 * b), 2)
    epochs = min(200, max(30, round(STEPS * batch / max(1, found.training) / 10) * 10))
    return TrainingPlan(size, batch, epochs, 0.1 * batch / 128, "crop-flip" if size <= 64 else "random-resized-crop")


def node_names(students: Sequence[str]) -> list[str]:
    """A node's name for each network: its own, without prefix and odd characters, and each only once.

    >>> node_names(["timm:resnet18", "torchvision:resnet18", "timm:mobilenetv3_small_100.lamb_in1k"])
    ['resnet18', 'resnet18_2', 'mobilenetv3_small_100_lamb_in1k']
    """
    names: list[str] = []
    taken = {"teacher", *BATCH_ENDS}
    for arch in students:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", arch.rpartition(":")[2]) or "student"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _teacher(found: FoundImages, plan: TrainingPlan, arch: str, pretrained: bool, path: Path) -> str:
    weights = ""
    if pretrained:
        weights = ('pretrained = true             # ImageNet weights, downloaded once\n'
                   'head = "new"                  # for your classes\n')
    elif ":" in arch:
        weights = ("pretrained = false            # the weights could not be reached: learning from nothing needs\n"
                   "#                               more images and epochs. Where there is a network, write true and\n"
                   '#                               head = "new".\n')
    return (f"# {found.classes} classes: the teacher, trained from labels alone.\n"
            f"#   tutelage train {path} --out {path.parent / 'runs' / 'teacher'}\n\n{_data(found, plan)}\n"
            f"[models.teacher]\narch = {json.dumps(arch)}\n{'' if pretrained else _stem(arch, plan)}{weights}\n"
            f'[method]\nname = "scratch"\nstudent = "teacher"\n\n{_train(plan, 0.1 if pretrained else 1.0)}')


def _students(found: FoundImages, plan: TrainingPlan, teacher: str, pretrained: bool, students: Sequence[str],
              path: Path) -> str:
    names = node_names(students)
    networks = "\n".join(f"[models.{name}]\narch = {json.dumps(arch)}\n{_stem(arch, plan)}"
                         for name, arch in zip(names, students, strict=True))
    return (f"# {found.classes} classes: students of a teacher, as far as it is sure, and of each other.\n"
            f"#   tutelage train {path} --out {path.parent / 'runs' / 'students'}\n\n{_data(found, plan)}\n"
            f"[models.teacher]\narch = {json.dumps(teacher)}\n{'' if pretrained else _stem(teacher, plan)}"
            f'weights = "runs/teacher"      # seen from this file: where teacher.toml is trained to\n\n{networks}\n'
            f'[method]\nname = "dual_student"\nteacher = "teacher"\nstudents = {json.dumps(names)}\n'
            'peers = "all"                 # helps students that get 95 % of their training images right (`tutelage\n'
            '#                               evaluate` says); where yours do not, "none" is better\n\n'
            f"{_train(plan, 1.0)}")


def _data(found: FoundImages, plan: TrainingPlan) -> str:
    return (f'[data]\nname = "folder"\nroot = {json.dumps(str(found.root.resolve()))}\nbatch_size = {plan.batch_size}\n'
            f"image_size = {plan.image_size}\naugment = {json.dumps(plan.augment)}\nworkers = \"auto\"\n")


def _stem(arch: str, plan: TrainingPlan) -> str:
    """For networks that start from nothing: pretrained weights fit the stem that they were trained with."""
    small = plan.image_size <= 64 and arch.startswith(("timm:", "torchvision:"))
    return 'stem = "cifar"                # small images: the first layers keep their size\n' if small else ""


def _train(plan: TrainingPlan, share: float) -> str:
    return (f"[train]\nepochs = {plan.epochs}\nlr = {plan.lr * share:g}\nwarmup_epochs = {min(5, plan.epochs // 10)}\n"
            "best = true                   # keep the weights that were best on validation images\n")


def _reachable() -> bool:
    if hub.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError:
        return False
    return True
