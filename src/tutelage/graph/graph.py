"""Who learns from whom: a distillation method as a graph.

Nodes say how the weights of a network change; edges say that one end learns from another, by what divergence, how
warm, how much, and how much each sample counts (after the Knowledge Transfer Graph of Minami et al., ACCV 2020,
arXiv:1909.04286). A graph holds no network: those stand in a dict, keyed by the names of the nodes.

An *end* names one tensor of a step: `node`, `node.tap`, `node@view` or `node.tap@view`. Without a tap it is the
logits, without a view the plain input. `labels` and `ids` are ends that every batch brings.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import alpha_beta, cross_entropy, js, kl, mse, plackett_luce, reverse_kl
from tutelage.graph.modules import mean_probability
from tutelage.graph.sample_weights import confidence, correct, discrepancy, entropy, margin, true_class
from tutelage.types import Batch, Outputs, PerSampleFn, Schedule

BATCH_ENDS = ("labels", "ids")
_END = re.compile(r"(?P<node>[A-Za-z0-9_-]+)(?:\.(?P<tap>[^@]+))?(?:@(?P<view>[A-Za-z0-9_-]+))?")
_NEEDS_NETWORK = (kl, reverse_kl, js, mse, alpha_beta, plackett_luce, entropy, confidence, margin, correct, discrepancy,
                  true_class)
"""What reads the teacher end as logits; an edge from `labels` has none."""


class End(NamedTuple):
    """An end, taken apart: "" stands for the logits and for the plain view."""

    node: str
    tap: str
    view: str

    @property
    def name(self) -> str:
        """The end put together again."""
        return self.node + (f".{self.tap}" if self.tap else "") + (f"@{self.view}" if self.view else "")


@cache
def parse_end(text: str) -> End:
    """Take the name of an end apart.

    >>> parse_end("teacher.layer4.1@strong")
    End(node='teacher', tap='layer4.1', view='strong')
    """
    match = _END.fullmatch(text)
    if match is None:
        raise UsageError("not the name of an end", found=repr(text),
                         expected="node, node.tap, node@view or node.tap@view; nodes and views of A-Z a-z 0-9 _ -")
    return End(match["node"], match["tap"] or "", match["view"] or "")


@dataclass(frozen=True)
class Trained:
    """A network that learns by its own optimizer: a student, a peer, a co-trained teacher.

    In a method of several runs, one after another, `before` names the network whose weights, as the run before this
    one left them, it starts from.
    """

    before: str | None = None


@dataclass(frozen=True)
class Frozen:
    """A network that never changes: always in eval mode, its bytes are checked at the end.

    `before` is as for `Trained`: it is that network, as the run before this one left it.
    """

    before: str | None = None


@dataclass(frozen=True)
class Ema:
    """A network whose parameters follow those of the trained node `of`, as a moving average (no gradient).

    After every `every`-th step, w <- a w + (1 - a) w_of with a = min(1 - 1 / (t + 1), decay) at the t-th update
    (Tarvainen & Valpola, 2017). `decay=0` is a copy: a peer as it was up to `every` steps ago.
    """

    of: str
    decay: float = 0.999
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1 or self.every < 1:
            raise UsageError(f"an Ema node of {self.of!r} that cannot be",
                             found=f"decay={self.decay}, every={self.every}",
                             expected="decay in [0, 1], every >= 1")


@dataclass(frozen=True)
class Computed:
    """A node without a network: `by` gets the ends `of` in order, attached, and returns a tensor or a dict of taps.

    `by` is a function, or a module, which learns if it has parameters and is saved with the run.
    """

    of: tuple[str, ...]
    by: Callable[..., Tensor | dict[str, Tensor]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", (self.of,) if isinstance(self.of, str) else tuple(self.of))


def Ensemble(of: Sequence[str]) -> Computed:  # noqa: N802 - a kind of node, like the four classes above
    """The mean probability of several nodes, as log-probabilities (logits that `kl` and `cross_entropy` read)."""
    if not of:
        raise UsageError("an ensemble of nothing", expected="the names of its members")
    return Computed(tuple(of), mean_probability)


Kind = Trained | Frozen | Ema | Computed


@dataclass(frozen=True)
class Edge:
    """`student` learns from `teacher`: weight * mean(sample_weight * T^2 * divergence(student / T, teacher / T)).

    The gradient flows into the student end alone. `weight` may be a schedule; `sample_weight` a function, or the
    name of an end that holds [B].
    """

    teacher: str
    student: str
    divergence: PerSampleFn
    weight: float | Schedule = 1.0
    temperature: float = 1.0
    sample_weight: PerSampleFn | str | None = None

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf):
            raise self._error("a temperature that cannot be", f"temperature = {self.temperature}", "a number above 0")
        if not callable(self.weight) and not 0 <= self.weight < math.inf:
            raise self._error("a weight that cannot be", f"weight = {self.weight}", "0 or more, or a schedule")
        if isinstance(unbound(self.sample_weight), nn.Module):
            raise self._error("a sample weight that learns", describe(self.sample_weight), "a function or an end",
                              "make it a Computed node and name its end: sample_weight='gate'")
        if self.teacher == "labels":
            self._check_from_labels()
        elif unbound(self.divergence) is cross_entropy:
            raise self._error("cross_entropy reads labels, but a network gives logits", "cross_entropy",
                              "an edge from 'labels'", "use kl to learn from a network")

    def _check_from_labels(self) -> None:
        if self.temperature != 1:
            raise self._error("labels have no temperature", f"temperature = {self.temperature}", "1")
        for role, function in (("divergence", self.divergence), ("sample_weight", self.sample_weight)):
            if unbound(function) in _NEEDS_NETWORK:
                raise self._error("labels are not logits", f"{role} = {describe(function)}",
                                  "cross_entropy, or a function made for labels", "learn from labels by cross_entropy")

    def _error(self, what: str, found: str, expected: str, fix: str | None = None) -> UsageError:
        return UsageError(what, where=f"edge {self.teacher} -> {self.student}", found=found, expected=expected,
                          fix=fix)

    @cached_property
    def name(self) -> str:
        """What the edge is called in losses and records: ends, divergence, and the temperature where it is not 1."""
        warm = "" if self.temperature == 1 else f"/{self.temperature:g}"
        return f"{self.teacher}->{self.student}:{name_of(self.divergence)}{warm}"

    def weight_at(self, progress: float | None = None) -> float:
        """The weight now; `progress` in [0, 1], without which a schedule is an error."""
        if not callable(self.weight):
            return float(self.weight)
        if progress is None:
            raise UsageError("a weight that changes over the run", where=f"edge {self.name}",
                             fix="pass weights: losses(graph, outputs, labels, graph.weights(progress))")
        return float(self.weight(progress))

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The ends that the edge reads."""
        named = (self.sample_weight,) if isinstance(self.sample_weight, str) else ()
        return (self.teacher, self.student, *named)


