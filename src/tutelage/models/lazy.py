"""Layers that learn their sizes from the first images (`nn.LazyLinear` and its like) get their weights here."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tutelage.errors import ModelError
from tutelage.system.random import seeded


def is_unfinished(network: nn.Module) -> bool:
    """Whether some weights or buffers have no size yet."""
    return any(map(is_lazy, [*network.parameters(), *network.buffers()]))


def finish(models: Mapping[str, nn.Module], images: Tensor, seed: int) -> None:
    """Let every network that needs it see images [B, C, H, W], once, in eval mode.

    First weights depend on (seed, name of the node) alone. ModelError if a layer has no size after that.
    """
    for node, network in models.items():
        if not is_unfinished(network):
            continue
        modes = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), seeded(seed, "weights", node):
                network.eval()(images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError("a network does not run on these images", where=f"node {node!r}",
                             found=f"images {list(images.shape)}: {error}",
                             fix="set the image_size that the network takes, or take another network") from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        if is_unfinished(network):
            left = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
            raise ModelError("lazy layers that do not run have no size", where=f"node {node!r}", found=", ".join(left),
                             fix="take them out of the network")
