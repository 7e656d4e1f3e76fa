"""From images and labels, wherever they come from, to the splits of a `Data`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from tutelage.data.augment import Augmentation
from tutelage.data.balance import Balance, notes_on_classes
from tutelage.data.images import Preparation
from tutelage.data.memory import in_memory
from tutelage.data.source import Data, Part, Source, digest
from tutelage.data.splits import Cut, first
from tutelage.data.stream import CPU, KeptSource, StreamSource

Policy = Literal["none", "crop", "crop-flip", "random-resized-crop", "randaugment"]
KEPT_BYTES = 2**30
"""A split that is not cut or coloured at random image by image is kept on the device up to this size."""
Images = Callable[[int], Image.Image | Tensor]
"""Id -> its image."""


class SplitRows(NamedTuple):
    """The rows of one split: ids [N] and labels [N] int64."""

    ids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Maker:
    """What the splits of a data set have in common, to make a source of each.

    `images` is all of them as one tensor, indexed by the id, or a function from the id to one.
    """

    images: Tensor | Images
    shape: tuple[int, int, int]
    classes: int
    prepared: Preparation | None = None
    workers: int = 0
    device: torch.device = CPU

    def source(self, rows: SplitRows, how: Augmentation) -> Source:
        """The rows as a source: in memory where that gives the same images, else read when wanted."""
        if isinstance(self.images, Tensor) and not how.per_sample:
            return in_memory(rows.ids, rows.labels, self.images[rows.ids], self.classes, how, self.device)
        read = _Reader(self.images, rows.ids)
        stream = StreamSource(rows.ids, rows.labels, read, self.prepared, self.shape, self.classes, how,
                              self.workers, self.device)
        fits = len(rows.ids) * self.shape[0] * self.shape[1] * self.shape[2] <= KEPT_BYTES
        return KeptSource(stream) if fits and not how.per_sample else stream


@dataclass(frozen=True)
class _Reader:
    """Row of a split -> its image. (A class, and not a closure, so that any kind of worker process can have it.)"""

    images: Tensor | Images
    ids: Tensor

    def __call__(self, row: int) -> Image.Image | Tensor:
        place = int(self.ids[row])
        return self.images[place] if isinstance(self.images, Tensor) else self.images(place)


def augmentation(policy: Policy, shape: tuple[int, int, int], *, seed: int, mixup: float = 0.0, cutmix: float = 0.0,
                 files: bool = False) -> Augmentation:
    """What a policy means for images of this shape.

    The crop of `crop` and `crop-flip` moves by up to an eighth of the height. `randaugment` works on top of
    `random-resized-crop` where images come from files, of `crop-flip` elsewhere.
    """
    resized = policy == "random-resized-crop" or (policy == "randaugment" and files)
    padding = 0 if resized or policy == "none" else shape[1] // 8
    return Augmentation(seed, padding, flip=policy not in ("none", "crop"), resized_crop=resized,
                        randaugment=policy == "randaugment", mixup=mixup, cutmix=cutmix)


def sample_of(source: Source, count: int) -> Part:
    """`count` rows with a label, the first by the hash of their ids, or all; no more images than these are read."""
    rows = (source.labels >= 0).nonzero()[:, 0]
    rows = rows[first(source.ids[rows], count)]
    return Part(source.stream if isinstance(source, KeptSource) else source, rows)


def held_out(rows: SplitRows, share: float, purpose: str, cut: Cut) -> tuple[SplitRows, SplitRows]:
    """The rows that stay, and those held out; a row without a label always stays."""
    labelled = rows.labels >= 0
    held = torch.zeros_like(labelled)
    held[labelled] = cut.held(rows.ids[labelled], rows.labels[labelled], share, purpose)
    return SplitRows(rows.ids[~held], rows.labels[~held]), SplitRows(rows.ids[held], rows.labels[held])


def assembled(name: str, classes: Sequence[str], maker: Maker, splits: Mapping[str, SplitRows], how: Augmentation,
              preprocessing: Mapping[str, object], content: str, rule: str, balance: Balance = "none", *,
              told: bool = True) -> Data:
    """The data set of these splits: `train` is augmented, `validation` and `test` (may be missing) never are.

    Its notes say what classes lack, where they are to be `told`.
    """
    plain = Augmentation(how.seed)
    sources = {split: maker.source(rows, how if split == "train" else plain) for split, rows in splits.items()}
    seal = digest(name, classes, splits, content, rule)
    return Data(name, tuple(classes), maker.shape, sources["train"], sources["validation"], sources.get("test"),
                preprocessing, seal, repr(how), balance=balance,
                notes=notes_on_classes(classes, {split: rows.labels for split, rows in splits.items()}) if told else ())
