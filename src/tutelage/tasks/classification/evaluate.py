"""All that is said of a run on one split: every node, every pair of nodes, and the teacher's weight."""

import io
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from PIL import Image
from torch import Tensor

from tutelage.data.source import Source
from tutelage.graph.graph import Graph
from tutelage.runs.evaluations import Evaluation
from tutelage.tasks.classification import calibration, metrics
from tutelage.tasks.classification.teacher_certainty import analyse, teacher_of
from tutelage.types import Logits

MOST_CLASSES_OF_A_CONFUSION = 200
Fit = tuple[Source, Mapping[str, Tensor]]
"""Data, and logits of its rows by node."""
LARGEST_SIDE = 128
"""Pixels of an example image; a report shows 48 of them."""
PAIRS_SHOWN = 15
NAMES = {"top1": "top-1", "top5": "top-5", "nll": "NLL", "brier": "Brier", "ece": "ECE", "adaptive_ece": "adaptive ECE",
         "classwise_ece": "class-wise ECE", "macro_f1": "macro F1", "aurc": "AURC"}


def assess(graph: Graph, split: str, source: Source, predictions: Mapping[str, Logits], classes: Sequence[str],
           fit: Fit, robust: Mapping[str, object] | None = None) -> Evaluation:
    """Everything that docs/evaluation.md lists, of `predictions` for the rows of `source`, in their order.

    `fit` is validation data with its predictions, to which temperatures are fitted; `graph` is what the run learned by;
    `robust` is what was found of the networks under attack. DataError if no row has a label, NumericError if a logit is
    not finite.
    """
    given = source.labels >= 0
    labels, ids = source.labels[given], source.ids[given]
    metrics.check_labels(labels, len(classes))
    for node, logits in predictions.items():
        metrics.check_finite(logits, source.ids, node)
    labelled = predictions if bool(given.all()) else {node: logits[given] for node, logits in predictions.items()}
    found = {"on": split, "rows": len(source.ids), "classes": list(classes),
             "nodes": {node: measure(logits, labels) | {"temperature": _temperature(node, fit, logits, labels)}
                       for node, logits in labelled.items()},
             "pairs": {f"{a}|{b}": {"agreement": metrics.agreement(predictions[a], predictions[b]),
                                    "kl": metrics.mean_kl(predictions[a], predictions[b]),
                                    **metrics.right_together(labelled[a], labelled[b], labels)}
                       for a, b in combinations(predictions, 2)}}
    trusted = teacher_of(graph, list(predictions)) if len(classes) > 1 else None
    uncertainty = None if trusted is None else analyse(*trusted, labelled, labels, ids)
    images = {} if uncertainty is None else _with_pictures(uncertainty, source)
    found |= {"uncertainty": uncertainty, "robust": robust}
    return Evaluation(found, predictions, source.labels, source.ids, images)


def measure(logits: Logits, labels: metrics.ClassNumbers) -> dict[str, object]:
    """What is said of one node's logits [N, C] against class numbers [N]."""
    scores: dict[str, object] = {
        "top1": metrics.top1(logits, labels), "top5": metrics.top5(logits, labels), "nll": metrics.nll(logits, labels),
        "brier": metrics.brier(logits, labels), "ece": metrics.ece(logits, labels),
        "adaptive_ece": calibration.adaptive_ece(logits, labels),
        "classwise_ece": calibration.classwise_ece(logits, labels), "macro_f1": metrics.macro_f1(logits, labels),
        "aurc": metrics.aurc(logits, labels), "per_class": metrics.per_class_accuracy(logits, labels),
        "diversity": calibration.diversity(logits, labels)}
    if logits.shape[-1] <= MOST_CLASSES_OF_A_CONFUSION:
        scores["confusion"] = metrics.confusion(logits, labels).tolist()
    return {**scores, "reliability": calibration.reliability(logits, labels)}


def _temperature(node: str, fit: Fit, logits: Logits, labels: Tensor) -> dict[str, float] | None:
    source, held_out = fit[0], fit[1][node]
    given = source.labels >= 0
    if not bool(given.any()):
        return None
    metrics.check_finite(held_out, source.ids, node)
    value = calibration.fit_temperature(held_out if bool(given.all()) else held_out[given], source.labels[given])
    return calibration.scaled(value, logits, labels)


