"""Images moved a little, so that a network errs: projected gradient descent (Madry et al., 2018, arXiv:1706.06083).

Images are in [0, 1], before any normalisation: that lies inside the networks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import kl
from tutelage.system.random import derive, normal
from tutelage.types import Batch, one_tensor

VIEW = "adversarial"


@dataclass(frozen=True)
class Attack:
    """No number of an image moves by more than `eps`, in `steps` steps of `step_size`; images are in [0, 1]."""

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        for name, size in (("eps", self.eps), ("step_size", self.step_size)):
            if not 0 <= size <= 1:
                raise UsageError("a size that cannot be", where=name, found=size,
                                 expected="0 .. 1: images are in [0, 1], so 8 of 255 levels are 0.0314")
        if self.steps < 0:
            raise UsageError("a number of steps that cannot be", where="steps", found=self.steps, expected="0 or more")


def pgd(attack: Attack, images: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [B, ...] in [0, 1], within `eps` of `images`, where `loss`, images -> [B], is large.

    From `start` the images go up by the sign of the loss's gradient, and are put back within `eps` and [0, 1] after
    each step. With no steps, or eps = 0, they are `images` themselves. Nothing else gets a gradient.

    >>> x = torch.tensor([[0.5, 0.01, 0.5]])
    >>> slopes = torch.tensor([1.0, -1.0, 0.0])
    >>> pgd(Attack(0.25, 0.125, 3), x, x, lambda x: (x * slopes).sum(-1)).tolist()
    [[0.75, 0.0, 0.5]]
    """
    if not attack.steps or not attack.eps:
        return images
    low, high = (images - attack.eps).clamp(min=0), (images + attack.eps).clamp(max=1)
    found = start.detach()
    for _ in range(attack.steps):
        found.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(found).sum(), found, allow_unused=True)
        if slope is None:
            raise ModelError("a network that cannot be attacked: no gradient reaches its images", found="a cut network",
                             fix="take `cut` out of its [models.NODE]")
        found = (found.detach() + attack.step_size * slope.sign()).clamp(low, high)
    return found


class Adversary(Controller):
    """Adds the view `adversarial`: the plain images, moved to where `student` departs from what `guide` says of those.

    That is, to where KL(guide on the plain image || student on the moved one) is large, both in eval mode. The start is
    the plain image with normal noise of the standard deviation `noise`, drawn by (seed, step, id). It has no state.
    `twice`: `student` passes over the moved images once more, in training mode and without a gradient.
    """

    def __init__(self, guide: str, student: str, attack: Attack, noise: float = 0.001, twice: bool = False) -> None:
        super().__init__()
        self.guide, self.student, self.attack, self.noise, self.twice = guide, student, attack, noise, twice

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """Attack this rank's own rows: each by itself, so that ranks and places in the batch make no difference."""
        assert isinstance(batch.inputs, Mapping), "the graph names the view, so there are several"
        images = one_tensor(batch.inputs[""])
        networks = [run.models[self.guide], run.models[self.student]]
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        with torch.no_grad():
            target = run.logits(self.guide, images)
        key = derive(run.settings.seed, VIEW, self.student, run.step)
        noise = normal(key, batch.ids, images.shape[1:].numel()).view_as(images)
        moved = pgd(self.attack, images, images + self.noise * noise,
                    lambda moved: kl(run.logits(self.student, moved), target))
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        if self.twice:
            with torch.no_grad():
                run.logits(self.student, moved)
        return batch._replace(inputs={**batch.inputs, VIEW: moved})
