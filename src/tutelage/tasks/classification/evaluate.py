"""All that is said of a run on one split: every node, every pair of nodes, and the teacher's weight."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from tutelage.data.images import png
from tutelage.data.source import Source
from tutelage.graph.graph import Graph
from tutelage.runs.evaluations import Evaluation
from tutelage.tasks.classification import calibration, metrics
from tutelage.tasks.classification.skill import mark_of
from tutelage.tasks.classification.teacher_certainty import certainty_on, teacher_of
from tutelage.types import Logits

MOST_CLASSES_OF_A_CONFUSION = 200
Fit = tuple[Source, Mapping[str, Tensor]]
"""Data, and logits of its rows by node."""


def assess(graph: Graph, split: str, source: Source, predictions: Mapping[str, Logits], classes: Sequence[str],
           fit: Fit, robust: Mapping[str, object] | None = None,
           training: Mapping[str, object] | None = None, also_in_training: int | None = None) -> Evaluation:
    """Everything that docs/evaluation.md lists, of `predictions` for the rows of `source`, in their order.

    `fit` is validation data with its predictions, to which temperatures are fitted; `graph` is what the run learned by;
    `robust` is what was found of the networks under attack, `training` how well they know images that they learned from
    (`of_training`); `also_in_training` is how many images of the split are training images too, `None` where that is
    not known. DataError if no row has a label, NumericError if a logit is not finite.
    """
    given = source.labels >= 0
    labels, ids = source.labels[given], source.ids[given]
    metrics.require_labels(labels, len(classes))
    for node, logits in predictions.items():
        metrics.check_finite(logits, source.ids, node)
    labelled = predictions if bool(given.all()) else {node: logits[given] for node, logits in predictions.items()}
    found = {"on": split, "rows": len(source.ids), "also_in_training": also_in_training, "classes": list(classes),
             "images_per_class": labels.bincount(minlength=len(classes)).tolist(), "training": training,
             "nodes": {node: measure(logits, labels) | {"temperature": _temperature(node, fit, logits, labels),
                                                        "mark": mark_of(logits, labels, classes)}
                       for node, logits in labelled.items()},
             "pairs": {f"{a}|{b}": {"agreement": metrics.agreement(predictions[a], predictions[b]),
                                    "kl": metrics.mean_kl(predictions[a], predictions[b]),
                                    **metrics.right_together(labelled[a], labelled[b], labels)}
                       for a, b in combinations(predictions, 2)}}
    trusted = teacher_of(graph, list(predictions)) if len(classes) > 1 else None
    uncertainty = None if trusted is None else certainty_on(*trusted, labelled, labels, ids)
    images = {} if uncertainty is None else _with_pictures(uncertainty, source)
    found |= {"uncertainty": uncertainty, "robust": robust}
    return Evaluation(found, predictions, source.labels, source.ids, images)


def of_training(sample: Source, predictions: Mapping[str, Logits], labelled: int) -> dict[str, object]:
    """The top-1 accuracy of each node on a sample of the `labelled` training rows with a label."""
    return {"images": len(sample.ids), "of": labelled,
            "top1": {node: metrics.top1(logits, sample.labels) for node, logits in predictions.items()}}


def measure(logits: Logits, labels: metrics.ClassNumbers) -> dict[str, object]:
    """What is said of one node's logits [N, C] against class numbers [N]."""
    scores: dict[str, object] = {
        "top1": metrics.top1(logits, labels), "balanced_accuracy": metrics.balanced_accuracy(logits, labels),
        "top5": metrics.top5(logits, labels), "nll": metrics.nll(logits, labels),
        "brier": metrics.brier(logits, labels), "ece": calibration.ece(logits, labels),
        "adaptive_ece": calibration.adaptive_ece(logits, labels),
        "classwise_ece": calibration.classwise_ece(logits, labels), "macro_f1": metrics.macro_f1(logits, labels),
        "aurc": metrics.aurc(logits, labels), "per_class": metrics.per_class_accuracy(logits, labels),
        "diversity": calibration.diversity(logits, labels)}
    if logits.shape[-1] <= MOST_CLASSES_OF_A_CONFUSION:
        scores["confusion"] = metrics.confusion(logits, labels).tolist()
    return {**scores, "reliability": calibration.reliability(logits, labels)}


def _temperature(node: str, fit: Fit, logits: Logits, labels: Tensor) -> dict[str, float | bool] | None:
    source, held_out = fit[0], fit[1][node]
    given = source.labels >= 0
    if not bool(given.any()):
        return None
    metrics.check_finite(held_out, source.ids, node)
    value = calibration.identified_temperature(held_out if bool(given.all()) else held_out[given], source.labels[given])
    return calibration.scaled(value, logits, labels)


def _with_pictures(uncertainty: dict, source: Source) -> dict[str, bytes]:
    """PNG files of the most and the least trusted images; their names are noted with what is said of each."""
    files, rows = {}, {id_: row for row, id_ in enumerate(source.ids.tolist())}
    for kind in ("most", "least"):
        wanted = torch.tensor([rows[example["id"]] for example in uncertainty[kind]])
        for batch in source.batches([wanted], draw=None):
            if not isinstance(batch.inputs, Tensor):  # text, and series of unlike lengths, are no pictures
                return {}
            for number, (example, image) in enumerate(zip(uncertainty[kind], batch.inputs.cpu(), strict=True)):
                example["file"] = f"{kind}-{number:02d}.png"
                files[example["file"]] = png(image)
    return files
