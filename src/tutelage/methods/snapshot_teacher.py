"""Supervision by successive checkpoints of a teacher: Harutyunyan et al., ICLR 2023, arXiv:2301.12245.

The student first hears the teacher as it was early in its own training, when what it said was simple, and later the
teacher as it became. Checkpoints g_1 .. g_m, times 0 < t_1 < .. < t_m as shares of the run, logits z [B, C], and at
progress t the checkpoint g_j whose time is the next, t_(j-1) <= t < t_j (the last one also after its time):

    L = soft * T^2 KL(softmax(z_gj / T) || softmax(z / T)) + hard * CE(z, y)

The gradient reaches the student alone; of the teachers only the one whose time it is runs. The paper supervises by
successive checkpoints; when which one speaks, temperature and weights are this project's choice.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.schedules import window
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def snapshot_teacher(teachers: Sequence[str], student: str, *, times: Sequence[float] | None = None,
                     temperature: float = 4.0, soft: float = 1.0, hard: float = 0.0,
                     task: Task = CLASSIFICATION) -> Graph:
    """The student learns from one frozen checkpoint of a teacher after another, in the order they are named.

    `times` are the shares of the run at which each one's time is over, rising; the last one is heard until the end. By
    default all are heard equally long.
    """
    if isinstance(teachers, str) or not teachers or len({*teachers, student}) != len(teachers) + 1:
        raise UsageError("one teacher or more is needed, each named once, and none of them the student",
                         where="teachers", found=repr(teachers))
    if not 0 <= soft < math.inf:
        raise UsageError("a weight that cannot be", where="soft", found=soft, expected="0 or more")
    ends = [*_checked(times, len(teachers))[:-1], 1.0]
    edges = task.from_labels(student, weight=hard)
    for teacher, start, until in zip(teachers, [0.0, *ends], ends, strict=False):
        weight = partial(window, value=soft, start=start, until=until)
        edges += task.from_network(teacher, student, weight=weight, temperature=temperature)
    return Graph({**dict.fromkeys(teachers, Frozen(early=True)), student: Trained()}, edges)


def _checked(times: Sequence[float] | None, count: int) -> list[float]:
    if times is None:
        return [(number + 1) / count for number in range(count)]
    rising = all(early < late for early, late in pairwise([0.0, *times]))
    if len(times) != count or not rising or times[-1] > 1:
        raise UsageError("not the times of the teachers", where="times", found=list(times),
                         expected=f"{count} shares of the run, rising, above 0 and at most 1")
    return list(times)
