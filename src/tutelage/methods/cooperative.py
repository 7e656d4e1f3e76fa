"""A cohort that meets every k steps, after Sun et al. (2024), cooperative distillation of tiny networks at the edge.

Device-sized students and a ground teacher learn together as in `peer_cohort` (Niyaz & Bathula, arXiv:2110.11023), but
what they say to each other is up to k steps old. With z_l(t) [B, C] for what network l, as it was after step t, says of
the batch of this step, and step n:

    L_k = CE(z_k, y) + soft * D_T(teacher(n - n mod k_t) -> k)
        + peer / (M - 1) * sum over the others l of D_T_p(l(n - n mod k) -> k)

Only what is old is changed: a copy of a network is a target, has no gradient, and takes the network's weights every k
steps; the first is the network as it started. No more than the title of the paper was at hand: all of this is our
choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tutelage.errors import UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema
from tutelage.methods.peer_cohort import check_cohort, peer_cohort
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def cooperative(teacher: str, students: Sequence[str], *, every: int = 10, teacher_every: int = 1, soft: float = 1.0,
                temperature: float = 2.0, peer: float = 1.0, peer_temperature: float = 1.0,
                teacher_warmup: float = 0.05, task: Task = CLASSIFICATION) -> Graph:
    """`peer_cohort`, whose students hear each other as they were up to `every` steps ago.

    `teacher_every` is the same for the teacher's voice. 1 is no delay: with both 1 it is `peer_cohort`. The old state
    of a network NAME is a node NAME_stale.
    """
    cohort = peer_cohort(teacher, students, soft=soft, temperature=temperature, peer=peer,
                         peer_temperature=peer_temperature, teacher_warmup=teacher_warmup, task=task)
    heard = {parse_end(edge.teacher).node for edge in cohort.edges if not edge.from_labels}
    delays = {teacher: _delay(teacher_every, "teacher_every"), **dict.fromkeys(students, _delay(every, "every"))}
    stale = {name: f"{name}_stale" for name, delay in delays.items() if delay > 1 and name in heard}
    check_cohort(teacher, students, reserved=list(stale.values()))
    copies = {copy: Ema(name, decay=0.0, every=delays[name]) for name, copy in stale.items()}
    edges = [edge if edge.from_labels else _from(stale, edge) for edge in cohort.edges]
    return Graph({**cohort.nodes, **copies}, edges)


def _from(stale: Mapping[str, str], edge: Edge) -> Edge:
    end = parse_end(edge.teacher)
    return replace(edge, teacher=end._replace(node=stale.get(end.node, end.node)).name)


def _delay(steps: int, name: str) -> int:
    if steps < 1:
        raise UsageError("not a number of steps", where=name, found=steps, expected="1 or more")
    return steps
