"""How good predictions are, from logits [N, C] and class numbers [N]; each is one number of the whole set.

Written out because importing torchmetrics costs three seconds at every start; the tests compare with it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from tutelage.types import Logits

ClassNumbers = Int[Tensor, " batch"]


def top1(logits: Logits, labels: ClassNumbers) -> float:
    """The share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).double().mean().item()


def top5(logits: Logits, labels: ClassNumbers) -> float:
    """The share of rows whose label is among the five largest logits (all, with fewer classes)."""
    first = logits.topk(min(5, logits.shape[-1]), -1).indices
    return (first == labels[:, None]).any(-1).double().mean().item()


def nll(logits: Logits, labels: ClassNumbers) -> float:
    """Negative log-likelihood of the labels, in nats: the mean cross-entropy."""
    return F.cross_entropy(logits.double(), labels).item()


def ece(logits: Logits, labels: ClassNumbers, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1], bins of equal width over the confidence (Guo et al., 2017, eq. 3).

    sum over the bins of (rows in the bin / N) * |their accuracy - their mean confidence|.
    """
    confidence, choice = logits.double().softmax(-1).max(-1)
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # bins are open below, closed above
    gap = confidence - (choice == labels).double()
    return torch.zeros(bins, dtype=gap.dtype).index_add(0, bin_of.cpu(), gap.cpu()).abs().sum().item() / len(labels)


def agreement(first: Logits, second: Logits) -> float:
    """The share of rows on which two networks choose the same class."""
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()
