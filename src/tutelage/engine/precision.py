"""How the loop runs the network of a node: number format, layout in memory, generated code, ranks."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.fx.experimental.optimization import fuse
from torch.nn.parallel import DistributedDataParallel

from tutelage.data.memory import moved_to
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema, Frozen
from tutelage.graph.taps import Tapped, read
from tutelage.models.network import Network
from tutelage.system.distributed import World
from tutelage.system.machine import with_code_of_its_own
from tutelage.types import Batch, View, image_ends, inputs_like, label_ends, labels_of, plain_view


@dataclass(frozen=True)
class Execution:
    """How one network computes: bfloat16 autocast or float32, channels last or first, compiled or as it is."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        words = ["bf16" if self.bf16 else "fp32", "channels last" if self.channels_last else "channels first"]
        return ", ".join(words + ["compiled"] * self.compiled)


def lay_out(network: nn.Module, choice: Execution) -> None:
    """Put the weights of a network in the layout of the choice, in place; their values stay."""
    network.to(memory_format=torch.channels_last if choice.channels_last else torch.contiguous_format)


def prepared_for(network: nn.Module, choice: Execution, *, frozen: bool, tapped: bool) -> nn.Module:
    """What to call instead of `network` for this choice: itself, or for a frozen one a copy made for speed.

    The copy has BatchNorm folded into the convolutions before it (unless something inside is tapped), and weights in
    the format of the choice.
    """
    if frozen and choice != Execution():
        network = _folded(network) if not tapped else deepcopy(network).eval()
        if choice.bf16 and isinstance(network, Network):  # the normalisation of the images stays in float32
            network.body.to(torch.bfloat16)
        lay_out(network, choice)
    if not choice.compiled or tapped:
        return network
    forward = type(network).forward  # that of all networks of a kind, and together they reach the compiler's limit
    if isinstance(forward, FunctionType):
        network.forward = MethodType(with_code_of_its_own(forward), network)
    return torch.compile(network, options={"freezing": True} if frozen else None)  # pyright: ignore[reportReturnType]


def run_network(network: nn.Module, choice: Execution, inputs: View, taps: Sequence[str]) -> dict[str, Tensor]:
    """Tap -> tensor, float32 where the network computes in bfloat16."""
    if choice.channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    device = inputs.device if isinstance(inputs, Tensor) else next(iter(inputs.values())).device
    with torch.autocast(device.type, torch.bfloat16) if choice.bf16 else nullcontext():
        wrapped = isinstance(network, DistributedDataParallel)
        tensors = network(inputs, taps) if wrapped else read(network, inputs, taps)
    return {tap: tensor.float() for tap, tensor in tensors.items()} if choice.bf16 else tensors


def prepared_networks(graph: Graph, networks: Mapping[str, nn.Module], choices: Mapping[str, Execution], batch: Batch,
            world: World) -> dict[str, nn.Module]:
    """Node -> what to call: trained networks each in a DDP of its own where there are several ranks."""
    found = {}
    for node, network in networks.items():
        kind = graph.nodes[node]
        lay_out(network, Execution() if isinstance(kind, Frozen) else choices[node])
        ready = prepared_for(network, choices[node], frozen=isinstance(kind, Frozen), tapped=is_tapped(graph, node))
        found[node] = ready if isinstance(kind, Frozen | Ema) else _distributed(ready, node, graph, batch, world)
    return found


def is_tapped(graph: Graph, node: str) -> bool:
    """Whether the graph reads something inside the node's network."""
    return any(one.node == node and any(one.taps) for one in graph.plan(graph.ends()).passes)


def taps_read(graph: Graph, node: str) -> list[str]:
    """The taps of a node that the graph reads, in any view; what it gives untapped if it reads none."""
    return list(dict.fromkeys(tap for one in graph.plan(graph.ends()).passes if one.node == node
                              for tap in one.taps)) or [""]


def default_executions(networks: Iterable[str], precision: str, device: torch.device) -> dict[str, Execution]:
    """How networks compute where nothing was measured: bfloat16 if it is asked for, or on a GPU that has it.

    Channels last, unless it must be exact: depthwise convolutions are nearly twice as fast, others no slower.
    """
    gpu = device.type == "cuda" and precision == "auto"
    bf16 = precision == "bf16" or (gpu and torch.cuda.is_bf16_supported())
    return {node: Execution(bf16=bf16, channels_last=precision != "exact") for node in networks}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch, moved."""
    images = {end: moved_to(tensor, device) for end, tensor in image_ends(batch.inputs).items()}
    labels = {end: moved_to(rows, device) for end, rows in label_ends(batch.labels).items()}
    return Batch(inputs_like(batch.inputs, images), labels_of(labels), moved_to(batch.ids, device))


def _folded(network: nn.Module) -> nn.Module:
    """A copy for inference; one that cannot be traced, or whose layers are more than their weights, is only copied."""
    copy = deepcopy(network).eval()
    inside = copy.body if isinstance(copy, Network) else copy
    try:
        traced = symbolic_trace(inside)
        folded = fuse(traced) if _is_plain(traced) else inside
    except Exception:  # whatever the tracer cannot follow is no fault: the network runs as it is
        return copy
    if not isinstance(copy, Network):
        return folded
    copy.body = folded
    return copy


def _is_plain(traced: GraphModule) -> bool:
    """Whether each layer runs once and without hooks: only then may the norm after it change its weights."""
    layers = [traced.get_submodule(str(node.target)) for node in traced.graph.nodes if node.op == "call_module"]
    layers = [layer for layer in layers if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    return len(layers) == len(set(layers)) and not any(x._forward_pre_hooks or x._forward_hooks for x in layers)


def _distributed(network: nn.Module, node: str, graph: Graph, batch: Batch, world: World) -> nn.Module:
    """The network in its own DDP. Taps leave through its forward, so that DDP knows which weights a step used."""
    if world.size == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
        return network
    plain = plain_view(batch.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `broadcast_buffers` has a new name from torch 2.15 on
        return DistributedDataParallel(Tapped(network), broadcast_buffers=False,
                                       find_unused_parameters=is_tapped(graph, node) or _leaves_out(network, plain))


def _leaves_out(network: nn.Module, images: View) -> bool:
    """Whether some of the network's weights have no part in its logits; DDP would wait for their gradients."""
    mode = network.training
    network.eval()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(read(network, images, [""])[""].sum(), parameters, allow_unused=True)
    network.train(mode)
    return any(gradient is None for gradient in gradients)
