"""What later commands have left beside a run: evaluations, cost, exports. Each is optional; each is checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tutelage.errors import ModelError
from tutelage.reporting.run_folder import checked, read_checked
from tutelage.runs import evaluations
from tutelage.tasks.scores import scores_in
from tutelage.tasks.task import Score

SPLITS = ("test", "validation", "train")
"""In the order in which a reader wants them."""
LARGEST_PICTURE = 200_000
"""Bytes of one image that a page takes in."""
PNG = b"\x89PNG\r\n\x1a\n"


class Reliability(TypedDict):
    """Mean confidence, accuracy and number of images by bin of confidence."""

    confidence: list[float | None]
    accuracy: list[float | None]
    count: list[int]


class Temperature(TypedDict):
    """Temperature scaling, fitted on validation data."""

    value: float | None
    nll_before: float | None
    nll_after: float | None
    ece_before: float | None
    ece_after: float | None
    identified: NotRequired[bool]


class Marked(TypedDict):
    """Why a network is marked: it is at chance, or says one class for nearly all images."""

    kind: str
    text: str


class CoverageCurve(TypedDict):
    """Of intervals of a forecast, by their probability, the share of targets that each holds."""

    interval: list[float]
    share: list[float | None]


class NodeScores(TypedDict):
    """One node on one split, besides its scores. `confusion[i][j]` counts images of class i that were taken for j.

    Of classification `per_class` is the accuracy; of another task it holds, by the key of a score, that of each class.
    `curves` are of each class its precisions at recalls of equal steps from 0 to 1. Of forecasts `by_series` has the
    names as "series", how many samples each has as "count", and by the key of a score that of each. `by_set` has the
    "names" of sets of samples, such as day and night, the "count" of each, and scores of each by their keys.
    """

    by_group: NotRequired[dict[str, list[float | None]]]
    per_class: NotRequired[list[float | None] | dict[str, list[float | None]]]
    curves: NotRequired[list[list[float | None] | None]]
    reliability: NotRequired[Reliability]
    confusion: NotRequired[list[list[int]]]
    temperature: NotRequired[Temperature | None]
    mark: NotRequired[Marked | None]
    coverage_curve: NotRequired[CoverageCurve]
    by_series: NotRequired[dict[str, list[Any]]]
    by_set: NotRequired[dict[str, list[Any]]]


class PairScores(TypedDict):
    """Two nodes on the same images."""

    agreement: float | None
    kl: NotRequired[float | None]
    both_right: NotRequired[float | None]
    one_right: NotRequired[float | None]
    both_wrong: NotRequired[float | None]


class Worst(TypedDict):
    """A sample that a network knows least: its first score, and the file of its picture."""

    id: int
    score: float
    file: str


class Shown(TypedDict):
    """A sample of which all that is there is shown: what each picture is of -> its file; the first score of a node."""

    id: int
    node: str
    score: float
    pictures: dict[str, str]


class Histogram(TypedDict):
    """How many images have a weight between two edges."""

    edges: list[float | None]
    count: list[int]


class Deciles(TypedDict):
    """Accuracy of each node on tenths of the images, from the least to the most trusted."""

    edges: list[float | None]
    count: list[int]
    accuracy: dict[str, list[float | None]]


class Trusted(TypedDict):
    """One image, and how much the teacher is trusted on it."""

    id: int
    file: str | None
    label: int
    prediction: int
    weight: float | None


class Uncertainty(TypedDict):
    """The teacher's weight on each image."""

    teacher: str
    options: NotRequired[dict[str, Any] | str | None]
    histogram: Histogram
    mean: float | None
    mean_right: float | None
    mean_wrong: float | None
    auroc: float | None
    deciles: Deciles
    per_class: list[float | None]
    most: list[Trusted]
    least: list[Trusted]


class Training(TypedDict):
    """A sample of the training images; the first score of each node on it has that score's key."""

    images: int
    of: int


class Metrics(TypedDict):
    """evaluation/SPLIT/metrics.json; the keys of `pairs` are "a|b"."""

    on: str
    rows: int
    also_in_training: NotRequired[int | None]
    classes: list[str]
    nodes: dict[str, dict[str, Any]]
    pairs: dict[str, PairScores]
    uncertainty: Uncertainty | None
    robust: NotRequired[dict[str, Any] | None]
    images_per_class: NotRequired[list[int] | None]
    training: NotRequired[dict[str, Any] | None]
    task: NotRequired[str]
    scores: NotRequired[list[dict[str, Any]]]
    worst: NotRequired[dict[str, list[Worst]]]
    samples: NotRequired[str]
    labels: NotRequired[str]
    unit: NotRequired[str]
    baseline: NotRequired[dict[str, Any]]
    shown: NotRequired[list[Shown]]


class Latency(TypedDict):
    """Of one batch: median and spread of n measurements."""

    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    images_per_second: float | None
    n: int


class NodeCost(TypedDict):
    """What a network costs. `latency` is keyed by the batch size; compression is to the teacher."""

    parameters: int
    flops: int | float | None
    bytes: int | None
    compression: float | None
    latency: dict[str, Latency]


class Cost(TypedDict):
    """evaluation/cost/cost.json."""

    machine: dict[str, Any] | str
    convention: str
    nodes: dict[str, NodeCost]


@dataclass(frozen=True)
class EvaluationRecord:
    """One split of a run: what was measured, by which scores, and the images that it shows, by their file names.

    `nodes` are what is said of each node besides its scores.
    """

    metrics: Metrics
    images: Mapping[str, bytes]
    judged_by: tuple[Score, ...]
    nodes: Mapping[str, NodeScores]

    def picture(self, name: str | None) -> bytes:
        """An image that the evaluation has left: the bytes of a PNG, or none."""
        data = self.images.get(name or "", b"")
        return data if data.startswith(PNG) and len(data) <= LARGEST_PICTURE else b""


