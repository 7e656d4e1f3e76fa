"""What a network is by what it does with a few images: probabilities, outputs that depend on neighbours, constants.

Every probe works on a copy that its caller made for it (`copy_to_probe`), in float32; some change its weights.
Limits are relative to the root mean square of the logits, never to the spread between rows, which untrained networks
have nearly none of. Honest networks were measured at 0 for other neighbours and 7e-7 for a row alone; the least
violation was 8e-4.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from tutelage.models.network import Network
from tutelage.system.random import derive, seeded
from tutelage.types import View

NEIGHBOURS, ALONE = 1e-5, 1e-4
"""Relative changes of a row's logits: with other neighbours in a batch of one size, and alone."""
CONSTANT = 1e-5
SUMS = 1e-4
STEEP = 10.0
"""The standard deviation of the weights of a head on trial."""
ROUNDING = 1e-6

Logits = Callable[[View], Tensor]
"""A view, such as images -> logits [B, C] of the copy, in float32, from the same random numbers each time."""


def copy_to_probe(network: nn.Module) -> nn.Module:
    """A float32 copy in eval mode that gives all outputs of the plain network, also those that are not classes here."""
    copy = deepcopy(network).float().eval()
    if isinstance(copy, Network):
        copy.columns = None
    return copy


def sum_to_one(logits: Tensor) -> bool:
    """Whether rows [B, C] are probabilities by their sums: a softmax gives them, at whatever temperature."""
    return logits.shape[-1] > 1 and bool((logits >= -ROUNDING).all() and ((logits.sum(-1) - 1).abs() <= SUMS).all())


def within_unit(logits: Tensor) -> bool:
    """Whether all numbers lie in [0, 1]. Logits do so too now and then: it takes many rows and classes to tell."""
    return bool((logits >= -ROUNDING).all() and (logits <= 1 + ROUNDING).all())


@torch.no_grad()
def squashed(logits: Logits, head: nn.Module, images: View) -> bool | None:
    """Whether the outputs stay in [0, 1] whatever the head says: with random weights, and with their negatives.

    Logits leave it for one of the two, what a softmax or sigmoid gives does not. None if the head does not matter.
    The head keeps the weights of the trial.
    """
    generator = torch.Generator().manual_seed(derive("a head on trial"))
    weights = _own_weights(head)
    drawn = [torch.randn(weight.shape, generator=generator).to(weight) * STEEP for weight in weights]

    def outputs(signs: Sequence[int]) -> Tensor:
        for sign, weight, values in zip(signs, weights, drawn, strict=True):
            weight.copy_(sign * values)
        return logits(images)

    first, second = outputs([1] * len(drawn)), outputs([-1] * len(drawn))
    if torch.equal(first, second):  # of a product of two weights, as in weight norm, one turns the sign
        second = outputs([-1] + [1] * (len(drawn) - 1))
    both = torch.cat([first, second])
    return None if torch.equal(first, second) or not bool(both.isfinite().all()) else within_unit(both)


def last_head(copy: nn.Module, logits: Logits, images: View) -> nn.Module | None:
    """The last module to run that has weights of its own and gives as many outputs as the network; None without one."""
    ran: list[tuple[nn.Module, Tensor]] = []

    def hear(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            ran.append((module, output))

    handles = [module.register_forward_hook(hear) for module in copy.modules() if _own_weights(module)]
    try:
        classes = logits(images).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    heads = [module for module, output in ran if output.dim() > 1 and classes in (output.shape[1], output.shape[-1])]
    whole = {module for module in heads if any(other in heads for other in module.modules() if other is not module)}
    return next((module for module in reversed(heads) if module not in whole), None)


@torch.no_grad()
def wake(copy: nn.Module) -> None:
    """Give weights that are all alike (zero heads, zero last gammas, layer scales) random values: they hide faults."""
    generator = torch.Generator().manual_seed(derive("awake"))
    for parameter in copy.parameters():
        if parameter.is_floating_point() and parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(0.5 * noise / max(1, fan_in) ** 0.5)


@torch.no_grad()
def neighbours_matter(logits: Logits, images: View) -> tuple[float, float]:
    """By how much a row's logits change, relative to their size: with other rows beside it, and alone.

    Every other one of the images [B, ...], or rows of a view, two or more, is replaced by one unlike any of them. The
    limits are `NEIGHBOURS` and `ALONE`; NaN where logits are not finite.
    """
    first, second, single = logits(images), logits(with_others(images)), logits(first_rows(images, 1))
    size = first.square().mean().sqrt().clamp(min=1e-20)
    return (float((first - second)[::2].abs().max() / size), float((first[:1] - single).abs().max() / size))


def with_others(images: View) -> View:
    """A view, such as images [B, ...], of which every other row is replaced by one that is unlike any of them.

    Of a view of several tensors those of numbers change; masks and whole numbers, which mean something, stay.
    """
    if isinstance(images, Mapping):
        return {name: _others(x) if x.is_floating_point() else x for name, x in images.items()}
    return _others(images)


def _others(images: Tensor) -> Tensor:
    others = images.clone()
    others[1::2] = images[1::2].flip(0) * 2 + 1
    return others


def first_rows(view: View, count: int) -> View:
    """The first rows of a view alone."""
    return view[:count] if isinstance(view, Tensor) else {name: x[:count] for name, x in view.items()}


@torch.no_grad()
def unlikeness(logits: Logits, images: View) -> float:
    """How much the logits of unlike images differ, relative to their size; below `CONSTANT` they are one answer."""
    found = logits(with_others(images))
    return float((found - found[:1]).abs().max() / found.square().mean().sqrt().clamp(min=1e-20))


def repeatable(read: Logits) -> Logits:
    """`read` in float32, each pass from the same random numbers; those of the process stay as they were."""
    def logits(images: View) -> Tensor:
        with torch.no_grad(), seeded("probe"):
            return read(images).float()

    return logits


def _own_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights of a module itself, also those that are computed from others (weight norm)."""
    behind = dict(module.named_children()).get("parametrizations")
    return [*module.parameters(recurse=False), *(behind.parameters() if behind is not None else ())]
