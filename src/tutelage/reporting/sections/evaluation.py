"""The part of a report on held-out data: scores, calibration, who agrees with whom, and what is taken for what."""

from collections.abc import Sequence

from tutelage.reporting import charts
from tutelage.reporting.charts import colours_of
from tutelage.reporting.document import Column, DocumentTable, Item, Section, Text, spread_out
from tutelage.reporting.groups import VALIDATION, Group
from tutelage.reporting.schema import Metrics, NodeScores

MOST_NODES = 6
"""Networks with charts of their own."""
MOST_CLASSES = 30
"""Classes with a row and a column of their own in a chart."""
MOST_CONFUSIONS = 12
SCORES = (("top1", "top-1", "share"), ("balanced_accuracy", "balanced accuracy", "share"), ("top5", "top-5", "share"),
          ("nll", "NLL", "number"), ("brier", "Brier", "number"), ("ece", "ECE", "share"),
          ("adaptive_ece", "adaptive ECE", "share"), ("classwise_ece", "class-wise ECE", "share"),
          ("macro_f1", "macro F1", "share"), ("aurc", "AURC", "number"))


MAIN = ("top1", "nll", "brier", "ece", "macro_f1", "aurc")


def evaluation_section(group: Group) -> Section:
    """All that `tutelage evaluate` has left, or the command that makes it."""
    parts = [_means_table(group), scores_table(group)] if len(group.members) > 1 else [scores_table(group)]
    parts = [*marks_of_group(group), *parts]
    if group.measured == VALIDATION:
        missing = next(member for member in group.members if not member.evaluations)
        return Section("Held-out data", [*parts, Text(
            "Calibration, agreement, confusion and the teacher's uncertainty need an evaluation of each run:",
            f"tutelage evaluate {missing.run.folder} --on test")])
    metrics = group.first.evaluations[group.measured].metrics
    told = f"Details are of the run {group.first.name}." if len(group.members) > 1 else ""
    sections = [_calibration(group, metrics), _agreement(metrics), _classes(group, metrics)]
    words = [Text(text) for text in (told, _training_words(metrics)) if text]
    return Section(f"Held-out data: {group.measured}", [*parts, *words],
                   [section for section in sections if not section.empty])


def _training_words(metrics: Metrics) -> str:
    training = metrics.get("training")
    if not training:
        return ""
    shares = ", ".join(f"{node} {share:.2%}" for node, share in training["top1"].items() if share is not None)
    return (f"Top-1 accuracy on {training['images']} of the {training['of']} labelled training images, as they are: "
            f"{shares}.")


def _means_table(group: Group) -> DocumentTable:
    """Mean and standard deviation of the main scores over the runs."""
    kept = [(key, name, kind) for key, name, kind in SCORES
            if key in MAIN and any(group.mean(node, key)[0] is not None for node in group.nodes())]
    columns = [Column("network"), Column("runs", "integer")]
    for _, name, kind in kept:
        columns += [Column(name, kind), Column("±", kind)]
    rows = [(node, len(group.members), *(number for key, _, _ in kept for number in group.mean(node, key)))
            for node in group.nodes()]
    return DocumentTable(f"Mean over runs, on {group.measured}", columns, rows,
                         "± is the standard deviation over runs.")


def marks_of_group(group: Group) -> list[Item]:
    """A line for each network that is at chance or says one class for nearly all images, by split."""
    told = []
    for member in group.members:
        name = f"{member.name}, " if len(group.members) > 1 else ""
        for split, evaluation in member.evaluations.items():
            told += [f"{name}{split}: {node} {mark['text']}." for node, scores in evaluation.metrics["nodes"].items()
                     if (mark := scores.get("mark"))]
        if "validation" not in member.evaluations:
            told += [f"{name}{VALIDATION}: {node} {text}." for node, text in member.run.marks.items()]
    return [Text(line) for line in told]


def scores_table(group: Group) -> DocumentTable:
    """Every score of every network of every run, and of every split."""
    rows = []
    for member in group.members:
        for split, evaluation in member.evaluations.items():
            for node, scores in evaluation.metrics["nodes"].items():
                rows.append((member.name, split, node, *(scores.get(key) for key, _, _ in SCORES)))
        for node, scores in member.run.scores.items():
            rows.append((member.name, VALIDATION, node, *(scores.get(key) for key, _, _ in SCORES)))
    kept = [i for i in range(len(SCORES)) if any(row[3 + i] is not None for row in rows)]
    columns = [Column("run"), Column("measured on"), Column("network"),
               *(Column(SCORES[i][1], SCORES[i][2]) for i in kept)]
    return DocumentTable("Scores of each run" if len(group.members) > 1 else "Scores", columns,
                         [(*row[:3], *(row[3 + i] for i in kept)) for row in rows],
                         brief=spread_out(len(rows), 100) if len(rows) > 100 else None, folded=len(group.members) > 1)