def _with_pictures(uncertainty: dict, source: Source) -> dict[str, bytes]:
    """PNG files of the most and the least trusted images; their names are noted with what is said of each."""
    files, rows = {}, {id_: row for row, id_ in enumerate(source.ids.tolist())}
    for kind in ("most", "least"):
        wanted = torch.tensor([rows[example["id"]] for example in uncertainty[kind]])
        for batch in source.batches([wanted], draw=None):
            assert isinstance(batch.inputs, Tensor), "one view was asked for"
            for number, (example, image) in enumerate(zip(uncertainty[kind], batch.inputs.cpu(), strict=True)):
                example["file"] = f"{kind}-{number:02d}.png"
                files[example["file"]] = png(image)
    return files


def png(image: Tensor) -> bytes:
    """An image [channels, height, width] in [0, 1] as a PNG file of at most 128 pixels a side, grey or RGB."""
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def tables(metrics_: Mapping, cost: Mapping | None) -> str:
    """What an evaluation says, as text for a person."""
    parts = [_nodes(metrics_), _pairs(metrics_["pairs"]), _trust(metrics_["uncertainty"], metrics_["nodes"]),
             _robust(metrics_["robust"]), _cost(cost)]
    return "\n\n".join(part for part in parts if part)


def _nodes(of: Mapping) -> str:
    shares = ("top1", "top5", "macro_f1")
    rows = [["network", *NAMES.values(), "T", "ECE at T"]]
    for node, scores in of["nodes"].items():
        cells = [f"{scores[name]:.2%}" if name in shares else _number(scores[name]) for name in NAMES]
        warm = scores["temperature"] or {"value": None, "ece_after": None}
        rows.append([node, *cells, _number(warm["value"], 3), _number(warm["ece_after"])])
    return f"{of['on']}, {of['rows']} images\n\n{_aligned(rows)}"


def _pairs(pairs: Mapping) -> str:
    rows = [["pair", "agreement", "KL", "both right", "one right", "both wrong"]]
    rows += [[name.replace("|", " and "), f"{p['agreement']:.2%}", _number(p["kl"]), f"{p['both_right']:.2%}",
              f"{p['one_right']:.2%}", f"{p['both_wrong']:.2%}"] for name, p in list(pairs.items())[:PAIRS_SHOWN]]
    more = len(pairs) - PAIRS_SHOWN
    return "" if not pairs else _aligned(rows) + (f"\n... and {more} more: --json" if more > 0 else "")


def _trust(about: Mapping | None, nodes: Mapping) -> str:
    if about is None:
        return ""
    options = ", ".join(f"{name} {value:g}" for name, value in about["options"].items())
    rows = [["w from", *(_number(edge, 3) for edge in about["deciles"]["edges"][:-1])],
            ["images", *map(str, about["deciles"]["count"])]]
    rows += [[node, *("-" if share is None else f"{share:.1%}" for share in shares)]
             for node, shares in about["deciles"]["accuracy"].items() if node in nodes]
    return (f"the weight w of {about['teacher']} ({options}): mean {_number(about['mean'])}, "
            f"{_number(about['mean_right'])} where it is right, {_number(about['mean_wrong'])} where wrong; "
            f"AUROC as a detector of its errors {_number(about['auroc'])}\naccuracy by decile of w:\n{_aligned(rows)}")


def _robust(robust: Mapping | None) -> str:
    if robust is None:
        return ""
    attacked = robust["top1"]
    judges = list(next(iter(attacked.values())))
    rows = [["images made against", *judges]]
    rows += [[node, *(f"{shares[judge]:.2%}" for judge in judges)] for node, shares in attacked.items()]
    return (f"top-1 under attack: {robust['steps']} steps of {robust['step_size']:.4f}, "
            f"within {robust['eps']:.4f}\n{_aligned(rows)}")


def _cost(cost: Mapping | None) -> str:
    if cost is None:
        return ""
    rows = [["network", "parameters", "MFLOP", "bytes", "compression", "ms (1)", "ms (32)", "images/s (32)"]]
    for node, one in cost["nodes"].items():
        times = [f"{t['median_ms']:.2f} [{t['low_ms']:.2f}, {t['high_ms']:.2f}]" for t in one["latency"].values()]
        ratio = "-" if one["compression"] is None else f"{one['compression']:.2f}x"
        rows.append([node, f"{one['parameters']:,}", f"{one['flops'] / 1e6:,.1f}", f"{one['bytes']:,}", ratio, *times,
                     f"{one['latency']['32']['images_per_second']:.0f}"])
    return f"{_aligned(rows)}\n{cost['machine']}; {cost['convention']}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
