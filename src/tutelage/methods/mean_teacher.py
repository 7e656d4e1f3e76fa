"""Mean teacher: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780.

The teacher's weights follow the student's: theta' <- a theta' + (1 - a) theta, a = min(1 - 1 / (t + 1), decay), after
step t. Both see every image, each in an augmentation of its own (views a and b), and the student is to say what the
teacher says; images without a label count there too. Logits z [B, C], p = softmax(z), labels y with -1 for none:

    L = 1/B sum over labelled rows of CE(z_i(a), y_i) + consistency(t) * 1/B sum_i d(p_i(a), p'_i(b))
    d = 1/C ||p - p'||^2  ("mse")   or   KL(p' || p)  ("kl")
    consistency(t) = consistency * exp(-5 (1 - min(t, R) / R)^2),   R: the share `ramp_up` of the run

With `head_distance` the student has a second head, the tap `second_head` of a network with second_head = true: its
logits w [B, C] take the place of z in d, so that labels and the average each have a head, and there is

    + head_distance * 1/B sum_i 1/C ||z_i(a) - w_i(a)||^2

whose gradient reaches both heads: two edges, so the printed losses count it twice. What the teacher says is its first
head's. The gradient reaches the student alone. The teacher has batch statistics of its own and is the network to use.
Formulas and the defaults of `decay`, `consistency` and `divergence` are those of the authors' released code (100 for
mse on CIFAR-10, 10 for kl on ImageNet), which advises 1 to 10 for kl and C to C^2 for mse; its `head_distance` is 0.01.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

from tutelage.errors import UsageError
from tutelage.graph.divergences import mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Trained
from tutelage.graph.schedules import ramp_up_exp
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task, for_classes_alone
from tutelage.types import Logits, PerSample

SLOW = "slow"
DEFAULTS = {"mse": 100.0, "kl": 10.0}


def mean_teacher(student: str, *, decay: float = 0.999, divergence: Literal["mse", "kl"] = "mse",
                 consistency: float | None = None, ramp_up: float = 0.1, head_distance: float | None = None,
                 task: Task = CLASSIFICATION) -> Graph:
    """A student learns from labels and from the moving average of its own weights, the node `slow`.

    `consistency` is the weight of the average's voice, 100 for "mse" and 10 for "kl"; it is reached after the share
    `ramp_up` of the run. 0 leaves the average to follow unheard. `head_distance`, if any, is the weight that holds
    a second head, which the average's voice is for, near the first. Where a task compares parts of a sample, such as
    pixels, both see the plain view: an augmentation moves the parts. What is no choice among several is compared as the
    task compares it, whatever `divergence` is.
    """
    if student == SLOW:
        raise UsageError("this name is taken by a node of the method's own", where="student", found=repr(student))
    if divergence not in DEFAULTS:
        raise UsageError("not a way to compare predictions", where="divergence", found=repr(divergence),
                         expected="'mse' or 'kl'")
    consistency = DEFAULTS[divergence] if consistency is None else consistency
    if not 0 <= consistency < math.inf:
        raise UsageError("a weight that cannot be", where="consistency", found=consistency, expected="0 or more")
    if not 0 <= ramp_up <= 1:
        raise UsageError("not a share of the run", where="ramp_up", found=ramp_up, expected="0 .. 1")
    if head_distance is not None and not task.classifies:
        raise for_classes_alone("a second head", task, "head_distance")
    first, second = ("", "") if task.has_parts() else ("@a", "@b")
    says = f"{student}{first}"
    hears = says if head_distance is None else f"{student}.second_head{first}"
    edges = task.from_labels(says)
    if consistency:  # an edge of weight 0 would leave the average without batch statistics, its own or the student's
        told = task.from_network(f"{SLOW}{second}", hears, weight=partial(ramp_up_exp, to=consistency, until=ramp_up))
        squared = divergence == "mse" and task.has_choices()
        edges += [replace(edge, divergence=probability_mse) if term.soft and squared else edge
                  for term, edge in zip(task.imitate, told, strict=True)]
    if head_distance is not None:
        edges += [Edge(says, hears, mse, head_distance), Edge(hears, says, mse, head_distance)]
    return Graph({student: Trained(), SLOW: Ema(student, decay)}, edges)


def probability_mse(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """Mean over the classes of the squared difference of probabilities, in [0, 2 / C]."""
    return mse(student.softmax(-1), teacher.softmax(-1), labels)
