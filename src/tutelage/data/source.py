"""What a data set is to the rest of the package: rows that can be asked for in any order."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from tutelage.data.balance import Balance
from tutelage.types import Batch, ImageFiles


@runtime_checkable
class Source(Protocol):
    """The rows of one split.

    `ids` [N] int64 name the rows for good: the place of a row in the data set as it is published (file order, or
    sorted paths), the same whatever is cut off or left out, and never the same in two splits. `labels` [N] int64
    are class numbers, -1 where there is none; where the label is no class number, such as a mask, 0 says that there is
    one. Both lie on the CPU.
    """

    @property
    def ids(self) -> Tensor:
        """[N] int64."""
        ...

    @property
    def labels(self) -> Tensor:
        """[N] int64."""
        ...

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """One batch for each entry of `plan`, in order, on the device of the source.

        An entry is a 1-D int64 tensor of row numbers (0 .. N - 1) and the rows of the batch are in its order.
        `draw` says which draw of the augmentation is wanted (the epoch, or the epoch modulo K); `None` asks for
        the plain rows. With the one plain view "" the inputs are a tensor where that view is one, otherwise a dict view
        -> tensor, or tensors by name, each view drawn by (seed, draw, view, id) and by nothing else.
        """
        ...


@runtime_checkable
class OwnOrder(Protocol):
    """A source that may say itself which rows an epoch has, as one that mixes pools of rows batch by batch."""

    def rows_of_epoch(self, seed: int, epoch: int, batch: int) -> Tensor | None:
        """The rows of an epoch in their order, as a function of (seed, epoch, rows of a batch); None: as any other."""
        ...


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows [n] of a source, in this order."""

    whole: Source
    rows: Tensor

    @property
    def ids(self) -> Tensor:
        """See `Source`."""
        return self.whole.ids[self.rows]

    @property
    def labels(self) -> Tensor:
        """See `Source`."""
        return self.whole.labels[self.rows]

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        return self.whole.batches([self.rows[rows] for rows in plan], draw=draw, views=views)


@dataclass(frozen=True)
class Data:
    """A data set, ready to train on and to be judged on.

    `classes` are the class names in the order of the labels; `shape` is (channels, height, width) of what a
    network receives, of series (channels, length); `preprocessing` can be written as JSON and turns an image file into
    that (`images.read_image`), or series (`series.scaled_series`); `digest` is the SHA-256 of what the data are, see
    `digest`. `augmentation` says in words how `train` is drawn, seed included; "" where that is not known, and then no
    cache keeps what a teacher says of a draw. `files` are those of a folder of images; `notes` are worth knowing.
    `balance` says how often each class comes in an epoch, see `balance.rows_of_epoch`.
    `also_in_training` says of each other split how many of its images are training images too, where that was looked
    for (`leakage`). `task` is what a network is to say of a row (`tasks.task.Task`): None is classification.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    train: Source
    validation: Source
    test: Source | None
    preprocessing: Mapping[str, object]
    digest: str
    augmentation: str = ""
    files: ImageFiles | None = None
    notes: tuple[str, ...] = ()
    balance: Balance = "none"
    also_in_training: Mapping[str, int] = field(default_factory=dict)
    task: object = None


def digest(name: str, classes: Sequence[str], splits: Mapping[str, tuple[Tensor, Tensor]], content: str,
           rule: str) -> str:
    """The SHA-256 of a manifest of the data: names, ids and labels of each split, content, and how they were split.

    `content` is the hash of the images themselves, as the maker of the data set could afford it.
    """
    manifest = hashlib.sha256(json.dumps([name, list(classes), content, rule]).encode())
    for split, (ids, labels) in splits.items():
        manifest.update(f"\n{split} {len(ids)}\n".encode())
        manifest.update(ids.numpy().tobytes())
        manifest.update(labels.numpy().tobytes())
    return manifest.hexdigest()
