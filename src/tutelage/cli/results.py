"""What `evaluate` and `export` found, as text for a person."""

from collections.abc import Mapping
from pathlib import Path

from tutelage.system.text import table

PAIRS_SHOWN = 15
WORST_SHOWN = 5
NAMES = {"top1": "top-1", "balanced_accuracy": "balanced", "top5": "top-5", "nll": "NLL", "brier": "Brier",
         "ece": "ECE", "adaptive_ece": "adaptive ECE", "classwise_ece": "class-wise ECE", "macro_f1": "macro F1",
         "aurc": "AURC"}


def evaluation_text(metrics: Mapping, cost: Mapping | None) -> str:
    """What an evaluation says, as text for a person."""
    parts = [_nodes(metrics), _training(metrics["training"]), _worst(metrics), _pairs(metrics["pairs"]),
             _trust(metrics["uncertainty"], metrics["nodes"]),
             _robust(metrics["robust"]), _cost(cost)]
    return "\n\n".join(part for part in parts if part)


def _nodes(of: Mapping) -> str:
    shares = ("top1", "balanced_accuracy", "top5", "macro_f1")
    rows = [["network", *NAMES.values(), "T", "ECE at T"]]
    for node, scores in of["nodes"].items():
        cells = [f"{scores[name]:.2%}" if name in shares else _number(scores[name]) for name in NAMES]
        warm = scores["temperature"] or {"value": None, "ece_after": None}
        rows.append([node, *cells, _number(warm["value"], 3), _number(warm["ece_after"])])
    copies = of.get("also_in_training")
    told = f", {copies} of them in training too" if copies else ""
    marks = [f"{node} {mark['text']}" for node, scores in of["nodes"].items() if (mark := scores.get("mark"))]
    marks += [f"T of {node} is not identified: its NLL does not rise towards the end of [0.01, 100], and 1 is used"
              for node, scores in of["nodes"].items()
              if scores["temperature"] and not scores["temperature"].get("identified", True)]
    return "\n".join([f"{of['on']}, {of['rows']} images{told}\n\n{table(rows)}", *marks])


def _training(training: Mapping | None) -> str:
    if training is None:
        return ""
    shares = ", ".join(f"{node} {share:.2%}" for node, share in training["top1"].items())
    return f"top-1 on {training['images']} of the {training['of']} labelled training images, as they are: {shares}"


def _worst(metrics: Mapping) -> str:
    """The classes that each network knows least, with how many images judge them."""
    count = metrics["images_per_class"]
    there = [number for number, images in enumerate(count) if images]
    rows = [["network", "worst classes: top-1 of n images"]]
    for node, scores in metrics["nodes"].items():
        shares = scores["per_class"]
        worst = sorted(there, key=shares.__getitem__)[:WORST_SHOWN]
        rows.append([node, ", ".join(f"{metrics['classes'][i]} {shares[i]:.1%} of {count[i]}" for i in worst)])
    return table(rows) if len(there) > 1 else ""


def _pairs(pairs: Mapping) -> str:
    rows = [["pair", "agreement", "KL", "both right", "one right", "both wrong"]]
    rows += [[name.replace("|", " and "), f"{p['agreement']:.2%}", _number(p["kl"]), f"{p['both_right']:.2%}",
              f"{p['one_right']:.2%}", f"{p['both_wrong']:.2%}"] for name, p in list(pairs.items())[:PAIRS_SHOWN]]
    more = len(pairs) - PAIRS_SHOWN
    return "" if not pairs else table(rows) + (f"\n... and {more} more: --json" if more > 0 else "")


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
            f"AUROC as a detector of its errors {_number(about['auroc'])}\naccuracy by decile of w:\n{table(rows)}")


def _robust(robust: Mapping | None) -> str:
    if robust is None:
        return ""
    attacked = robust["top1"]
    judges = list(next(iter(attacked.values())))
    rows = [["images made against", *judges]]
    rows += [[node, *(f"{shares[judge]:.2%}" for judge in judges)] for node, shares in attacked.items()]
    return (f"top-1 under attack: {robust['steps']} steps of {robust['step_size']:.4f}, "
            f"within {robust['eps']:.4f}\n{table(rows)}")


def _cost(cost: Mapping | None) -> str:
    if cost is None:
        return ""
    rows = [["network", "parameters", "MFLOP", "bytes", "compression", "ms (1)", "ms (32)", "images/s (32)"]]
    for node, one in cost["nodes"].items():
        times = [f"{t['median_ms']:.2f} [{t['low_ms']:.2f}, {t['high_ms']:.2f}]" for t in one["latency"].values()]
        ratio = "-" if one["compression"] is None else f"{one['compression']:.2f}x"
        rows.append([node, f"{one['parameters']:,}", f"{one['flops'] / 1e6:,.1f}", f"{one['bytes']:,}", ratio, *times,
                     f"{one['latency']['32']['images_per_second']:.0f}"])
    return f"{table(rows)}\n{cost['machine']}; {cost['convention']}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def export_text(report: dict, target: Path) -> str:
    """What a person wants to know of an export, in three lines."""
    checked, latency = report["checked"], report["latency"]
    accuracy = "" if checked["accuracy"] is None else (
        f", accuracy {checked['accuracy']:.2%} (the network: {checked['accuracy_of_network']:.2%})")
    mark = checked.get("mark")
    first = "" if mark is None else f"{report['node']} {mark['text']}\n"
    return (f"{first}{target}: {report['bytes']} bytes, {report['parameters']} parameters, "
            f"{len(report['classes'])} classes\n"
            f"on {checked['images']} images of {checked['on']}: largest difference of a logit "
            f"{checked['largest_difference']:.2g}, agreement {checked['agreement']:.2%}{accuracy}\n"
            f"one image in {latency['median_ms']:.2f} ms ({latency['lower_quartile_ms']:.2f} to "
            f"{latency['upper_quartile_ms']:.2f}); all numbers: {target}.json")
