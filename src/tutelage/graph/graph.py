"""Who learns from whom: a distillation method as a graph.

Nodes say how the weights of a network change; edges say that one end learns from another, by what divergence, how
warm, how much, and how much each sample counts (after the Knowledge Transfer Graph of Minami et al., ACCV 2020,
arXiv:1909.04286). A graph holds no network: those stand in a dict, keyed by the names of the nodes.

An *end* names one tensor of a step: `node`, `node.tap`, `node@view` or `node.tap@view`. Without a tap it is the
logits, without a view the plain input. `labels` (or `labels.NAME`, where there are several) and `ids` are ends that
every batch brings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from tutelage.errors import UsageError, unknown
from tutelage.graph.controller import Controller
from tutelage.graph.edge import Edge
from tutelage.graph.ends import BATCH_ENDS, End, is_end, is_of_batch, parse_end
from tutelage.graph.naming import describe, name_of, unbound
from tutelage.graph.nodes import Computed, Ema, Kind, Trained
from tutelage.system.text import table
from tutelage.types import RowsFn


class Pass(NamedTuple):
    """One forward pass of a network: of this view, with these taps."""

    node: str
    view: str
    taps: tuple[str, ...]

    @property
    def ends(self) -> list[str]:
        """The ends that it gives."""
        return [End(self.node, tap, self.view).name for tap in self.taps]


class Plan(NamedTuple):
    """What gives some ends: passes, each network once a view, and then computed ends, each after what it reads.

    What is computed of rows is no part of it: that is worked out where the losses are.
    """

    passes: tuple[Pass, ...]
    computed: tuple[End, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes by name, the edges between their ends, and the controllers, by name; checked when it is made.

    >>> from tutelage.graph.divergences import cross_entropy, kl
    >>> graph = Graph({"net": Trained()}, [Edge("labels", "net", cross_entropy)])
    >>> print(graph + Edge("net@strong", "net", kl, temperature=4.0, weight=0.5))
    net  trained
    <BLANKLINE>
    labels     -> net  cross_entropy  T=1  x 1
    net@strong -> net  kl             T=4  x 0.5
    """

    nodes: Mapping[str, Kind]
    edges: Sequence[Edge]
    controllers: Mapping[str, Controller] = field(default_factory=dict)
    _plans: dict[tuple, Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", dict(self.nodes))
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "controllers", dict(self.controllers))
        for name, kind in self.nodes.items():
            self._check_node(name, kind)
        for edge in self.edges:
            self._check_edge(edge)
        names = [edge.name for edge in self.edges]
        for name in names:
            if names.count(name) > 1:
                raise UsageError("two edges of one name: one loss would silently replace the other",
                                 where=f"edge {name}", fix="add their weights, or leave one out")
        self.order([*self.ends(), *self.nodes])  # refuses computed nodes that read each other in a circle

    def __add__(self, edge: Edge) -> "Graph":
        """The same graph with one more edge."""
        return Graph(self.nodes, [*self.edges, edge], self.controllers)

    def __str__(self) -> str:
        return _table(self)

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """Edge -> its weight now; `progress` in [0, 1], without which a schedule is an error."""
        return {edge.name: edge.weight_at(progress) for edge in self.edges}

    def live(self, weights: Mapping[str, float] | None = None) -> list[Edge]:
        """The edges whose weight is not 0: all of them without `weights`."""
        return [edge for edge in self.edges if weights is None or weights[edge.name] != 0]

    def ends(self, weights: Mapping[str, float] | None = None) -> list[str]:
        """The ends that the live edges read, each once, in the order of the edges."""
        return list(dict.fromkeys(end for edge in self.live(weights) for end in edge.ends))

    def order(self, ends: Iterable[str], known: Iterable[str] = ()) -> list[str]:
        """The ends and all that they are computed from, each after what it reads; nothing behind a `known` end."""
        known, done, open_ = set(known), dict[str, None](), list[str]()

        def visit(end: str) -> None:
            kind = self.nodes.get(parse_end(end).node)
            if end in done or end in known or not isinstance(kind, Computed):
                done[end] = None
                return
            if end in open_:
                raise UsageError("computed nodes that read each other in a circle", found=" <- ".join([*open_, end]))
            open_.append(end)
            for source in kind.of:
                visit(source)
            open_.pop()
            done[end] = None

        for end in ends:
            visit(end)
        return list(done)

    def plan(self, ends: Iterable[str], known: Iterable[str] = ()) -> Plan:
        """What gives these ends where the `known` ones are there already; worked out once and remembered."""
        key = (tuple(ends), frozenset(known))
        if key not in self._plans:
            self._plans[key] = self._new_plan(*key)
        return self._plans[key]

    def _new_plan(self, ends: tuple[str, ...], known: frozenset[str]) -> Plan:
        missing = [parse_end(end) for end in self.order(ends, known) if end not in known and not is_of_batch(end)]
        computed = tuple(end for end in missing if isinstance(self.nodes[end.node], Computed))
        taps: dict[tuple[str, str], list[str]] = {}
        for end in missing:
            if end not in computed:
                taps.setdefault((end.node, end.view), []).append(end.tap)
        whole = tuple(end for end in computed if self.rows_of(end.node) is None)
        return Plan(tuple(Pass(node, view, tuple(asked)) for (node, view), asked in taps.items()), whole)

    def rows_of(self, node: str) -> RowsFn | None:
        """The rows that a node is computed of; None where it is of whole ends, or no computed node."""
        kind = self.nodes.get(node)
        return kind.rows if isinstance(kind, Computed) else None

    def views(self) -> list[str]:
        """The views that the graph names, besides the plain one, sorted."""
        return sorted({parse_end(end).view for end in self.order(self.ends())} - {""})

    def parts(self) -> dict[str, nn.Module]:
        """What learns or remembers, by the name of its node or edge; a part used twice keeps its first name."""
        named = [(name, kind.by) for name, kind in self.nodes.items() if isinstance(kind, Computed)]
        named += [(edge.name, edge.divergence) for edge in self.edges]
        parts: dict[str, nn.Module] = {}
        for name, function in named:
            part = unbound(function)
            if isinstance(part, nn.Module) and not any(part is known for known in parts.values()):
                parts[name] = part
        return parts

    def named(self, kind: type) -> list[str]:
        """The nodes of one kind, in the graph's order."""
        return [name for name, node in self.nodes.items() if isinstance(node, kind)]

    def _check_node(self, name: str, kind: Kind) -> None:
        if name in BATCH_ENDS or not is_end(name) or parse_end(name) != End(name, "", ""):
            raise UsageError("not a name for a node", found=repr(name),
                             expected="A-Z a-z 0-9 _ -, and neither 'labels' nor 'ids'")
        if isinstance(kind, Ema) and not isinstance(self.nodes.get(kind.of), Trained):
            raise unknown("trained node", kind.of, self.named(Trained), where=f"Ema node {name!r}")
        if isinstance(kind, Computed):
            for end in kind.of:
                self._check_end(end, f"computed node {name!r}")
                self._check_rows(end, kind.rows, f"computed node {name!r}")

    def _check_edge(self, edge: Edge) -> None:
        for end in edge.ends:
            self._check_end(end, f"edge {edge.name}")
            self._check_rows(end, edge.rows, f"edge {edge.name}")
        if not self._can_learn(edge.student):
            raise UsageError(f"{edge.student!r} cannot learn", where=f"edge {edge.name}",
                             found=describe(self.nodes.get(parse_end(edge.student).node, edge.student)),
                             expected="a student end that reaches a Trained node or a module",
                             fix="exchange the ends, or make the node Trained()")

    def _check_end(self, end: str, where: str) -> None:
        node, _, view = parse_end(end)
        if is_of_batch(end):
            return
        if node not in self.nodes:
            raise unknown("node", node, [*self.nodes, *BATCH_ENDS], where=where)
        if view and isinstance(self.nodes[node], Computed):
            raise UsageError("a computed node has no views of its own", where=where, found=end,
                             fix="name the view where the node reads: Computed(('student@strong',), ...)")

    def _check_rows(self, end: str, rows: RowsFn | None, where: str) -> None:
        theirs = self.rows_of(parse_end(end).node)
        if theirs is not None and theirs != rows:
            raise UsageError(f"{end!r} has rows of another kind", where=where,
                             found=f"{name_of(theirs)}, read as {'whole ends' if rows is None else name_of(rows)}",
                             fix="give both the same rows")

    def _can_learn(self, end: str, seen: frozenset[str] = frozenset()) -> bool:
        kind = self.nodes.get(parse_end(end).node)
        if not isinstance(kind, Computed) or end in seen:
            return isinstance(kind, Trained)
        return isinstance(unbound(kind.by), nn.Module) or any(self._can_learn(of, seen | {end}) for of in kind.of)


def _table(graph: Graph) -> str:
    nodes = [(name, describe(kind)) for name, kind in graph.nodes.items()]
    edges = [(edge.teacher, "->", edge.student, "", _compared(edge), "", f"T={edge.temperature:g}", "",
              "x " + (describe(edge.weight) if callable(edge.weight) else f"{edge.weight:g}"), "",
              "" if edge.sample_weight is None else f"x {describe(edge.sample_weight)}") for edge in graph.edges]
    controllers = [(name, describe(controller)) for name, controller in graph.controllers.items()]
    return "\n\n".join(table(rows, gap) for rows, gap in ((nodes, "  "), (edges, " "), (controllers, "  ")) if rows)


def _compared(edge: Edge) -> str:
    return describe(edge.divergence) + ("" if edge.rows is None else f" [{name_of(edge.rows)}]")
