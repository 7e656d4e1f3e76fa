"""DisWOT: how well a teacher and a student fit each other, measured on random weights, without any training.

Dong et al., "DisWOT: student architecture search for distillation without training", CVPR 2023, arXiv:2303.15678.
Both networks are freshly initialised, in training mode, and see the same batch x, y of B images, C classes. With f
[B, ch, H, W] the last map, flattened to [B, D], and g [C, ch] the gradient of the mean cross-entropy with respect to
the weights of the last linear layer:

    relation  M_r = -1 / B^2 * |r(f_T f_T') - r(f_S f_S')|^2
    semantic  M_s = -1 / (C ch) * sum over c of |r(g_T,c g_T,c') - r(g_S,c g_S,c')|^2          "grad_outer"
    score = M_s + M_r, at most 0; the larger, the better

where r divides each row by its norm and |.| is Frobenius'. These are the formulas that the authors' repository lists.
This project adds two other semantic terms:

    "channel_gram"  -1 / ch * |r(g_T' g_T) - r(g_S' g_S)|^2
    "cam"           -1 / B^2 * |m_T m_T' - m_S m_S'|^2, row i of m [B, H W] the map relu(sum over k of w_yk f_k) of
                    image i at norm 1, w the last linear layer's weights. Only "cam" takes networks of unlike ch.

Nothing is learned and no gradient leaves this page: g is (p - e_y)' h / B, h [B, ch] what the last linear layer reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tutelage.errors import ModelError, UsageError
from tutelage.graph.taps import logits_of
from tutelage.models.network import body_of

SEMANTICS = ("grad_outer", "channel_gram", "cam")
EPS = 1e-12
"""A row of a smaller norm is divided by this: a row of zeros stays one."""


@dataclass(frozen=True)
class Reading:
    """What one pass of a batch says of a network, in float64.

    `maps` [B, ch, H, W]: what enters the global pooling; `gradient` [C, ch] and `classifier` [C, width]: of the last
    linear layer; `labels` [B]. Where maps and classifier have unlike widths there is no class activation map.
    """

    maps: Float[Tensor, "batch channels height width"]
    gradient: Float[Tensor, "classes features"]
    classifier: Float[Tensor, "classes features"]
    labels: Int[Tensor, " batch"]


def relation_similarity(teacher: Float[Tensor, "batch *any"], student: Float[Tensor, "batch *other"]) -> float:
    """M_r of features of the same B images, at most 0; it does not see their scale or the order of the images.

    >>> relation_similarity(torch.eye(2), torch.eye(2))
    0.0
    """
    return _mean_square(_relation(teacher), _relation(student))


def semantic_similarity(teacher: Float[Tensor, "classes features"], student: Float[Tensor, "classes features"],
                        kind: str = "grad_outer") -> float:
    """M_s of two gradients g of the same width, "grad_outer" or "channel_gram", at most 0."""
    teacher, student = teacher.double(), student.double()
    if kind == "channel_gram":
        gap = F.normalize(teacher.T @ teacher, eps=EPS) - F.normalize(student.T @ student, eps=EPS)
        return 0.0 - float(gap.square().sum()) / len(gap)
    assert kind == "grad_outer", kind
    # Row k of r(g_c g_c') is a_k u with u = g_c / |g_c| and a_k the sign of g_ck (less, where eps holds it down): the
    # [C, ch, ch] matrices need not be made.
    (a, u), (b, v) = _rows(teacher), _rows(student)
    inner = (a * b).sum(1) * (u * v).sum(1)
    gaps = a.square().sum(1) * u.square().sum(1) + b.square().sum(1) * v.square().sum(1) - 2 * inner
    return 0.0 - float(gaps.clamp_min(0).sum()) / teacher.numel()


def map_similarity(teacher: Reading, student: Reading) -> float:
    """The semantic term "cam", at most 0: whether both look at the same images in the same way, class by class."""
    return _mean_square(_correlated_maps(teacher), _correlated_maps(student))


def similarities(teacher: Reading, student: Reading, kind: str = "grad_outer") -> tuple[float, float]:
    """(M_r, M_s) of one batch; UsageError if this semantic term cannot compare the two."""
    relation = relation_similarity(teacher.maps, student.maps)
    if kind == "cam":
        return relation, map_similarity(teacher, student)
    widths = teacher.gradient.shape[1], student.gradient.shape[1]
    if widths[0] != widths[1]:
        raise UsageError(f"{kind} compares classifiers that read equally many numbers",
                         found=f"{widths[0]} of the teacher, {widths[1]} of the student", fix="--semantic cam")
    return relation, semantic_similarity(teacher.gradient, student.gradient, kind)


@torch.no_grad()
def read_batch(network: nn.Module, images: Float[Tensor, "batch channels height width"], labels: Int[Tensor, " batch"],
               where: object = None) -> Reading:
    """One pass of `network`, in the mode that it is in. B is 2 or more, and every image has a label.

    The classifier is the last linear layer, whose outputs must be the logits, and the map the last tensor
    [B, ch, H, W] of more than one pixel that goes into or comes out of a layer before it. ModelError without one.
    """
    with _listening(body_of(network)) as heard:
        logits = logits_of(network(images), where)
    classifier = heard.classifier
    if classifier is None or heard.features is None or heard.logits is not logits:
        raise ModelError("the logits do not come from a linear layer", where=where,
                         expected="a linear layer at the end")
    if heard.maps is None:
        raise ModelError("this network has no map before its classifier", where=where,
                         expected="a network of convolutions that ends in a pooling and a linear layer")
    if not bool(logits.isfinite().all() & heard.maps.isfinite().all()):
        raise ModelError("the random weights give numbers that are not finite", where=where,
                         fix="take it out of the candidates")
    wrong = logits.double().softmax(1) - F.one_hot(labels, logits.shape[1])
    gradient = wrong.T @ heard.features.double() / len(labels)
    return Reading(heard.maps.double(), gradient, classifier.weight.double(), labels)


def _relation(features: Tensor) -> Tensor:
    flat = features.flatten(1).double()
    return F.normalize(flat @ flat.T, eps=EPS)


def _mean_square(one: Tensor, other: Tensor) -> float:
    return 0.0 - float((one - other).square().mean())


def _rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The factors a and u of every class: [C, ch] each."""
    norm = gradient.norm(dim=1, keepdim=True)
    scaled = gradient * norm
    unit = gradient / norm.where(norm > 0, torch.ones_like(norm))
    return scaled / scaled.abs().clamp_min(EPS), unit


