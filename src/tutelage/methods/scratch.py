"""Plain training from labels: the baseline that every other method has to beat."""

from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task


def scratch(student: str, *, task: Task = CLASSIFICATION) -> Graph:
    """The student learns from the labels alone."""
    return Graph({student: Trained()}, task.from_labels(student))