def evaluations_of(run: Path) -> dict[str, EvaluationRecord]:
    """Split -> what `tutelage evaluate` has left of it, the most telling split first."""
    found = {}
    for split in SPLITS:
        if split in evaluations.evaluated(run):
            whole = evaluations.evaluation_of(run, split)
            path = run / evaluations.FOLDER / split / evaluations.METRICS_FILE
            metrics: Metrics = checked(Metrics, whole.metrics, path)
            judged_by = scores_in(metrics, path)
            nodes = {node: _node(scores, judged_by, f"{path}: nodes.{node}")
                     for node, scores in metrics["nodes"].items()}
            _check(metrics, nodes, path)
            found[split] = EvaluationRecord(metrics, whole.images, judged_by, nodes)
    return found


def cost_record(run: Path) -> Cost | None:
    """What the networks of a run cost, where it was measured."""
    if evaluations.COST not in evaluations.evaluated(run):
        return None
    return checked(Cost, evaluations.cost_of(run), run / evaluations.FOLDER / evaluations.COST / evaluations.COST_FILE)


def exports_in(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """The JSON files that lie beside exported networks in a folder, two floors deep at most."""
    found = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        exported = path.with_suffix("")
        if exported.suffix in (".onnx", ".pte", ".pt2", ".safetensors") and exported.is_file():
            found[path] = read_checked(dict[str, Any], path)
    return found


def _node(scores: Mapping[str, Any], judged_by: Sequence[Score], where: str) -> NodeScores:
    """That each score of a node is a number or None; what else is said of it."""
    for score in judged_by:
        if score.key in scores:
            checked(dict[str, float | None], {score.key: scores[score.key]}, where)
    if judged_by[0].key not in scores:
        raise ModelError("not what this package writes", where=where, found=f"no {judged_by[0].key}",
                         expected="a number, or null")
    return checked(NodeScores, dict(scores), where)


def _check(metrics: Metrics, nodes: Mapping[str, NodeScores], path: Path) -> None:
    """That lists which belong together are of one length."""
    classes = len(metrics["classes"])
    lengths = {}
    for node, scores in nodes.items():
        own = scores.get("per_class", {})
        for key, values in own.items() if isinstance(own, dict) else [("", own)]:
            lengths[f"nodes.{node}.per_class.{key}".rstrip(".")] = (len(values), classes)
        if (curves := scores.get("curves")) is not None:
            lengths[f"nodes.{node}.curves"] = (len(curves), classes)
            steps = max((len(curve) for curve in curves if curve is not None), default=0)
            lengths |= {f"nodes.{node}.curves.{i}": (len(curve), max(2, steps))
                        for i, curve in enumerate(curves) if curve is not None}
        if (curve := scores.get("coverage_curve")) is not None:
            lengths[f"nodes.{node}.coverage_curve.share"] = (len(curve["share"]), len(curve["interval"]))
        if (series := scores.get("by_series")) is not None:
            lengths |= {f"nodes.{node}.by_series.{key}": (len(values), len(series.get("series", [])))
                        for key, values in series.items()}
        confusion = scores.get("confusion")
        if confusion is not None:
            lengths[f"nodes.{node}.confusion"] = (len(confusion), classes)
            lengths |= {f"nodes.{node}.confusion.{i}": (len(row), classes) for i, row in enumerate(confusion)}
        if (groups := scores.get("by_group")) is not None:
            lengths |= {f"nodes.{node}.by_group.{key}": (len(groups.get(key, [])), len(groups.get("items", [])))
                        for key in ("recall", "ndcg", "share")}
        if (bins := scores.get("reliability")) is not None:
            for key in ("confidence", "accuracy"):
                lengths[f"nodes.{node}.reliability.{key}"] = (len(bins[key]), len(bins["count"]))
    if (training := metrics.get("training")) is not None:
        checked(Training, training, f"{path}: training")
        key = scores_in(metrics, path)[0].key
        checked(dict[str, float | None], training.get(key), f"{path}: training.{key}")
    if (counts := metrics.get("images_per_class")) is not None:
        lengths["images_per_class"] = (len(counts), classes)
    if (uncertainty := metrics["uncertainty"]) is not None:
        lengths["uncertainty.per_class"] = (len(uncertainty["per_class"]), classes)
        for key in ("histogram", "deciles"):
            count = uncertainty[key]["count"]
            lengths[f"uncertainty.{key}.edges"] = (len(uncertainty[key]["edges"]), len(count) + 1)
        for node, shares in uncertainty["deciles"]["accuracy"].items():
            lengths[f"uncertainty.deciles.accuracy.{node}"] = (len(shares), len(uncertainty["deciles"]["count"]))
    for where, (found, expected) in lengths.items():
        if found != expected:
            raise ModelError("not what this package writes", where=f"{path}: {where}", found=f"{found} numbers",
                             expected=f"{expected}")
    named = [*uncertainty["most"], *uncertainty["least"]] if uncertainty else []
    if any(not 0 <= number < classes for image in named for number in (image["label"], image["prediction"])):
        raise ModelError("not what this package writes", where=f"{path}: uncertainty", found="the number of no class")
    if odd := [pair for pair in metrics["pairs"] if pair.count("|") != 1]:
        raise ModelError("not what this package writes", where=f"{path}: pairs", found=json.dumps(odd[:3]),
                         expected='"a|b"')
