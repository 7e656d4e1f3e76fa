"""The losses of `objective`, all edges at once, with their gradients in closed form.

`cross_entropy` and `kl` have the gradient softmax(student) - target for the student's logits, so an edge adds

    weight * T * sample_weight / B * (softmax(student / T) - softmax(teacher / T))

to the gradient of its student end, and nothing is kept for autograd but one tensor for each student end. Every
softmax is taken once for all edges that read it. Other divergences go to `objective.edge_loss`, edge by edge; it is
the reference that this page is tested against.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound
from tutelage.graph.objective import edge_loss
from tutelage.graph.rows import row_sets
from tutelage.graph.sample_weights import entropy
from tutelage.system.machine import with_code_of_its_own
from tutelage.types import BatchLabels, Outputs, Rows

FEW = 8
"""Classes up to which sums of columns, as rows of pixels have them, are faster than sums over short rows."""
Statistic = dict[tuple[int, float], Tensor]
"""(place of an end, temperature) -> what is known of its softmax there."""


class Certainty(NamedTuple):
    """The sample weight `entropy` of a teacher end, with its options: worked out with the losses."""

    temperature: float
    power: float


@dataclass(frozen=True)
class FusedTerm:
    """One edge in numbers: which tensors it reads, by their place in a list (`teacher` None: the labels).

    `weight` is the place of its sample weight among those that are given.
    """

    student: int
    teacher: int | None
    temperature: float
    smoothing: float
    weight: int | Certainty | None


def losses(graph: Graph, outputs: Outputs, labels: BatchLabels, weights: Mapping[str, float] | None = None, *,
           compiled: bool = False) -> dict[str, Tensor]:
    """What `objective.losses` gives, to the same accuracy; only their plain sum may be differentiated, and once.

    With `compiled`, one region of generated code for each set of live edges; a weight that changes compiles nothing.
    """
    weights = graph.weights() if weights is None else weights
    live = graph.live(weights)
    sets, found = row_sets(live, outputs, labels, graph.nodes), dict[str, Tensor]()
    for rows, seen in sets.items():
        closed = [edge for edge in live if edge.rows == rows and _has_closed_form(edge, seen.values, seen.labels)]
        values = _closed(closed, seen, weights, compiled)
        found |= {edge.name: value for edge, value in zip(closed, values, strict=True)}
    return {name: found[name] if name in found else edge_loss(edge, outputs, labels, weights[name], sets[edge.rows])
            for name, edge in ((edge.name, edge) for edge in live)}


def _has_closed_form(edge: Edge, outputs: Mapping[str, Tensor], labels: BatchLabels) -> bool:
    # An edge whose ends are not alike goes to the reference too, which has the words for what is wrong.
    student, teacher = outputs[edge.student], outputs.get(edge.teacher)
    if student.dim() != 2 or not isinstance(labels, Tensor) or len(student) != len(labels):
        return False
    if edge.teacher == "labels":
        plain = _options(edge.divergence).keys() <= {"smoothing"}
        return unbound(edge.divergence) is cross_entropy and plain and _are_labels_of(student, labels)
    return edge.divergence is kl and teacher is not None and teacher.shape == student.shape


def _are_labels_of(student: Tensor, labels: Tensor) -> bool:
    return not labels.is_floating_point() or labels.shape == student.shape


def _closed(edges: Sequence[Edge], seen: Rows, weights: Mapping[str, float], compiled: bool) -> Sequence[Tensor]:
    if not edges:
        return ()
    outputs, labels = seen.values, seen.labels
    ends, terms, weighted = _plan(tuple(edges))
    rows = [_weights(edge, outputs, labels) for edge in weighted]
    scale = [weights[edge.name] for edge in edges]
    # A target stays outside: what nobody teaches in this step must get no gradient, not one of zeros, which the
    # gathering over ranks would make of it, and an optimizer would decay and push on.
    learn = {edge.student for edge in edges}
    tensors = [outputs[end] if end in learn else outputs[end].detach() for end in ends]
    counted = () if seen.counts is None else (seen.counts, seen.divisor)
    return _ClosedForm.apply(terms, compiled, labels, rows, scale, counted, *tensors)


@lru_cache(maxsize=64)
def _plan(edges: tuple[Edge, ...]) -> tuple[tuple[str, ...], tuple[FusedTerm, ...], tuple[Edge, ...]]:
    """The ends that the edges read, the edges as terms of these, and those whose sample weights are worked out here."""
    ends = tuple(dict.fromkeys([*(e.student for e in edges), *(e.teacher for e in edges if e.teacher != "labels")]))
    places = {end: place for place, end in enumerate(ends)}
    terms, weighted = [], []
    for edge in edges:
        weight: int | Certainty | None = None
        if unbound(edge.sample_weight) is entropy:
            options = _options(edge.sample_weight)
            weight = Certainty(options.get("temperature", 1.0), options.get("power", 1.0))
        elif edge.sample_weight is not None:
            weight = len(weighted)
            weighted.append(edge)
        smoothing = _options(edge.divergence).get("smoothing", 0.0)
        terms.append(FusedTerm(places[edge.student], places.get(edge.teacher), edge.temperature, smoothing, weight))
    return ends, tuple(terms), tuple(weighted)


def _options(function: object) -> dict:
    return function.keywords if isinstance(function, partial) else {}


def _weights(edge: Edge, outputs: Mapping[str, Tensor], labels: BatchLabels) -> Tensor:
    if isinstance(edge.sample_weight, str):
        return outputs[edge.sample_weight].detach()
    assert edge.sample_weight is not None, "only edges with a sample weight come here"
    assert isinstance(labels, Tensor), "no edge of several labels has a closed form"
    teacher = labels if edge.teacher == "labels" else outputs[edge.teacher].detach()
    return edge.sample_weight(outputs[edge.student].detach(), teacher, labels).detach()


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, terms: tuple[FusedTerm, ...], compiled: bool, labels: Tensor, rows: list[Tensor],
                scale: list[float], counted: tuple[Tensor, ...], *ends: Tensor) -> tuple[Tensor, ...]:
        work = _compiled(terms) if compiled else partial(arithmetic, terms)
        values, ctx.gradients = work(labels, ends, rows, _on_device(scale, ends[0]), counted)
        return values.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, given: Tensor, *others: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        # What is differentiated is the plain sum, so all that is given is the same.
        gradients, ctx.gradients = ctx.gradients, None
        if given.device.type != "cpu" or given.item() != 1:
            gradients = [gradient if gradient is None else gradient.mul_(given) for gradient in gradients]
        return None, None, None, None, None, None, *gradients


def _on_device(numbers: list[float], like: Tensor) -> Tensor:
    if like.is_cuda and torch.cuda.is_current_stream_capturing():
        # A recorded copy would read host memory again at each replay, whatever lies there then.
        return torch.stack([like.new_full((), number) for number in numbers])
    found = torch.tensor(numbers, dtype=like.dtype)
    return found if like.device.type == "cpu" else found.pin_memory().to(like.device, non_blocking=True)


@cache
def _compiled(terms: tuple[FusedTerm, ...]) -> Callable:
    region = with_code_of_its_own(
        lambda labels, ends, rows, scale, counted: arithmetic(terms, labels, ends, rows, scale, counted))
    return torch.compile(region, dynamic=False, fullgraph=True)


def arithmetic(terms: tuple[FusedTerm, ...], labels: Tensor, ends: Sequence[Tensor], rows: Sequence[Tensor],
               scale: Tensor, counted: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor | None]]:
    """Value of each term, [terms]; and for each end the gradient of their sum, [B, C], None where nothing learns.

    `scale` [terms] are the edges' weights, `rows` the sample weights that are given, each [B]; `counted`, where not all
    rows count alike, how much each does [B] and what their sum is divided by. Written so that generated code passes
    three times over the ends: for the maxima, for all sums, for the gradients.
    """
    below = [end - _largest(end)[:, None] for end in ends]
    exp = _exponentials(terms, below)
    total = {key: _sum(values) for key, values in exp.items()}
    log = {key: values.log() for key, values in total.items()}
    sure: Statistic = {}
    targets: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}
    apart: list[Tensor] = []
    counts, divisor = counted or (None, len(labels))
    pulls = (scale / divisor).unbind()
    # (student, end, temperature) -> [B], or one number for all rows: how much of that end's softmax is in the
    # student's gradient.
    parts: dict[tuple[int, int, float], Tensor] = {}
    aims: list[tuple[int, Tensor]] = []
    for term, pull in zip(terms, pulls, strict=True):
        warm, mine = term.temperature, (term.student, term.temperature)
        share = _share(term, rows, below, exp, total, log, sure)
        if counts is not None:
            share = counts if share is None else share * counts
        pull = pull * warm if share is None else pull * warm * share
        if term.teacher is not None:
            theirs = term.teacher, warm
            far = _sum(exp[theirs] * (below[term.teacher] - below[term.student])) / (warm * total[theirs])
            far = far + (log[mine] - log[theirs])
            _add(parts, (term.student, *theirs), -pull)
        else:
            key = term.smoothing, below[term.student].shape[1]
            if key not in targets:
                targets[key] = _targets(labels, below[term.student], term.smoothing)
            known, aim = targets[key]
            far = known * log[mine] - _sum(aim * below[term.student])
            aims.append((term.student, pull[:, None] * aim if pull.dim() else pull * aim))
            pull = pull * known
        _add(parts, (term.student, *mine), pull)
        apart.append(warm**2 * (far if share is None else share * far))
    gradients: list[Tensor | None] = [None] * len(ends)
    for (student, place, warm), part in parts.items():
        piece, before = (part / total[place, warm])[:, None] * exp[place, warm], gradients[student]
        gradients[student] = piece if before is None else before + piece
    for student, aim in aims:
        before = gradients[student]
        assert before is not None
        gradients[student] = before - aim
    each = torch.stack(apart)
    return scale * (each.mean(1) if counts is None else each.sum(1) / divisor), gradients


def _sum(rows: Tensor) -> Tensor:
    """Over the classes, [R, C] -> [R]. Where there are few, each in one piece of memory, whole columns are added."""
    return reduce(torch.add, rows.unbind(1)) if _in_columns(rows) else rows.sum(-1)


def _largest(rows: Tensor) -> Tensor:
    """The largest of the classes, [R, C] -> [R]."""
    return reduce(torch.maximum, rows.unbind(1)) if _in_columns(rows) else rows.amax(-1)


def _in_columns(rows: Tensor) -> bool:
    return 1 < rows.shape[1] <= FEW and rows.stride(0) == 1 and len(rows) > 1


def _add(parts: dict[tuple[int, int, float], Tensor], key: tuple[int, int, float], part: Tensor) -> None:
    parts[key] = parts[key] + part if key in parts else part


def _exponentials(terms: Sequence[FusedTerm], below: Sequence[Tensor]) -> Statistic:
    """exp(below / T) where a term reads it; where one temperature is 2, 4 or 8 times another, by squaring."""
    wanted = {(place, term.temperature) for term in terms
              for place in (term.student, term.teacher) if place is not None}
    wanted |= {(term.teacher, term.weight.temperature) for term in terms
               if isinstance(term.weight, Certainty) and term.teacher is not None}
    exp: Statistic = {}
    for place, warm in sorted(wanted, reverse=True):
        warmest = max(other for where, other in wanted if where == place)
        if warmest / warm in (2.0, 4.0, 8.0):
            exp[place, warm] = exp[place, warmest]
            for _ in range(round(math.log2(warmest / warm))):
                exp[place, warm] = exp[place, warm].square()
        else:
            exp[place, warm] = torch.exp2(below[place] * (1 / (warm * math.log(2))))
    return exp


def _share(term: FusedTerm, rows: Sequence[Tensor], below: Sequence[Tensor], exp: Statistic, total: Statistic,
           log: Statistic, sure: Statistic) -> Tensor | None:
    """The sample weight of a term."""
    if term.weight is None:
        return None
    if isinstance(term.weight, int):
        return rows[term.weight]
    assert term.teacher is not None
    key = term.teacher, term.weight.temperature
    if key not in sure:
        mean = _sum(exp[key] * below[term.teacher]) / (key[1] * total[key])
        sure[key] = (1 - (log[key] - mean) / math.log(below[term.teacher].shape[1])).clamp(0, 1)
    return sure[key] if term.weight.power == 1 else sure[key] ** term.weight.power


def _targets(labels: Tensor, like: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The share of each row that is labelled [B], and the target times that [B, C]."""
    classes = like.shape[1]
    if labels.is_floating_point():
        known, aim = labels.sum(-1), labels
    else:
        known = (labels >= 0).to(like.dtype)
        aim = (torch.arange(classes, device=labels.device) == labels[:, None]).to(like.dtype)
    return known, (1 - smoothing) * aim + smoothing / classes * known[:, None] if smoothing else aim
