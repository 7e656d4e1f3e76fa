"""Before the first step: a copy of the graph that may learn, and one dry pass that finds what cannot work."""

from collections.abc import Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, UserError, placed, unknown
from tutelage.graph.divergences import FROM_LABELS
from tutelage.graph.edge import Edge
from tutelage.graph.ends import is_of_batch, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Table
from tutelage.graph.naming import unbound
from tutelage.graph.nodes import Computed, Ema, Frozen, Kind
from tutelage.graph.objective import edge_loss, forward
from tutelage.graph.rows import HasChoices, check_rows, row_sets
from tutelage.graph.taps import ReadsTaps, read
from tutelage.models.classifier import is_headless
from tutelage.models.network import body_of
from tutelage.models.wrappers import read_wrapped
from tutelage.system.files import fingerprint
from tutelage.system.random import derive, seeded
from tutelage.types import Batch, BatchLabels, Outputs, Rows, View, label_ends


@dataclass(frozen=True)
class Prepared:
    """What a dry run has shown to work: the graph with its parts, networks on their device, a batch of two rows."""

    graph: Graph
    networks: dict[str, nn.Module]
    few: Batch

    @cached_property
    def frozen(self) -> dict[str, str]:
        """Frozen node -> SHA-256 of its weights and buffers."""
        return {node: fingerprint(self.networks[node].state_dict()) for node in self.graph.named(Frozen)}


def with_followers(graph: Graph, models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The networks of the graph's nodes, each `Ema` node with a copy of what it follows."""
    networks = {}
    for node, kind in graph.nodes.items():
        if isinstance(kind, Computed):
            continue
        if isinstance(kind, Ema):
            networks[node] = models[node] if node in models else deepcopy(models[kind.of])
        elif node in models:
            networks[node] = models[node]
        else:
            raise unknown("network", node, models, where="models")
    _check_unshared(networks)
    return networks


def prepare(graph: Graph, models: Mapping[str, nn.Module], batch: Batch, seed: int = 0,
            classes: Sequence[str] | None = None, ids: Tensor | None = None) -> Graph:
    """A copy of the graph whose parts have made their weights, after one dry pass in eval mode without gradient.

    `ids` are those of all training images: every `Table` has a row for each of them.

    Weights of parts depend on (seed, name of the part) alone. Every edge is tried, whatever its weight is now: taps
    that do not exist, images that a network cannot take, shapes that cannot meet and heads of another size are told
    here, as ModelErrors.
    """
    graph = deepcopy(graph)
    parts = graph.parts()
    for module in (module for part in parts.values() for module in part.modules()):
        if isinstance(module, Table) and ids is not None:
            module.make(ids.to(batch.ids.device))
    modules = {**models, **parts}
    modes = {module: module.training for whole in modules.values() for module in whole.modules()}
    hooks = [part.register_forward_pre_hook(_seed(derive(seed, "part", name)), prepend=True)
             for name, part in parts.items()]
    try:
        with torch.no_grad(), seeded(seed, "dry pass"):
            for module in modules.values():
                module.eval()
            known = label_ends(batch.labels) | {"ids": batch.ids}
            readers = {node: partial(read_as, node, network) for node, network in models.items()}
            outputs = forward(graph, readers, batch.inputs, known=known)
            headless = {node for node, network in models.items() if is_headless(body_of(network))}
            for edge in graph.edges:
                _try_edge(edge, outputs, batch.labels, graph.nodes, classes, headless)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():  # parents first, so that a part of a network in another mode keeps it
            if module.training != mode:
                module.train(mode)
    return graph


def read_as(node: str, network: nn.Module, inputs: View, taps: Sequence[str], view: str) -> Outputs:
    """`taps.read`, whose complaints name the node."""
    plain = any(taps) and not isinstance(network, ReadsTaps)
    try:  # a plain network is read as a wrapped one would be, for the word of a recipe that it may lack
        return read_wrapped(network, network, inputs, taps) if plain else read(network, inputs, taps)
    except UserError as error:
        raise placed(error, f"node {node!r}") from None
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
        shapes = (f"images {list(inputs.shape)}" if isinstance(inputs, Tensor) else
                  ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items()))
        raise ModelError("a network does not run on these images", where=f"node {node!r}",
                         found=f"{shapes}: {error}",
                         fix="set the image_size that the network takes, or take another network") from error


def _seed(seed: int):
    return lambda module, inputs: torch.manual_seed(seed) and None


