"""Deep mutual learning: Zhang, Xiang, Hospedales & Lu, CVPR 2018, arXiv:1706.00384.

L_i = CE(student_i, labels) + peer / (N - 1) * sum over the others j of KL(p_j || p_i), at temperature 1; student j's
prediction is a target, and the gradient reaches student i alone. All students take their steps at once; in the paper
and its code they take turns, each hearing what those before it have just become. For three students or more the code
sums over the others where this takes their mean: `peer` = N - 1 gives the sum.
"""

from collections.abc import Sequence

from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def mutual(students: Sequence[str], *, peer: float = 1.0, task: Task = CLASSIFICATION) -> Graph:
    """Two or more students learn from the labels and from each other; there is no teacher."""
    if isinstance(students, str) or len(set(students)) < 2:
        raise UsageError("mutual learning needs two students or more", where="students", found=students)
    share = peer / (len(students) - 1)
    edges = [edge for student in students for edge in task.from_labels(student)]
    edges += [edge for student in students for other in students if other != student
              for edge in task.from_network(other, student, weight=share)]
    return Graph({student: Trained() for student in students}, edges)