def _correlated_maps(reading: Reading) -> Tensor:
    weights = reading.classifier[reading.labels]
    if weights.shape[1] != reading.maps.shape[1]:
        raise ModelError("this network has no class activation map", expected="a classifier that reads the pooled map",
                         found=f"a map of {reading.maps.shape[1]} channels, a classifier of {weights.shape[1]}",
                         fix="take it out of the candidates, or --semantic grad_outer")
    maps = torch.einsum("bk,bkhw->bhw", weights, reading.maps).relu().flatten(1)
    unit = F.normalize(maps, eps=EPS)
    return unit @ unit.T


class _Heard:
    """What passed through a network's layers on the way to its classifier."""

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self.maps: Tensor | None = None
        self.classifier: nn.Linear | None = None
        self.features: Tensor | None = None
        self.logits: Tensor | None = None

    def pass_by(self, value: Any) -> None:
        """A tensor that goes into or comes out of a layer: a map is kept, a sequence of tokens undoes it."""
        if not isinstance(value, Tensor) or value is self.images:
            return
        if value.dim() == 4 and value.shape[2] * value.shape[3] > 1:
            self.maps = value
        elif value.dim() == 3:
            self.maps = None


@contextmanager
def _listening(body: nn.Module) -> Iterator[_Heard]:
    heard = _Heard()

    def before(module: nn.Module, inputs: Any) -> None:
        if module is body:
            heard.images = inputs[0]
        elif inputs:
            heard.pass_by(inputs[0])

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        heard.pass_by(output)
        if isinstance(module, nn.Linear) and inputs[0].dim() == 2:
            heard.classifier, heard.features, heard.logits = module, inputs[0], output

    handles: list[RemovableHandle] = []
    for module in body.modules():
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
