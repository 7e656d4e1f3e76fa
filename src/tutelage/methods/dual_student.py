"""Uncertainty-aware dual-student distillation: Gore, Dey & Mishra, arXiv:2511.18826.

A frozen teacher, trusted image by image as far as it is sure, and unlike students that also learn from each other.
For student s of N, rows i of a batch of B, p^T = softmax(z / T):

    w_i = 1 - H(softmax(z_teacher,i / T_H)) / log C
    L_s = hard * 1/B sum_i CE(z_s,i, y_i)
        + soft * 1/B sum_i w_i T^2 KL(p_teacher,i^T || p_s,i^T)
        + peer / (N - 1) * sum over the others r of 1/B sum_i T_p^2 KL(p_r,i^T_p || p_s,i^T_p)

This is what the function gives unless it is told otherwise. The gradient of each term reaches student s alone. The
paper gives w and the three terms; weights, temperatures and the form of the peer term are this project's choice. The
weights are a third each: together 1, as those of plain distillation.

Other forms, with w_i = 1 where the teacher is right and 0 where it is wrong for `uncertainty` "correct":

    label_weighting "1-w":         1/B sum_i (hard + soft (1 - w_i)) CE(z_s,i, y_i) as the first term
    label_weighting "true_class":  1/B sum_i hard v_i CE(z_s,i, y_i), v the teacher's probability of y_i, scaled to
                                   mean 1 over the labelled rows and cut at 4
    target "mixture":              in place of the last two terms (soft + peer) * 1/B sum_i w_i T^2 KL(q_i || p_s,i^T),
                                   q = (soft p_teacher^T + peer mean over r of p_r^T) / (soft + peer)

`preset` "cautious" is what a study of students that underfit chose (docs/defaults.md): the teacher is heard alike on
every image, peers as far as it is unsure, with weights of a half each. It is nearly plain distillation.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import label_trust, label_weight, mixed_target, teacher_doubt, teacher_weight
from tutelage.graph.nodes import Computed, Frozen, Kind, Trained
from tutelage.graph.sample_weights import correct, entropy, mean_one
from tutelage.graph.schedules import ramp_up
from tutelage.types import PerSampleFn

THIRD = 1 / 3
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {"uncertainty": True, "peer_weighting": "none", "hard": THIRD, "soft": THIRD, "peer": THIRD},
    "cautious": {"uncertainty": False, "peer_weighting": "1-w", "hard": 0.5, "soft": 0.5, "peer": 0.5},
}
"""What an option is where it is not given."""
MIXTURE: Mapping[str, Any] = {"uncertainty": False, "hard": 0.5, "soft": 0.35, "peer": 0.15}
"""The same for the target "mixture", in either preset: the form that was tried (docs/defaults.md)."""
_RIGHT = partial(correct, unlabelled=1.0)
OLDER: Mapping[str, Any] = {"preset": "cautious"}
"""What an option meant before there was one: runs that do not name it were made so."""


def dual_student(teacher: str, students: Sequence[str], *, preset: str = "published",
                 temperature: float = 4.0, hard: float | None = None, soft: float | None = None,
                 peer: float | None = None, peer_temperature: float | None = None, peer_warmup: float = 0.0,
                 uncertainty: bool | str | None = None, entropy_temperature: float = 1.0,
                 peers: str | Sequence[Sequence[str]] = "all", peer_weighting: str | None = None,
                 label_weighting: str | None = None, target: str = "separate") -> Graph:
    """Two or more students learn from the labels, from a teacher as far as it is sure, and from each other.

    `preset` says what `hard`, `soft`, `peer`, `uncertainty` and `peer_weighting` are where they are not given.
    `uncertainty` is True (w), False (no weights), "mean_one" (w scaled to mean 1 in each batch, and cut at 4) or
    "correct": the teacher is heard only where it is right (or where there is no label to tell), and the labels get the
    rest, unless `label_weighting` is given. `peers` is "all", "none" or a list of (teacher, student) pairs;
    `peer_weighting` weighs the peer edges by "none", by the teacher's "w" or by "1-w"; `peer_warmup` is the share of
    the run over which they grow from 0. `label_weighting` is "none", "1-w" (the labels get what `uncertainty` takes
    from the teacher) or "true_class" (labels that the teacher finds likely count more: where some labels are wrong).
    `target` "mixture" makes one target of teacher and peers.
    """
    usual, pairs = _usual(preset, target), _pairs(students, peers)
    if teacher in students:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    label_share, teacher_share, peer_share = (
        float(usual[name] if value is None else value)
        for name, value in (("hard", hard), ("soft", soft), ("peer", peer)))
    how = usual["uncertainty"] if uncertainty is None else uncertainty
    _check(entropy_temperature, label_share, peer_share, peer_warmup)
    sure = partial(entropy, temperature=entropy_temperature) if entropy_temperature != 1 else entropy
    by_teacher = _teacher_weight(how, sure)
    nodes: dict[str, Kind] = {teacher: Frozen(), **{student: Trained() for student in students}}

    # What a batch-wide scale, or no weight at all, takes from the teacher is no part of a row: the labels get 1 - w.
    seen, taken = ((teacher, "labels"), _RIGHT) if how == "correct" else ((teacher,), sure)
    label_weighting = label_weighting or ("1-w" if how == "correct" else "none")
    edges = _label_edges(seen, students, nodes, label_weighting, taken, label_share, teacher_share)
    if target == "mixture":
        _check_mixture(temperature, peer_temperature, peer_weighting, peer_warmup)
        edges += _mixture_edges(seen, students, pairs, nodes, teacher_share, peer_share, temperature, by_teacher)
        return Graph(nodes, edges)
    edges += [Edge(teacher, student, kl, teacher_share, temperature, sample_weight=by_teacher) for student in students]
    trust = _peer_weight(teacher, nodes, sure, peer_weighting or usual["peer_weighting"], bool(pairs))
    share = peer_share / (len(students) - 1)
    weight = partial(ramp_up, to=share, until=peer_warmup) if peer_warmup else share
    warm = temperature if peer_temperature is None else peer_temperature
    edges += [Edge(other, student, kl, weight, warm, sample_weight=trust) for other, student in pairs]
    return Graph(nodes, edges)


def _usual(preset: str, target: str) -> Mapping[str, Any]:
    """What the options are that are not given."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS, where="preset")
    if target not in ("separate", "mixture"):
        raise unknown("target", target, ("separate", "mixture"), where="target")
    return {**PRESETS[preset], **(MIXTURE if target == "mixture" else {})}


