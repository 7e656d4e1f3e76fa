"""Who learns from whom in a run folder, as words: from graph.json.

Folders of earlier versions have none: then it is from the recipe, or from the table that a Python run has written.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError, UserError
from tutelage.graph.ends import parse_end
from tutelage.graph.graph_data import GRAPH_FILE, EdgeData, GraphData, NodeData, data_of
from tutelage.recipes.recipe import graph_of, read_recipe

_EDGE = re.compile(r"(?P<teacher>\S+) +-> (?P<student>\S+) +(?P<divergence>\S.*?) +T=(?P<temperature>\S+) +"
                   r"x (?P<weight>\S.*?)(?: +x (?P<sample_weight>\S.*))?")
_NODE = re.compile(r"(?P<name>[A-Za-z0-9_-]+) +(?P<kind>\S.*)")
_NETWORK = re.compile(r"(?P<kind>trained|frozen)(?:, (?P<before>\S+) of the run before)?")


@dataclass(frozen=True)
class Node:
    """A node: its kind is trained, frozen, ema or computed; `of` is what it follows or is computed from.

    `before` is the network of the run before this one that it starts from, or is; `rows` what it is computed of, where
    that is not the batch as it is.
    """

    name: str
    kind: str
    of: tuple[str, ...] = ()
    network: str = ""
    before: str = ""
    rows: str = ""

    @property
    def words(self) -> str:
        """The kind for a person, as in `tutelage graph`."""
        return self.kind + (f", {self.before} of the run before" if self.before else "") + _in_brackets(self.rows)


@dataclass(frozen=True)
class Link:
    """An edge, each part as it is written in `tutelage graph`; `rows` are what it compares, "" the batch as it is."""

    teacher: str
    student: str
    divergence: str
    temperature: str
    weight: str
    sample_weight: str = ""
    rows: str = ""

    @property
    def by(self) -> str:
        """The divergence and the rows, as in `tutelage graph`."""
        return self.divergence + _in_brackets(self.rows)

    @property
    def name(self) -> str:
        """What the edge is called in the records; the same as `graph.edge.Edge.name`."""
        warm = "" if self.temperature == "1" else f"/{self.temperature}"
        rows = f"[{_plain(self.rows)}]" if self.rows else ""
        return f"{self.teacher}->{self.student}:{_plain(self.divergence)}{warm}{rows}"

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


def _plain(described: str) -> str:
    """The name of a function, without its options."""
    return described.partition("(")[0]


def _in_brackets(rows: str) -> str:
    return f" [{_plain(rows)}]" if rows else ""


def diagram_of(config: str, where: Path, data: GraphData | None = None) -> Diagram:
    """The graph of a run folder: of its graph.json, or of its config.toml; no code of a plugin runs."""
    place = where
    try:
        tables = tomllib.loads(config)
        networks = _networks(tables)
        if data is not None:
            place = where.with_name(GRAPH_FILE)
            return _from_data(data, networks)
        if "python" in tables:
            return _from_table(tables["python"]["graph"], networks)
        plugins = tables.get("run", {}).get("plugins", [])  # named, never imported here
        return _from_data(data_of(graph_of(read_recipe(where, plugins=plugins), where)), networks)
    except (UserError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        mine = isinstance(error, UserError)
        told = f"{error.what} {error.found or ''}" if mine else f"{type(error).__name__}: {error}"
        raise ModelError(f"a run folder whose {place.name} this version cannot read", where=place, found=told.strip(),
                         expected="what `tutelage train` wrote",
                         fix="make the report with the version that versions.json names") from None


def _networks(tables: Mapping[str, Any]) -> dict[str, str]:
    """Node -> what its network is called."""
    if "python" in tables:
        return {str(node): str(text) for node, text in tables["python"].get("models", {}).items()}
    return {str(node): str(table["arch"]) for node, table in tables["models"].items()}


def _from_data(data: GraphData, networks: Mapping[str, str]) -> Diagram:
    nodes = tuple(_node(node, networks) for node in data["nodes"])
    return _whole(Diagram(nodes, tuple(_link(edge) for edge in data["edges"])))


def _node(node: NodeData, networks: Mapping[str, str]) -> Node:
    return Node(node["name"], node["kind"], tuple(node.get("of", ())), networks.get(node["name"], ""),
                node.get("before") or "", node.get("rows", ""))


def _link(edge: EdgeData) -> Link:
    weight = edge["weight"]
    return Link(edge["teacher"], edge["student"], edge["divergence"], f"{edge['temperature']:g}",
                weight if isinstance(weight, str) else f"{weight:g}", edge["sample_weight"] or "",
                edge.get("rows", ""))


def _whole(diagram: Diagram) -> Diagram:
    ends = {end for link in diagram.links for end in (link.source, link.learner)}
    if odd := ends - {"labels", *(node.name for node in diagram.nodes)}:
        raise ValueError(f"edges of nodes that are not there: {', '.join(sorted(odd))}")
    return diagram


def _from_table(table: object, networks: Mapping[str, str]) -> Diagram:
    """`str(graph)` read back: nodes, an empty line, edges, and perhaps controllers, which are not drawn."""
    blocks = str(table).strip("\n").split("\n\n")
    nodes = tuple(_node_of_table(_NODE.fullmatch(line), networks) for line in blocks[0].splitlines())
    lines = blocks[1].splitlines() if len(blocks) > 1 else []
    matches = [match for line in lines if (match := _EDGE.fullmatch(line.rstrip()))]
    return _whole(Diagram(nodes, tuple(Link(**_given(match)) for match in matches)))


def _given(match: re.Match[str]) -> dict[str, str]:
    return {key: value or "" for key, value in match.groupdict().items()}


def _node_of_table(match: re.Match[str] | None, networks: Mapping[str, str]) -> Node:
    if match is None:
        raise ValueError("a graph that is not the table of nodes and edges")
    name, kind = match["name"], match["kind"]
    network = networks.get(name, "")
    if known := _NETWORK.fullmatch(kind):
        return Node(name, known["kind"], (), network, known["before"] or "")
    of = kind.partition(" of ")[2].split(", ")
    return Node(name, "ema", (of[0],), network) if kind.startswith("ema of ") else Node(name, "computed", tuple(of),
                                                                                        network)
