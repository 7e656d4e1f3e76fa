"""PESF-KD, parameter-efficient and student-friendly distillation: Rao et al., IEEE TMM 2023, arXiv:2205.15308.

The teacher stays as it is, but for a small adapter on its last features, which learns beside the student, so that the
teacher's predictions become easier to learn from. On rows of logits z [B, C] and features h [B, D]:

    A(h)      = W3 relu(W2 (W1 h + b1) + b2) + b3        W1: D -> C, W2: C -> width, W3: width -> C
    z'        = z_teacher + A(h)
    L_student = hard * CE(z_student, y) + soft * T^2 KL(softmax(z' / T) || softmax(z_student / T))
    L_adapter = adapter_hard * CE(z', y) + adapter_soft * T^2 KL(softmax(z' / T) || softmax(z_student / T))

Each gradient reaches its own: the second edge of the KL is the first one mirrored. Nothing reaches the teacher. Form,
width and weight of the labels of the adapter are those of the authors' code for images, which subtracts A(h). The loop
that is released swaps the two targets, both detached, trains the adapter every fourth batch and leaves the teacher in
training mode; the form above is the paper's, which stands beside it as a comment. The other weights, T, the teacher in
eval mode, and W3 = b3 = 0 at the start, where it is plain distillation, are this project's choice.
"""

import math

from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl, reverse_kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import pooled
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.types import Features, Logits


def pesf(teacher: str, student: str, layer: str, *, temperature: float = 4.0, hard: float = 0.1, soft: float = 0.9,
         adapter_hard: float = 1.0, adapter_soft: float | None = None, width: int = 32) -> Graph:
    """A student learns from labels and a frozen teacher, whose adapter learns from labels and the student.

    `layer` is the teacher's layer in front of its classifier. The adapter is the node TEACHER_adapter, its output the
    teacher that the student hears. `adapter_soft` is `soft` by default. `width` is that of the adapter's hidden layer.
    """
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    if not layer:
        raise UsageError("the adapter needs the teacher's features", where="layer", found=repr(layer),
                         expected="the name of the layer in front of the classifier")
    if width < 1:
        raise UsageError("a width that cannot be", where="width", found=width, expected="1 or more")
    adapter_soft = soft if adapter_soft is None else adapter_soft
    for name, weight in (("adapter_hard", adapter_hard), ("adapter_soft", adapter_soft)):
        if not 0 <= weight < math.inf:
            raise UsageError("a weight that cannot be", where=name, found=weight, expected="0 or more")
    adapter = f"{teacher}_adapter"
    if student == adapter:
        raise UsageError("this name is taken by a node of the method's own", where="student", found=repr(student))
    return Graph(
        {teacher: Frozen(), student: Trained(),
         adapter: Computed((teacher, f"{teacher}.{layer}"), Adapter(width))},
        [
            Edge("labels", student, cross_entropy, hard),
            Edge(adapter, student, kl, soft, temperature),
            Edge("labels", adapter, cross_entropy, adapter_hard),
            Edge(student, adapter, reverse_kl, adapter_soft, temperature),
        ],
    )


class Adapter(nn.Module):
    """(logits [B, C], features [B, D] or maps [B, D, H, W]) -> logits [B, C] plus A(h), which is 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.change: nn.Module | None = None

    def forward(self, logits: Logits, features: Features) -> Tensor:
        """The logits, adapted."""
        features = pooled(features)
        if self.change is None:
            self.change = self._make(features.shape[1], logits)
        return logits + self.change(features)

    def _make(self, size: int, logits: Logits) -> nn.Module:
        classes, where = logits.shape[-1], {"device": logits.device, "dtype": logits.dtype}
        last = nn.Linear(self.width, classes, **where)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(size, classes, **where), nn.Linear(classes, self.width, **where), nn.ReLU(),
                             last)