def _teacher_weight(uncertainty: bool | str, sure: PerSampleFn) -> PerSampleFn | None:
    weights = {True: sure, False: None, "mean_one": partial(mean_one, of=sure), "correct": _RIGHT}
    if uncertainty not in weights:
        raise UsageError("not a way to weigh", where="uncertainty", found=repr(uncertainty),
                         expected="true, false, 'mean_one' or 'correct'")
    return weights[uncertainty]


def _label_edges(seen: tuple[str, ...], students: Sequence[str], nodes: dict[str, Kind], weighting: str,
                 weight: PerSampleFn, hard: float, soft: float) -> list[Edge]:
    """The edges from the labels; a node for what weighs them, which reads the ends `seen`, is added to `nodes`."""
    if weighting == "none":
        return [Edge("labels", student, cross_entropy, weight=hard) for student in students]
    name = f"{seen[0]}_label_weight"
    if weighting == "true_class":
        nodes[name] = Computed((seen[0], "labels"), label_trust)
        return [Edge("labels", student, cross_entropy, hard, sample_weight=name) for student in students]
    if weighting != "1-w":
        raise UsageError("not a way to weigh the labels", where="label_weighting", found=repr(weighting),
                         expected="'none', '1-w' or 'true_class'")
    nodes[name] = Computed(seen, partial(label_weight, weight, hard, soft))
    return [Edge("labels", student, cross_entropy, sample_weight=name) for student in students]