class Controller(nn.Module):
    """A rule that is more than a graph. Its buffers are its state; the loop calls it twice in every step.

    With accumulation a step has several micro-batches, and each is a call. What happens every k epochs is a function
    of `run.step`, so that a resume at any step is exact.
    """

    def before_forward(self, run: Any, batch: Batch) -> Batch:
        """See this rank's own rows; return them, perhaps with more views in `inputs`."""
        return batch

    def before_losses(self, run: Any, outputs: Outputs, weights: dict[str, float]) -> None:
        """See the outputs of all ranks; scale edges by changing `weights` in place."""


@dataclass(frozen=True)
class Graph:
    """Nodes by name, the edges between their ends, and the controllers, by name; checked when it is made.

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
        if name in BATCH_ENDS or not _END.fullmatch(name) or parse_end(name) != End(name, "", ""):
            raise UsageError("not a name for a node", found=repr(name),
                             expected="A-Z a-z 0-9 _ -, and neither 'labels' nor 'ids'")
        if isinstance(kind, Ema) and not isinstance(self.nodes.get(kind.of), Trained):
            raise unknown("trained node", kind.of, self.named(Trained), where=f"Ema node {name!r}")
        if isinstance(kind, Computed):
            for end in kind.of:
                self._check_end(end, f"computed node {name!r}")

    def _check_edge(self, edge: Edge) -> None:
        for end in edge.ends:
            self._check_end(end, f"edge {edge.name}")
        if not self._can_learn(edge.student):
            raise UsageError(f"{edge.student!r} cannot learn", where=f"edge {edge.name}",
                             found=describe(self.nodes.get(parse_end(edge.student).node, edge.student)),
                             expected="a student end that reaches a Trained node or a module",
                             fix="exchange the ends, or make the node Trained()")

    def _check_end(self, end: str, where: str) -> None:
        node, _, view = parse_end(end)
        if end in BATCH_ENDS:
            return
        if node not in self.nodes:
            raise unknown("node", node, [*self.nodes, *BATCH_ENDS], where=where)
        if view and isinstance(self.nodes[node], Computed):
            raise UsageError("a computed node has no views of its own", where=where, found=end,
                             fix="name the view where the node reads: Computed(('student@strong',), ...)")

    def _can_learn(self, end: str, seen: frozenset[str] = frozenset()) -> bool:
        kind = self.nodes.get(parse_end(end).node)
        if not isinstance(kind, Computed) or end in seen:
            return isinstance(kind, Trained)
        return isinstance(unbound(kind.by), nn.Module) or any(self._can_learn(of, seen | {end}) for of in kind.of)


def unbound(function: object) -> object:
    """The function or module behind any `functools.partial`."""
    while isinstance(function, partial):
        function = function.func
    return function


def name_of(function: object) -> str:
    """What a function, a partial of one, or a module is called."""
    function = unbound(function)
    return str(getattr(function, "__name__", type(function).__name__))


def describe(function: object) -> str:
    """A function and the options bound to it, a kind of node, or the name of an end, for a person to read."""
    if function is None or isinstance(function, str):
        return str(function)
    if isinstance(function, Trained | Frozen):
        return name_of(function).lower() + (f", {function.before} of the run before" if function.before else "")
    if isinstance(function, Ema):
        return f"ema of {function.of}, decay {function.decay:g}" + (f", every {function.every}" * (function.every > 1))
    if isinstance(function, Computed):
        return f"{describe(function.by)} of {', '.join(function.of)}"
    options = []
    while isinstance(function, partial):
        options += [describe(x) if callable(x) else repr(x) for x in function.args]
        options += [f"{k}={describe(v) if callable(v) else repr(v)}" for k, v in function.keywords.items()]
        function = function.func
    return name_of(function) + (f"({', '.join(options)})" if options else "")


def _table(graph: Graph) -> str:
    nodes = [(name, describe(kind)) for name, kind in graph.nodes.items()]
    edges = [(edge.teacher, "->", edge.student, "", describe(edge.divergence), "", f"T={edge.temperature:g}", "",
              "x " + (describe(edge.weight) if callable(edge.weight) else f"{edge.weight:g}"), "",
              "" if edge.sample_weight is None else f"x {describe(edge.sample_weight)}") for edge in graph.edges]
    controllers = [(name, describe(controller)) for name, controller in graph.controllers.items()]
    return "\n\n".join(_aligned(rows, gap) for rows, gap in ((nodes, "  "), (edges, " "), (controllers, "  ")) if rows)


def _aligned(rows: Sequence[Sequence[str]], gap: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)
