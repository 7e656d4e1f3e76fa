"""The part of a report on held-out data: scores, calibration, who agrees with whom, and what is taken for what."""

from collections.abc import Mapping, Sequence

from tutelage.reporting import charts
from tutelage.reporting.charts import colours_of
from tutelage.reporting.document import Column, DocumentTable, Gallery, Item, Picture, Section, Text, spread_out
from tutelage.reporting.formatting import score_words, written
from tutelage.reporting.groups import VALIDATION, Group
from tutelage.reporting.schema import EvaluationRecord, Metrics, NodeScores
from tutelage.reporting.sections.classes import MOST_CLASSES, MOST_NODES, precision_section
from tutelage.reporting.sections.forecasts import coverage_section, series_section
from tutelage.reporting.sections.fused import sets_section, side_by_side_section
from tutelage.reporting.sections.popularity import popularity_section
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.scores import main_scores
from tutelage.tasks.task import Score

MOST_CONFUSIONS = 12
PAIRED = (("agreement", "agree", "share"), ("kl", "KL", "number"), ("both_right", "both right", "share"),
          ("one_right", "one right", "share"), ("both_wrong", "both wrong", "share"))
"""What is told of a pair of networks, as far as an evaluation has it."""


def evaluation_section(group: Group) -> Section:
    """All that `tutelage evaluate` has left, or the command that makes it."""
    parts = [_means_table(group), scores_table(group)] if len(group.members) > 1 else [scores_table(group)]
    parts = [*marks_of_group(group), *parts]
    if group.measured == VALIDATION:
        missing = next(member for member in group.members if not member.evaluations)
        return Section("Held-out data", [*parts, Text(
            "Calibration, agreement, confusion and the teacher's uncertainty need an evaluation of each run:",
            f"tutelage evaluate {missing.run.folder} --on test")])
    evaluation = group.first.evaluations[group.measured]
    metrics = evaluation.metrics
    told = f"Details are of the run {group.first.name}." if len(group.members) > 1 else ""
    sections = [_calibration(group, evaluation), _agreement(metrics), precision_section(group, evaluation),
                coverage_section(group, evaluation), series_section(evaluation), _classes(evaluation),
                sets_section(evaluation), side_by_side_section(evaluation), _worst(evaluation)]
    words = [Text(text) for text in (told, metrics.get("unit", ""), _training_words(evaluation)) if text]
    return Section(f"Held-out data: {group.measured}", [*parts, *words],
                   [section for section in (*sections, popularity_section(evaluation)) if not section.empty])


def _training_words(evaluation: EvaluationRecord) -> str:
    training, first = evaluation.metrics.get("training"), evaluation.judged_by[0]
    if not training:
        return ""
    found = ", ".join(f"{node} {first.text(number)}" for node, number in training[first.key].items()
                      if number is not None)
    name = "Top-1 accuracy" if first == CLASSIFICATION.scores[0] else score_words(first)
    return (f"{name} on {training['images']} of the {training['of']} labelled training "
            f"{evaluation.metrics.get('samples', 'images')}, as they are: "
            f"{found}.")


def _means_table(group: Group) -> DocumentTable:
    """Mean and standard deviation of the main scores over the runs."""
    kept = [score for score in main_scores(group.judged_by)
            if any(group.mean(node, score.key)[0] is not None for node in group.nodes())]
    columns = [Column("network"), Column("runs", "integer")]
    for score in kept:
        columns += [Column(score.title, score.kind), Column("±", score.kind)]
    rows = [(node, len(group.members), *(number for score in kept for number in group.mean(node, score.key)))
            for node in group.nodes()]
    return DocumentTable(f"Mean over runs, on {group.measured}", columns, rows,
                         "± is the standard deviation over runs." + less_is_better(kept))


def less_is_better(scores: Sequence[Score]) -> str:
    """A sentence on scores of which less is better, where that is not known to everyone in the field."""
    titles = [score.title for score in scores if score.better == "lower" and score not in CLASSIFICATION.scores]
    return f" Less is better of {', '.join(titles)}." if titles else ""


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
    rows, scores = [], group.judged_by
    for member in group.members:
        for split, evaluation in member.evaluations.items():
            if plain := evaluation.metrics.get("baseline"):
                rows.append((member.name, split, plain["name"], *(plain.get(score.key) for score in scores)))
            for node, found in evaluation.metrics["nodes"].items():
                rows.append((member.name, split, node, *(found.get(score.key) for score in scores)))
        for node, found in member.run.scores.items():
            rows.append((member.name, VALIDATION, node, *(found.get(score.key) for score in scores)))
    kept = [i for i in range(len(scores)) if any(row[3 + i] is not None for row in rows)]
    columns = [Column("run"), Column("measured on"), Column("network"),
               *(Column(scores[i].title, scores[i].kind) for i in kept)]
    return DocumentTable("Scores of each run" if len(group.members) > 1 else "Scores", columns,
                         [(*row[:3], *(row[3 + i] for i in kept)) for row in rows],
                         less_is_better([scores[i] for i in kept]).lstrip(),
                         brief=spread_out(len(rows), 100) if len(rows) > 100 else None, folded=len(group.members) > 1)


