"""How much there is to learn at each layer of a teacher: the analysis that picks layers for `feature_only`.

After arXiv:2511.14981 and its authors' code. Of n images with labels, let f_i [D] be what a layer gives, laid out as
one row, G_ij = |cos(f_i, f_j)|, and means over classes c with two images or more:

    separation   = mean_c (mean of G within c) - mean_{c != c'} (mean of G between c and c')
    information  = (1 - mean_c (min of G within c)) * H / log(5)
    efficiency   = 2 mean_c delta_c / mean_i ||f_i|| * (N / pi)^(1 / min(n, D))
    quality      = separation + sqrt(information * efficiency)

H is the mean over classes of the entropy, in nats, of the k largest shares of variance of a class along its principal
components, scaled to sum 1; k is the sum over classes of how many it takes to hold 95 % of it, as in the authors' code
(`components` "sum"; in effect all are kept), or the mean, rounded down ("mean"), with which H is 7 to 8 % lower. An
image is not compared with itself here; the authors' mean within a class has these pairs too, which makes their
separation larger by 0.001 (500 images a class) to 0.018 (20 images). delta_c is the distance from class c to the
nearest image of another; N is the number of training images. None of it changes if all features are scaled or turned.
That the layers of the largest quality are taken, in the order of depth, is this project's reading of the authors'
configurations.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.data.source import Source
from tutelage.errors import DataError, ModelError
from tutelage.graph.taps import read
from tutelage.models.classifier import classifiers_of
from tutelage.models.network import body_of
from tutelage.system.random import derive, permutation
from tutelage.types import one_tensor

Components = Literal["sum", "mean"]
CAPTURED, SCALE = 0.95, math.log(5)
"""Of a class's variance, what its principal components are to hold; and what H is divided by."""
ROOM = 2**30
"""Bytes of features that are held at a time."""
SILENT = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Identity, nn.Flatten,
          nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""What does not end a layer by itself: a non-linearity or a block does."""
TINY = 1e-12


@dataclass(frozen=True)
class Quality:
    """What the features of one layer are worth: separation in [-1, 1], the others 0 or more."""

    separation: float
    information: float
    efficiency: float

    @property
    def quality(self) -> float:
        """separation + sqrt(information * efficiency)."""
        return self.separation + math.sqrt(self.information * self.efficiency)


def quality(features: Float[Tensor, "rows *any"], labels: Int[Tensor, " rows"], training: int,
            components: Components = "sum") -> Quality:
    """The quality of features [n, ...] with labels [n], of a teacher that learned from so many `training` images.

    Computed in float64 from the n x n products alone. A class of one image does not count; DataError if fewer than
    two classes are left.
    """
    numbers, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    given = (sizes >= 2)[classes]
    if int((sizes >= 2).sum()) < 2:
        raise DataError("too few images to compare classes", found=f"{len(labels)} images of {len(numbers)} classes",
                        expected="two classes with two images or more", fix="take more images")
    rows, classes = features[given].flatten(1).double(), classes[given].unique(return_inverse=True)[1]
    products = rows @ rows.T
    squares = products.diagonal()
    norms = squares.sqrt()
    alike = (products / (norms[:, None] * norms + TINY)).abs().clamp(max=1)
    separation, least = _angles(alike, classes)
    same = classes[:, None] == classes
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt()
    nearest = distances.masked_fill(same, math.inf).amin(1)
    gaps = torch.stack([nearest[classes == c].min() for c in classes.unique()])
    crowd = (training / math.pi) ** (1 / min(rows.shape))
    return Quality(separation, (1 - least) * _entropy(products, classes, components) / SCALE,
                   float(2 * gaps.mean() / (norms.mean() + TINY)) * crowd)


def balanced(labels: Int[Tensor, " rows"], count: int, seed: int) -> Int[Tensor, " some"]:
    """The numbers of up to `count` rows, as many of each class as there are, drawn by (seed, row)."""
    order = permutation(derive(seed, "layers"), len(labels))
    numbers = labels[labels >= 0].unique()
    each = max(2, count // max(1, len(numbers)))
    return torch.cat([order[labels[order] == c][:each] for c in numbers]).sort().values


def candidates(network: nn.Module, images: Tensor) -> dict[str, int]:
    """The layers that a pass over `images` runs through, in that order, and how many numbers each gives an image.

    They are the parts of the network, and of a sequence its parts in turn: blocks and non-linearities.
    """
    body, order = body_of(network), list[str]()
    names = [name for name in _parts(body, "") if name not in classifiers_of(body)]
    handles = [body.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name:
                                                              order.append(name)) for name in names]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    widths = {}
    for name in dict.fromkeys(order):
        try:
            features = read(network, images, [name])[name]
        except ModelError:  # it gives no tensor, or one that is overwritten
            continue
        if features.dim() > 1 and len(features) == len(images):
            widths[name] = features[0].numel()
    return widths


@torch.no_grad()
def measure_layers(network: nn.Module, source: Source, *, layers: Sequence[str] = (), images: int = 1000,
                   batch_size: int = 256, seed: int = 0,
                   components: Components = "sum") -> dict[str, Quality]:
    """Layer -> its quality, in the order of depth, by so many plain `images` of all classes.

    `layers` are those asked for; none: `candidates`. The network is put in eval mode and stays where it is.
    """
    rows = balanced(source.labels, images, seed)
    network.eval()
    (first,) = source.batches([rows[:2]], draw=None)
    shown = one_tensor(first.inputs)
    device = next((x.device for x in network.parameters()), shown.device)
    if layers:
        told = read(network, shown.to(device), list(layers))
        widths = {layer: told[layer][0].numel() for layer in layers}
    else:
        widths = candidates(network, shown.to(device))
    found = {}
    for group in _groups(widths, max(1, ROOM // (4 * len(rows)))):
        kept: dict[str, list[Tensor]] = {layer: [] for layer in group}
        for batch in source.batches(rows.split(batch_size), draw=None):
            for layer, features in read(network, one_tensor(batch.inputs).to(device), group).items():
                kept[layer].append(features.flatten(1).float().cpu())
        for layer in group:
            features = torch.cat(kept.pop(layer))
            if not bool(features.isfinite().all()):
                raise ModelError("a layer gives numbers that are not finite", found=f"layer {layer!r}",
                                 fix="take a network that was trained to its end")
            found[layer] = quality(features, source.labels[rows], len(source.ids), components)
    return found


def best(qualities: Mapping[str, Quality], count: int) -> list[str]:
    """The `count` layers of the largest quality, in the order of depth."""
    chosen = sorted(qualities, key=lambda layer: qualities[layer].quality, reverse=True)[:count]
    return [layer for layer in qualities if layer in chosen]


def _angles(alike: Tensor, classes: Tensor) -> tuple[float, float]:
    """Separation, and the mean over classes of the least likeness within one."""
    members = nn.functional.one_hot(classes).double()
    sizes = members.sum(0)
    sums = members.T @ alike @ members
    within = (sums.diagonal() - members.T @ alike.diagonal()) / (sizes * (sizes - 1))
    between = sums / (sizes[:, None] * sizes)
    apart = (between.sum() - between.trace()) / (len(sizes) * (len(sizes) - 1))
    pairs = alike.masked_fill(torch.eye(len(alike), dtype=torch.bool), math.inf)
    least = torch.stack([pairs[classes == c][:, classes == c].min() for c in classes.unique()])
    return float(within.mean() - apart), float(least.mean())


def _entropy(products: Tensor, classes: Tensor, components: Components) -> float:
    """H: the variances of a class are the eigenvalues of its centred products."""
    shares = []
    for c in classes.unique():
        own = products[classes == c][:, classes == c]
        centred = own - own.mean(0) - own.mean(1, keepdim=True) + own.mean()
        variances = torch.linalg.eigvalsh(centred).flip(0).clamp(min=0)
        # What rounding leaves of a class that is one point is no variance.
        variances = variances * (variances > TINY * own.diagonal().max())
        shares.append(variances / variances.sum().clamp(min=torch.finfo(torch.float64).tiny))
    needed = [int((share.cumsum(0) < CAPTURED - TINY).sum()) + 1 if bool(share.any()) else 0 for share in shares]
    largest = sum(needed) if components == "sum" else sum(needed) // len(needed)
    kept = [share[:largest] / share[:largest].sum().clamp(min=TINY) for share in shares]
    return float(torch.stack([torch.special.entr(share).sum() for share in kept]).mean())


def _parts(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _parts(child, f"{prefix}{name}.")
        elif not isinstance(child, SILENT):
            yield prefix + name


def _groups(widths: Mapping[str, int], room: int) -> Iterator[list[str]]:
    """The layers in groups whose features take no more than `room` numbers an image, or one alone."""
    group: list[str] = []
    for layer, width in widths.items():
        if group and sum(widths[one] for one in group) + width > room:
            yield group
            group = []
        group.append(layer)
    yield group
