"""The heart: every network runs once, then every edge is one number.

Two laws hold for any graph. A network runs forward once per batch and view, and only if a live edge needs it.
Gradient flows only into the student end of an edge (and on through a computed node into what that reads). So the
loss is a plain sum, and one `backward` serves every student.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tutelage.graph.edge import Edge
from tutelage.graph.ends import End
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Trained
from tutelage.graph.rows import computed, row_sets
from tutelage.graph.taps import read
from tutelage.types import BatchLabels, Inputs, Outputs, Reader, Rows, label_ends


def forward(graph: Graph, models: Mapping[str, nn.Module | Reader], inputs: Inputs,
            ends: Iterable[str] | None = None, known: Mapping[str, Tensor] | None = None) -> Outputs:
    """End -> tensor, at least float32, for `ends` (all that the edges read) and what they are computed from.

    `known` holds ends that cost no pass: labels, ids, what a cache remembers. Labels and ids that are not known are
    left out, and so is what is computed of rows: that needs the labels.
    """
    outputs = dict(known or {})
    plan = graph.plan(graph.ends() if ends is None else ends, outputs)
    for node, view, taps in plan.passes:
        model, plain = models[node], inputs if isinstance(inputs, Tensor) else inputs[view]
        with torch.set_grad_enabled(torch.is_grad_enabled() and isinstance(graph.nodes[node], Trained)):
            tensors = read(model, plain, taps) if isinstance(model, nn.Module) else model(plain, taps, view)
        outputs |= {End(node, tap, view).name: _wide(tensor) for tap, tensor in tensors.items()}
    for end in plan.computed:
        kind = graph.nodes[end.node]
        if end.name not in outputs and isinstance(kind, Computed):
            outputs |= computed(end.node, kind, outputs)
    return outputs


def edge_loss(edge: Edge, outputs: Outputs, labels: BatchLabels, weight: float | None = None,
              seen: Rows | None = None) -> Tensor:
    """weight * mean(sample_weight * T^2 * divergence(student / T, teacher / T)), a scalar.

    The mean is over all rows, each as much as it counts; where none counts it is 0. The teacher end and the sample
    weight are detached; labels stay what they are. `seen` are the rows of the edge, if they are there already.
    """
    weight = edge.weight_at() if weight is None else weight
    values, labels, counts, *_ = seen = row_sets([edge], outputs, labels)[edge.rows] if seen is None else seen
    student = values[edge.student]
    teacher = label_ends(labels)[edge.teacher] if edge.from_labels else values[edge.teacher].detach()
    if edge.temperature == 1:
        rows = edge.divergence(student, teacher, labels)
    else:
        rows = edge.divergence(student / edge.temperature, teacher / edge.temperature, labels)
    if isinstance(edge.sample_weight, str):
        rows = rows * values[edge.sample_weight].detach()
    elif edge.sample_weight is not None:
        rows = rows * edge.sample_weight(student.detach(), teacher, labels).detach()
    mean = rows.mean() if counts is None else (counts * rows).sum() / seen.divisor
    return weight * edge.temperature**2 * mean


def losses(graph: Graph, outputs: Outputs, labels: BatchLabels,
           weights: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """Live edge -> scalar. The loss of the whole graph is their plain sum."""
    weights = graph.weights() if weights is None else weights
    live = graph.live(weights)
    sets = row_sets(live, outputs, labels, graph.nodes)
    return {edge.name: edge_loss(edge, outputs, labels, weights[edge.name], sets[edge.rows]) for edge in live}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
