"""Functions and modules that a graph may hold between its ends.

A module that learns makes its weights when it first sees shapes; the trainer seeds that moment, saves what the
module holds, and gives it an optimizer. A module that remembers does so in training mode only.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.graph.sample_weights import labelled, true_class
from tutelage.types import Features, Labels, Logits, PerSample, PerSampleFn


def mean_probability(*logits: Tensor) -> Logits:
    """The log of the mean of the probabilities of several networks: what `kl` reads as the logits of an ensemble.

    >>> mean_probability(torch.tensor([[9.0, 9.0]]), torch.tensor([[0.0, 0.0]])).exp().tolist()
    [[0.5, 0.5]]
    """
    if any(rows.dim() != 2 for rows in logits):
        raise ModelError("a mean probability of what is not logits of samples",
                         found=str([list(rows.shape) for rows in logits]), expected="[B, C] of each",
                         fix="say what the mean is: Ensemble(of, mean), or Computed(of, mean)")
    return torch.stack([rows.log_softmax(-1) for rows in logits]).logsumexp(0) - math.log(len(logits))


def teacher_weight(weight: PerSampleFn, logits: Logits, labels: Labels | None = None) -> PerSample:
    """w of the teacher's logits, [B]; `labels` for a weight that reads them."""
    return weight(logits, logits, logits if labels is None else labels)


def teacher_doubt(weight: PerSampleFn, logits: Logits, labels: Labels | None = None) -> PerSample:
    """1 - w of the teacher's logits, [B]: the peers are heard where the teacher is unsure."""
    return 1 - teacher_weight(weight, logits, labels)


def label_weight(weight: PerSampleFn, hard: float, soft: float, logits: Logits,
                 labels: Labels | None = None) -> PerSample:
    """hard + soft (1 - w) of the teacher's logits, [B]: the labels are heard more where the teacher is unsure."""
    return hard + soft * teacher_doubt(weight, logits, labels)


OF_A_WEIGHT = (teacher_weight, teacher_doubt, label_weight)
"""What makes numbers of a sample weight, its first bound argument, without another look at the logits."""


LARGEST_WEIGHT = 4.0
"""A weight that is scaled to mean 1 is cut here: else a few rows could weigh tens, and training would break."""


def label_trust(logits: Logits, labels: Labels) -> PerSample:
    """The teacher's probability of the label, scaled to mean 1 over the labelled rows and cut at 4: [B].

    A row without a label gets 0. Labels that the teacher finds unlikely, the wrong ones among them, count less.

    >>> label_trust(torch.tensor([[0.0, 200.0], [0.0, 200.0], [0.0, 0.0]]), torch.tensor([1, 0, -1])).tolist()
    [2.0, 0.0, 0.0]
    """
    likely = true_class(logits, logits, labels)
    mean = likely.sum() / labelled(logits, logits, labels).sum().clamp(min=torch.finfo(likely.dtype).tiny)
    return (likely / mean.clamp(min=torch.finfo(likely.dtype).tiny)).clamp(max=LARGEST_WEIGHT)


def mixed_target(share: float, temperature: float, teacher: Logits, *peers: Logits) -> Logits:
    """One target of a teacher and its peers: logits z with softmax(z / T) = (1 - share) p_teacher + share mean p_peer.

    All p at the temperature T. Without peers, or with a share of 0, it is the teacher's own logits.

    >>> mixed = mixed_target(0.25, 2.0, torch.tensor([[0.0, 0.0]]), torch.tensor([[400.0, 0.0]]))
    >>> (mixed / 2.0).softmax(-1)
    tensor([[0.6250, 0.3750]])
    """
    if not peers or share == 0:
        return teacher
    own = (teacher / temperature).log_softmax(-1) + (math.log1p(-share) if share < 1 else -math.inf)
    others = mean_probability(*(peer / temperature for peer in peers)) + math.log(share)
    return temperature * torch.logaddexp(own, others)


def pooled(features: Features) -> Tensor:
    """One vector a row, [B, D]: feature maps [B, D, H, W] are averaged over their places, vectors stay as they are.

    >>> pooled(torch.tensor([[[[1.0, 3.0]]]])).tolist()
    [[2.0]]
    """
    if features.dim() not in (2, 4):
        raise ModelError("features that are neither vectors nor maps", found=f"shape {list(features.shape)}",
                         expected="[B, D] or [B, D, H, W]", fix="name another layer")
    return features if features.dim() == 2 else features.mean((2, 3))


class Projected(nn.Module):
    """A divergence between ends of unlike shapes: the student's features are first brought to the teacher's.

    Feature maps [B, C, H, W] are pooled to the teacher's height and width and go through a 1x1 convolution; vectors
    [B, D] and token lists [B, N, D] through a linear map. Both are without bias and learn with the student (as in
    FitNets, Romero et al., 2015).
    """

    def __init__(self, divergence: PerSampleFn) -> None:
        super().__init__()
        self.divergence = divergence
        self.projection: nn.Module | None = None

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """(student features, teacher features, labels) -> [B]."""
        if self.projection is None:
            self.projection = _projection(student, teacher)
        if student.dim() == 4 and student.shape[2:] != teacher.shape[2:]:
            height, width = teacher.shape[2:]
            student = F.adaptive_avg_pool2d(student, (height, width))
        return self.divergence(self.projection(student), teacher, labels)


class Table(nn.Module):
    """Numbers for each training image, looked up by `ids`: a tap [B] for each name in `start`, where each begins.

    `numbers` [ids, names] float32 learns nothing by a gradient; a controller may write into it. The trainer makes it
    for the ids of all training images; without a trainer it is made for those it first sees.

    >>> Table({"hard": 0.1, "soft": 0.9})(torch.tensor([4, 0]))["soft"].tolist() == [torch.tensor(0.9).item()] * 2
    True
    """

    numbers: Tensor | None

    def __init__(self, start: Mapping[str, float]) -> None:
        super().__init__()
        self.start = dict(start)
        self.register_buffer("numbers", None)

    def make(self, ids: Tensor) -> None:
        """Give a row to every id from 0 to the largest of these."""
        start = torch.tensor(list(self.start.values()), device=ids.device)
        self.numbers = start.repeat(int(ids.max()) + 1, 1)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """ids [B] -> name -> [B]."""
        if self.numbers is None:
            self.make(ids)
        assert self.numbers is not None
        return dict(zip(self.start, self.numbers[ids].unbind(-1), strict=True))


def _projection(student: Tensor, teacher: Tensor) -> nn.Module:
    if student.dim() != teacher.dim() or student.dim() not in (2, 3, 4):
        raise ModelError("features that no projection brings together",
                         found=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
                         expected="both [B, D], both [B, N, D] or both [B, C, H, W]", fix="tap other layers")
    where = {"device": student.device, "dtype": student.dtype}
    if student.dim() == 4:
        return nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=False, **where)
    return nn.Linear(student.shape[-1], teacher.shape[-1], bias=False, **where)
