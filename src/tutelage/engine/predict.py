"""The same forward on held-out data: how good each node is, and who agrees with whom."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tutelage.data.source import Source
from tutelage.engine.precision import on_device
from tutelage.errors import DataError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.ends import End, is_of_batch, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.objective import forward
from tutelage.graph.taps import logits_of
from tutelage.system.distributed import World, gather_uneven
from tutelage.system.random import derive, seeded, uniform
from tutelage.tasks.classification.attacks import Attack, pgd
from tutelage.tasks.classification.task import judge_of_classes
from tutelage.tasks.task import Evidence, Judge, Score
from tutelage.types import Logits, Scores, one_tensor


def evaluate(graph: Graph, models: Mapping[str, nn.Module], source: Source, *, classes: int,
             batch_size: int = 256, nodes: Sequence[str] | None = None, world: World | None = None) -> Scores:
    """{"nodes": {node: its metrics}, "pairs": {"a|b": their metrics}}, for all nodes that count and all pairs of them.

    Of a node: `tasks.classification.task.score`. Of a pair: agreement, the share, in [0, 1], of all rows on which both
    choose the same class; a comes before b in the graph.
    A node counts if its logits have as many columns as there are classes and it reads neither labels nor ids.
    Rows without a label are left out; with several ranks every row counts once. Networks run in eval mode, and each
    is put back into the mode it was in.
    """
    if not bool((source.labels >= 0).any()):
        raise DataError("there is nothing to evaluate on", found="no row with a label")
    judge = judge_of_classes(classes)
    return scored(judge, evidence_of(graph, models, source, judge, batch_size=batch_size, nodes=nodes, world=world))


def scored(judge: Judge, found: Mapping[str, Evidence], told: Sequence[Score] | None = None) -> Scores:
    """`evaluate` of evidence that is there, by node: the scores that are `told`, or all that the judge says."""
    keys = None if told is None else {score.key for score in told}
    names, alike = list(found), judge.agreement
    pairs = {} if alike is None else {f"{a}|{b}": {"agreement": alike(found[a], found[b])}
                                      for i, a in enumerate(names) for b in names[i + 1 :]}
    return {"nodes": {node: {key: value for key, value in judge.summary(seen).items() if keys is None or key in keys}
                      for node, seen in found.items()}, "pairs": pairs}


def predict(graph: Graph, models: Mapping[str, nn.Module], source: Source, *, classes: int, batch_size: int = 256,
            nodes: Sequence[str] | None = None, world: World | None = None) -> dict[str, Logits]:
    """Node -> logits [N, classes] on the CPU, in the order of the rows, for every node that classifies."""
    found = evidence_of(graph, models, source, judge_of_classes(classes), batch_size=batch_size, nodes=nodes,
                        world=world)
    return {node: seen["logits"] for node, seen in found.items()}


@torch.no_grad()
def evidence_of(graph: Graph, models: Mapping[str, nn.Module], source: Source, judge: Judge, *, batch_size: int = 256,
                nodes: Sequence[str] | None = None, world: World | None = None,
                known: Mapping[str, Evidence] | None = None) -> dict[str, Evidence]:
    """Node -> what the judge keeps of each row [N, ...], on the CPU, in the order of the rows; no node it cannot judge.

    `known` is such a result, of nodes that need no pass again.
    """
    known = known or {}
    world = world or World(torch.device("cpu"))
    free = [node for node in (graph.nodes if nodes is None else nodes) if _is_free(graph, node)]
    taps = {node: {tap: End(node, tap, "").name for tap in judge.taps} for node in free if node not in known}
    said = {End(node, tap, "").name: seen[name] for node, seen in known.items()
            for tap, name in (judge.outputs or {}).items()}
    asked = [end for ends in taps.values() for end in ends.values()]
    modules = {**models, **graph.parts()}
    modes = {module: module.training for whole in modules.values() for module in whole.modules()}
    found: dict[str, list[Evidence]] = {node: [] for node in taps}
    rows = torch.arange(len(source.ids))[world.rank :: world.size]
    try:
        for module in modules.values():
            module.eval()
        with seeded("evaluation"):
            parts = rows.split(batch_size)
            for part, batch in zip(parts, source.batches(parts, draw=None), strict=True):
                batch = on_device(batch, world.device)
                given = {end: values[part].to(batch.ids.device) for end, values in said.items()}
                outputs = forward(graph, models, batch.inputs, asked, given)
                for node, ends in taps.items():
                    seen = judge.measure({tap: outputs[end] for tap, end in ends.items()}, batch.labels, batch.ids)
                    found[node] += [] if seen is None else [seen]
    finally:
        for module, mode in modes.items():  # parents first, so that a part of a network in another mode keeps it
            if module.training != mode:
                module.train(mode)
    whole = {node: _whole(parts, len(source.ids), world) for node, parts in found.items() if parts} | dict(known)
    return {node: whole[node] for node in free if node in whole}


def _whole(parts: Sequence[Evidence], rows: int, world: World) -> Evidence:
    """The evidence of all rows, from that of this rank's batches."""
    return {name: gather_uneven(torch.cat([part[name] for part in parts]), rows, world).cpu() for name in parts[0]}


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
        images, labels = one_tensor(batch.inputs), one_tensor(batch.labels)
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
    """Whether a node can be scored without a step: it reads no labels, no ids, no view, and is not computed of rows."""
    ends = graph.order([node])
    return not any(is_of_batch(end) or parse_end(end).view or graph.rows_of(parse_end(end).node) is not None
                   for end in ends)
