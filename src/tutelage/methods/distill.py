"""Knowledge distillation: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.

L = hard * CE(student, labels) + soft * T^2 * KL(softmax(teacher / T) || softmax(student / T)); the gradient reaches
the student alone.
"""

from tutelage.errors import UsageError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Kind, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def distill(teacher: str, student: str, *, temperature: float = 4.0, hard: float = 0.5, soft: float = 0.5,
            online: bool = False, task: Task = CLASSIFICATION) -> Graph:
    """The student learns from the labels and from the softened outputs of a frozen teacher.

    `online`: the teacher is not frozen, it learns from the labels beside its student, as if there were none.
    """
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    own: Kind = Trained() if online else Frozen()
    return Graph(
        {teacher: own, student: Trained()},
        [
            *(task.from_labels(teacher) if online else ()),
            *task.from_labels(student, weight=hard),
            *task.from_network(teacher, student, weight=soft, temperature=temperature),
        ],
    )
