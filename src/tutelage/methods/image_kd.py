"""Distillation of an image by its look: Zhao, Su, Wei, Tong & Gao, Electronics 2023, 12(13), 2773.

A frozen teacher fuses each pair of images; a student, smaller, learns to give the same image. With t and s [B, 1, H, W]
the images of teacher and student, and a, b the sources, as means over pixels:

    L = image |s - t| + ssim (1 - SSIM(s, t)) + brightest |s - max(a, b)| + sharpest |grad s - max(grad a, grad b)|

The first two are heard from the teacher, the last two from the sources alone (Tang, Yuan & Ma, SeAFusion, 2022, whose
weights are 1 and 10); they are 0 unless asked for. The paper's loss was not found: the form and the weights 1 and 0.5
are this project's choice. The gradient reaches the student alone.
"""

import math

from tutelage.errors import UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.fused_images import brightest as brightest_of
from tutelage.graph.fused_images import l1, ssim_loss
from tutelage.graph.fused_images import sharpest as sharpest_of
from tutelage.graph.graph import Graph
from tutelage.graph.naming import name_of
from tutelage.graph.nodes import Frozen, Trained
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import RowsFn


def _images_of(task: Task) -> RowsFn | None:
    """The rows of fused images of a task; None where it has none."""
    return next((rows for rows in task.rows if name_of(rows) == "fused"), None)


FOR = _images_of
"""Which tasks the method is for: those whose networks give images."""


def image_kd(teacher: str, student: str, *, image: float = 1.0, ssim: float = 0.5, brightest: float = 0.0,
             sharpest: float = 0.0, task: Task = CLASSIFICATION) -> Graph:
    """The student learns a frozen teacher's images and, if asked, from what is brightest and sharpest in the sources.

    With `image = 0` and `ssim = 0` it learns from the sources alone, beside a teacher that it is compared with.
    """
    rows = _images_of(task)
    if rows is None:
        raise UsageError("a method for networks that give images", where="task", found=f"task {task.name}",
                         expected="fusion")
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    weights = {"image": image, "ssim": ssim, "brightest": brightest, "sharpest": sharpest}
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UsageError("a weight that cannot be", where=name, found=weight, expected="0 or more")
    if not any(weights.values()):
        raise UsageError("nothing is learned", where="image", found="all weights are 0", expected="one above 0")
    edges = [(teacher, l1, image), (teacher, ssim_loss, ssim), ("labels.sources", brightest_of, brightest),
             ("labels.sources", sharpest_of, sharpest)]
    return Graph({teacher: Frozen(), student: Trained()},
                 [Edge(source, student, divergence, weight, rows=rows)
                  for source, divergence, weight in edges if weight])
