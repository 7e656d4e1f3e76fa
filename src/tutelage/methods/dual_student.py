"""Uncertainty-aware dual-student distillation: Gore, Dey & Mishra, arXiv:2511.18826.

A frozen teacher, trusted image by image as far as it is sure, and unlike students that also learn from each other.
For student s of N, rows i of a batch of B, p^T = softmax(z / T):

    w_i = 1 - H(softmax(z_teacher,i / T_H)) / log C
    L_s = hard * 1/B sum_i CE(z_s,i, y_i)
        + soft * 1/B sum_i w_i T^2 KL(p_teacher,i^T || p_s,i^T)
        + peer / (N - 1) * sum over the others r of 1/B sum_i T_p^2 KL(p_r,i^T_p || p_s,i^T_p)

With `label_weighting` "1-w" what w takes from the teacher goes to the labels: the first term is then
1/B sum_i (hard + soft (1 - w_i)) CE(z_s,i, y_i).

The gradient of each term reaches student s alone. The paper gives w and the three terms; the balance, the
temperatures and the form of the peer term are this project's choice.

The defaults are not the paper's but those that a study on validation images chose (docs/defaults.md): the teacher is
heard alike on every image, and the peers as far as it is unsure, so that their term has 1 - w_i and the teacher's has
nothing. `PAPER` are the options that give the paper's method.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import label_weight, teacher_doubt, teacher_weight
from tutelage.graph.nodes import Computed, Frozen, Kind, Trained
from tutelage.graph.sample_weights import entropy, mean_one
from tutelage.graph.schedules import ramp_up
from tutelage.types import PerSampleFn

PAPER: Mapping[str, Any] = {"uncertainty": True, "peer_weighting": "none"}
"""The options of the published method: w on the teacher's edges, and peers that are heard alike on every image."""


def dual_student(teacher: str, students: Sequence[str], *, temperature: float = 4.0, hard: float = 0.5,
                 soft: float = 0.5, peer: float = 0.5, peer_temperature: float | None = None,
                 peer_warmup: float = 0.0, uncertainty: bool | str = False, entropy_temperature: float = 1.0,
                 peers: str | Sequence[Sequence[str]] = "all", peer_weighting: str = "1-w",
                 label_weighting: str = "none") -> Graph:
    """Two or more students learn from the labels, from a teacher, and from each other, by how sure the teacher is.

    `uncertainty` is True (w), False (no weights) or "mean_one" (w scaled to mean 1 in each batch). `peers` is
    "all", "none" or a list of (teacher, student) pairs; `peer_weighting` weighs the peer edges by "none", by the
    teacher's "w" or by "1-w"; `peer_warmup` is the share of the run over which they grow from 0. `label_weighting`
    "1-w" gives the labels what `uncertainty` takes from the teacher.
    """
    pairs = _pairs(students, peers)
    if teacher in students:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    sure = partial(entropy, temperature=entropy_temperature) if entropy_temperature != 1 else entropy
    weights = {True: sure, False: None, "mean_one": partial(mean_one, of=sure)}
    if uncertainty not in weights:
        raise UsageError("not a way to weigh", where="uncertainty", found=repr(uncertainty),
                         expected="true, false or 'mean_one'")
    trust, trust_nodes = _trust(teacher, sure, peer_weighting)
    if not pairs:
        trust_nodes = {}
    if label_weighting not in ("none", "1-w"):
        raise UsageError("not a way to weigh the labels", where="label_weighting", found=repr(label_weighting),
                         expected="'none' or '1-w'")
    peer_temperature = temperature if peer_temperature is None else peer_temperature
    _check(entropy_temperature, hard, peer, peer_warmup)

    edges = [Edge("labels", student, cross_entropy, weight=hard) for student in students]
    if label_weighting == "1-w":
        name = f"{teacher}_label_weight"
        trust_nodes[name] = Computed((teacher,), partial(label_weight, sure, hard, soft))
        edges = [Edge("labels", student, cross_entropy, sample_weight=name) for student in students]
    for student in students:
        edges.append(Edge(teacher, student, kl, soft, temperature, sample_weight=weights[uncertainty]))
    for other, student in pairs:
        share = peer / (len(students) - 1)
        weight = partial(ramp_up, to=share, until=peer_warmup) if peer_warmup else share
        edges.append(Edge(other, student, kl, weight, peer_temperature, sample_weight=trust))
    return Graph({teacher: Frozen(), **{student: Trained() for student in students}, **trust_nodes}, edges)


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


def _trust(teacher: str, sure: PerSampleFn, peer_weighting: str) -> tuple[str | None, dict[str, Kind]]:
    """The end that weighs the peer edges, and the node behind it: w is the teacher's, whom a peer edge does not see."""
    functions = {"none": None, "w": partial(teacher_weight, sure), "1-w": partial(teacher_doubt, sure)}
    if peer_weighting not in functions:
        raise UsageError("not a way to weigh peers", where="peer_weighting", found=repr(peer_weighting),
                         expected="'none', 'w' or '1-w'")
    if functions[peer_weighting] is None:
        return None, {}
    name = f"{teacher}_trust"
    return name, {name: Computed((teacher,), functions[peer_weighting])}