def _try_edge(edge: Edge, outputs: Outputs, labels: BatchLabels, nodes: Mapping[str, Kind],
              classes: Sequence[str] | None, headless: Set[str] = frozenset()) -> None:
    where = f"edge {edge.name}"
    classes = None if isinstance(edge.rows, HasChoices) else classes
    seen = _rows_of(edge, outputs, labels, nodes)
    count = len(outputs["ids"]) if edge.rows is None else len(seen.values[edge.student])
    outputs, labels = {**seen.values, **label_ends(seen.labels)}, seen.labels
    student = outputs[edge.student]
    for end in (edge.student, edge.teacher):
        node, tap, _ = parse_end(end)
        if classes is not None and node in headless and not tap and outputs[end].shape[-1] != len(classes):
            raise _no_classifier(node, outputs[end], len(classes))
    if (classes is not None and unbound(edge.divergence) in FROM_LABELS and student.dim() > 1
            and student.shape[-1] != len(classes)):
        raise _other_classes(parse_end(edge.student).node, student.shape[-1], f"the data have {len(classes)} classes")
    teacher = outputs.get(edge.teacher)
    if teacher is None:
        raise unknown("label", edge.teacher, label_ends(labels), where=where, error=ModelError)
    if classes is not None and _unlike_heads(edge, student, teacher, len(classes)):
        raise _other_classes(parse_end(edge.teacher).node, teacher.shape[-1],
                             f"{edge.student!r} and the data have {len(classes)} classes")
    try:
        rows = edge.divergence(student, teacher, labels)
        if rows.shape != (count,):
            raise ModelError("a divergence must give one number a row", where=where, found=f"shape {list(rows.shape)}",
                             expected=f"[{count}]", fix="sum or average over everything but the batch")
        _check_weight(edge, outputs, labels, count, where)
        edge_loss(edge, outputs, labels, 1.0, seen)
    except UserError as error:
        error.where = error.where or where
        raise type(error)(error.what, where=error.where, found=error.found, expected=error.expected,
                          fix=error.fix) from None
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError) as error:
        shapes = f"student {list(student.shape)}" + ("" if edge.from_labels else f", teacher {list(teacher.shape)}")
        raise ModelError("an edge that cannot be computed", where=where, found=f"{shapes}: {error}") from error


def _rows_of(edge: Edge, outputs: Outputs, labels: BatchLabels, nodes: Mapping[str, Kind]) -> Rows:
    """The rows of one edge; what cannot be made of these ends is told as a ModelError."""
    try:
        check_rows([edge], outputs, nodes)
        return row_sets([edge], outputs, labels, nodes)[edge.rows]
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        if isinstance(error, UserError):
            raise placed(error, f"edge {edge.name}") from None
        shapes = ", ".join(f"{end} {list(outputs[end].shape)}" for end in edge.ends if end in outputs)
        raise ModelError("rows that cannot be made of these ends", where=f"edge {edge.name}",
                         found=f"{shapes}: {type(error).__name__}: {error}") from error


def _check_weight(edge: Edge, outputs: Outputs, labels: BatchLabels, count: int, where: str) -> None:
    """[B, 1] would multiply every row with every other, and nobody would see it."""
    weight = edge.sample_weight
    if weight is None:
        return
    teacher = outputs[edge.teacher]
    given = outputs[weight] if isinstance(weight, str) else weight(outputs[edge.student], teacher, labels)
    if given.shape not in ((count,), ()):
        raise ModelError("a sample weight must give one number a row", where=where, found=f"shape {list(given.shape)}",
                         expected=f"[{count}]", fix="squeeze it, or average over everything but the batch")


def _unlike_heads(edge: Edge, student: Tensor, teacher: Tensor, classes: int) -> bool:
    tapped = parse_end(edge.student).tap or parse_end(edge.teacher).tap or is_of_batch(edge.teacher)
    adapted = isinstance(unbound(edge.divergence), nn.Module)
    return (not tapped and not adapted and teacher.dim() == student.dim() == 2
            and teacher.shape[-1] != student.shape[-1] == classes)


def _no_classifier(node: str, features: Tensor, classes: int) -> ModelError:
    return ModelError("a network without a classifier: what it gives are features, not logits",
                      where=f"node {node!r}", found=f"outputs {list(features.shape)}, and no head (num_classes = 0)",
                      expected=f"{classes} logits an image", fix="make it with num_classes = the number of classes, "
                      'or, in a recipe, write head = "new" and train it first')


def _other_classes(node: str, outputs: int, others: str) -> ModelError:
    return ModelError("a network has another number of classes", where=f"node {node!r}", found=f"{outputs} outputs",
                      expected=others, fix='write classes = "by-name" (cut it to the data\'s classes) or head = "new" '
                                           "(train a new head)")


def _check_unshared(networks: Mapping[str, nn.Module]) -> None:
    owners: dict[nn.Parameter, str] = {}
    for node, network in networks.items():
        for parameter in network.parameters():
            if owners.setdefault(parameter, node) != node:
                raise ModelError("two nodes share weights", where=f"nodes {owners[parameter]!r} and {node!r}",
                                 fix="give each node a network of its own (copy.deepcopy)")
