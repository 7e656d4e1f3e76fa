"""Student-guided distillation from stochastic representations: "SSD", ECML-PKDD 2025, arXiv:2504.14307.

One frozen teacher whose dropout stays on says many things of each image, and the student's own features choose among
them. With features f [B, D] (maps are taken as one long row) and the teacher's draws f_j, j = 1 .. n:

    a_j = exp(<f, f_j> / h) / sum_k exp(<f, f_k> / h)                 h: `guide_temperature`
    b_j = a_j where a_j is at or above the `percentile` of a row's a, else 0; then scaled to sum 1
    g   = sum_j b_j f_j
    L   = hard * CE(z, y) + soft * mean over B and D of (f - g)^2

The gradient reaches the student: through f, and through the guide g, whose b read f too. The second way is the edge
with its ends exchanged, so the printed losses count the mean square twice; `detach_guide` leaves it out.

Scaling b to sum 1, weights, the gradient through the guide, and the defaults of h and of the percentile are those of
the authors' code, with n = 30. The student is to start from the teacher's weights, as in
the paper: name the same file for both (the authors' code starts it at random). Which
dropout is drawn, and `scaled`, which divides the products by sqrt(D), are this project's choice.
"""

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.methods.learning_styles import check_layers
from tutelage.methods.peer_cohort import check_cohort
from tutelage.models.wrappers import DRAWS, draws_of
from tutelage.system.random import derive
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Batch

GUIDE = "guide"


def stochastic_teacher(teacher: str, student: str, layers: Mapping[str, str], *, guide_temperature: float = 5.0,
                       percentile: float = 90.0, detach_guide: bool = False, renormalise: bool = True,
                       scaled: bool = False, hard: float = 0.5, soft: float = 0.5,
                       task: Task = CLASSIFICATION) -> Graph:
    """The student learns from labels, and from those of a teacher's draws that its own features choose.

    `layers` names the layer of each of the two networks whose output are its features; both are of one shape. How many
    draws there are is the key `draws` of the teacher's network. `percentile` 0 keeps all of them, 100 the nearest.
    """
    check_cohort(teacher, [student], reserved=[GUIDE])
    check_layers(layers, (teacher, student))
    if not 0 < guide_temperature < math.inf:
        raise UsageError("a temperature that cannot be", where="guide_temperature", found=guide_temperature,
                         expected="a number above 0")
    if not 0 <= percentile <= 100:
        raise UsageError("a percentile that cannot be", where="percentile", found=percentile, expected="0 .. 100")
    own, drawn = f"{student}.{layers[student]}", f"{teacher}.{DRAWS}{layers[teacher]}"
    by = partial(guided, temperature=guide_temperature, percentile=percentile, renormalise=renormalise, scaled=scaled)
    edges = [*task.from_labels(student, weight=hard), Edge(GUIDE, own, mse, soft)]
    if not detach_guide:
        edges.append(Edge(own, GUIDE, mse, soft))
    nodes = {teacher: Frozen(), student: Trained(), GUIDE: Computed((own, drawn), by)}
    return Graph(nodes, edges, {"masks": Masks(teacher)})


def guided(student: Tensor, drawn: Tensor, *, temperature: float = 5.0, percentile: float = 90.0,
           renormalise: bool = True, scaled: bool = False) -> Tensor:
    """Features [B, ...] and the draws of a teacher's [B, n, ...] -> the mean of the draws near them, [B, ...].

    >>> import torch
    >>> guided(torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 2.0], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0]]]))
    tensor([[1., 2.]])
    """
    if drawn.shape[:1] + drawn.shape[2:] != student.shape:
        raise ModelError("the student's features are not of the teacher's shape",
                         found=f"student {list(student.shape)}, a draw of the teacher's "
                               f"{list(drawn.shape[:1] + drawn.shape[2:])}",
                         fix="take a student like the teacher, or tap other layers")
    rows, draws = student.flatten(1), drawn.flatten(2)
    near = (draws @ rows[..., None])[..., 0] / (temperature * (math.sqrt(rows.shape[-1]) if scaled else 1))
    weights = near.softmax(-1)
    # The percentile lies between two of the weights; those at or above it are those at or above the upper one.
    below = math.ceil(percentile / 100 * (weights.shape[-1] - 1) - 1e-9)
    threshold = weights.detach().sort(-1).values[:, below, None]
    kept = weights * (weights >= threshold)
    if renormalise:
        kept = kept / kept.sum(-1, keepdim=True)
    return (kept[:, None] @ draws)[:, 0].view_as(student)


class Masks(Controller):
    """Tells the teacher whose images it sees: what it drops is a function of (seed, draw of the images, id)."""

    def __init__(self, teacher: str) -> None:
        super().__init__()
        self.teacher = teacher

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """Set the teacher's masks for this rank's own rows."""
        draws = draws_of(run.runners[self.teacher])
        assert draws is not None, "the dry pass has read its draws"
        draws.key, draws.ids = derive(run.settings.seed, "draws", self.teacher, run.draw), batch.ids
        return batch
