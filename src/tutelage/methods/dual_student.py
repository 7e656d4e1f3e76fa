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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from tutelage.errors import UsageError, unknown
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import label_trust, label_weight, mixed_target, teacher_doubt, teacher_weight
from tutelage.graph.nodes import Frozen, Kind, Trained
from tutelage.graph.sample_weights import correct, mean_one
from tutelage.graph.schedules import ramp_up
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import PerSample, PerSampleFn

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
                 label_weighting: str | None = None, target: str = "separate",
                 task: Task = CLASSIFICATION) -> Graph:
    """Two or more students learn from the labels, from a teacher as far as it is sure, and from each other.

    `preset` says what `hard`, `soft`, `peer`, `uncertainty` and `peer_weighting` are where they are not given.
    `uncertainty` is True (w), False (no weights), "mean_one" (w scaled to mean 1 in each batch, and cut at 4) or
    "correct": the teacher is heard only where it is right (or where there is no label to tell), and the labels get the
    rest, unless `label_weighting` is given. `peers` is "all", "none" or a list of (teacher, student) pairs;
    `peer_weighting` weighs the peer edges by "none", by the teacher's "w" or by "1-w"; `peer_warmup` is the share of
    the run over which they grow from 0. `label_weighting` is "none", "1-w" (the labels get what `uncertainty` takes
    from the teacher) or "true_class" (labels that the teacher finds likely count more: where some labels are wrong).
    `target` "mixture" makes one target of teacher and peers. Where a task compares parts of a sample, such as pixels,
    each part has a weight of its own; where it has no choices among several, nothing is weighed.
    """
    usual, pairs = _usual(preset, target, task), _pairs(students, peers)
    shares = _shares(usual, hard, soft, peer)
    how = usual["uncertainty"] if uncertainty is None else uncertainty
    _check(teacher, students, entropy_temperature, shares.hard, shares.peer, peer_warmup)
    sure = partial(task.certainty, temperature=entropy_temperature) if entropy_temperature != 1 else task.certainty
    by_teacher = _teacher_weight(how, sure, task)
    peer_trust = _peer_weight(sure, peer_weighting or usual["peer_weighting"])
    _check_for(task, how, by_teacher, peer_trust, label_weighting, target)
    nodes: dict[str, Kind] = {teacher: Frozen(), **{student: Trained() for student in students}}

    # What a batch-wide scale, or no weight at all, takes from the teacher is no part of a row: the labels get 1 - w.
    taken = _RIGHT if how == "correct" else sure
    edges = _label_edges(task, teacher, students, nodes, label_weighting or ("1-w" if taken is _RIGHT else "none"),
                         taken, shares)
    if target == "mixture":
        _check_mixture(task, temperature, peer_temperature, peer_weighting, peer_warmup)
        edges += _mixture_edges(task, teacher, students, pairs, nodes, shares, temperature, by_teacher)
        return Graph(nodes, edges)
    weighed = by_teacher and task.of_label(by_teacher)
    edges += [edge for student in students
              for edge in task.from_network(teacher, student, weight=shares.soft, temperature=temperature,
                                            sample_weight=weighed)]
    edges += _peer_edges(task, teacher, pairs, nodes, peer_trust, shares.peer / (len(students) - 1), peer_warmup,
                         temperature if peer_temperature is None else peer_temperature)
    return Graph(nodes, edges)


class _Shares(NamedTuple):
    """The weights of labels, teacher and peers."""

    hard: float
    soft: float
    peer: float


