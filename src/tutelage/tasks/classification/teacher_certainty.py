"""Where the frozen teacher was sure, whether it was right there, and what that meant for its students.

The weight is w = (1 - H(p) / log C) ** power, p = softmax(teacher / temperature): `graph.sample_weights.entropy`, after
Gore, Dey & Mishra (arXiv:2511.18826). It is taken as it is: a `mean_one` around it depends on the batch.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage.errors import DataError, unknown
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Frozen
from tutelage.graph.sample_weights import ENTROPY_OPTIONS, entropy
from tutelage.graph.weight_parts import entropy_options
from tutelage.runs.evaluations import Evaluation
from tutelage.tasks.classification.metrics import auroc, by_parts, class_means, right
from tutelage.types import Logits

BINS, DECILES, SHOWN = 20, 10, 24
Weights = Float[Tensor, " rows"]
Numbers = Int[Tensor, " rows"]


def teacher_of(graph: Graph, nodes: Sequence[str]) -> tuple[str, dict[str, float]] | None:
    """The frozen network, among `nodes`, that is trusted by its entropy, and the options of that weight.

    Without such a weight it is the first frozen network, with the defaults; without a frozen network, None.
    """
    frozen = [node for node in graph.named(Frozen) if node in nodes]
    weighted = [(edge.teacher, edge.sample_weight) for edge in graph.edges]
    weighted += [(kind.of[0], kind.by) for kind in graph.nodes.values() if isinstance(kind, Computed) and kind.of]
    for end, weight in weighted:
        options = entropy_options(weight)
        if end in frozen and not parse_end(end).tap and options is not None:
            return end, options
    return (frozen[0], dict(ENTROPY_OPTIONS)) if frozen else None


def trust(logits: Logits, options: Mapping[str, float]) -> Float[Tensor, " batch"]:
    """w of the teacher's logits, row by row, in float64."""
    return by_parts(lambda z: entropy(None, z.double(), **options), logits)


def certainty_on(teacher: str, options: Mapping[str, float], logits: Mapping[str, Logits], labels: Numbers,
                 ids: Numbers) -> dict[str, object]:
    """The teacher's weight on these rows, each with a label, as docs/evaluation.md lists it; without images."""
    w, hits = trust(logits[teacher], options), right(logits[teacher], labels)
    places = (w * BINS).long().clamp(0, BINS - 1)
    rows = by_trust(w, ids)
    named = partial(_named, ids, labels, logits[teacher].argmax(-1), w)
    return {"teacher": teacher, "options": dict(options),
            "histogram": {"edges": [k / BINS for k in range(BINS + 1)],
                          "count": torch.bincount(places, minlength=BINS).tolist()},
            "mean": _mean(w), "mean_right": _mean(w[hits]), "mean_wrong": _mean(w[~hits]), "auroc": auroc(-w, ~hits),
            "deciles": deciles(w, ids, {node: right(z, labels) for node, z in logits.items()}),
            "per_class": class_means(w, labels, logits[teacher].shape[-1]),
            "most": named(rows.flip(0)[:SHOWN]), "least": named(rows[:SHOWN])}


def by_trust(w: Weights, ids: Numbers) -> Numbers:
    """The rows from the least to the most trusted one; those of one weight by their ids."""
    by_id = ids.argsort()
    return by_id[w[by_id].argsort(stable=True)]


def deciles(w: Weights, ids: Numbers, hits: Mapping[str, Bool[Tensor, " rows"]]) -> dict[str, object]:
    """Ten groups of rows by weight, the least trusted first: "edges" of w, "count", and "accuracy" of each node."""
    groups = by_trust(w, ids).tensor_split(DECILES)
    edges = np.quantile(w.cpu().numpy(), np.linspace(0, 1, DECILES + 1))  # torch's refuses more than 2^24 rows
    return {"edges": edges.tolist(), "count": [len(rows) for rows in groups],
            "accuracy": {node: [_mean(own[rows].double()) for rows in groups] for node, own in hits.items()}}


def gain_by_decile(run: Evaluation, other: Evaluation, node: str, other_node: str | None = None) -> list[float | None]:
    """What `node` gained in each decile of its run's teacher's weight over a node of another run on the same ids.

    Differences of accuracies, in [-1, 1], the least trusted decile first; None for a decile without rows. The other
    run may be plain KD. DataError if the runs were not evaluated on the same labelled images or classes.
    """
    about, rows = run.metrics.get("uncertainty"), (run.labels >= 0).nonzero()[:, 0]
    if about is None:
        raise DataError("there is no teacher's weight to go by", found="an evaluation without a frozen teacher")
    other_node = node if other_node is None else other_node
    for name, evaluation in ((node, run), (other_node, other)):
        if name not in evaluation.logits:
            raise unknown("node", name, evaluation.logits)
    place = {id_: row for row, id_ in enumerate(other.ids.tolist())}
    there = torch.tensor([place.get(id_, -1) for id_ in run.ids[rows].tolist()], dtype=torch.int64)
    same = run.metrics["classes"] == other.metrics["classes"] and bool((there >= 0).all())
    if not same or not torch.equal(other.labels[there], run.labels[rows]):
        raise DataError("two runs that were not evaluated on the same images", found="other ids, labels or classes",
                        fix="evaluate both on the same split of the same data")
    labels, w = run.labels[rows], trust(run.logits[about["teacher"]][rows], about["options"])
    hits = right(run.logits[node][rows], labels), right(other.logits[other_node][there], labels)
    gain = hits[0].double() - hits[1].double()
    return [_mean(gain[group]) for group in by_trust(w, run.ids[rows]).tensor_split(DECILES)]


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _named(ids: Tensor, labels: Tensor, choice: Tensor, w: Tensor, rows: Tensor) -> list[dict[str, object]]:
    return [{"id": int(ids[row]), "label": int(labels[row]), "prediction": int(choice[row]), "weight": float(w[row])}
            for row in rows]
