"""Whether a network is as sure as it is right: reliability, and one temperature that mends it.

Apart from `metrics`, because scipy's optimisers take a second to import and training needs none of this.
"""

import math

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import digamma
from torch import Tensor

from tutelage.tasks.classification.metrics import (
    ClassNumbers,
    by_parts,
    nll,
    right,
    sorted_with_ties_shared,
    top_probability,
)
from tutelage.types import Logits

COLDEST, WARMEST = 0.01, 100.0
"""The temperatures that are tried."""


def ece(logits: Logits, labels: ClassNumbers, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1], bins of equal width over the confidence (Guo et al., 2017, eq. 3).

    sum over the bins of (rows in the bin / N) * |their accuracy - their mean confidence|.
    """
    sure = top_probability(logits).cpu()
    gap = sure - right(logits, labels).cpu().double()
    total = torch.zeros(bins, dtype=gap.dtype).index_add(0, bin_of(sure, bins), gap)
    return total.abs().sum().item() / len(labels)


def bin_of(share: Tensor, bins: int) -> Tensor:
    """The number of the bin of equal width in which a share in [0, 1] lies; bins are open below, closed above."""
    return (share * bins).ceil().long().sub(1).clamp(0, bins - 1)


def adaptive_ece(logits: Logits, labels: ClassNumbers, *, bins: int = 15) -> float:
    """The calibration error over bins of equally many rows, by confidence (Nixon et al., 2019); in [0, 1].

    Rows of one confidence share their mean gap, so that it does not matter which of them falls into which bin.
    """
    sure = top_probability(logits)
    gap = sorted_with_ties_shared(sure, sure - right(logits, labels).double())
    return sum(part.sum().abs().item() for part in gap.tensor_split(bins)) / len(labels)


def classwise_ece(logits: Logits, labels: ClassNumbers, *, bins: int = 15) -> float:
    """The mean over the classes c of the ECE of p_c for "the label is c" (Kull et al., 2019); in [0, 1]."""
    classes = logits.shape[-1]
    gaps = torch.zeros(classes * bins, dtype=torch.float64, device=logits.device)
    first = torch.arange(classes, device=logits.device) * bins

    def add(z: Tensor, y: Tensor) -> Tensor:
        p = z.double().softmax(-1)
        gap = p.scatter_add(-1, y[:, None], torch.full_like(p[:, :1], -1))
        gaps.index_add_(0, (first + bin_of(p, bins)).flatten(), gap.flatten())
        return y

    by_parts(add, logits, labels)
    return gaps.abs().sum().item() / classes / len(labels)


def reliability(logits: Logits, labels: ClassNumbers, *, bins: int = 15) -> dict[str, list]:
    """Of each bin of `ece`: mean "confidence" and "accuracy" (None where it is empty), and "count"."""
    sure = top_probability(logits)
    bin_ = bin_of(sure, bins)
    counts = torch.bincount(bin_, minlength=bins).tolist()
    sums = {"confidence": sure, "accuracy": right(logits, labels).double()}
    means = {name: [total / count if count else None for total, count in
                    zip(torch.bincount(bin_, weights=values, minlength=bins).tolist(), counts, strict=True)]
             for name, values in sums.items()}
    return {**means, "count": counts}


def diversity(logits: Logits, labels: ClassNumbers) -> dict[str, float]:
    """How unlike each other the rows are to the network, by the probability p of their label (arXiv:2006.05065).

    "sd" is the standard deviation of p; "entropy" the differential entropy of its distribution, in nats, estimated from
    the distance of each row to its nearest neighbour (Kozachenko & Leonenko, 1987): psi(N) - psi(1) + mean log(2 d), d
    at least 1e-12; both 0 for a single row. "predictive_entropy" is the mean entropy of the predictions.
    """
    log_p = logits.double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean().item()
    p = log_p.gather(-1, labels[:, None])[:, 0].exp().sort().values
    if len(p) < 2:
        return {"sd": 0.0, "entropy": 0.0, "predictive_entropy": entropy}
    gaps = p.diff()
    nearest = torch.minimum(torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]])).clamp(min=1e-12)
    spread = digamma(len(p)) - digamma(1) + (2 * nearest).log().mean().item()
    return {"sd": p.std().item(), "entropy": float(spread), "predictive_entropy": entropy}


def fit_temperature(logits: Logits, labels: ClassNumbers) -> float:
    """The T in [0.01, 100] at which softmax(logits / T) has the least NLL (Guo et al., 2017).

    1 if none is better, or if it is not identified.
    """
    found = identified_temperature(logits, labels)
    return 1.0 if found is None else found


def identified_temperature(logits: Logits, labels: ClassNumbers) -> float | None:
    """`fit_temperature`, or None if the NLL does not rise towards an end of the interval: then no T is the best.

    So it is of a network that is always right on these rows, or hardly ever. The NLL is convex in 1 / T and so has one
    valley in log T, which a bounded search finds.
    """
    def loss(log_t: float) -> float:
        scale = math.exp(-float(log_t))
        return by_parts(lambda z, y: F.cross_entropy(z.double() * scale, y, reduction="none"), logits,
                        labels).mean().item()

    ends = math.log(COLDEST), math.log(WARMEST)
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6})
    if min(map(loss, ends)) <= found.fun + 1e-9:
        return None
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def scaled(temperature: float | None, logits: Logits, labels: ClassNumbers) -> dict[str, float | bool]:
    """What a temperature does to NLL and ECE of these rows: its "value", and each "before" and "after".

    One that is not "identified", None, is 1.
    """
    identified, temperature = temperature is not None, temperature or 1.0
    cooled = logits / temperature
    return {"value": temperature, "identified": identified, "nll_before": nll(logits, labels),
            "nll_after": nll(cooled, labels),
            "ece_before": ece(logits, labels), "ece_after": ece(cooled, labels)}
