"""Class-aware loss: Chavarrias-Solano, Ali-Teevno, Ochoa-Ruiz & Ali, arXiv:2207.09530.

A teacher that was trained to find one class k, on more data than there are of all classes, helps a student of many. Of
the places of a batch those are relevant whose object is of class k, or where the teacher's probability q of it is above
0.5. With m the student's probability of class k:

    L = detection loss of the student + weight / max(1, relevant) * sum over relevant places of
        q log(q / m) + (1 - q) log((1 - q) / (1 - m))

The gradient reaches the student's logits of class k alone: what it makes of the other classes is left to the labels.
The paper has a two-stage detector and gives no equation that was found; the divergence, the relevant places and the
weight are this project's choice. A class is the same class by its name: write classes = "known" for the teacher.
"""

from tutelage.errors import UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.naming import name_of
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.detection.regions import one_class
from tutelage.tasks.task import Task
from tutelage.types import RowsFn


def _relevant_of(task: Task) -> RowsFn | None:
    """The rows of a task that are relevant to one class; None where it has none."""
    return next((rows for rows in task.rows if name_of(rows) == "relevant"), None)


FOR = _relevant_of
"""Which tasks the method is for: those that have such rows."""


def class_aware(teacher: str, student: str, *, weight: float = 1.0, task: Task = CLASSIFICATION) -> Graph:
    """The student learns from the labels and, of the one class that a frozen teacher knows, from that teacher."""
    relevant = _relevant_of(task)
    if relevant is None:
        raise UsageError("no places that are relevant to a class", where="task", found=f"task {task.name}",
                         expected="detection")
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    return Graph({teacher: Frozen(), student: Trained()},
                 [*task.from_labels(student), Edge(teacher, student, one_class, weight, rows=relevant)])
