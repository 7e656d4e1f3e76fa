"""Distillation with peers and a teacher that is still learning: Niyaz & Bathula, arXiv:2110.11023.

Teacher and M students start together; every network sees each image once. For student k, rows i of a batch of B,
D_T(a -> b) = 1/B sum_i T^2 KL(softmax(z_a,i / T) || softmax(z_b,i / T)) with z [B, C], and a a target only:

    L_teacher = CE(z_teacher, y)
    L_k       = CE(z_k, y) + soft * D_T(teacher -> k) + peer / (M - 1) * sum over the others l of D_T_p(l -> k)
    p_ensemble = 1/M sum_k softmax(z_k)

The gradient of L_k reaches student k alone, that of L_teacher the teacher alone: the teacher learns as if there were no
students. The paper combines distillation and mutual learning online and reads out the ensemble of the students; the
equations, the weights, the temperatures and the warm-up are this project's choice.
"""

import math
from collections.abc import Sequence
from functools import partial

from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ensemble, Kind, Trained
from tutelage.graph.schedules import ramp_up
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Schedule

ENSEMBLE = "ensemble"


def peer_cohort(teacher: str, students: Sequence[str], *, soft: float = 1.0, temperature: float = 2.0,
                peer: float = 1.0, peer_temperature: float = 1.0, teacher_warmup: float = 0.05,
                task: Task = CLASSIFICATION) -> Graph:
    """Students learn from labels, from a teacher that learns beside them, and from each other.

    `teacher_warmup` is the share of the run over which the teacher's weight grows from 0 to `soft`: at first it is
    noise. One student has no peers. The node `ensemble` is the students' mean probability, or the mean that the task
    has, of what a network says untapped; nobody learns from it. A task may have other ways to put them together, such
    as `ensemble_fused` of boxes.
    """
    check_cohort(teacher, students, reserved=(ENSEMBLE, *(f"{ENSEMBLE}_{name}" for name in task.fusions)))
    weight = grown(soft, teacher_warmup, "soft", "teacher_warmup")
    edges = [edge for network in (teacher, *students) for edge in task.from_labels(network)]
    edges += [edge for student in students
              for edge in task.from_network(teacher, student, weight=weight, temperature=temperature)]
    edges += [edge for student in students for other in students if other != student
              for edge in task.from_network(other, student, weight=peer / (len(students) - 1),
                                            temperature=peer_temperature)]
    nodes: dict[str, Kind] = {network: Trained() for network in (teacher, *students)}
    if any(not term.tap for term in task.imitate):
        nodes[ENSEMBLE] = Ensemble(students, task.mean)
        nodes |= {f"{ENSEMBLE}_{name}": Ensemble(students, mean) for name, mean in task.fusions.items()}
    return Graph(nodes, edges)


def check_cohort(teacher: str, students: Sequence[str], *, reserved: Sequence[str] = ()) -> None:
    """Refuse what a mapping of nodes would silently merge: each network is named once, and no node is called so yet."""
    if isinstance(students, str) or not students or len(set(students)) != len(students):
        raise UsageError("one student or more is needed, each named once", where="students", found=repr(students))
    if teacher in students:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    for name in reserved:
        if name in (teacher, *students):
            raise UsageError("this name is taken by a node of the method's own", where="students", found=repr(name),
                             fix="call the network something else")


def grown(weight: float, until: float, name: str, until_name: str) -> float | Schedule:
    """A weight that grows in a straight line from 0 over this share of the run; the number itself without one."""
    if not 0 <= weight < math.inf:
        raise UsageError("a weight that cannot be", where=name, found=weight, expected="0 or more")
    if not 0 <= until <= 1:
        raise UsageError("not a share of the run", where=until_name, found=until, expected="0 .. 1")
    return partial(ramp_up, to=weight, until=until) if until and weight else weight
