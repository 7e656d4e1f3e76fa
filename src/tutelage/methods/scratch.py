"""Plain training from labels: the baseline that every other method has to beat."""

from tutelage.graph.divergences import cross_entropy
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained


def scratch(student: str) -> Graph:
    """The student learns from the labels alone."""
    return Graph({student: Trained()}, [Edge("labels", student, cross_entropy)])
