"""Training rows dealt out to devices: a public part that all see, and a shard for each that nobody else sees.

A shard has of each class a share drawn from a Dirichlet distribution (Hsu, Qi & Brown, arXiv:1909.06335): the smaller
its concentration, the more unlike the shards. What is public is there without its labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tutelage.data.source import Data, Source
from tutelage.data.splits import first
from tutelage.errors import DataError, UsageError, unknown
from tutelage.system.random import derive, permutation
from tutelage.types import Batch, Inputs, one_tensor

KEYS = ("devices", "public", "concentration")
VIEW = "shard"
"""The view of a device's own rows and the public ones is this word and its number, from 0."""
TRIES = 100
"""Times that shards are drawn before a device without a row is an error."""
MOST_DEVICES = 1000


@dataclass(frozen=True)
class Shards:
    """So many devices, the share of the training rows that is public, and the Dirichlet concentration of classes."""

    devices: int
    public: float = 0.2
    concentration: float = 1.0


def shards_of(given: Mapping[str, float], *, quick: bool = False) -> Shards:
    """The key `shards` of [data], checked.

    With `quick` half of the rows are public and shards alike: of so few rows a step needs that many, and each device
    one.
    """
    for key in given:
        if key not in KEYS:
            raise unknown("key", key, KEYS, where="[data] shards")
    devices, found = given.get("devices", 0), Shards(0, **{key: x for key, x in given.items() if key != "devices"})
    for key, x, right, expected in (
            ("devices", devices, devices == int(devices) and 1 <= devices <= MOST_DEVICES, f"1 .. {MOST_DEVICES}"),
            ("public", found.public, 0 < found.public < 1, "between 0 and 1"),
            ("concentration", found.concentration, 1e-3 <= found.concentration <= 1e6, "0.001 .. 1000000")):
        if not right:
            raise UsageError("a setting out of range", where=f"[data] shards.{key}", found=x, expected=expected)
    return Shards(int(devices), 0.5, 100.0) if quick else replace(found, devices=int(devices))


def views_of(shards: Shards) -> list[str]:
    """The views of the devices, in order."""
    return [f"{VIEW}{device}" for device in range(shards.devices)]


def is_shard(view: str) -> bool:
    """Whether a view is one of a device.

    >>> is_shard("shard12"), is_shard("strong")
    (True, False)
    """
    return view.startswith(VIEW) and view.removeprefix(VIEW).isdigit()


def dealt(ids: Tensor, labels: Tensor, shards: Shards, seed: int) -> tuple[Tensor, list[Tensor]]:
    """The rows that are public, and those of each device: no row is in two of them, and each is in one.

    Rows without a label are public. Which are public depends on ids alone, the shards on the seed as well.
    """
    labelled = (labels >= 0).nonzero()[:, 0]
    public = labelled[first(ids[labelled], max(1, round(shards.public * len(labelled))))]
    free = torch.ones(len(ids), dtype=torch.bool)
    free[labels < 0] = False
    free[public] = False
    private = free.nonzero()[:, 0]
    if len(private) < shards.devices:
        raise DataError("fewer rows than devices", where="[data] shards", found=f"{len(private)} rows that are not "
                        f"public, {shards.devices} devices", fix="fewer devices, or a smaller public share")
    owners = torch.zeros_like(private)
    for attempt in range(TRIES):
        owners = _owners(labels[private], shards, derive(seed, "shards", attempt))
        if len(owners.unique()) == shards.devices:
            return (~free).nonzero()[:, 0], [private[owners == device] for device in range(shards.devices)]
    lacking = int(torch.bincount(owners, minlength=shards.devices).argmin())
    raise DataError("a device without a row", where="[data] shards", found=f"device {lacking} in {TRIES} draws",
                    fix="a larger concentration, or fewer devices")


def _owners(labels: Tensor, shards: Shards, seed: int) -> Tensor:
    """Whose each row is: of each class, in an order of its own, the devices have shares as the draw says."""
    # A RandomState gives the same numbers in every version of numpy.
    draw, owners = np.random.RandomState(seed % 2**32), torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[permutation(derive(seed, label), len(rows))]
        shares = draw.gamma(shards.concentration, size=shards.devices) + 1e-300
        ends = np.round(np.cumsum(shares / shares.sum()) * len(rows)).astype(int)
        for device, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            owners[rows[begin:end]] = device
    return owners


