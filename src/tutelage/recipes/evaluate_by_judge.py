"""A finished run measured by the judge of its task, where that is not to tell classes apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.data.source import Source
from tutelage.engine.precision import on_device
from tutelage.engine.predict import scored
from tutelage.graph.ends import End
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.objective import forward
from tutelage.recipes.trained_run import FinishedRun
from tutelage.runs.evaluations import Evaluation
from tutelage.tasks.scores import scores_json
from tutelage.tasks.task import Evidence, Judge, Pictures, Task
from tutelage.types import BatchLabels, View, plain_view

WORST = 12
"""Of so many samples that a network knows least there is a picture."""
SHEETS = 5
"""Of so many samples, from the worst to the best, it is shown what all networks say."""


def assess_by_judge(opened: FinishedRun, graph: Graph, task: Task, judge: Judge, split: str,
                    found: Mapping[str, Evidence], training: Mapping[str, object] | None) -> Evaluation:
    """What docs/evaluation.md lists of a task other than classification, of the evidence of each node.

    `graph` are the nodes that were scored; `training` how well they know what they learned from.
    """
    source, data = opened.split(split), opened.data
    metrics: dict[str, Any] = {
        "on": split, **scores_json(task), "samples": task.samples, "labels": task.labels, "unit": task.unit,
        "rows": len(source.ids), "also_in_training": data.also_in_training.get(split), "classes": list(data.classes),
        "images_per_class": _count(found, len(data.classes)), "training": training,
        **_scored(opened.graph, judge, found), "uncertainty": None, "robust": None}
    if judge.baseline is not None and found:
        metrics["baseline"] = judge.baseline(next(iter(found.values())))
    images: dict[str, bytes] = {}
    if judge.strips is not None and judge.by_sample is not None:
        metrics["shown"], images = _side_by_side(opened, graph, task, judge, source, found)
    draw = judge.pictures or task.pictures
    if draw is not None and judge.by_sample is not None:
        for node in [node for node in opened.graph.named(Trained) if node in found][:1]:
            rows, scores = worst_rows(judge.by_sample(found[node]), lower=task.scores[0].better == "lower")
            drawn = _drawn(opened, graph, judge, draw, source, node, rows)
            told = [{"id": int(source.ids[row]), "score": score, "file": f"worst-{node}-{number:02d}.png"}
                    for number, (row, score) in enumerate(zip(rows.tolist(), scores, strict=True))]
            images |= {of["file"]: png for of, png in zip(told, drawn, strict=True)}
            metrics["worst"] = {node: told}
    kept = {node: {name: x for name, x in seen.items() if name not in judge.passing} for node, seen in found.items()}
    return Evaluation(metrics, {}, source.labels, source.ids, images, kept)


def _scored(graph: Graph, judge: Judge, found: Mapping[str, Evidence]) -> dict[str, Any]:
    """What `scored` gives; where there is one frozen node, also how near the others are to it."""
    told, teachers = scored(judge, found), [node for node in graph.named(Frozen) if node in found]
    if judge.to_teacher is not None and len(teachers) == 1:
        for node in found.keys() - set(teachers):
            told["nodes"][node] |= judge.to_teacher(found[node], found[teachers[0]])
    return {**told}


@torch.no_grad()
def _side_by_side(opened: FinishedRun, graph: Graph, task: Task, judge: Judge, source: Source,
                  found: Mapping[str, Evidence]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Samples from the worst to the best of the first student: what is shown of each, and the files of it."""
    assert judge.by_sample is not None, "asked for by who calls this"
    assert judge.strips is not None, "as above"
    students = [node for node in opened.graph.named(Trained) if node in found]
    if not students:
        return [], {}
    lower = task.scores[0].better == "lower"
    rows, scores = worst_rows(judge.by_sample(found[students[0]]), lower=lower, most=len(source.ids))
    chosen = sorted({round(i * (len(rows) - 1) / (SHEETS - 1)) for i in range(SHEETS)}) if len(rows) else []
    nodes = [*opened.graph.named(Frozen), *opened.graph.named(Trained)]
    nodes = [node for node in nodes if node in found]
    device = next((x.device for node in students for x in opened.models[node].parameters()), torch.device("cpu"))
    told, files = list[dict[str, Any]](), dict[str, bytes]()
    for number, (place, batch) in enumerate(zip(chosen, source.batches(list(rows[chosen].split(1)), draw=None),
                                                strict=True)):
        batch = on_device(batch, device)
        outputs = forward(graph, opened.models, batch.inputs, nodes, {})
        (strip,) = judge.strips(_on_cpu(batch.labels), {node: outputs[node].cpu() for node in nodes})
        named = {name: f"shown-{number:02d}-{column}.png" for column, name in enumerate(strip)}
        files |= {named[name]: png for name, png in strip.items()}
        told.append({"id": int(batch.ids[0]), "node": students[0], "score": scores[place], "pictures": named})
    return told, files


def of_training_by_judge(judge: Judge, task: Task, count: int, labelled: int,
                         found: Mapping[str, Evidence]) -> dict[str, object]:
    """The first score of each node on `count` of the `labelled` training rows with a label, by their evidence."""
    first = task.scores[0].key
    return {"images": count, "of": labelled,
            first: {node: judge.summary(seen)[first] for node, seen in found.items()}}


def worst_rows(scores: Tensor, *, lower: bool, most: int = WORST) -> tuple[Tensor, list[float]]:
    """The rows [n] with the worst scores [N], the worst first, and these scores; rows without a score are left out.

    >>> worst_rows(torch.tensor([0.5, float("nan"), 0.25, 1.0]), lower=False, most=2)
    (tensor([2, 0]), [0.25, 0.5])
    """
    values = scores.double()
    there = (~values.isnan()).nonzero()[:, 0]
    order = values[there].sort(descending=lower, stable=True).indices[:most]
    return there[order], values[there[order]].tolist()


def _count(found: Mapping[str, Evidence], classes: int) -> list[int] | None:
    """How many rows each class has, where the evidence holds one class of each row."""
    labels = next((seen["labels"] for seen in found.values() if "labels" in seen), None)
    if labels is None or labels.dim() != 1 or labels.is_floating_point() or not classes:
        return None
    return labels[labels >= 0].bincount(minlength=classes).tolist()


@torch.no_grad()
def _drawn(opened: FinishedRun, graph: Graph, judge: Judge, draw: Pictures, source: Source, node: str,
           rows: Tensor) -> Sequence[bytes]:
    """Pictures of some rows: a network is asked again, for the evaluation keeps nothing so large."""
    taps = {tap: End(node, tap, "").name for tap in judge.taps}
    device = next((x.device for x in opened.models[node].parameters()), torch.device("cpu"))
    drawn: list[bytes] = []
    for batch in source.batches(rows.split(opened.recipe.data.batch_size), draw=None) if len(rows) else ():
        batch = on_device(batch, device)
        outputs = forward(graph, opened.models, batch.inputs, list(taps.values()), {})
        drawn += draw(_on_cpu(plain_view(batch.inputs)), _on_cpu(batch.labels),
                      {tap: outputs[end].cpu() for tap, end in taps.items()})
    return drawn


def _on_cpu(value: View | BatchLabels) -> Any:
    return value.cpu() if isinstance(value, Tensor) else {name: x.cpu() for name, x in value.items()}