def _calibration(group: Group, metrics: Metrics) -> Section:
    colours = colours_of(group.diagram)
    items: list[Item] = []
    for node, scores in list(metrics["nodes"].items())[:MOST_NODES]:
        bins, ece = scores["reliability"], charts.finite_or_none(scores["ece"])
        told = "" if ece is None else f"ECE {ece:.2%}. " + _temperature_words(scores)
        items.append(charts.reliability_chart(f"How sure {node} is, and how right", told, bins["confidence"],
                                              bins["accuracy"], bins["count"], colours.get(node, "@muted")))
    rows = [(node, t["value"], t["nll_before"], t["nll_after"], t["ece_before"], t["ece_after"])
            for node, scores in metrics["nodes"].items() if (t := scores.get("temperature"))]
    if rows:
        columns = (Column("network"), Column("temperature", "number"), Column("NLL before", "number"),
                   Column("NLL after", "number"), Column("ECE before", "share"), Column("ECE after", "share"))
        items.append(DocumentTable("Temperature scaling, fitted on validation data", columns, rows))
    bins = [(node, i + 1, c, a, n) for node, scores in metrics["nodes"].items() for i, (c, a, n) in enumerate(zip(
        scores["reliability"]["confidence"], scores["reliability"]["accuracy"], scores["reliability"]["count"],
        strict=True))]
    columns = (Column("network"), Column("bin", "integer"), Column("confidence", "share"), Column("accuracy", "share"),
               Column("images", "integer"))
    items.append(DocumentTable("Reliability by bin", columns, bins, brief=spread_out(len(bins), 90), folded=True))
    return Section("Calibration", items if bins else [])


def _temperature_words(scores: NodeScores) -> str:
    scaling = scores.get("temperature")
    if not scaling or scaling["ece_after"] is None or scaling["value"] is None:
        return ""
    if not scaling.get("identified", True):
        return "Its temperature is not identified, the NLL does not rise towards the end of the interval: 1 is used."
    return f"{scaling['ece_after']:.2%} once its logits are divided by {scaling['value']:.2f}."


def _agreement(metrics: Metrics) -> Section:
    names = list(metrics["nodes"])
    if not metrics["pairs"]:
        return Section("Agreement")
    shares = {tuple(pair.split("|")): scores["agreement"] for pair, scores in metrics["pairs"].items()}
    items: list[Item] = []
    if len(names) <= MOST_CLASSES:
        values = [[1.0 if a == b else shares.get((a, b), shares.get((b, a))) for b in names] for a in names]
        items.append(charts.matrix("Who agrees with whom", "Share of images on which two networks say the same.", names,
                                   values))
    columns = (Column("networks"), Column("agree", "share"), Column("KL", "number"), Column("both right", "share"),
               Column("one right", "share"), Column("both wrong", "share"))
    rows = [(pair.replace("|", " and "), s["agreement"], s["kl"], s["both_right"], s["one_right"], s["both_wrong"])
            for pair, s in metrics["pairs"].items()]
    items.append(DocumentTable("Pairs", columns, rows, brief=spread_out(len(rows), 60) if len(rows) > 60 else None))
    return Section("Agreement", items)


def _classes(group: Group, metrics: Metrics) -> Section:
    names, nodes = metrics["classes"], metrics["nodes"]
    items: list[Item] = []
    for node, scores in list(nodes.items())[:MOST_NODES]:
        confusion = scores.get("confusion")
        if confusion is not None and 1 < len(names) <= MOST_CLASSES:
            about = "Numbers of images: a row is what it is, a column what it was taken for."
            items.append(charts.matrix(f"What {node} takes for what", about, names, confusion, x="taken for", y="is",
                                       share=False))
    confusions = _confusions(metrics)
    if confusions:
        columns = (Column("network"), Column("is"), Column("taken for"), Column("images", "integer"))
        order = sorted(range(len(confusions)), key=lambda i: -int(confusions[i][3]))[:MOST_CONFUSIONS]
        items.append(DocumentTable("What is confused most", columns, [confusions[i] for i in order],
                                   note=f"The {len(order)} most frequent confusions."))
    rows = [(name, *(scores["per_class"][i] for scores in nodes.values())) for i, name in enumerate(names)]
    columns = [Column("class"), *(Column(node, "share") for node in nodes)]
    brief = None
    if len(rows) > 2 * MOST_CLASSES:
        worst = sorted(range(len(rows)), key=lambda i: _mean_of(rows[i][1:]))
        brief = [*worst[:MOST_CLASSES], *worst[-MOST_CLASSES // 2 :]]
    note = "The classes that are hardest, and those that are easiest." if brief else ""
    if counts := metrics.get("images_per_class"):
        columns = [*columns, Column("images", "integer")]
        rows = [(*row, count) for row, count in zip(rows, counts, strict=True)]
    items.append(DocumentTable("Accuracy by class", columns, rows, note, brief, folded=True))
    return Section("Classes", items if names and nodes else [])


def _confusions(metrics: Metrics) -> list[tuple[str, str, str, int]]:
    names = metrics["classes"]
    return [(node, names[i], names[j], count) for node, scores in metrics["nodes"].items()
            for i, row in enumerate(scores.get("confusion") or []) for j, count in enumerate(row) if i != j and count]


def _mean_of(values: Sequence[float | None]) -> float:
    there = [v for value in values if (v := charts.finite_or_none(value)) is not None]
    return sum(there) / len(there) if there else 2.0
