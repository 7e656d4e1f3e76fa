"""Parts of a network that do not learn, though the rest of it does."""

from collections.abc import Mapping, Sequence

from torch import nn

from tutelage.errors import ModelError, unknown
from tutelage.models.network import body_of


def freeze(network: nn.Module, prefixes: str | Sequence[str]) -> None:
    """Keep the parts of these names as they are in training: no gradient, and norms that use their running statistics.

    A prefix is the name of a layer, or of one parameter, in the plain network: "layer1" means "layer1" and all that
    lies in it. ModelError if there is none of that name, or if nothing would be left to learn.
    """
    asked = (prefixes,) if isinstance(prefixes, str) else tuple(prefixes)
    body = body_of(network)
    parameters = dict(body.named_parameters(remove_duplicate=False))
    for prefix in asked:
        mine = [parameter for name, parameter in parameters.items() if _within(name, prefix)]
        if not mine:
            known = {name.rpartition(".")[0] for name in parameters} | {name.partition(".")[0] for name in parameters}
            raise unknown("part of the network", prefix, filter(None, {*known, *_levels(known)}), where="freeze",
                          error=ModelError)
        for parameter in mine:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in body.parameters()):
        raise ModelError("nothing is left to learn: all of the network is frozen", where="freeze",
                         found=", ".join(asked), fix="leave the classifier out of freeze")
    network.frozen_parts = (*frozen_parts(network), *asked)  # pyright: ignore[reportArgumentType] - no tensor


def frozen_parts(network: nn.Module) -> tuple[str, ...]:
    """The prefixes that `freeze` was given."""
    found = vars(network).get("frozen_parts")
    return found if isinstance(found, tuple) else ()


def rest(network: nn.Module) -> None:
    """Put the norms of frozen parts in eval mode, after the network was put in training mode."""
    parts = frozen_parts(network)
    for name, module in body_of(network).named_modules() if parts else ():
        if _has_statistics(module) and any(_within(name, prefix) for prefix in parts):
            module.eval()


def described_freeze(network: nn.Module) -> str:
    """Which parts do not learn, for a person; "" if all do."""
    parts = frozen_parts(network)
    if not parts:
        return ""
    still = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    return (f"{', '.join(parts)} do not learn ({still:,} of "
            f"{sum(parameter.numel() for parameter in network.parameters()):,} numbers), and keep their statistics")


def frozen_notes(models: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """What of each network does not learn, for a person."""
    return tuple(f"{node}: {text}" for node, network in models.items() if (text := described_freeze(network)))


def all_frozen_parts(models: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Node -> its frozen parts, of networks that have some."""
    return {node: list(parts) for node, network in models.items() if (parts := frozen_parts(network))}


def moving_statistics(network: nn.Module) -> list[str]:
    """The norms whose weights do not learn and whose running statistics would move in training all the same."""
    body = body_of(network)
    parts, modules = frozen_parts(network), dict(body.named_modules())
    found = []
    for name, module in modules.items():
        holder = module if any(True for _ in module.parameters()) else modules[name.rpartition(".")[0]]
        still = [not parameter.requires_grad for parameter in holder.parameters()]
        if _has_statistics(module) and still and all(still) and not any(_within(name, prefix) for prefix in parts):
            found.append(name)
    return found


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _levels(names: set[str]) -> set[str]:
    return {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
