"""What a loop watches and adds up in every step without waiting for the device."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tutelage.errors import NumericError
from tutelage.graph.gaussians import RELATIONAL
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound
from tutelage.types import Outputs

logger = logging.getLogger("tutelage")
OUTWEIGHED = 10.0
"""A relation among rows that costs so many times as much as learning from labels does is told."""
LEAST_COST = 0.1
"""What labels are taken to cost at least: a likelihood may pass through 0."""


@dataclass(frozen=True)
class Seen:
    """What a step leaves to be looked at: the losses [edges], whether all are finite, outputs by end, and the ids."""

    edges: tuple[str, ...]
    values: Tensor
    finite: Tensor
    outputs: Outputs
    ids: Tensor

    def copied(self) -> "Seen":
        """The same in memory of its own."""
        return replace(self, values=self.values.clone(), finite=self.finite.clone(), ids=self.ids.clone(),
                       outputs={end: rows.clone() for end, rows in self.outputs.items()})


def look(edges: tuple[str, ...], values: Tensor, outputs: Outputs, ids: Tensor) -> Seen:
    """What there is to see in the losses `values` of these edges and in the outputs that they came from."""
    # Away from the CPU a step may wait long to be read: then only what says which rows were bad is kept.
    kept = {end: rows.detach() if rows.device.type == "cpu" else _finite_rows(rows)
            for end, rows in outputs.items() if rows.is_floating_point() and rows.shape[:1] == ids.shape}
    return Seen(edges, values, values.isfinite().all(), kept, ids)


class Guard:
    """Looks at every loss and output, and tells the first that was not finite, with its samples."""

    def __init__(self) -> None:
        self._unread: list[tuple[int, Seen]] = []

    def watch(self, step: int, seen: Seen) -> None:
        """Have this step read with the others."""
        self._unread.append((step, seen))

    def read(self) -> None:
        """Raise a NumericError if one of the steps since the last reading was not finite."""
        unread, self._unread = self._unread, []
        if not unread or bool(torch.stack([seen.finite for _, seen in unread]).all()):
            return  # asked of the device once for all steps
        for step, seen in unread:
            if not seen.finite:
                raise _not_finite(step, seen.edges, seen.values, seen.outputs, seen.ids)


def _finite_rows(rows: Tensor) -> Tensor:
    return rows.detach().reshape(len(rows), -1).sum(-1).isfinite() if rows.dtype != torch.bool else rows


def _not_finite(step: int, edges: Sequence[str], values: Tensor, outputs: Outputs, ids: Tensor) -> NumericError:
    rows = {end: _finite_rows(found) for end, found in outputs.items()}
    bad = [end for end, fine in rows.items() if not bool(fine.all())]
    samples = ids[~torch.stack(list(rows.values())).all(0)].tolist() if rows else []
    terms = [edge for edge, fine in zip(edges, values.isfinite().tolist(), strict=True) if not fine]
    found = (f"outputs of {', '.join(bad)} for samples {samples[:10]}" if bad else f"losses of {', '.join(terms)}")
    return NumericError("a number is no longer finite", where=f"step {step}", found=found,
                        expected="finite outputs and losses; the networks keep the weights of the step before",
                        fix="lower lr, set clip_norm, or check the teacher's weights and these images")


class Means:
    """The mean loss of each edge over the micro-batches of an epoch in which it was live.

    Sums are float64 and on the device; they are added to one by one, so a run that is saved and resumed in between
    has the same bits.
    """

    def __init__(self) -> None:
        self._edges: tuple[str, ...] = ()
        self._sums = torch.zeros(0, dtype=torch.float64)
        self._others: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, edges: tuple[str, ...], values: Tensor) -> None:
        """Count the losses [edges] of one micro-batch."""
        if edges != self._edges:
            self._others |= dict(zip(self._edges, self._sums.unbind(), strict=True))
            zero = values.new_zeros((), dtype=torch.float64)
            self._sums = torch.stack([self._others.pop(edge, zero).to(values.device) for edge in edges])
            self._edges = edges
        self._sums = self._sums + values
        for edge in edges:
            self._counts[edge] = self._counts.get(edge, 0) + 1

    def state(self) -> dict[str, Tensor]:
        """Edge -> [sum, count], to be saved."""
        sums = self._others | dict(zip(self._edges, self._sums.unbind(), strict=True))
        return {edge: torch.stack((total, total.new_tensor(self._counts[edge]))) for edge, total in sums.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.__init__()
        self._others = {edge: pair[0] for edge, pair in state.items()}
        self._counts = {edge: int(pair[1]) for edge, pair in state.items()}

    def read(self, edges: Iterable[str], micro_batches: int = 1) -> dict[str, float]:
        """Edge -> mean loss of a step of so many micro-batches, in the order of `edges`."""
        state = self.state()
        return {edge: float(state[edge][0] / state[edge][1]) * micro_batches for edge in edges if edge in state}


def warn_outweighed(graph: Graph, means: Mapping[str, float]) -> None:
    """Log the relations among rows of a batch that cost ten times as much as the labels of their student, or more.

    `means` are the mean losses of an epoch by edge, weights included.
    """
    for edge in graph.edges:
        if unbound(edge.divergence) not in RELATIONAL or edge.name not in means:
            continue
        labels = [abs(means[other.name]) for other in graph.edges
                  if other.from_labels and other.student == edge.student and other.name in means]
        if labels and means[edge.name] > OUTWEIGHED * max(sum(labels), LEAST_COST):
            logger.warning("note: %s costs %.3g, more than ten times what the labels do (%.3g): lower its weight, or "
                           "the student will learn relations and no targets", edge.name, means[edge.name], sum(labels))
