"""What a run is made of at one step, as a folder of safetensors and JSON; and back.

Saved: trained and moving-average networks, parts, controllers, optimizers, and the position. Never saved: frozen
networks (their hashes are), and random numbers (they are functions of the step). State is keyed by name.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.system.files import disk_errors, pack, read_folder, remove_folder, unpack, write_folder

KEPT = 2
"""How many checkpoints stay; the older one is for the day the newer one is found damaged."""
SEPARATOR = "|"
State = dict[str, dict[str, Tensor]]
"""File -> name -> tensor."""


def save(folder: Path, step: int, state: State, about: Mapping[str, object]) -> Path:
    """Write `state` as `folder`/step-NNNNNNNN, whole or not at all, and keep the newest few."""
    path = folder / f"step-{step:08d}"
    if not _is_whole(path):
        if path.exists():
            remove_folder(path)
        files = {f"{name}.safetensors": pack(tensors) for name, tensors in state.items()}
        write_folder(path, files, {"step": step, **about})
    paths = _by_step(folder)
    now = paths.index(path) + 1
    for old in paths[: max(0, now - KEPT)] + paths[now:]:  # what is newer than now was passed over as damaged
        remove_folder(old)
    return path


def newest(folder: Path, run: str) -> tuple[dict, State, list[str]]:
    """The newest checkpoint of this run that is whole: manifest, state, and what was wrong with newer ones.

    Without any, an empty manifest. If all are damaged, a ModelError: a run never starts again by itself.
    """
    damaged = []
    for path in reversed(_by_step(folder)):
        try:
            manifest, files = read_folder(path)
            if manifest.get("run") != run:
                raise ModelError("a checkpoint of another run", where=path, found=manifest.get("run"), expected=run)
            return manifest, {name.removesuffix(".safetensors"): unpack(data, path / name)[0]
                              for name, data in files.items()}, damaged
        except ModelError as error:
            damaged.append(str(error))
    if damaged:
        raise ModelError("no checkpoint of this run is whole", where=folder, found="\n".join(damaged),
                         fix="remove the run folder to start again")
    return {}, {}, []


def optimizer_state(optimizers: Mapping[str, torch.optim.Optimizer],
                    learners: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """owner|parameter|slot -> tensor, numbers as float64 scalars; and owner||group|option for numbers of groups."""
    state = {}
    for owner, optimizer in optimizers.items():
        names: dict[Tensor, str] = {parameter: name for name, parameter in learners[owner].named_parameters()}
        for parameter, slots in optimizer.state.items():
            for slot, held in slots.items():
                if held is not None:
                    state[SEPARATOR.join((owner, names[parameter], slot))] = _as_tensor(held)
        for number, group in enumerate(optimizer.param_groups):
            for option, held in group.items():
                kept = isinstance(held, int | float) and not isinstance(held, bool) and math.isfinite(held)
                if kept and option not in ("lr", "base_lr"):
                    state[SEPARATOR.join((owner, "", str(number), option))] = _as_tensor(held)
    return state


def load_optimizers(optimizers: Mapping[str, torch.optim.Optimizer], learners: Mapping[str, nn.Module],
                    state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` took, each tensor with the type it had and on its parameter's device."""
    parameters = {owner: dict(learners[owner].named_parameters()) for owner in optimizers}
    for key, tensor in state.items():
        owner, name, *rest = key.split(SEPARATOR)
        if name == "":
            optimizers[owner].param_groups[int(rest[0])][rest[1]] = tensor.item()
        else:
            parameter = parameters[owner][name]
            # Step counters stay where the optimizer keeps them: on the device if it is fused there, else on the CPU.
            scalar_on_cpu = tensor.dim() == 0 and not optimizers[owner].defaults.get("fused")
            tensor = tensor if scalar_on_cpu else tensor.to(parameter.device)
            if tensor.shape == parameter.shape:  # in the weight's layout: fused kernels walk through memory blindly
                tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
            optimizers[owner].state[parameter][rest[0]] = tensor


def named_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """owner|tensor -> tensor, for several modules in one file."""
    return {f"{owner}{SEPARATOR}{name}": tensor
            for owner, module in modules.items() for name, tensor in module.state_dict().items()}


def load_named(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor], where: str) -> None:
    """Put back what `named_state` took, strictly."""
    for owner, module in modules.items():
        own = {key.split(SEPARATOR, 1)[1]: tensor for key, tensor in state.items()
               if key.split(SEPARATOR, 1)[0] == owner}
        load_strictly(module, own, f"{where}: {owner}")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """`load_state_dict`, its complaint as a ModelError."""
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ModelError("a checkpoint of another network", where=where, found=str(error)[:500],
                         fix="use the network the run was started with, or another --out") from None


def _by_step(folder: Path) -> list[Path]:
    """The checkpoints, oldest first, also those whose step has more digits. (`glob` hides a folder it may not read.)"""
    with disk_errors(folder, 0):
        paths = [path for path in folder.iterdir() if path.name.startswith("step-")] if folder.exists() else []
    return sorted(paths, key=lambda path: (len(path.name), path.name))


def _is_whole(path: Path) -> bool:
    try:
        read_folder(path)
    except ModelError:
        return False
    return True


def _as_tensor(held: Tensor | int | float) -> Tensor:
    return torch.tensor(held, dtype=torch.float64) if isinstance(held, float) else torch.as_tensor(held)