def _calibration(group: Group, evaluation: EvaluationRecord) -> Section:
    """How sure the networks are, and how right: where the evaluation has that."""
    colours, items, rows = colours_of(group.diagram), list[Item](), []
    binned = {node: (scores, found) for node, scores in evaluation.nodes.items()
              if (found := scores.get("reliability")) is not None}
    for node, (scores, bins) in list(binned.items())[:MOST_NODES]:
        ece = charts.finite_or_none(evaluation.metrics["nodes"][node].get("ece"))
        told = "" if ece is None else f"ECE {ece:.2%}. " + _temperature_words(scores)
        items.append(charts.reliability_chart(f"How sure {node} is, and how right", told, bins["confidence"],
                                              bins["accuracy"], bins["count"], colours.get(node, "@muted")))
    rows = [(node, t["value"], t["nll_before"], t["nll_after"], t["ece_before"], t["ece_after"])
            for node, scores in evaluation.nodes.items() if (t := scores.get("temperature"))]
    if rows:
        columns = (Column("network"), Column("temperature", "number"), Column("NLL before", "number"),
                   Column("NLL after", "number"), Column("ECE before", "share"), Column("ECE after", "share"))
        items.append(DocumentTable("Temperature scaling, fitted on validation data", columns, rows))
    bins = [(node, i + 1, c, a, n) for node, (_, found) in binned.items() for i, (c, a, n) in enumerate(zip(
        found["confidence"], found["accuracy"], found["count"], strict=True))]
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
        items.append(charts.matrix("Who agrees with whom", "How often two networks say the same.", names,
                                   values))
    kept = [told for told in PAIRED if any(told[0] in pair for pair in metrics["pairs"].values())]
    columns = (Column("networks"), *(Column(name, kind) for _, name, kind in kept))
    rows = [(pair.replace("|", " and "), *(found.get(key) for key, _, _ in kept))
            for pair, found in metrics["pairs"].items()]
    items.append(DocumentTable("Pairs", columns, rows, brief=spread_out(len(rows), 60) if len(rows) > 60 else None))
    return Section("Agreement", items)


def _classes(evaluation: EvaluationRecord) -> Section:
    names, nodes = evaluation.metrics["classes"], evaluation.nodes
    items: list[Item] = []
    for node, scores in list(nodes.items())[:MOST_NODES]:
        confusion = scores.get("confusion")
        if confusion is not None and 1 < len(names) <= MOST_CLASSES:
            about = "Numbers of images: a row is what it is, a column what it was taken for."
            items.append(charts.matrix(f"What {node} takes for what", about, names, confusion, x="taken for", y="is",
                                       share=False))
    confusions = _confusions(evaluation)
    if confusions:
        columns = (Column("network"), Column("is"), Column("taken for"), Column("images", "integer"))
        order = sorted(range(len(confusions)), key=lambda i: -int(confusions[i][3]))[:MOST_CONFUSIONS]
        items.append(DocumentTable("What is confused most", columns, [confusions[i] for i in order],
                                   note=f"The {len(order)} most frequent confusions."))
    accuracy = {node: own for node, scores in nodes.items() if isinstance(own := scores.get("per_class"), list)}
    by_score = {node: own for node, scores in nodes.items() if isinstance(own := scores.get("per_class"), dict)}
    if accuracy:
        items.append(_by_class("Accuracy by class", evaluation, accuracy))
    for score in evaluation.judged_by:
        own = {node: found[score.key] for node, found in by_score.items() if score.key in found}
        if own:
            items.append(_by_class(f"{score_words(score)} by {_one_label(evaluation)}", evaluation, own, score))
    return Section(evaluation.metrics.get("labels", "classes").capitalize(), items if names and nodes else [])


def _one_label(evaluation: EvaluationRecord) -> str:
    """What one of `classes` is called."""
    return {"classes": "class"}.get(found := evaluation.metrics.get("labels", "classes"), found.removesuffix("s"))


def _by_class(title: str, evaluation: EvaluationRecord, found: Mapping[str, Sequence[float | None]],
              score: Score = CLASSIFICATION.scores[0]) -> DocumentTable:
    """A row for each class, a column for each network; of many classes the worst and the best are shown."""
    rows = [(name, *(values[i] for values in found.values()))
            for i, name in enumerate(evaluation.metrics["classes"])]
    columns = [Column(_one_label(evaluation)), *(Column(node, score.kind) for node in found)]
    brief = None
    if len(rows) > 2 * MOST_CLASSES:
        worst = sorted(range(len(rows)), key=lambda i: _place_of(rows[i][1:], score))
        brief = [*worst[:MOST_CLASSES], *worst[-MOST_CLASSES // 2 :]]
    note = "The classes that are hardest, and those that are easiest." if brief else ""
    if counts := evaluation.metrics.get("images_per_class"):
        columns = [*columns, Column("images", "integer")]
        rows = [(*row, count) for row, count in zip(rows, counts, strict=True)]
    return DocumentTable(title, columns, rows, note, brief, folded=True)


def _confusions(evaluation: EvaluationRecord) -> list[tuple[str, str, str, int]]:
    names = evaluation.metrics["classes"]
    return [(node, names[i], names[j], count) for node, scores in evaluation.nodes.items()
            for i, row in enumerate(scores.get("confusion") or []) for j, count in enumerate(row) if i != j and count]


def _worst(evaluation: EvaluationRecord) -> Section:
    """Pictures of what a network knows least, where the task draws them."""
    first, found = evaluation.judged_by[0], evaluation.metrics.get("worst") or {}
    items = [Gallery(f"What {node} knows least", [
        Picture(evaluation.picture(image["file"]), (f"{first.title} {written(image['score'], first.kind)}",
                                                    f"id {image['id']}")) for image in images], large=True)
             for node, images in found.items() if images]
    return Section("Worst samples", items)


def _place_of(values: Sequence[float | None], score: Score) -> float:
    """What orders classes by how well they are known, the worst first; last are those without a number."""
    there = [v for value in values if (v := charts.finite_or_none(value)) is not None]
    if not there:
        return float("inf")
    return sum(there) / len(there) * (1 if score.better == "higher" else -1)
