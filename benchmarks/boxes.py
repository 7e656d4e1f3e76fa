"""`python benchmarks/boxes.py`: a step of dual_student on boxes, beside a loop written by hand with the same losses.

As `pixels.py`, with small detectors on the made set shapes_boxes. By hand the targets of the places are worked out once
a step for all networks, as one would write it; the product asks for them once for each part of a place.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from pixels import WARM, Networks, tell
from torch import Tensor

from tutelage.data.settings import DataSettings
from tutelage.models.fcos import tiny_fcos
from tutelage.tasks.detection.assign import assign_by_centre, centreness
from tutelage.tasks.detection.task import DETECTION
from tutelage.tasks.named import data_for
from tutelage.types import Batch, one_tensor

SIZES = {"small": (2, 1, 8), "middle": (6, 2, 16), "large": (16, 2, 16)}
"""Name -> width and depth of the networks, and images of a step."""


def networks(width: int, depth: int) -> Networks:
    torch.manual_seed(0)
    return {node: tiny_fcos(3, width=width, depth=depth, strides=(4, 8, 16)) for node in ("t", "a", "b")}


def overlap_loss(one: Tensor, other: Tensor) -> Tensor:
    """1 - generalised IoU of distances, summed."""
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    shared = (low[:, :2] + low[:, 2:]).prod(1)
    union = (one[:, :2] + one[:, 2:]).prod(1) + (other[:, :2] + other[:, 2:]).prod(1) - shared
    around = (high[:, :2] + high[:, 2:]).prod(1)
    return (1 - shared / (union + 1e-7) + (around - union) / (around + 1e-7)).sum()


def by_hand(nets: Networks, optimizers: Mapping[str, torch.optim.Optimizer], batch: Batch) -> float:
    """One step as one would write it: targets once, boxes and centres of the places that find something alone."""
    images, labels = one_tensor(batch.inputs), batch.labels
    assert not isinstance(labels, Tensor)
    with torch.no_grad():
        teacher = nets["t"](images)
    said = {node: nets[node](images) for node in "ab"}
    wanted = assign_by_centre(teacher[..., :4], labels["boxes"], labels["classes"], 3)
    found = wanted.classes < 3
    total = found.sum().clamp(min=1)
    one_hot = F.one_hot(wanted.classes, 4)[..., :3].float()
    boxes = wanted.boxes[found]
    p = teacher[..., 9:].sigmoid()
    w = 1 + (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean(-1) / torch.tensor(2.0).log()

    def of_labels(x: Tensor) -> Tensor:
        z = x[..., 9:]
        wrong = (z.sigmoid() - one_hot).abs()
        share = 0.75 - 0.5 * one_hot
        classes = (share * wrong**2 * F.binary_cross_entropy_with_logits(z, one_hot, reduction="none")).sum()
        central = F.binary_cross_entropy_with_logits(x[..., 8][found], centreness(boxes), reduction="sum")
        return (classes + overlap_loss(x[..., 4:8][found], boxes) + central) / total

    def of_network(x: Tensor, other: Tensor, weight: Tensor | float) -> Tensor:
        target, z = (other[..., 9:].detach() / WARM).sigmoid(), x[..., 9:] / WARM
        rows = ((target - z.sigmoid()) ** 2 * F.binary_cross_entropy_with_logits(z, target, reduction="none")).sum(-1)
        centre, its = x[..., 8][found], other[..., 8][found].detach()
        q = its.sigmoid()
        central = F.binary_cross_entropy_with_logits(centre, q, reduction="sum") - F.binary_cross_entropy_with_logits(
            its, q, reduction="sum")
        around = overlap_loss(x[..., 4:8][found], other[..., 4:8][found].detach())
        return (WARM**2 * (weight * rows).sum() + around + central) / total

    loss = torch.zeros(())
    for node, other in ("ab", "ba"):
        loss = loss + (of_labels(said[node]) + of_network(said[node], teacher, w)
                       + of_network(said[node], said[other], 1.0)) / 3
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return loss.item()


def main() -> None:
    sides = {name: (partial(networks, width, depth), size) for name, (width, depth, size) in SIZES.items()}
    tell(__doc__, data_for(DataSettings("shapes_boxes", augment="none")), DETECTION, sides, by_hand)


if __name__ == "__main__":
    main()
