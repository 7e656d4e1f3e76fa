"""The words every other page speaks in.

B is the number of rows of a batch, C the number of classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypedDict

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class numbers with -1 for "no label", or soft labels whose rows sum to 1 (a row of zeros: no label)."""
PerSample = Float[Tensor, " batch"]
Features = Float[Tensor, "batch *any"]
"""Whatever an end gives: logits, a feature map, one number a row."""

PerSampleFn = Callable[[Tensor, Tensor, Any], Tensor]
"""(student, teacher, labels) -> [B]: the one signature of divergences and of sample weights. Labels: `BatchLabels`."""
Schedule = Callable[[float], float]
"""Progress through the run, in [0, 1] -> the weight of an edge, or a factor on a learning rate."""
Outputs = dict[str, Tensor]
"""End -> tensor."""
View = Tensor | Mapping[str, Tensor]
"""What a network is given: one tensor, or the name of each of its arguments -> tensor [B, ...]."""
Inputs = Tensor | Mapping[str, View]
"""The plain view alone where that is a tensor; else the name of each view -> view. The plain view is called ""."""
Reader = Callable[[View, Sequence[str], str], dict[str, Tensor]]
"""(inputs, taps, view) -> tap -> tensor: how an engine runs a network that is more than a plain module."""
BatchLabels = Tensor | Mapping[str, Tensor]
"""The labels of a batch: one tensor [B, ...], or name -> tensor [B, ...]; then `labels.NAME` is an end.

What is of unlike length from sample to sample is padded to one length for the whole split.
"""


def hard_labels(labels: Labels) -> Int[Tensor, " batch"]:
    """Class numbers with -1 for no label: of soft labels the largest, the first among equals."""
    return labels.argmax(-1).where(labels.sum(-1) > 0, -1) if labels.is_floating_point() else labels


class Scores(TypedDict):
    """What held-out data say of nodes, and of pairs of them: name, or "a|b", -> metric -> number."""

    nodes: dict[str, dict[str, float]]
    pairs: dict[str, dict[str, float]]


class Batch(NamedTuple):
    """What a data set brings for one step.

    `inputs` of images are in [0, 1], [B, channels, height, width]; `labels` as `BatchLabels` says, for classes as
    `Labels`; `ids` [B] int64 name the samples for good, whatever their place in the batch.
    """

    inputs: Inputs
    labels: BatchLabels
    ids: Tensor


def one_tensor(given: Tensor | Mapping[str, Any]) -> Tensor:
    """What must be one tensor, such as images or class numbers, where other tasks have several."""
    assert isinstance(given, Tensor), f"one tensor is expected, not {sorted(given)}"
    return given


def rows_in(view: View) -> int:
    """How many samples a view is of."""
    return len(view if isinstance(view, Tensor) else next(iter(view.values())))


def plain_view(inputs: Inputs) -> View:
    """The view that no augmentation made."""
    return inputs if isinstance(inputs, Tensor) else inputs[""]


def image_ends(inputs: Inputs) -> dict[str, Tensor]:
    """Every tensor of the inputs by a name that no end has: "@VIEW", or "@VIEW:ARGUMENT" of a view of several."""
    views = {"": inputs} if isinstance(inputs, Tensor) else inputs
    ends = {f"@{name}": view for name, view in views.items() if isinstance(view, Tensor)}
    return ends | {f"@{name}:{argument}": x for name, view in views.items() if not isinstance(view, Tensor)
                   for argument, x in view.items()}


def inputs_like(inputs: Inputs, ends: Mapping[str, Tensor]) -> Inputs:
    """Inputs of the same form, with the tensors that `image_ends` named."""
    if isinstance(inputs, Tensor):
        return ends["@"]
    return {name: ends[f"@{name}"] if isinstance(view, Tensor) else {key: ends[f"@{name}:{key}"] for key in view}
            for name, view in inputs.items()}


def label_ends(labels: BatchLabels) -> dict[str, Tensor]:
    """The ends that the labels of a batch are."""
    return {"labels": labels} if isinstance(labels, Tensor) else {f"labels.{name}": x for name, x in labels.items()}


def labels_of(ends: Mapping[str, Tensor]) -> BatchLabels:
    """The labels that `label_ends` made ends of, among other ends."""
    if "labels" in ends:
        return ends["labels"]
    return {end.removeprefix("labels."): x for end, x in ends.items() if end.startswith("labels.")}


class Rows(NamedTuple):
    """What some edges compare: the same R rows of each end.

    `values` holds [R, ...] of each end, `labels` [R, ...], or name -> [R, ...]. `counts` [R], in the type of the
    values, says how much each row counts: None is 1 for each, and then a loss is divided by R. `total` is what a sum is
    divided by where there are counts; None is their sum. `sample` [R] says which row of the batch each row is of, None
    that it is that row: numbers of a sample, and ids, reach rows by it.
    """

    values: Mapping[str, Tensor]
    labels: BatchLabels
    counts: Tensor | None = None
    total: Tensor | None = None
    sample: Tensor | None = None

    @property
    def divisor(self) -> Tensor:
        """What a weighted sum over the rows is divided by: where nothing counts the sum is 0, and so is the loss."""
        assert self.counts is not None, "only rows that count unlike have a divisor of their own"
        return (self.counts.sum() if self.total is None else self.total).clamp(min=1e-12)


RowsFn = Callable[[Mapping[str, Tensor], BatchLabels], Rows]
"""(end -> output, labels) -> the rows of these ends. An attribute `total`, (labels) -> scalar, gives the divisor from
the labels alone; only then may a step have several micro-batches."""


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
