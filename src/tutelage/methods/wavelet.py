"""Feature maps compared in Haar sub-bands, after Niyaz, Sambyal & Bathula, wavelet-based feature compression (2024).

With logits z [B, C], feature maps f [B, K, H, W], W_b the sub-bands of one level of the orthonormal Haar transform,
each [B, K, H/2, W/2] (odd sides are first mirrored by one pixel), and P f the student's maps pooled to H x W and
brought to the teacher's channels by a 1x1 convolution:

    L = hard * CE(z, y) + soft * T^2 KL(softmax(z_teacher / T) || softmax(z / T))
      + features * 1/B sum_i 1/(K H W) sum_b bands_b ||W_b(P f_i) - W_b(f_teacher,i)||^2

The gradient reaches the student and P. The low-low band alone is a map of half the size: compressed knowledge. With all
bands at 1 the last term is the plain mean squared difference, since the transform keeps lengths. No more than the title
of the paper was at hand: all of this is our choice.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.learning_styles import check_layers
from tutelage.methods.peer_cohort import check_cohort
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Features, PerSample


def wavelet(teacher: str, student: str, layers: Mapping[str, str], *, bands: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
            features: float = 1.0, temperature: float = 4.0, hard: float = 0.5, soft: float = 0.5,
            task: Task = CLASSIFICATION) -> Graph:
    """The student learns from labels, a frozen teacher's predictions, and sub-bands of its feature maps.

    `layers` names the layer of each of the two networks whose output are its feature maps. `bands` are the weights of
    the four sub-bands: low, and the details across, down and diagonal.
    """
    check_cohort(teacher, [student])
    check_layers(layers, (teacher, student))
    if len(bands) != 4 or not all(0 <= share < math.inf for share in bands):
        raise UsageError("four weights are needed, one a sub-band", where="bands", found=bands,
                         expected="[low, across, down, diagonal], each 0 or more")
    compared = Projected(partial(haar_mse, bands=tuple(bands)))
    return Graph(
        {teacher: Frozen(), student: Trained()},
        [
            *task.from_labels(student, weight=hard),
            *task.from_network(teacher, student, weight=soft, temperature=temperature),
            Edge(f"{teacher}.{layers[teacher]}", f"{student}.{layers[student]}", compared, weight=features),
        ],
    )


def haar_mse(student: Features, teacher: Features, labels: object = None, *,
             bands: Sequence[float] = (1.0, 0.0, 0.0, 0.0)) -> PerSample:
    """Squared difference of maps [B, K, H, W] in each sub-band, weighted by `bands`, over K H W: [B].

    >>> flat, zero = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    >>> haar_mse(flat, zero).item(), haar_mse(flat, zero, bands=(0.0, 1.0, 1.0, 1.0)).item()
    (1.0, 0.0)
    """
    if student.shape != teacher.shape or student.dim() != 4 or min(student.shape[2:]) < 2:
        raise ModelError("sub-bands of these features cannot be compared",
                         found=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
                         expected="feature maps [B, K, H, W] of at least 2 x 2 pixels, alike", fix="tap other layers")
    # The transform is linear, so that of the difference is the difference.
    energy = haar(student - teacher).square().flatten(2).sum(-1)
    weights = torch.tensor(bands, dtype=energy.dtype, device=energy.device)
    return (weights[:, None] * energy).sum(0) / student[0].numel()


def haar(maps: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: [B, K, H, W] -> [4, B, K, ceil(H/2), ceil(W/2)].

    The bands are low, and the details across (left minus right), down (upper minus lower) and diagonal.
    """
    height, width = maps.shape[2:]
    if height % 2 or width % 2:
        maps = F.pad(maps, (0, width % 2, 0, height % 2), mode="reflect")
    a, b = maps[..., 0::2, 0::2], maps[..., 0::2, 1::2]
    c, d = maps[..., 1::2, 0::2], maps[..., 1::2, 1::2]
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]) / 2
