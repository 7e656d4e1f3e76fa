"""What `evaluate` and `export` found, as text for a person."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.system.text import table
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.scores import scores_in
from tutelage.tasks.task import Score

PAIRS_SHOWN = 15
WORST_SHOWN = 5


def evaluation_text(metrics: Mapping, cost: Mapping | None) -> str:
    """What an evaluation says, as text for a person."""
    scores, samples = scores_in(metrics), metrics.get("samples", "images")
    parts = [_nodes(metrics, scores), metrics.get("unit", ""),
             _training(metrics["training"], scores[0], samples), _worst(metrics, scores[0]),
             _groups(metrics["nodes"]), _sets(metrics["nodes"], scores), _pairs(metrics["pairs"]),
             _trust(metrics["uncertainty"], metrics["nodes"]), _robust(metrics["robust"]), _cost(cost, samples)]
    return "\n\n".join(part for part in parts if part)


def _nodes(of: Mapping, scores: Sequence[Score]) -> str:
    """A row for each network, with every score that one of them has, and its temperature."""
    nodes = of["nodes"]
    there = [score for score in scores if any(score.key in found for found in nodes.values())]
    scaled = any("temperature" in found for found in nodes.values())
    rows = [["network", *(score.title for score in there), *(["T", "ECE at T"] if scaled else [])]]
    if plain := of.get("baseline"):
        rows.append([plain["name"], *(_score(plain.get(score.key), score) for score in there)])
    for node, found in nodes.items():
        warm = found.get("temperature") or {"value": None, "ece_after": None}
        rows.append([node, *(_score(found.get(score.key), score) for score in there),
                     *([_number(warm["value"], 3), _share(warm["ece_after"])] if scaled else [])])
    copies = of.get("also_in_training")
    told = f", {copies} of them in training too" if copies else ""
    marks = [f"{node} {mark['text']}" for node, found in nodes.items() if (mark := found.get("mark"))]
    marks += [f"T of {node} is not identified: its NLL does not rise towards the end of [0.01, 100], and 1 is used"
              for node, found in nodes.items()
              if found.get("temperature") and not found["temperature"].get("identified", True)]
    what = of.get("samples") or ("samples" if of.get("task", CLASSIFICATION.name) != CLASSIFICATION.name else "images")
    return "\n".join([f"{of['on']}, {of['rows']} {what}{told}\n\n{table(rows)}", *marks])


def _training(training: Mapping | None, first: Score, samples: str) -> str:
    if training is None:
        return ""
    found = ", ".join(f"{node} {_score(number, first)}" for node, number in training[first.key].items())
    return (f"{first.title} on {training['images']} of the {training['of']} labelled training {samples}, as they are: "
            f"{found}")


def _worst(metrics: Mapping, first: Score) -> str:
    """The classes that each network knows least, with how many images judge them."""
    count, names = metrics["images_per_class"], metrics["classes"]
    samples = metrics.get("samples", "images")
    there = [number for number in range(len(names)) if count is None or count[number]]
    what = f"worst {metrics.get('labels', 'classes')}: {first.title}"
    rows = [["network", what + f" of n {samples}" * (count is not None)]]
    for node, found in metrics["nodes"].items():
        own = found.get("per_class") or {}
        numbers = own.get(first.key) if isinstance(own, Mapping) else own
        known = [i for i in there if numbers is not None and numbers[i] is not None]
        if numbers is None or not known:
            continue
        worst = sorted(known, key=numbers.__getitem__, reverse=first.better == "lower")[:WORST_SHOWN]
        rows.append([node, ", ".join(f"{names[i]} " + (f"{numbers[i]:.1%}" if first.kind == "share" else
                                                       first.text(numbers[i]))
                                     + (f" of {count[i]}" if count is not None else "") for i in worst)])
    return table(rows) if len(there) > 1 and len(rows) > 1 else ""


def _groups(nodes: Mapping) -> str:
    """Of recommenders: what each popularity group gets, the most popular first."""
    rows = [["network", "group", "items", "Recall@10", "NDCG@10", "share of what is shown"]]
    for node, of in ((node, found["by_group"]) for node, found in nodes.items() if "by_group" in found):
        for number, items in enumerate(of["items"]):
            shares = [_share(of[key][number]) for key in ("recall", "ndcg", "share")]
            rows.append([node, str(number + 1), str(items), *shares])
    return table(rows) if len(rows) > 1 else ""


def _sets(nodes: Mapping, scores: Sequence[Score]) -> str:
    """The scores of each set of samples, such as day and night, where there are several."""
    there = {node: found["by_set"] for node, found in nodes.items() if found.get("by_set")}
    kept = [score for score in scores if any(score.key in of for of in there.values())]
    rows = [["network", "set", "samples", *(score.title for score in kept)]]
    rows += [[node, name, str(of["count"][number]), *(_score(of[score.key][number], score) for score in kept)]
             for node, of in there.items() for number, name in enumerate(of["names"])]
    return table(rows) if len(rows) > 1 else ""


def _score(value: float | None, score: Score) -> str:
    """A score as the table has it: shares as per cent, numbers to four places."""
    return _share(value) if score.kind == "share" else _number(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _pairs(pairs: Mapping) -> str:
    if not pairs:
        return ""
    kept = [told for told in PAIRED if any(told[0] in pair for pair in pairs.values())]
    rows = [["pair", *(name for _, name, _ in kept)]]
    rows += [[name.replace("|", " and "), *(show(pair.get(key)) for key, _, show in kept)]
             for name, pair in list(pairs.items())[:PAIRS_SHOWN]]
    more = len(pairs) - PAIRS_SHOWN
    return table(rows) + (f"\n... and {more} more: --json" if more > 0 else "")


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


def _cost(cost: Mapping | None, samples: str) -> str:
    if cost is None:
        return ""
    rows = [["network", "parameters", "MFLOP", "bytes", "compression", "ms (1)", "ms (32)", f"{samples}/s (32)"]]
    for node, one in cost["nodes"].items():
        times = [f"{t['median_ms']:.2f} [{t['low_ms']:.2f}, {t['high_ms']:.2f}]" for t in one["latency"].values()]
        ratio = "-" if one["compression"] is None else f"{one['compression']:.2f}x"
        rows.append([node, f"{one['parameters']:,}", f"{one['flops'] / 1e6:,.1f}", f"{one['bytes']:,}", ratio, *times,
                     f"{one['latency']['32']['images_per_second']:.0f}"])
    return f"{table(rows)}\n{cost['machine']}; {cost['convention'].replace('one image', f'one of the {samples}')}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def export_text(report: dict, target: Path) -> str:
    """What a person wants to know of an export, in three lines."""
    if report["kind"] == "vectors":
        return (f"{target}: {report['bytes']} bytes, vectors of {report['numbers']} numbers of {report['users']} "
                f"users and {report['items']} items, with their names\non {report['checked']['users']} users: largest "
                f"difference of a score {report['checked']['difference']:.2g}; all numbers: {target}.json")
    checked, latency = report["checked"], report["latency"]
    if "map" in checked:
        return _of_detector(report, target)
    if "mae" in checked:
        return _of_forecaster(report, target)
    if report.get("task") == "fusion":
        return (f"{target}: {report['bytes']} bytes, {report['parameters']} parameters, pairs of images of any size\n"
                f"on {checked['images']} pairs of {checked['on']}, and on smaller ones: largest difference "
                f"{checked['largest_difference']:.2g}, {checked['agreement']:.2%} of the pixels equal to half a level\n"
                f"one pair in {latency['median_ms']:.2f} ms ({latency['lower_quartile_ms']:.2f} to "
                f"{latency['upper_quartile_ms']:.2f}); all numbers: {target}.json")
    series, pixels = report.get("task") == "series", " of pixels" if "pixels" in checked else ""
    accuracy = "" if checked["accuracy"] is None else (
        f", accuracy{pixels} {checked['accuracy']:.2%} (the network: {checked['accuracy_of_network']:.2%})")
    if checked.get("dice") is not None:
        accuracy += f", Dice {checked['dice']:.2%} (the network: {checked['dice_of_network']:.2%})"
    half = f", at half their length {checked['agreement_at_half_length']:.2%}" if series else ""
    mark = checked.get("mark")
    first = "" if mark is None else f"{report['node']} {mark['text']}\n"
    return (f"{first}{target}: {report['bytes']} bytes, {report['parameters']} parameters, "
            f"{len(report['classes'])} classes\n"
            f"on {checked['images']} {'series' if series else 'images'} of {checked['on']}: largest difference of a "
            f"logit {checked['largest_difference']:.2g}, agreement{pixels} {checked['agreement']:.2%}{half}{accuracy}\n"
            f"one {'series' if series else 'image'} in {latency['median_ms']:.2f} ms "
            f"({latency['lower_quartile_ms']:.2f} to {latency['upper_quartile_ms']:.2f}); "
            f"all numbers: {target}.json")


def _of_forecaster(report: dict, target: Path) -> str:
    checked, latency, names = report["checked"], report["latency"], report["classes"]
    return (f"{target}: {report['bytes']} bytes, {report['parameters']} parameters, mean and standard deviation of "
            f"{', '.join(names[:6])}{' ...' * (len(names) > 6)}\non {checked['images']} samples of {checked['on']}: "
            f"largest difference {checked['largest_difference']:.2g}, MAE {checked['mae']:.4f} (the network: "
            f"{checked['mae_of_network']:.4f})\none sample in {latency['median_ms']:.2f} ms "
            f"({latency['lower_quartile_ms']:.2f} to {latency['upper_quartile_ms']:.2f}); all numbers: {target}.json")


def _of_detector(report: dict, target: Path) -> str:
    checked, latency = report["checked"], report["latency"]
    before = "" if report["suppression"] else "; what it gives are places, before suppression"
    return (f"{target}: {report['bytes']} bytes, {report['parameters']} parameters, {len(report['classes'])} classes"
            f"{before}\non {checked['images']} images of {checked['on']}: {checked['same']:.2%} of {checked['boxes']} "
            f"boxes equal to 1 pixel, scores to 0.001; agreement {checked['agreement']:.2%}, mAP {checked['map']:.2%} "
            f"(the network: {checked['map_of_network']:.2%})\none image in {latency['median_ms']:.2f} ms "
            f"({latency['lower_quartile_ms']:.2f} to {latency['upper_quartile_ms']:.2f}); all numbers: {target}.json")


PAIRED = (("agreement", "agreement", _share), ("kl", "KL", _number), ("both_right", "both right", _share),
          ("one_right", "one right", _share), ("both_wrong", "both wrong", _share))
"""What is told of a pair of networks, as far as an evaluation has it."""