def _mixture_edges(seen: tuple[str, ...], students: Sequence[str], pairs: Sequence[tuple[str, str]],
                   nodes: dict[str, Kind], soft: float, peer: float, temperature: float,
                   weight: PerSampleFn | None) -> list[Edge]:
    """An edge for each student from the mixture of its teacher and its peers: weight soft + peer."""
    if not soft + peer > 0:
        raise UsageError("a mixture of nothing", where="soft, peer", found=f"{soft:g}, {peer:g}",
                         expected="one of them above 0")
    trust = None
    if weight is not None:
        trust = f"{seen[0]}_trust"
        nodes[trust] = Computed(seen, partial(teacher_weight, weight))
    edges = []
    for student in students:
        others = tuple(other for other, me in pairs if me == student)
        name, share = f"{student}_target", peer / (soft + peer) if others else 0.0
        nodes[name] = Computed((seen[0], *others), partial(mixed_target, share, temperature))
        edges.append(Edge(name, student, kl, soft + peer, temperature, sample_weight=trust))
    return edges


def _check_mixture(temperature: float, peer_temperature: float | None, peer_weighting: str | None,
                   peer_warmup: float) -> None:
    """A mixture has one temperature and one weight."""
    for key, value, usual in (("peer_temperature", peer_temperature, temperature),
                              ("peer_weighting", peer_weighting, "none"), ("peer_warmup", peer_warmup or None, 0)):
        if value not in (None, usual):
            raise UsageError("peers in a mixture are heard as the teacher is", where=key, found=repr(value),
                             expected=f"{usual!r}", fix='leave it out, or set target = "separate"')


def _check(entropy_temperature: float, hard: float, peer: float, peer_warmup: float) -> None:
    """The numbers that end up in no edge by themselves, so that no edge refuses them."""
    if not 0 < entropy_temperature < math.inf:
        raise UsageError("a temperature that cannot be", where="entropy_temperature", found=entropy_temperature,
                         expected="a number above 0")
    if not 0 <= hard < math.inf:
        raise UsageError("a weight that cannot be", where="hard", found=hard, expected="0 or more")
    if peer_warmup and not 0 <= peer < math.inf:
        raise UsageError("a weight that cannot be", where="peer", found=peer, expected="0 or more")
    if not 0 <= peer_warmup <= 1:
        raise UsageError("not a share of the run", where="peer_warmup", found=peer_warmup, expected="0 .. 1")


def _pairs(students: Sequence[str], peers: str | Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    if isinstance(students, str) or len(set(students)) != len(students) or len(students) < 2:
        raise UsageError("dual_student needs two students or more, each named once", where="students", found=students)
    if peers in ("all", "none"):
        return [(other, me) for me in students for other in students if other != me and peers == "all"]
    if isinstance(peers, str) or any(len(pair) != 2 for pair in peers):
        raise UsageError("not a set of peers", where="peers", found=peers,
                         expected="'all', 'none' or a list of [teacher, student] pairs")
    for name in (name for pair in peers for name in pair if name not in students):
        raise unknown("student", name, students, where="peers")
    for pair in peers:
        if pair[0] == pair[1]:
            raise UsageError("a student cannot be its own peer", where="peers", found=list(pair),
                             expected="two different students")
    return [(other, me) for other, me in peers]


def _peer_weight(teacher: str, nodes: dict[str, Kind], sure: PerSampleFn, weighting: str,
                 wanted: bool) -> str | None:
    """The end that weighs the peer edges: w is the teacher's, whom a peer edge does not see."""
    functions = {"none": None, "w": partial(teacher_weight, sure), "1-w": partial(teacher_doubt, sure)}
    if weighting not in functions:
        raise UsageError("not a way to weigh peers", where="peer_weighting", found=repr(weighting),
                         expected="'none', 'w' or '1-w'")
    function = functions[weighting]
    if function is None or not wanted:
        return None
    name = f"{teacher}_trust"
    nodes[name] = Computed((teacher,), function)
    return name
