"""How to train, and what cannot be trained so."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from tutelage.data.shards import is_shard
from tutelage.engine.optimizers import MakeOptimizer
from tutelage.errors import DataError, UsageError, unknown
from tutelage.graph.gaussians import RELATIONAL
from tutelage.graph.graph import Graph
from tutelage.graph.naming import name_of, unbound
from tutelage.graph.nodes import Trained
from tutelage.graph.rows import total_of
from tutelage.graph.schedules import cosine
from tutelage.system.distributed import World
from tutelage.tasks.task import Score, Task
from tutelage.types import Schedule

PRECISIONS = ("auto", "exact", "bf16")
CHECKS = ("probabilities", "neighbours", "training_output", "constant", "class_order", "swapped_pairs", "chance",
          "one_class", "moving_statistics")
"""What is asked of networks at the start, by name; `checks` does it."""


@dataclass(frozen=True)
class Settings:
    """How to train; `train.train` explains each."""

    epochs: int
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer]
    rate: Schedule = cosine
    warmup_epochs: float = 0.0
    batch_size: int = 128
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "auto"
    seed: int = 0
    checkpoint_steps: int | None = None
    best: bool | str = False
    limit_draws: int | None = None
    cache: bool | str = "auto"
    cache_gib: float = 20.0
    cache_top: int | None = None
    warn: tuple[str, ...] = ()

    @property
    def draws(self) -> int:
        """How many draws of the augmentation there are; epoch e has draw e modulo that."""
        return self.epochs if self.limit_draws is None else min(self.limit_draws, self.epochs)

    def __post_init__(self) -> None:
        _at_least("epochs", self.epochs, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("accumulate", self.accumulate, 1)
        _at_least("seed", self.seed, 0)
        _at_least("checkpoint_steps", self.checkpoint_steps, 1)
        _at_least("draws", self.limit_draws, 1)
        _at_least("cache_gib", self.cache_gib, 0)
        for name in self.warn:
            if name not in CHECKS:
                raise unknown("check", name, CHECKS, where="warn")
        if self.cache not in (True, False, "auto"):
            raise UsageError("unknown cache", where="cache", found=repr(self.cache), expected="true, false or 'auto'")
        _at_least("cache_top", self.cache_top, 1)
        if self.cache_top is not None and (self.cache is not True or self.precision == "exact"):
            raise UsageError("the largest logits alone change what is learned", where="cache_top",
                             found=f"cache = {self.cache!r}, precision = {self.precision!r}",
                             expected='cache = true, and a precision other than "exact"')
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UsageError("a warm-up that cannot be", where="warmup_epochs", found=self.warmup_epochs,
                             expected=f"0 or more, and less than epochs = {self.epochs}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError("a norm to clip at that cannot be", where="clip_norm", found=self.clip_norm,
                             expected="a number above 0")
        if self.precision not in PRECISIONS:
            raise UsageError("unknown precision", where="precision", found=repr(self.precision),
                             expected=", ".join(PRECISIONS))


def judging_score(task: Task, best: bool | str) -> Score | None:
    """The score by which the best weights are kept: the first of the task, or the one named; None: the last are kept.

    Raises UsageError for a score that is not told after each epoch.
    """
    if not best:
        return None
    scores = {score.key: score for score in task.epoch_scores}
    name = task.scores[0].key if best is True else best
    if name not in scores:
        raise unknown("score", name, scores, where="best")
    return scores[name]


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and not value >= least:
        raise UsageError(f"{name} out of range", where=name, found=value, expected=f"{least} or more")


def check_batches(rows: int, settings: Settings, world: World) -> None:
    """Refuse a batch that no epoch has, or that cannot be shared out."""
    if rows < settings.batch_size:
        raise DataError("fewer training images than one batch: an epoch would have no step", where="batch_size",
                        found=f"{rows} images, batch_size = {settings.batch_size}",
                        fix=f"set batch_size to {max(2, rows // 4)} or less")
    if settings.batch_size % (world.size * settings.accumulate):
        raise UsageError("a batch that cannot be shared out evenly", where="batch_size", found=settings.batch_size,
                         expected=f"a multiple of ranks x accumulate = {world.size} x {settings.accumulate}")


def check_accumulation(graph: Graph, settings: Settings) -> None:
    """Refuse micro-batches where what the loss of a whole step is divided by is not known from its labels.

    What compares the rows of a batch with each other sees another batch in them, and needs two rows.
    """
    for edge in graph.edges:
        if unbound(edge.divergence) in RELATIONAL and (settings.accumulate > 1 or settings.batch_size < 2):
            few = settings.accumulate == 1
            raise UsageError("a relation among the rows of a batch needs the whole batch",
                             where=f"edge {edge.name}", expected="batch_size 2 or more" if few else "accumulate = 1",
                             found=f"{'batch_size' if few else 'accumulate'} = "
                                   f"{settings.batch_size if few else settings.accumulate}",
                             fix="raise batch_size" if few else "lower batch_size instead, or leave the relations out")
    for edge in graph.edges if settings.accumulate > 1 else ():
        if edge.rows is not None and total_of(edge.rows) is None:
            raise UsageError("rows whose number is known only batch by batch cannot be accumulated",
                             where=f"edge {edge.name}", found=f"accumulate = {settings.accumulate}",
                             expected="accumulate = 1",
                             fix=f"give {name_of(edge.rows)} an attribute total: (labels) -> scalar")


def check_one_process(graph: Graph, world: World) -> None:
    """Refuse ranks where views hold the rows of one device each: their halves would not be found again."""
    if world.size > 1 and any(map(is_shard, graph.views())):
        raise UsageError("a fleet is simulated in one process", where="[data] shards", found=f"{world.size} ranks",
                         expected="1", fix="run it without torchrun, or on one device")


def check_batchnorm(graph: Graph, networks: Mapping[str, nn.Module], rows: int) -> None:
    """Refuse a share of a batch with one row where a network has BatchNorm."""
    for node in graph.named(Trained):
        if rows < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in networks[node].modules()):
            raise UsageError("BatchNorm needs two images or more at a time", where=f"node {node!r}",
                             found=f"{rows} image for each rank and micro-batch",
                             fix="raise batch_size, or lower accumulate")