def _usual(preset: str, target: str, task: Task) -> Mapping[str, Any]:
    """What the options are that are not given."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS, where="preset")
    if target not in ("separate", "mixture"):
        raise unknown("target", target, ("separate", "mixture"), where="target")
    unweighed = {} if task.has_certainty() else {"uncertainty": False, "peer_weighting": "none"}
    return {**PRESETS[preset], **(MIXTURE if target == "mixture" else {}), **unweighed}


def _shares(usual: Mapping[str, Any], *given: float | None) -> _Shares:
    return _Shares(*(float(usual[name] if value is None else value)
                     for name, value in zip(_Shares._fields, given, strict=True)))


def _teacher_weight(uncertainty: bool | str, sure: PerSampleFn, task: Task) -> PerSampleFn | None:
    scaled = partial(mean_one, of=sure, among_labelled=True) if task.has_parts() else partial(mean_one, of=sure)
    weights = {True: sure, False: None, "mean_one": scaled, "correct": _RIGHT}
    if uncertainty not in weights:
        raise UsageError("not a way to weigh", where="uncertainty", found=repr(uncertainty),
                         expected="true, false, 'mean_one' or 'correct'")
    return weights[uncertainty]


def _reads_labels(weight: PerSampleFn | None) -> bool:
    own = weight.keywords if isinstance(weight, partial) else {}
    return weight is _RIGHT or "among_labelled" in own


def _label_edges(task: Task, teacher: str, students: Sequence[str], nodes: dict[str, Kind], weighting: str,
                 weight: PerSampleFn, shares: _Shares) -> list[Edge]:
    """The edges from the labels; a node for what weighs them is added to `nodes`."""
    name, hard = f"{teacher}_label_weight", shares.hard
    if weighting == "none":
        return [edge for student in students for edge in task.from_labels(student, weight=hard)]
    if weighting == "true_class":
        nodes[name] = task.computed(label_trust, teacher, labels=True)
        return [edge for student in students for edge in task.from_labels(student, weight=hard, sample_weight=name)]
    if weighting != "1-w":
        raise UsageError("not a way to weigh the labels", where="label_weighting", found=repr(weighting),
                         expected="'none', '1-w' or 'true_class'")
    nodes[name] = task.computed(partial(label_weight, weight, hard, shares.soft), teacher,
                                labels=_reads_labels(weight))
    return [edge for student in students for edge in task.from_labels(student, sample_weight=name, rest=hard)]


def _mixture_edges(task: Task, teacher: str, students: Sequence[str], pairs: Sequence[tuple[str, str]],
                   nodes: dict[str, Kind], shares: _Shares, temperature: float,
                   weight: PerSampleFn | None) -> list[Edge]:
    """An edge for each student from the mixture of its teacher and its peers: weight soft + peer."""
    whole, (term,) = shares.soft + shares.peer, task.imitate
    if not whole > 0:
        raise UsageError("a mixture of nothing", where="soft, peer", found=f"{shares.soft:g}, {shares.peer:g}",
                         expected="one of them above 0")
    trust = None
    if weight is not None:
        trust = f"{teacher}_trust"
        nodes[trust] = task.computed(partial(teacher_weight, weight), teacher, labels=_reads_labels(weight))
    edges = []
    for student in students:
        others = tuple(other for other, me in pairs if me == student)
        name, share = f"{student}_target", shares.peer / whole if others else 0.0
        nodes[name] = task.computed(partial(mixed_target, share, temperature), teacher, *others)
        edges.append(Edge(name, term.end(student), term.divergence, whole * term.weight, temperature, trust, term.rows))
    return edges


def _peer_edges(task: Task, teacher: str, pairs: Sequence[tuple[str, str]], nodes: dict[str, Kind],
                trust: Callable[..., PerSample] | None, share: float, warmup: float, temperature: float) -> list[Edge]:
    """The edges between students; a node for what weighs them is added: w is the teacher's, whom they do not see."""
    name = f"{teacher}_trust" if trust is not None and pairs else None
    if trust is not None and pairs:
        nodes[f"{teacher}_trust"] = task.computed(trust, teacher)
    weight = partial(ramp_up, to=share, until=warmup) if warmup else share
    return [edge for other, student in pairs
            for edge in task.from_network(other, student, weight=weight, temperature=temperature, sample_weight=name)]


def _check_unweighed(task: Task, *weights: object) -> None:
    """Where there is no choice among several, nobody can be sure of one."""
    if any(weight not in (None, "none", "separate") for weight in weights):
        raise UsageError("without choices among several there is no certainty to weigh by", where="uncertainty",
                         found=f"task {task.name}",
                         fix="leave out uncertainty, peer_weighting, label_weighting and target")


def _check_for(task: Task, uncertainty: bool | str, by_teacher: object, peer_trust: object,
               label_weighting: str | None, target: str) -> None:
    """What a task has no certainty for, or no one choice that is right or wrong: its classes may not be exclusive."""
    if not task.has_certainty():
        _check_unweighed(task, by_teacher, peer_trust, label_weighting, target)
    if task.has_choices():
        return
    for key, value, refused in (("uncertainty", uncertainty, "correct"), ("label_weighting", label_weighting,
                                "true_class"), ("target", target, "mixture")):
        if value == refused:
            raise UsageError(f"{refused!r} needs one choice among several", where=key, found=f"task {task.name}",
                             fix="leave it out")


def _check_mixture(task: Task, temperature: float, peer_temperature: float | None, peer_weighting: str | None,
                   peer_warmup: float) -> None:
    """A mixture has one temperature and one weight, and is of one choice."""
    if len(task.imitate) > 1:
        raise UsageError("a mixture is of one choice among several", where="target",
                         found=f"task {task.name}, which compares more", fix='set target = "separate"')
    for key, value, usual in (("peer_temperature", peer_temperature, temperature),
                              ("peer_weighting", peer_weighting, "none"), ("peer_warmup", peer_warmup or None, 0)):
        if value not in (None, usual):
            raise UsageError("peers in a mixture are heard as the teacher is", where=key, found=repr(value),
                             expected=f"{usual!r}", fix='leave it out, or set target = "separate"')


def _check(teacher: str, students: Sequence[str], entropy_temperature: float, hard: float, peer: float,
           peer_warmup: float) -> None:
    """What ends up in no edge by itself, so that no edge refuses it."""
    if teacher in students:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
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


def _peer_weight(sure: PerSampleFn, weighting: str) -> Callable[..., PerSample] | None:
    """What weighs the peer edges, of the teacher's logits."""
    functions = {"none": None, "w": partial(teacher_weight, sure), "1-w": partial(teacher_doubt, sure)}
    if weighting not in functions:
        raise UsageError("not a way to weigh peers", where="peer_weighting", found=repr(weighting),
                         expected="'none', 'w' or '1-w'")
    return functions[weighting]
