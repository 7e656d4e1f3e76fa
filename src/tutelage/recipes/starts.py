"""What `tutelage init` says of some data in a recipe: their [data] table, and the defaults that fit them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tutelage.errors import UsageError
from tutelage.models import forecast
from tutelage.models.architecture import Architecture
from tutelage.models.dense import torchvision_dense_names
from tutelage.models.detectors import detector_names
from tutelage.models.sources import (
    BOX_PAGES,
    DENSE_PAGES,
    FUSION_PAGES,
    OWN,
    SERIES_PAGES,
    TEXT_PAGES,
    USER_PAGES,
    own_networks,
)

MOST_WARMUP = 5


@dataclass(frozen=True)
class Start:
    """The words of two recipes for some data.

    told: what was found, for a person. `subject` is what the recipes are about, and `rows` what a row is called.
    task, data: the name of the task, and the lines of the [data] table.
    epochs, lr, optimizer, weight_decay: of [train]; None is the default.
    teacher, students: the networks where nobody names others, students by their nodes.
    small: whether an ImageNet network needs a stem for small images.
    pretrained_share: what is left of `lr` for a teacher that starts from pretrained weights.
    """

    told: str
    subject: str
    rows: str
    task: str
    data: str
    epochs: int
    lr: float
    teacher: Architecture
    students: Mapping[str, Architecture]
    optimizer: str | None = None
    small: bool = False
    pretrained_share: float = 0.1
    weight_decay: float | None = None


def batch_that_fits(rows: int, sizes: tuple[int, ...], steps: int) -> int:
    """The largest of falling `sizes` that gives an epoch of `rows` so many steps, or else 2.

    >>> batch_that_fits(100, (16, 8, 4), 20), batch_that_fits(9, (16, 8, 4), 20)
    (4, 2)
    """
    return next((size for size in sizes if rows >= steps * size), 2)


def epochs_of(steps: int, batch: int, rows: int, least: int, most: int) -> int:
    """Epochs of about so many steps, in tens.

    >>> epochs_of(4000, 16, 800, 20, 100)
    80
    """
    return min(most, max(least, round(steps * batch / max(1, rows) / 10) * 10))


def require_fitting_network(arch: str, task: str, where: str) -> None:
    """UsageError for a network of another task: of classes, maps of logits, boxes, series, or users."""
    if _task_of(arch) != task:
        expected = {"segmentation": ", ".join([*own_networks(DENSE_PAGES), *map("torchvision:{}".format,
                                                                               torchvision_dense_names()),
                                               "smp:NETWORK:ENCODER"]),
                    "detection": ", ".join([*own_networks(BOX_PAGES), *map("torchvision:{}".format, detector_names()),
                                            "fcos:NAME of a network of timm's"]),
                     "series": ", ".join(own_networks(SERIES_PAGES)), "sentences": "sentence_encoder",
                     "slots": "word_encoder",
                     "forecast": ", ".join(own_networks((forecast,))),
                     "recommendation": ", ".join(own_networks(USER_PAGES)),
                     "fusion": ", ".join(own_networks(FUSION_PAGES)),
                    "classification": "a network that gives a number for each class of an image"}[task]
        raise UsageError(f"not a network for {task}", where=where, found=arch, expected=expected)


def _task_of(arch: str) -> str:
    prefix, colon, name = arch.partition(":")
    own = name if colon and prefix == OWN else arch
    if own in own_networks((forecast,)):
        return "forecast"
    if own in own_networks(SERIES_PAGES):
        return "series"
    if own in own_networks(USER_PAGES):
        return "recommendation"
    if own in own_networks(FUSION_PAGES):
        return "fusion"
    if own in own_networks(TEXT_PAGES):
        return "sentences" if own == "sentence_encoder" else "slots"
    if prefix == "fcos" or (prefix == "torchvision" and name in detector_names()) or own in own_networks(BOX_PAGES):
        return "detection"
    dense = prefix == "smp" or (prefix == "torchvision" and name in torchvision_dense_names())
    return "segmentation" if dense or own in own_networks(DENSE_PAGES) else "classification"
