"""The same forward on held-out data: how good each node is, and who agrees with whom."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tutelage.data.source import Source
from tutelage.errors import DataError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.ends import BATCH_ENDS, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.objective import forward
from tutelage.graph.taps import logits_of
from tutelage.system.distributed import World, gather_uneven
from tutelage.system.random import derive, seeded, uniform
from tutelage.tasks.classification import calibration, metrics
from tutelage.tasks.classification.attacks import Attack, pgd
from tutelage.types import Logits, Scores

SCORES = {"top1": 1, "balanced_accuracy": 1, "top5": 1, "nll": -1, "ece": -1}
"""What is said of a node after each epoch, and whether more of it is better (1) or less (-1)."""

def evaluate(graph: Graph, models: Mapping[str, nn.Module], source: Source, *, classes: int,
             batch_size: int = 256, nodes: Sequence[str] | None = None, world: World | None = None,
             known: Mapping[str, Logits] | None = None) -> Scores:
    """{"nodes": {node: its metrics}, "pairs": {"a|b": their metrics}}, for all nodes that count and all pairs of them.

    Of a node: `score`. Of a pair: agreement, the share, in [0, 1], of all rows on which both choose the same class; a
    comes before b in the graph.
    A node counts if its logits have as many columns as there are classes and it reads neither labels nor ids.
    Rows without a label are left out; with several ranks every row counts once. Networks run in eval mode, and each
    is put back into the mode it was in. `known` are predictions that need no pass.
    """
    labels = source.labels
    if not bool((labels >= 0).any()):
        raise DataError("there is nothing to evaluate on", found="no row with a label")
    predictions = predict(graph, models, source, classes=classes, batch_size=batch_size, nodes=nodes, world=world,
                          known=known)
    return scored(predictions, labels)


def scored(predictions: Mapping[str, Logits], labels: Tensor) -> Scores:
    """`evaluate` of predictions [N, classes] that are there, against labels [N] of which one at least is not -1."""
    given = labels >= 0
    scores = {node: score(logits[given], labels[given]) for node, logits in predictions.items()}
    names = list(predictions)
    pairs = {f"{a}|{b}": {"agreement": metrics.agreement(predictions[a], predictions[b])}
             for i, a in enumerate(names) for b in names[i + 1 :]}
    return {"nodes": scores, "pairs": pairs}


def score(logits: Logits, labels: Tensor) -> dict[str, float]:
    """Of one node's logits [N, C] against class numbers [N]: nll in nats, the others in [0, 1]."""
    return {"top1": metrics.top1(logits, labels), "balanced_accuracy": metrics.balanced_accuracy(logits, labels),
            "top5": metrics.top5(logits, labels),
            "nll": metrics.nll(logits, labels), "ece": calibration.ece(logits, labels)}


@torch.no_grad()
def predict(graph: Graph, models: Mapping[str, nn.Module], source: Source, *, classes: int, batch_size: int = 256,
            nodes: Sequence[str] | None = None, world: World | None = None,
            known: Mapping[str, Logits] | None = None) -> dict[str, Logits]:
    """Node -> logits [N, classes] on the CPU, in the order of the rows, for every node that classifies.

    `known` is such a result, of nodes that need no pass again.
    """
    known = known or {}
    world = world or World(torch.device("cpu"))
    ends = [node for node in (graph.nodes if nodes is None else nodes) if _is_free(graph, node)]
    modules = {**models, **graph.parts()}
    modes = {module: module.training for whole in modules.values() for module in whole.modules()}
    found: dict[str, list[Tensor]] = {end: [] for end in ends if end not in known}
    rows = torch.arange(len(source.ids))[world.rank :: world.size]
    try:
        for module in modules.values():
            module.eval()
        with seeded("evaluation"):
            parts = rows.split(batch_size)
            for part, batch in zip(parts, source.batches(parts, draw=None), strict=True):
                given = {end: logits[part].to(batch.ids.device) for end, logits in known.items()}
                outputs = forward(graph, models, batch.inputs, ends, given)
                for end in found:
                    found[end].append(outputs[end])
    finally:
        for module, mode in modes.items():  # parents first, so that a part of a network in another mode keeps it
            if module.training != mode:
                module.train(mode)
    whole = {end: torch.cat(logits) for end, logits in found.items() if logits and _classifies(logits[0], classes)}
    whole = {end: gather_uneven(logits, len(source.ids), world).cpu() for end, logits in whole.items()} | dict(known)
    return {end: whole[end] for end in ends if end in whole}


def robustness(models: Mapping[str, nn.Module], source: Source, attack: Attack, *, attacked: Sequence[str],
               batch_size: int = 256, world: World | None = None) -> dict[str, dict[str, float]]:
    """Attacked network -> network -> its accuracy, in [0, 1], on the images that are to make the first one err.

    Each image with a label goes where the attacked network's cross-entropy with it is large, by projected gradient
    descent from a start that is uniform within `eps` and drawn by its id. `models` are in eval mode.
    """
    world = world or World(torch.device("cpu"))
    assert not any(model.training for model in models.values())
    rows = (source.labels >= 0).nonzero()[:, 0]
    parts = rows[world.rank :: world.size].split(batch_size)
    right: dict[str, dict[str, list[Tensor]]] = {name: {judge: [] for judge in models} for name in attacked}
    for batch in source.batches(parts, draw=None):
        images, labels = batch.inputs, batch.labels
        assert isinstance(images, Tensor), "one view was asked for"
        places = 2 * uniform(derive("start of an attack"), batch.ids, images.shape[1:].numel()).view_as(images) - 1
        for name in attacked:
            moved = pgd(attack, images, (images + attack.eps * places).clamp(0, 1),
                        partial(_mistaken, models[name], labels))
            with torch.no_grad():
                for judge, model in models.items():
                    right[name][judge].append((logits_of(model(moved)).argmax(-1) == labels).double())
    return {name: {judge: gather_uneven(torch.cat(shares), len(rows), world).mean().item()
                   for judge, shares in judges.items()} for name, judges in right.items()}


def _mistaken(model: nn.Module, labels: Tensor, images: Tensor) -> Tensor:
    return cross_entropy(logits_of(model(images)), labels)


def _is_free(graph: Graph, node: str) -> bool:
    ends = graph.order([node])
    return not any(end in BATCH_ENDS or parse_end(end).view for end in ends)


def _classifies(logits: Tensor, classes: int) -> bool:
    return logits.dim() == 2 and logits.shape[1] == classes
