"""How to train, and what cannot be trained so."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from tutelage.data.source import Data
from tutelage.engine.optimizers import MakeOptimizer
from tutelage.engine.predict import SCORES
from tutelage.errors import DataError, UsageError, unknown
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.graph.schedules import cosine
from tutelage.system.distributed import World
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

    @property
    def judge(self) -> str | None:
        """The score by which the best weights are kept; None where the last are."""
        return "top1" if self.best is True else self.best or None

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
        if isinstance(self.best, str) and self.best not in SCORES:
            raise unknown("score", self.best, SCORES, where="best")
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


def check_labels(data: Data) -> None:
    """Refuse labels that are no class."""
    if len(data.classes) < 2:
        raise DataError("too few classes: there is nothing to tell apart", where="training data",
                        found=f"{len(data.classes)} classes", expected="two or more")
    least, most = (int(end) for end in data.train.labels.aminmax())
    if least < -1 or most >= len(data.classes):
        raise DataError("labels out of range", where="training data", found=f"{least} .. {most}",
                        expected=f"-1 (no label) .. {len(data.classes) - 1}")


def check_batchnorm(graph: Graph, networks: Mapping[str, nn.Module], rows: int) -> None:
    """Refuse a share of a batch with one row where a network has BatchNorm."""
    for node in graph.named(Trained):
        if rows < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in networks[node].modules()):
            raise UsageError("BatchNorm needs two images or more at a time", where=f"node {node!r}",
                             found=f"{rows} image for each rank and micro-batch",
                             fix="raise batch_size, or lower accumulate")
