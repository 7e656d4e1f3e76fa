"""Channel-wise distillation: Shu, Liu, Gao, Yan & Shen, ICCV 2021, arXiv:2011.13256.

A channel of a network's map of logits says where in the image a class is. Each is made a distribution over the places,
and the student's is drawn to that of a frozen teacher. With maps z [B, C, h, w], channel c of image i as a row of h w
numbers, and labels y of the pixels,

    L = hard * CE(z_student, y)
      + soft * T^2 / (B C) sum_i sum_c KL(softmax(z_teacher,i,c / T) || softmax(z_student,i,c / T))

The gradient reaches the student alone. Pixels that do not count are compared too. The paper has the divergence and its
factor T^2 / C; that it is taken of the maps of logits alone, the weights and the temperature are this project's choice.
"""

from tutelage.errors import UsageError
from tutelage.graph.divergences import kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.naming import name_of
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import RowsFn


def _channels_of(task: Task) -> RowsFn | None:
    """The rows of a task in which each channel is a row."""
    return next((rows for rows in task.rows if name_of(rows) == "channels"), None) if task.has_choices() else None


FOR = _channels_of
"""Which tasks the method is for: those that have such rows."""


def channel_wise(teacher: str, student: str, *, temperature: float = 4.0, hard: float = 1.0, soft: float = 3.0,
                 task: Task = CLASSIFICATION) -> Graph:
    """The student learns from labels and, channel by channel, from where a frozen teacher sees each class.

    It is for tasks with maps of logits, whose rows have `channels`.
    """
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    channels, term = _channels_of(task), task.soft_term
    if channels is None or term is None:
        raise UsageError("channel_wise is for tasks with maps of logits", where="task", found=task.name,
                         expected="a task whose rows have channels, such as segmentation")
    return Graph(
        {teacher: Frozen(), student: Trained()},
        [
            *task.from_labels(student, weight=hard),
            Edge(term.end(teacher), term.end(student), kl, soft, temperature, rows=channels),
        ],
    )
