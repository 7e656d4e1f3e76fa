"""A graph as plain data, for a run folder and for programs: what `str(graph)` shows to people."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.naming import describe
from tutelage.graph.nodes import Computed, Ema, Frozen, Kind, Trained

GRAPH_FILE = "graph.json"
"""Where a run folder has it."""


class NodeData(TypedDict):
    """A node. `of` are the ends it is computed from, or the one node it follows; `by` is what computes it."""

    name: str
    kind: Literal["trained", "frozen", "ema", "computed"]
    before: NotRequired[str | None]
    of: NotRequired[list[str]]
    decay: NotRequired[float]
    every: NotRequired[int]
    by: NotRequired[str]
    rows: NotRequired[str]


class EdgeData(TypedDict):
    """An edge; functions by their names with their options. `ends` are all that it reads.

    `weight` is a number, or the name of a schedule; `sample_weight` is an end if it is among `ends`.
    """

    name: str
    teacher: str
    student: str
    divergence: str
    weight: float | str
    temperature: float
    sample_weight: str | None
    ends: list[str]
    rows: NotRequired[str]


class GraphData(TypedDict):
    """A whole graph; controllers by name, each with what it is."""

    nodes: list[NodeData]
    edges: list[EdgeData]
    controllers: dict[str, str]


def data_of(graph: Graph) -> GraphData:
    """The graph as JSON can hold it."""
    return {"nodes": [_node(name, kind) for name, kind in graph.nodes.items()],
            "edges": [_edge(edge) for edge in graph.edges],
            "controllers": {name: describe(controller) for name, controller in graph.controllers.items()}}


def _node(name: str, kind: Kind) -> NodeData:
    match kind:
        case Trained(before):
            return {"name": name, "kind": "trained", "before": before}
        case Frozen(before, _):
            return {"name": name, "kind": "frozen", "before": before}
        case Ema(of, decay, every):
            return {"name": name, "kind": "ema", "of": [of], "decay": float(decay), "every": every}
        case Computed(of, by, rows):
            own: NodeData = {"name": name, "kind": "computed", "of": list(of), "by": describe(by)}
            return own if rows is None else {**own, "rows": describe(rows)}


def _edge(edge: Edge) -> EdgeData:
    weighted = edge.sample_weight
    data: EdgeData = {"name": edge.name, "teacher": edge.teacher, "student": edge.student,
            "divergence": describe(edge.divergence),
            "weight": describe(edge.weight) if callable(edge.weight) else float(edge.weight),
            "temperature": float(edge.temperature), "sample_weight": None if weighted is None else describe(weighted),
            "ends": list(edge.ends)}
    return data if edge.rows is None else {**data, "rows": describe(edge.rows)}
