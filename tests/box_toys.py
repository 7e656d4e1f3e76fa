"""Made splits of boxes: what is true, and what a detector of some skill says of it."""

import torch
from torch import Tensor

SIDE = 160.0


def made_split(images: int, classes: int, seed: int = 0, most: int = 6, said: int = 30) -> tuple[Tensor, Tensor]:
    """Detections [N, 100, 6] and true boxes [N, M, 5]; some images have no object, some no box."""
    g = torch.Generator().manual_seed(seed)
    corner, side = (torch.rand(images, most, 2, generator=g) for _ in range(2))
    corner, side = corner * SIDE * 0.6, side**2 * SIDE * 0.7 + 6
    truth = torch.cat([corner, corner + side, torch.randint(0, classes, (images, most, 1), generator=g)], -1)
    count = torch.randint(0, most + 1, (images, 1), generator=g)
    truth[torch.arange(most) >= count] = torch.tensor([0.0, 0, 0, 0, -1])
    at = torch.randint(0, most, (images, said), generator=g)
    near = truth.gather(1, at[..., None].expand(-1, -1, 5))
    boxes = near[..., :4] + torch.randn(images, said, 4, generator=g) * 4
    boxes = torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)], -1)
    other = torch.randint(0, classes, (images, said), generator=g).float()
    kind = torch.where(torch.rand(images, said, generator=g) < 0.8, near[..., 4], other).clamp(min=0)
    scores = torch.rand(images, said, generator=g)
    made = torch.cat([boxes, scores[..., None], kind[..., None]], -1)
    made = made.gather(1, scores.argsort(1, descending=True)[..., None].expand(-1, -1, 6))
    made[torch.arange(said) >= torch.randint(0, said + 1, (images, 1), generator=g)] = torch.tensor([0.0] * 5 + [-1])
    filling = torch.tensor([0.0] * 5 + [-1]).expand(images, 100 - said, 6)
    return torch.cat([made, filling], 1), truth


def as_lists(detections: Tensor, truth: Tensor) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The raw lists that torchmetrics takes."""
    said = [{"boxes": d[d[:, 5] >= 0, :4], "scores": d[d[:, 5] >= 0, 4], "labels": d[d[:, 5] >= 0, 5].long()}
            for d in detections]
    true = [{"boxes": t[t[:, 4] >= 0, :4], "labels": t[t[:, 4] >= 0, 4].long()} for t in truth]
    return said, true
