"""The rows that edges compare: samples, or what a task makes of the ends, such as pixels.

A function of rows is asked once a step, for all ends that the live edges and the computed nodes of these rows read, so
that it can bring them to one grid. Two functions are the same if they are equal: bind options once, in a name of a
module or in a frozen dataclass.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from tutelage.errors import ModelError
from tutelage.graph.edge import Edge
from tutelage.graph.ends import End, is_of_batch, parse_end
from tutelage.graph.naming import name_of
from tutelage.graph.nodes import Computed, Kind
from tutelage.types import BatchLabels, Outputs, Rows, RowsFn, label_ends


@runtime_checkable
class HasTotal(Protocol):
    """Rows that know from the labels alone what their sums are divided by."""

    total: Callable[[BatchLabels], Tensor]


@runtime_checkable
class HasCheck(Protocol):
    """Rows that can refuse ends by their numbers, end -> output: that is asked once, before a run."""

    check: Callable[[Mapping[str, Tensor]], None]


@runtime_checkable
class HasChoices(Protocol):
    """Rows of a choice that is not one of the classes: among how many."""

    choices: int


def check_of(rows: RowsFn | None) -> Callable[[Mapping[str, Tensor]], None] | None:
    """What looks at the ends before a run; None where the rows have no attribute `check`."""
    return rows.check if isinstance(rows, HasCheck) else None


def check_rows(edges: Sequence[Edge], outputs: Mapping[str, Tensor], nodes: Mapping[str, Kind]) -> None:
    """Let each function of rows look at the ends that these edges read by it."""
    for rows in dict.fromkeys(edge.rows for edge in edges):
        check = check_of(rows)
        if rows is not None and check is not None:
            own = [edge for edge in edges if edge.rows == rows]
            read, _ = _split(rows, own, nodes)
            weights = {edge.sample_weight for edge in own if isinstance(edge.sample_weight, str)}
            check({end: outputs[end] for end in read if not is_of_batch(end) and end not in weights})


def row_sets(edges: Sequence[Edge], outputs: Mapping[str, Tensor], labels: BatchLabels,
             nodes: Mapping[str, Kind] | None = None) -> dict[RowsFn | None, Rows]:
    """Function of rows -> the rows of all ends that the edges read by it; None -> the batch as it is.

    `nodes` are those of the graph: what is computed of rows is worked out here. Raises ModelError if the ends have
    unlike numbers of rows.
    """
    sets: dict[RowsFn | None, Rows] = {}
    for edge in edges:
        if edge.rows not in sets:
            own = [other for other in edges if other.rows == edge.rows]
            sets[edge.rows] = (Rows(outputs, labels) if edge.rows is None else
                               _rows(edge.rows, own, outputs, labels, nodes or {}))
    return sets


def total_of(rows: RowsFn) -> Callable[[BatchLabels], Tensor] | None:
    """What gives the divisor of these rows from labels alone; None where they have no attribute `total`."""
    return rows.total if isinstance(rows, HasTotal) else None


def computed(node: str, kind: Computed, values: Mapping[str, Tensor]) -> Outputs:
    """The ends of a computed node, from those that it reads."""
    result = kind.by(*(values[source] for source in kind.of))
    taps = result if isinstance(result, dict) else {"logits": result}
    return {End(node, "" if tap == "logits" else tap, "").name: x for tap, x in taps.items()}


def _rows(rows: RowsFn, edges: Sequence[Edge], outputs: Mapping[str, Tensor], labels: BatchLabels,
          nodes: Mapping[str, Kind]) -> Rows:
    read, made = _split(rows, edges, nodes)
    # What weighs edges and is not made of rows has one number a sample, and so have ids.
    weights = {edge.sample_weight for edge in edges if isinstance(edge.sample_weight, str)}
    of_samples = (weights | {"ids"}) & read.keys()
    seen = rows({end: outputs[end] for end in read if not is_of_batch(end) and end not in of_samples}, labels)
    values = {**seen.values, **label_ends(seen.labels)}
    if len({len(value) for value in values.values()}) > 1:
        raise ModelError("the ends of an edge have unlike numbers of rows", where=f"rows {name_of(rows)}",
                         found=", ".join(f"{len(value)} of {end}" for end, value in values.items()),
                         expected="as many rows of each end")
    for end in of_samples:
        values[end] = outputs[end] if seen.sample is None else outputs[end][seen.sample]
    for node, kind in made.items():
        values |= computed(node, kind, values)
    return seen._replace(values=values)


def _split(rows: RowsFn, edges: Sequence[Edge], nodes: Mapping[str, Kind]) -> tuple[dict[str, None],
                                                                                   dict[str, Computed]]:
    """The ends that come from outside of the rows, and the nodes computed of them, each after what it reads."""
    read, made = dict[str, None](), dict[str, Computed]()

    def visit(end: str) -> None:
        node = parse_end(end).node
        kind = nodes.get(node)
        if not isinstance(kind, Computed) or kind.rows != rows:
            read[end] = None
        elif node not in made:
            for source in kind.of:
                visit(source)
            made[node] = kind

    for edge in edges:
        for end in edge.ends:
            visit(end)
    return read, made
