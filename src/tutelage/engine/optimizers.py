"""The optimizer of each network and part, and its learning rate as a pure function of the step."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UsageError, unknown
from tutelage.graph.naming import unbound
from tutelage.types import Schedule

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Parameters -> optimizer, such as `partial(torch.optim.SGD, lr=0.1, momentum=0.9)`."""


def make_optimizers(make: MakeOptimizer | Mapping[str, MakeOptimizer],
                    learners: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
    """An optimizer for each learner that has parameters; `make` is one recipe, or one by name.

    A part (a projector, a gate) that `make` does not name uses the recipe of "" if there is one, else is an error. What
    learns single numbers alone, such as a balance, is not decayed unless `make` names it.
    """
    optimizers = {}
    if isinstance(make, Mapping):
        for name in set(make) - set(learners) - {""}:
            raise unknown("trained node or part", name, learners, where="optimizer")
    for name, module in learners.items():
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            continue
        maker = make if callable(make) else make.get(name, make.get(""))
        if maker is None:
            raise UsageError(f"no optimizer for {name!r}", where="optimizer", expected=f"one of {sorted(learners)}",
                             fix='name it, or give one for all the others under ""')
        optimizers[name] = _fused(maker, parameters)
        named = not callable(make) and name in make
        numbers = all(parameter.dim() == 0 for parameter in parameters)
        for group in optimizers[name].param_groups:
            group["base_lr"] = group["lr"]
            if numbers and not named and "weight_decay" in group:
                group["weight_decay"] = 0.0
    return optimizers


def optimizer_named(name: str, numbers: Mapping[str, float], options: Mapping[str, Any]) -> MakeOptimizer:
    """The optimizer of that name in torch.optim, in any case, with those of the numbers that it takes, and options."""
    kinds = {name.lower(): kind for name, kind in vars(torch.optim).items()
             if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
             and kind is not torch.optim.Optimizer}
    if name.lower() not in kinds:
        raise unknown("optimizer", name, kinds, where="optimizer")
    kind = kinds[name.lower()]
    takes = inspect.signature(kind).parameters
    for key in options:
        if key not in takes:
            raise unknown(f"option of {kind.__name__}", key, takes, where="options")
    given = {key: value for key, value in numbers.items() if key in takes} | dict(options)
    for key, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError("a number that is not finite", where=key, found=value)
    make = partial(kind, **given)
    try:
        make([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError("an optimizer that cannot be", found=error) from None
    return make


def learning_rate_factor(step: int, steps: int, warmup_steps: int, rate: Schedule) -> float:
    """What every base learning rate is multiplied by at a step: a straight warm-up, then `rate` over the rest.

    >>> [round(learning_rate_factor(s, 6, 2, lambda p: 1 - p), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return rate((step - warmup_steps) / max(1, steps - warmup_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Base rate times `factor`, in every parameter group; where the rate is a tensor, in its place."""
    for group in optimizer.param_groups:
        rate = group["base_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def guarded_step(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """One step if `finite` (a scalar on the device), none at all if not; fused optimizers decide on the device."""
    if optimizer.defaults.get("fused"):
        _start_momentum(optimizer)
        vars(optimizer).update(grad_scale=None, found_inf=(~finite).float())  # the protocol of torch.amp.GradScaler
        optimizer.step()
    elif bool(finite):
        optimizer.step()


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros, which give the first step of undamped momentum, for gradients that are new.

    Torch's fused SGD leaves them undefined where that step is masked, and fails where some weights join later.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    if len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups):
        return
    for group in optimizer.param_groups:
        if group["momentum"] and not group["dampening"]:
            for weight in group["params"]:
                if weight.grad is not None and optimizer.state[weight].get("momentum_buffer") is None:
                    optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def _fused(make: MakeOptimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """One kernel for all parameters where torch has it (not for damped momentum: its first step differs from the
    others, and torch tells first steps apart for all weights at once), and the user has not chosen otherwise.
    """
    bound = getattr(make, "keywords", {})
    chosen = {"fused", "foreach", "maximize", "capturable"} & set(bound)
    kind = unbound(make)
    if (inspect.isclass(kind) and kind.__module__.startswith("torch.optim") and not chosen
            and not bound.get("dampening")
            and "fused" in inspect.signature(kind).parameters):
        return make(parameters, fused=True)  # pyright: ignore[reportCallIssue]
    return make(parameters)
