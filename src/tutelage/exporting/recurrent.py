"""Recurrent layers on the way to ONNX: torch.export would unroll them for one length, so each is an operation.

A GRU is kept whole, as the operator that onnxruntime has for it. Of other recurrent layers, and of other formats,
nothing is made but an error that says so.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tutelage.errors import ModelError
from tutelage.exporting.module import Choice, Student


class WholeGru(nn.Module):
    """A GRU that is one operation of a graph, of series of any length."""

    def __init__(self, units: nn.GRU) -> None:
        super().__init__()
        self.units = units

    def forward(self, steps: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `nn.GRU` gives for a batch of series."""
        units = self.units
        if start is None:
            rows = steps.shape[0 if units.batch_first else 1]
            start = steps.new_zeros(units.num_layers * (1 + units.bidirectional), rows, units.hidden_size)
        weights = [weight for layer in units.all_weights for weight in layer]
        return whole_gru()(steps, start, weights, units.bias, units.num_layers, 0.0, False, units.bidirectional,
                           units.batch_first)


@cache
def whole_gru() -> Any:
    """`aten.gru` under a name of our own, by which an exporter does not know how to unroll it."""
    @torch.library.custom_op("tutelage::gru", mutates_args=())
    def gru(steps: Tensor, start: Tensor, weights: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
            train: bool, bidirectional: bool, batch_first: bool) -> tuple[Tensor, Tensor]:
        return torch.gru(steps, start, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first)

    @gru.register_fake
    def _(steps: Tensor, start: Tensor, weights: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
          train: bool, bidirectional: bool, batch_first: bool) -> tuple[Tensor, Tensor]:
        return (steps.new_empty(*steps.shape[:2], start.shape[-1] * (1 + bidirectional)), torch.empty_like(start))

    return torch.ops.tutelage.gru.default


def whole_units(network: nn.Module) -> nn.Module:
    """The network itself or, where it has GRUs, a copy in which each of them is one operation."""
    if not any(isinstance(module, nn.GRU) for module in network.modules()):
        return network
    copied = deepcopy(network)
    if isinstance(copied, nn.GRU):
        return WholeGru(copied)
    for name, module in [*copied.named_modules()]:
        if isinstance(module, nn.GRU):
            parent, _, own = name.rpartition(".")
            copied.get_submodule(parent).add_module(own, WholeGru(module))
    return copied


def translations(made: ExportedProgram) -> dict[Callable, Callable] | None:
    """For torch's exporter to ONNX: our operations of a graph -> the functions that write them; None without any."""
    if not any(str(node.target).startswith("tutelage.gru") for node in made.graph.nodes):
        return None
    from onnxscript.function_libs.torch_lib.ops.core import aten_gru

    return {whole_gru(): aten_gru}


def require_exportable(student: Student, choice: Choice) -> None:
    """Refuse recurrent layers that the format cannot hold at any length."""
    recurrent = {name: type(module).__name__ for name, module in student.network.named_modules()
                 if isinstance(module, nn.RNNBase) and not (choice.format == "onnx" and isinstance(module, nn.GRU))}
    if recurrent:
        name, kind = next(iter(recurrent.items()))
        layer = name.removeprefix("body.")
        raise ModelError(f"this format has no {kind} for series of any length", found=choice.format,
                         where=f"network {student.node!r}, layer {layer!r}",
                         fix="--format onnx or safetensors" if kind == "GRU" else "--format safetensors")
