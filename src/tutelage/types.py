"""The words every other page speaks in.

B is the number of rows of a batch, C the number of classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypedDict

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class numbers with -1 for "no label", or soft labels whose rows sum to 1 (a row of zeros: no label)."""
PerSample = Float[Tensor, " batch"]
Rows = Float[Tensor, "batch *any"]
"""Whatever an end gives: logits, a feature map, one number a row."""

PerSampleFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student, teacher, labels) -> [B]: the one signature of divergences and of sample weights."""
Schedule = Callable[[float], float]
"""Progress through the run, in [0, 1] -> the weight of an edge, or a factor on a learning rate."""
Outputs = dict[str, Tensor]
"""End -> tensor."""
Reader = Callable[[Tensor, Sequence[str], str], dict[str, Tensor]]
"""(inputs, taps, view) -> tap -> tensor: how an engine runs a network that is more than a plain module."""
Inputs = Tensor | Mapping[str, Tensor]
"""One view, or the name of each view -> tensor; the plain view is called ""."""


def hard_labels(labels: Labels) -> Int[Tensor, " batch"]:
    """Class numbers with -1 for no label: of soft labels the largest, the first among equals."""
    return labels.argmax(-1).where(labels.sum(-1) > 0, -1) if labels.is_floating_point() else labels


class Scores(TypedDict):
    """What held-out data say of nodes, and of pairs of them: name, or "a|b", -> metric -> number."""

    nodes: dict[str, dict[str, float]]
    pairs: dict[str, dict[str, float]]


class Batch(NamedTuple):
    """What a data set brings for one step.

    `inputs` are images in [0, 1], [B, channels, height, width]; `labels` as `Labels` says; `ids` [B] int64 name
    the samples for good, whatever their place in the batch.
    """

    inputs: Inputs
    labels: Tensor
    ids: Tensor


class Content(NamedTuple):
    """What a digest sees of a file: its bytes, and the SHA-256 of them or, in a large set, of the first 4096."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ImageFiles:
    """The image files that a data set is read from, each by its path within the folder.

    `sealed` gives the digest that the data would have if some files had other contents; `named` finds the file that the
    `where` of an error means; `damaged` reads all files and names those that cannot be used.
    """

    contents: Mapping[str, Content]
    sealed: Callable[[Mapping[str, Content]], str]
    named: Callable[[str], str | None]
    damaged: Callable[[], list[str]]
