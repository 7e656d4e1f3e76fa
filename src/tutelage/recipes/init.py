"""Two recipes for data of your own: what `tutelage init` writes.

What lies there says the task: classes of images, images with masks or boxes, series, or users with items. The defaults
follow from it: how many rows and classes there are, and how large the images are.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import huggingface_hub.constants as hub

from tutelage.data.folder import list_folder, require_sound
from tutelage.data.images import header
from tutelage.errors import UsageError
from tutelage.graph.ends import BATCH_ENDS
from tutelage.models.architecture import Architecture
from tutelage.models.sources import find
from tutelage.recipes.folder_check import task_of_folder
from tutelage.recipes.init_boxes import start_of_boxes
from tutelage.recipes.init_masks import start_of_masks
from tutelage.recipes.init_pairs import METHOD as METHOD_OF_PAIRS
from tutelage.recipes.init_pairs import start_of_pairs
from tutelage.recipes.init_series import start_of_series
from tutelage.recipes.init_tables import start_of_panel
from tutelage.recipes.init_text import start_of_text
from tutelage.recipes.init_users import start_of_users
from tutelage.recipes.names import usual_run
from tutelage.recipes.starts import MOST_WARMUP, Start, require_fitting_network
from tutelage.system.files import write

TEACHER = Architecture("timm:resnet50")
STUDENTS = {name: Architecture(f"timm:{name}") for name in ("resnet18", "mobilenetv2_100")}
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


def write_recipes(given: Path, teacher: str | None, students: Sequence[str], to: Path, *,
                  reachable: Callable[[], bool] | None = None, told: str | None = None) -> str:
    """Write `to`/teacher.toml and `to`/students.toml for what lies in `given`; what was found and what to run next.

    The task is the one `told`, or what lies there says it. Without names, teacher and students are networks that fit
    the task. `reachable` says whether pretrained weights can be downloaded; by default their server is asked, for
    seconds only.
    """
    task = task_of_folder(given, told)
    if len(students) == 1 and task != "fusion":
        raise UsageError("two students or more are needed", where="--students", found=", ".join(students),
                         fix="name them one after another: --students NETWORK NETWORK")
    if len(students) > 1 and task == "fusion":
        raise UsageError("one student is needed", where="--students", found=", ".join(students),
                         fix="name one: --students NETWORK")
    for arch, option in [*([(teacher, "--teacher")] if teacher else []), *((arch, "--students") for arch in students)]:
        find(Architecture(arch), 3)
        require_fitting_network(arch, task, option)
    paths = {name: to / f"{name}.toml" for name in ("teacher", "students")}
    for path in paths.values():
        if path.exists():
            raise UsageError("this recipe is already there", where=path, fix="give another folder as --to")
    starts = {"classification": start_of_classes, "segmentation": start_of_masks, "detection": start_of_boxes,
              "series": start_of_series, "forecast": start_of_panel, "recommendation": start_of_users,
              "fusion": start_of_pairs, "sentences": start_of_text, "slots": partial(start_of_text, task="slots")}
    start = starts[task](given)
    if teacher is not None:
        start = replace(start, teacher=Architecture(teacher))
    if students:
        start = replace(start, students=dict(zip(node_names(students), map(Architecture, students), strict=True)))
    offered = find(start.teacher, 3).download is not None
    pretrained = offered and (reachable or _reachable)()
    to.mkdir(parents=True, exist_ok=True)
    write(paths["teacher"], _teacher(start, offered, pretrained, paths["teacher"]).encode())
    write(paths["students"], _students(start, pretrained, paths["students"]).encode())
    return (f"{start.told}\n\nwrote {paths['teacher']} and {paths['students']}; the teacher starts "
            f"{'from pretrained weights' if pretrained else 'from random weights'}\n\nnext:\n"
            f"  {_command(paths['teacher'])}\n  {_command(paths['students'])}\n\nor both at once:\n"
            f"  {_command(paths['students'], '--with-teachers')}")


def start_of_classes(folder: Path) -> Start:
    """Look at a folder of classes."""
    found = look_into(folder)
    plan = choose_plan(found)
    return Start(str(found), f"{found.classes} classes", "images", "classification",
                 f'name = "folder"\nroot = {json.dumps(str(found.root.resolve()))}\nbatch_size = {plan.batch_size}\n'
                 f"image_size = {plan.image_size}\naugment = {json.dumps(plan.augment)}\nworkers = \"auto\"",
                 plan.epochs, plan.lr, TEACHER, STUDENTS, small=plan.image_size <= 64)


def look_into(folder: Path) -> FoundImages:
    """Count the images of a folder, and measure some of them."""
    listing = list_folder(folder)
    require_sound(listing)
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


def _teacher(start: Start, offered: bool, pretrained: bool, path: Path) -> str:
    weights = ""
    if pretrained:
        weights = ('pretrained = true             # the weights that come with it, downloaded once\n'
                   'head = "new"                  # for your classes\n')
    elif offered:
        weights = ("pretrained = false            # the weights could not be reached: learning from nothing needs\n"
                   "#                               more images and epochs. Where there is a network, write true and\n"
                   '#                               head = "new".\n')
    network = _network("teacher", start.teacher, start.small and not pretrained)
    return (f"# {start.subject}: the teacher, trained from labels alone.\n#   {_command(path)}\n\n"
            f"[data]\n{start.data}\n\n{network}{weights}\n"
            f'[method]\nname = "scratch"\nstudent = "teacher"\n\n'
            f"{_train(start, start.pretrained_share if pretrained else 1.0)}")


def _students(start: Start, pretrained: bool, path: Path) -> str:
    networks = "\n".join(_network(name, arch, start.small) for name, arch in start.students.items())
    peers = ('peers = "all"                 # helps students that get 95 % of their training images right (`tutelage\n'
             '#                               evaluate` says); where yours do not, "none" is better\n')
    more = {"classification": peers, "detection": "temperature = 1\n"}.get(start.task, "")
    told = f"{start.subject}: students of a teacher, as far as it is sure, and of each other."
    method = f'name = "dual_student"\nteacher = "teacher"\nstudents = {json.dumps(list(start.students))}\n{more}'
    if start.task == "fusion":
        told = f"{start.subject}: a student learns the images that a teacher fuses."
        method = METHOD_OF_PAIRS.format(student=json.dumps(next(iter(start.students))))
    return (f"# {told}\n"
            f"#   {_command(path, '--with-teachers')}\n"
            "# --with-teachers trains the teacher first, teacher.toml, unless ./runs has a finished run of it.\n\n"
            f"[data]\n{start.data}\n\n{_network('teacher', start.teacher, start.small and not pretrained)}"
            f'weights = {{ recipe = "teacher" }}\n\n{networks}\n'
            f"[method]\n{method}\n{_train(start, 1.0)}")


def _command(path: Path, more: str = "") -> str:
    """What trains a recipe into the folder where its students look for it."""
    return " ".join(filter(None, ["tutelage train", str(path), more, f"--out {usual_run(path)}"]))


def _network(node: str, arch: Architecture, small: bool) -> str:
    """A [models.NODE] table. Only what starts from nothing has another stem: pretrained weights fit their own."""
    lines = [f"[models.{node}]", f"arch = {json.dumps(arch.arch)}"]
    if arch.options:
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in arch.options.items())
        lines.append(f"options = {{ {options} }}")
    if small and arch.arch.startswith(("timm:", "torchvision:")):
        lines.append('stem = "cifar"                # small images: the first layers keep their size')
    return "\n".join(lines) + "\n"


def _train(start: Start, share: float) -> str:
    optimizer = f"optimizer = {json.dumps(start.optimizer)}\n" if start.optimizer else ""
    decay = "" if start.weight_decay is None else f"weight_decay = {start.weight_decay:g}\n"
    return (f"[train]\nepochs = {start.epochs}\nlr = {start.lr * share:g}\n{optimizer}{decay}"
            f"warmup_epochs = {min(MOST_WARMUP, start.epochs // 10)}\n"
            f"best = true                   # keep the weights that were best on validation {start.rows}\n")


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
