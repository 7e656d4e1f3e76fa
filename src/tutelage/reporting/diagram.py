"""Who learns from whom in a run folder, as words: from its recipe, or from the table a Python run has written."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config import graph_of, read_recipe
from tutelage.errors import ModelError, UserError
from tutelage.graph import Edge, Ema, Frozen, Graph, Kind, Trained, describe, parse_end

_EDGE = re.compile(r"(?P<teacher>\S+) +-> (?P<student>\S+) +(?P<divergence>\S.*?) +T=(?P<temperature>\S+) +"
                   r"x (?P<weight>\S.*?)(?: +x (?P<sample_weight>\S.*))?")
_NODE = re.compile(r"(?P<name>[A-Za-z0-9_-]+) +(?P<kind>\S.*)")


@dataclass(frozen=True)
class Node:
    """A node: its kind is trained, frozen, ema or computed; `of` is what it follows or is computed from."""

    name: str
    kind: str
    of: tuple[str, ...] = ()
    network: str = ""


@dataclass(frozen=True)
class Link:
    """An edge, each part as it is written in `tutelage graph`."""

    teacher: str
    student: str
    divergence: str
    temperature: str
    weight: str
    sample_weight: str = ""

    @property
    def name(self) -> str:
        """What the edge is called in the records; the same as `graph.Edge.name`."""
        warm = "" if self.temperature == "1" else f"/{self.temperature}"
        return f"{self.teacher}->{self.student}:{self.divergence.partition('(')[0]}{warm}"

    @property
    def source(self) -> str:
        """The node that is learned from, without tap and view, or `labels`."""
        return parse_end(self.teacher).node

    @property
    def learner(self) -> str:
        """The node that learns."""
        return parse_end(self.student).node


@dataclass(frozen=True)
class Diagram:
    """A graph as it is drawn."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def students(self) -> list[str]:
        """The nodes at which an edge ends, in the graph's order."""
        ends = {link.learner for link in self.links}
        return [node.name for node in self.nodes if node.name in ends]


def diagram_of(config: str, where: Path) -> Diagram:
    """The graph of a run folder's config.toml; no network is built and no code of a plugin runs."""
    try:
        tables = tomllib.loads(config)
        if "python" in tables:
            return _from_table(tables["python"])
        plugins = tables.get("run", {}).get("plugins", [])  # named, never imported here
        recipe = read_recipe(where, plugins=plugins)
        networks = {node: arch.arch for node, arch in recipe.models.items()}
        return _from_graph(graph_of(recipe, where), networks)
    except (UserError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        mine = isinstance(error, UserError)
        told = f"{error.what} {error.found or ''}" if mine else f"{type(error).__name__}: {error}"
        raise ModelError("a run folder whose config.toml this version cannot read", where=where, found=told.strip(),
                         expected="the resolved recipe that `tutelage train` wrote",
                         fix="make the report with the version that versions.json names") from None


def _from_graph(graph: Graph, networks: Mapping[str, str]) -> Diagram:
    nodes = tuple(Node(name, *_kind(kind), networks.get(name, "")) for name, kind in graph.nodes.items())
    return Diagram(nodes, tuple(_link(edge) for edge in graph.edges))


def _kind(kind: Kind) -> tuple[str, tuple[str, ...]]:
    if isinstance(kind, Trained | Frozen):
        return describe(kind), ()
    return ("ema", (kind.of,)) if isinstance(kind, Ema) else ("computed", kind.of)


def _link(edge: Edge) -> Link:
    weight = describe(edge.weight) if callable(edge.weight) else f"{edge.weight:g}"
    return Link(edge.teacher, edge.student, describe(edge.divergence), f"{edge.temperature:g}", weight,
                "" if edge.sample_weight is None else describe(edge.sample_weight))


def _from_table(python: Mapping[str, Any]) -> Diagram:
    """`str(graph)` read back: nodes, an empty line, edges, and perhaps controllers, which are not drawn."""
    blocks = str(python["graph"]).strip("\n").split("\n\n")
    networks = {str(node): str(text) for node, text in python.get("models", {}).items()}
    nodes = [_node(_NODE.fullmatch(line), networks) for line in blocks[0].splitlines()]
    lines = blocks[1].splitlines() if len(blocks) > 1 else []
    matches = [match for line in lines if (match := _EDGE.fullmatch(line.rstrip()))]
    diagram = Diagram(tuple(nodes), tuple(Link(**_given(match)) for match in matches))
    ends = {end for link in diagram.links for end in (link.source, link.learner)}
    if odd := ends - {"labels", *(node.name for node in nodes)}:
        raise ValueError(f"edges of nodes that are not there: {', '.join(sorted(odd))}")
    return diagram


def _given(match: re.Match[str]) -> dict[str, str]:
    return {key: value or "" for key, value in match.groupdict().items()}


def _node(match: re.Match[str] | None, networks: Mapping[str, str]) -> Node:
    if match is None:
        raise ValueError("a graph that is not the table of nodes and edges")
    name, kind = match["name"], match["kind"]
    if kind in ("trained", "frozen"):
        return Node(name, kind, (), networks.get(name, ""))
    of: Sequence[str] = kind.partition(" of ")[2].split(", ")
    return Node(name, "ema", (of[0],)) if kind.startswith("ema of ") else Node(name, "computed", tuple(of))


