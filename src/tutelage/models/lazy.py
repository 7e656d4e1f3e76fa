"""Layers that learn their sizes from the first rows (`nn.LazyLinear` and its like) get their weights here."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tutelage.errors import ModelError
from tutelage.graph.taps import call
from tutelage.system.random import seeded
from tutelage.types import View


def is_unfinished(network: nn.Module) -> bool:
    """Whether some weights or buffers have no size yet."""
    return any(map(is_lazy, [*network.parameters(), *network.buffers()]))


def finish(models: Mapping[str, nn.Module], view: View, seed: int) -> None:
    """Let every network that needs it see some rows, such as images [B, C, H, W], once, in eval mode.

    First weights depend on (seed, name of the node) alone. ModelError if a layer has no size after that.
    """
    for node, network in models.items():
        if not is_unfinished(network):
            continue
        modes = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), seeded(seed, "weights", node):
                call(network.eval(), view)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _does_not_run(node, view, error) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        if is_unfinished(network):
            left = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
            raise ModelError("lazy layers that do not run have no size", where=f"node {node!r}", found=", ".join(left),
                             fix="take them out of the network")


def _does_not_run(node: str, view: View, error: Exception) -> ModelError:
    if isinstance(view, Tensor) and view.dim() == 4:
        return ModelError("a network does not run on these images", where=f"node {node!r}",
                          found=f"images {list(view.shape)}: {error}",
                          fix="set the image_size that the network takes, or take another network")
    shapes = list(view.shape) if isinstance(view, Tensor) else {name: list(x.shape) for name, x in view.items()}
    return ModelError("a network does not run on these data", where=f"node {node!r}", found=f"{shapes}: {error}",
                      fix="take another network")
