"""The same forward on held-out data: how good each node is, and who agrees with whom."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tutelage import metrics
from tutelage.data.source import Source
from tutelage.errors import DataError
from tutelage.graph import BATCH_ENDS, Graph, parse_end
from tutelage.objective import forward
from tutelage.randomness import seeded
from tutelage.types import Logits
from tutelage.world import World, gather_uneven


def evaluate(graph: Graph, models: Mapping[str, nn.Module], source: Source, *, classes: int,
             batch_size: int = 256, nodes: Sequence[str] | None = None, world: World | None = None,
             known: Mapping[str, Logits] | None = None) -> dict[str, dict]:
    """Node -> top1, top5, nll and ece in [0, 1] or nats; and "agreement" -> "a|b" -> share, for all pairs.

    A node counts if its logits have as many columns as there are classes and it reads neither labels nor ids.
    Rows without a label are left out; with several ranks every row counts once. Networks run in eval mode, and each
    is put back into the mode it was in. `known` are predictions that need no pass.
    """
    labels = source.labels
    if not bool((labels >= 0).any()):
        raise DataError("there is nothing to evaluate on", found="no row with a label")
    predictions = predict(graph, models, source, classes=classes, batch_size=batch_size, nodes=nodes, world=world,
                          known=known)
    given = labels >= 0
    scores = {node: score(logits[given], labels[given]) for node, logits in predictions.items()}
    names = list(predictions)
    pairs = {f"{a}|{b}": metrics.agreement(predictions[a], predictions[b])
             for i, a in enumerate(names) for b in names[i + 1 :]}
    return {**scores, **({"agreement": pairs} if pairs else {})}


def score(logits: Logits, labels: Tensor) -> dict[str, float]:
    """The metrics of one node's logits [N, C] against class numbers [N]."""
    return {"top1": metrics.top1(logits, labels), "top5": metrics.top5(logits, labels),
            "nll": metrics.nll(logits, labels), "ece": metrics.ece(logits, labels)}


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


def _is_free(graph: Graph, node: str) -> bool:
    ends = graph.order([node])
    return not any(end in BATCH_ENDS or parse_end(end).view for end in ends)


def _classifies(logits: Tensor, classes: int) -> bool:
    return logits.dim() == 2 and logits.shape[1] == classes