@dataclass(frozen=True, eq=False)
class ShardedSource:
    """A training split whose rows are the public ones; each device's view adds as many of its own, which come first.

    Row i of a batch of B is public. The view `shard3` [2 B, ...] holds B rows of device 3 and then the public ones, the
    labels `shard3` [2 B] those of its own rows, and -1. Which of its own a device sees depends on (seed, draw, the
    public ids of the step); all of a shard come before one comes again in a step.
    """

    whole: Source
    public: Tensor
    shards: tuple[Tensor, ...]
    seed: int

    @property
    def ids(self) -> Tensor:
        """Those of the public rows."""
        return self.whole.ids[self.public]

    @property
    def labels(self) -> Tensor:
        """Those of the public rows, which no device is shown."""
        return self.whole.labels[self.public]

    def own(self, device: int, draw: int, ids: Tensor) -> Tensor:
        """Of a device's rows as many as there are public ids [B] in a step, as numbers of the whole."""
        shard, rounds = self.shards[device], -(-len(ids) // len(self.shards[device]))
        words = (self.seed, "own rows", device, draw, len(ids), int(ids[0]), int(ids.sum()))
        order = torch.cat([permutation(derive(*words, turn), len(shard)) for turn in range(rounds)])
        return shard[order[: len(ids)]]

    def batches(self, plan: Sequence[Tensor], *, draw: int | None, views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        names = {f"{VIEW}{device}": device for device in range(len(self.shards))}
        asked = [view for view in views if view in names]
        if not asked:
            for batch in self.whole.batches([self.public[rows] for rows in plan], draw=draw, views=views):
                # Whoever learns is not shown what the public rows are; whoever judges is.
                yield batch if draw is None else batch._replace(labels=_without_label(one_tensor(batch.labels)))
            return
        assert draw is not None, "what is judged has no shards"
        others = [view for view in views if view not in names and view]
        blocks = [torch.cat([self.public[rows],
                             *(self.own(names[view], draw, self.ids[rows]) for view in asked)]) for rows in plan]
        for batch, rows in zip(self.whole.batches(blocks, draw=draw, views=("", *others)), plan, strict=True):
            yield _parted(batch, len(rows), asked)


def _parted(batch: Batch, rows: int, views: Sequence[str]) -> Batch:
    """Public rows, and then as many of each view's device: one block, taken apart."""
    inputs = {"": batch.inputs} if isinstance(batch.inputs, Tensor) else batch.inputs
    found: Inputs = {name: one_tensor(view)[:rows] for name, view in inputs.items()}
    plain, labels, told = one_tensor(inputs[""]), one_tensor(batch.labels), dict[str, Tensor]()
    unknown_to_all = _without_label(labels[:rows])
    for place, view in enumerate(views, 1):
        own = slice(place * rows, (place + 1) * rows)
        found |= {view: torch.cat([plain[own], plain[:rows]])}
        told[view] = torch.cat([labels[own], unknown_to_all])
    return Batch(found, told, batch.ids[:rows])


def _without_label(labels: Tensor) -> Tensor:
    return torch.zeros_like(labels) if labels.is_floating_point() else torch.full_like(labels, -1)


def with_shards(data: Data, shards: Shards, seed: int) -> Data:
    """The same data, whose training rows are dealt out; a note says how."""
    public, parts = dealt(data.train.ids, data.train.labels, shards, seed)
    sizes = [len(part) for part in parts]
    classes = [len(data.train.labels[part].unique()) for part in parts]
    note = (f"{len(public)} training rows are public, without their labels; {len(parts)} devices have {min(sizes)} to "
            f"{max(sizes)} of their own, of {min(classes)} to {max(classes)} classes")
    return replace(data, train=ShardedSource(data.train, public, tuple(parts), seed), notes=(*data.notes, note))
