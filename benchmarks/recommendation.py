"""`python benchmarks/recommendation.py`: a step of dual_student on users, beside a loop by hand with the same losses.

As `pixels.py`, with matrix factorisations on the made set shop: BPR of what each user took, the whole list of the
teacher as far as it is sure, and that of the other student.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from pixels import WARM, Networks, tell
from torch import Tensor

from tutelage.data.settings import DataSettings
from tutelage.models.recommend import mf
from tutelage.tasks.named import data_for
from tutelage.tasks.recommendation.task import RECOMMENDATION
from tutelage.types import Batch, plain_view

SIZES = {"small": (8, 50), "middle": (32, 100), "large": (256, 300)}
"""Name -> numbers of a vector, and users of a step."""


def networks(dim: int, users: int, items: int) -> Networks:
    torch.manual_seed(0)
    return {node: mf(items, users, dim=dim) for node in ("t", "a", "b")}


def by_hand(nets: Networks, optimizers: Mapping[str, torch.optim.Optimizer], batch: Batch) -> float:
    """One step as one would write it: products of vectors, pairs by `gather`, lists as they come."""
    view, labels = plain_view(batch.inputs), batch.labels
    assert not isinstance(view, Tensor)
    assert not isinstance(labels, Tensor)
    with torch.no_grad():
        teacher = nets["t"](users=view["users"])
    said = {node: nets[node](users=view["users"]) for node in "ab"}
    first, second = teacher.topk(2).values.unbind(-1)
    w = 2 * (first - second).sigmoid() - 1

    def bpr(scores: Tensor) -> Tensor:
        return F.softplus(scores.gather(1, labels["worse"]) - scores.gather(1, labels["better"])).mean()

    def pull(student: Tensor, target: Tensor) -> Tensor:
        warm = (target.detach() / WARM).log_softmax(1)
        return WARM**2 * (warm.exp() * (warm - (student / WARM).log_softmax(1))).sum(1)

    loss = torch.zeros(())
    for node, other in ("ab", "ba"):
        soft, peer = (w * pull(said[node], teacher)).mean(), pull(said[node], said[other]).mean()
        loss = loss + (bpr(said[node]) + soft + peer) / 3
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return loss.item()


def main() -> None:
    data = data_for(DataSettings("shop"))
    sides = {name: (partial(networks, dim, data.shape[0], len(data.classes)), size)
             for name, (dim, size) in SIZES.items()}
    tell(__doc__, data, RECOMMENDATION, sides, by_hand)


if __name__ == "__main__":
    main()
