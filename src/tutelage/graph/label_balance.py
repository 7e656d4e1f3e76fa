"""What edges from labels do about classes of unequal size: options of `cross_entropy`, for a whole graph at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound


def with_label_options(graph: Graph, options: dict[str, Any]) -> Graph:
    """The graph with these options of `cross_entropy` on every edge from labels that has it and says nothing else.

    UsageError if there is no such edge.
    """
    if not any(map(_is_from_labels, graph.edges)):
        raise UsageError("no edge learns from labels by cross_entropy", where=", ".join(options),
                         found=", ".join(edge.name for edge in graph.edges) or "no edge",
                         fix="leave it out: this method reads labels in a way of its own")
    return _changed(graph, lambda own: {**options, **own})


def with_class_counts(graph: Graph, counts: Sequence[float]) -> Graph:
    """The graph with how many rows of each class an epoch has on the edges that need it and do not say it."""
    return _changed(graph, lambda own: {"class_counts": tuple(counts), **own} if needs_class_counts(own) else own)


def needs_class_counts(options: dict[str, Any]) -> bool:
    """Whether `cross_entropy` asks with these options how many rows each class has."""
    return options.get("class_weights", "none") != "none" or bool(options.get("logit_adjustment"))


def _changed(graph: Graph, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Graph:
    edges = [_with_options(edge, change) if _is_from_labels(edge) else edge for edge in graph.edges]
    same = all(old is new for old, new in zip(graph.edges, edges, strict=True))
    return graph if same else replace(graph, edges=edges)


def _with_options(edge: Edge, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Edge:
    own = edge.divergence.keywords if isinstance(edge.divergence, partial) else {}
    options = change(own)
    return edge if options == own else replace(edge, divergence=partial(cross_entropy, **options))


def _is_from_labels(edge: Edge) -> bool:
    return edge.teacher == "labels" and unbound(edge.divergence) is cross_entropy
