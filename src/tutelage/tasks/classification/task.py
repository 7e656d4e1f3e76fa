"""Classification: a sample is of one class, and a network gives its logits [B, C]."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from tutelage.data.source import Data
from tutelage.errors import DataError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.classification import calibration, metrics
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.types import BatchLabels, Logits

SCORES = (
    Score("top1", "top-1"),
    Score("balanced_accuracy", "balanced accuracy"),
    Score("top5", "top-5"),
    Score("nll", "NLL", "number", "lower"),
    Score("brier", "Brier", "number", "lower", each_epoch=False),
    Score("ece", "ECE", "share", "lower"),
    Score("adaptive_ece", "adaptive ECE", "share", "lower", each_epoch=False, main=False),
    Score("classwise_ece", "class-wise ECE", "share", "lower", each_epoch=False, main=False),
    Score("macro_f1", "macro F1", each_epoch=False),
    Score("aurc", "AURC", "number", "lower", each_epoch=False),
)


def check_labels(data: Data) -> None:
    """Refuse labels that are no class."""
    if len(data.classes) < 2:
        raise DataError("too few classes: there is nothing to tell apart", where="training data",
                        found=f"{len(data.classes)} classes", expected="two or more")
    least, most = (int(end) for end in data.train.labels.aminmax())
    if least < -1 or most >= len(data.classes):
        raise DataError("labels out of range", where="training data", found=f"{least} .. {most}",
                        expected=f"-1 (no label) .. {len(data.classes) - 1}")


def judge_of_classes(classes: int) -> Judge:
    """The judge of logits [B, `classes`]; its evidence is the logits and the labels."""
    return Judge(partial(_measure, classes), _summary, _agreement, outputs={"": "logits"})


def score(logits: Logits, labels: Tensor) -> dict[str, float]:
    """What is told after each epoch of one node's logits [N, C] against class numbers [N]."""
    return {"top1": metrics.top1(logits, labels), "balanced_accuracy": metrics.balanced_accuracy(logits, labels),
            "top5": metrics.top5(logits, labels),
            "nll": metrics.nll(logits, labels), "ece": calibration.ece(logits, labels)}


def _measure(classes: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    logits = taps[""]
    if logits.dim() != 2 or logits.shape[1] != classes:
        return None
    assert isinstance(labels, Tensor)
    return {"logits": logits, "labels": labels}


def _summary(evidence: Evidence) -> dict[str, float]:
    given = evidence["labels"] >= 0
    if not bool(given.any()):
        raise DataError("there is nothing to evaluate on", found="no row with a label")
    return score(evidence["logits"][given], evidence["labels"][given])


def _agreement(first: Evidence, second: Evidence) -> float:
    return metrics.agreement(first["logits"], second["logits"])


CLASSIFICATION = Task("classification", SCORES, check_labels, lambda data: judge_of_classes(len(data.classes)),
                      learn=(Term(cross_entropy, soft=True),), imitate=(Term(kl, soft=True),), classifies=True,
                      samples="images")
