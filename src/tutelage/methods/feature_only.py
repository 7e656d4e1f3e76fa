"""Features for the trunk, labels for the head: "Logit-based losses limit ...", NeurReps 2025, arXiv:2511.14981.

The student is cut in two. Its trunk learns from a frozen teacher's features alone, layer by layer; its head, which is
all that comes after the last of these layers, learns from labels alone. With maps f_i [B, K, H, W] of L pairs of
layers, A the adaptive average pooling of the larger map to the size of the smaller, P_i a learned 1x1 convolution
without bias from the student's channels to the teacher's, and sg what lets no gradient through:

    L = hard * CE(head(sg(f_student,L)), y)
      + features * 1/L sum_i mean over B, K, H, W of (P_i A(f_student,i) - sg(A(f_teacher,i)))^2

The gradient of the features reaches trunk and P_i, that of the labels the head. Formulas and weights are those of the
authors' code. It picks the teacher's layers by their knowledge quality: `tutelage analyse layers`.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.graph.divergences import mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.learning_styles import check_layers
from tutelage.methods.peer_cohort import check_cohort
from tutelage.models.wrappers import CUT
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import PerSample


def feature_only(teacher: str, student: str, layers: Mapping[str, str | Sequence[str]], *, features: float = 1.0,
                 hard: float = 1.0, task: Task = CLASSIFICATION) -> Graph:
    """The student's trunk learns from a frozen teacher's features alone, its head from labels alone.

    `layers` names as many layers of each of the two networks, in the order of their depth. The student's last is
    "cut": where its recipe says that it is cut.
    """
    check_cohort(teacher, [student])
    check_layers(layers, (teacher, student))
    theirs, own = ([told] if isinstance(told, str) else list(told) for told in (layers[teacher], layers[student]))
    if len(theirs) != len(own) or len(set(theirs)) < len(own) or len(set(own)) < len(own):
        raise UsageError("each layer of the student learns from one of the teacher", where="layers",
                         found=f"{theirs} for {own}", expected="as many of each, none twice")
    if own[-1] != CUT or CUT in theirs:
        raise UsageError("the student is cut after the last layer that learns from features", where="layers",
                         found=f"{teacher} = {theirs}, {student} = {own}", expected=f'{student} = [..., "{CUT}"]',
                         fix=f'write cut = "LAYER" in [models.{student}], and "{CUT}" for that layer here')
    edges = [Edge(f"{teacher}.{source}", f"{student}.{layer}", Matched(), features / len(own))
             for source, layer in zip(theirs, own, strict=True)]
    return Graph({teacher: Frozen(), student: Trained()}, [*task.from_labels(student, weight=hard), *edges])


class Matched(nn.Module):
    """Mean squared difference of features at the smaller of their sizes, the student's projected: [B].

    Of maps the larger is averaged down; vectors and token lists are compared as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projected = Projected(mse)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> PerSample:
        """(student features, teacher features, labels) -> [B]."""
        if student.dim() == teacher.dim() == 4 and student.shape[2:] != teacher.shape[2:]:
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
        return self.projected(student, teacher, labels)
