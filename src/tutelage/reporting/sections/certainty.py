"""The part of a report on the teacher's uncertainty: how its weight is spread, and what it is worth."""

from collections.abc import Sequence
from itertools import pairwise

from tutelage.reporting import charts
from tutelage.reporting.charts import Line, colours_of
from tutelage.reporting.document import Column, DocumentTable, Gallery, Item, Picture, Section, Text
from tutelage.reporting.formatting import spread, written
from tutelage.reporting.groups import VALIDATION, Group
from tutelage.reporting.schema import EvaluationRecord, Trusted, Uncertainty

MOST_CLASSES = 40


def uncertainty_section(group: Group) -> Section:
    """The teacher's weight on each image; empty where there is no teacher, or no evaluation."""
    if group.measured == VALIDATION:
        return Section("Trust in the teacher")
    evaluation = group.first.evaluations[group.measured]
    found = evaluation.metrics["uncertainty"]
    if found is None:
        return Section("Trust in the teacher")
    title = f"Trust in {found['teacher']}"
    items: list[Item | None] = [
        Text("The weight w of an image is 1 where the teacher is sure and 0 where it knows nothing; it scales how much "
             "the students learn from the teacher on this image."), _summary(found), _distribution(found)]
    items += [*_deciles(group, found), *_by_class(evaluation, found)]
    items += [_gallery("Images on which it is trusted most", evaluation, found["most"]),
              _gallery("Images on which it is trusted least", evaluation, found["least"])]
    return Section(title, [item for item in items if item is not None])


def _summary(found: Uncertainty) -> DocumentTable:
    columns = (Column("mean of w", "number"), Column("where it is right", "number"),
               Column("where it is wrong", "number"), Column("AUROC of 1 - w for its errors", "number"))
    note = "AUROC: how often a wrong answer has a smaller w than a right one. 0.5 is chance, 1 is perfect."
    row = (found["mean"], found["mean_right"], found["mean_wrong"], found["auroc"])
    return DocumentTable("w at a glance", columns, [row], note)


def _distribution(found: Uncertainty) -> charts.Chart:
    edges, count = found["histogram"]["edges"], found["histogram"]["count"]
    middles = [((a or 0) + (b or 0)) / 2 for a, b in pairwise(edges)]
    marks = {"mean where right": found["mean_right"], "mean where wrong": found["mean_wrong"]}
    return charts.bars("How w is spread", "Number of images by the teacher's weight.", middles, count, x="w",
                       y="images", marks=marks)


def _deciles(group: Group, found: Uncertainty) -> list[Item]:
    deciles, colours = found["deciles"], colours_of(group.diagram)
    tenths = list(range(1, len(deciles["count"]) + 1))
    drawn = [Line(node, colours.get(node, "@muted"), tenths, shares) for node, shares in deciles["accuracy"].items()]
    chart = charts.lines("Accuracy by trust", "From the tenth of the images trusted least to that trusted most.", drawn,
                         x="tenth of the images by w", share=True)
    nodes = list(deciles["accuracy"])
    columns = [Column("tenth", "integer"), Column("w from", "number"), Column("to", "number"),
               Column("images", "integer"), *(Column(node, "share") for node in nodes)]
    rows = [(i + 1, deciles["edges"][i], deciles["edges"][i + 1], deciles["count"][i],
             *(deciles["accuracy"][node][i] for node in nodes)) for i in range(len(tenths))]
    return [chart, DocumentTable("Accuracy by tenth of w", columns, rows, folded=True)]


def _by_class(evaluation: EvaluationRecord, found: Uncertainty) -> list[Item]:
    names = evaluation.metrics["classes"]
    rows = list(zip(names, found["per_class"], strict=True))
    order = sorted(range(len(rows)), key=lambda i: charts.finite_or_none(rows[i][1]) or 0)
    brief = [*order[: MOST_CLASSES // 2], *order[-MOST_CLASSES // 2 :]] if len(rows) > MOST_CLASSES else order
    note = "The classes trusted least, and those trusted most." if len(rows) > MOST_CLASSES else ""
    return [DocumentTable("Mean w by class", (Column("class"), Column("mean of w", "number")), rows, note, brief,
                          folded=True)]


def _gallery(title: str, evaluation: EvaluationRecord, images: list[Trusted]) -> Gallery | None:
    names = evaluation.metrics["classes"]
    pictures = [Picture(evaluation.picture(image["file"]), (
        f"w = {written(image['weight'], 'number')}", f"is {names[image['label']]}" + (
            ", and said so" if image["label"] == image["prediction"] else f", said {names[image['prediction']]}")))
        for image in images]
    return Gallery(title, pictures) if pictures else None


def gain_section(groups: Sequence[Group]) -> Section:
    """What each recipe's students gain over plain distillation where the teacher is trusted little, and much.

    Compared are evaluations of one split whose tenths have the same bounds: then they are of the same images.
    """
    plain = next((group for group in groups if _is_plain(group) and _tenths(group)), None)
    if plain is None:
        return Section("Gain by trust")
    bounds, theirs = plain.first.evaluations[plain.measured].metrics["uncertainty"], _tenths(plain)
    assert bounds is not None
    rows, items, about = [], list[Item](), f"Points of accuracy over {plain.name}, by tenth of the images by w."
    for node in plain.diagram.students():
        drawn = []
        for number, group in enumerate(groups):
            own = _tenths(group, bounds)
            if group is plain or node not in own or node not in theirs:
                continue
            gains = [None if a is None or b is None else a - b for a, b in zip(own[node], theirs[node], strict=True)]
            rows += [(group.name, node, i + 1, gain) for i, gain in enumerate(gains)]
            drawn.append(Line(group.name, f"@{number % charts.COLOURS + 1}", range(1, len(gains) + 1),
                              [None if gain is None else 100 * gain for gain in gains]))
        if drawn:
            items.append(charts.lines(f"What {node} gains", about, drawn, x="tenth of the images by w", y="points"))
    columns = (Column("recipe"), Column("network"), Column("tenth", "integer"), Column("gain", "points"))
    table = DocumentTable(f"Gain over {plain.name} by tenth of w", columns, rows,
                          "In points of accuracy, means over runs.",
                          folded=True)
    return Section("Gain by trust", [*items, table] if rows else [])


def _is_plain(group: Group) -> bool:
    """Whether this is distillation by a frozen teacher that counts each image alike, and without peers."""
    kinds = {node.name: node.words for node in group.diagram.nodes} | {"labels": "labels"}
    sources = {kinds[link.source] for link in group.diagram.links}
    return sources == {"labels", "frozen"} and not any(link.sample_weight for link in group.diagram.links)


def _tenths(group: Group, like: Uncertainty | None = None) -> dict[str, list[float | None]]:
    """Node -> accuracy by tenth, mean over runs; nothing if the tenths are not those of `like`."""
    if group.measured == VALIDATION:
        return {}
    found = [member.evaluations[group.measured].metrics["uncertainty"] for member in group.members]
    deciles = [one["deciles"] for one in found if one is not None]
    edges = like["deciles"] if like is not None else deciles[0] if deciles else None
    if edges is None or any((one["edges"], one["count"]) != (edges["edges"], edges["count"]) for one in deciles):
        return {}
    nodes = {node for one in deciles for node in one["accuracy"]}
    return {node: [spread(list(values))[0] for values in zip(*(one["accuracy"][node] for one in deciles
                                                              if node in one["accuracy"]), strict=True)]
            for node in sorted(nodes)} if len(deciles) == len(group.members) else {}
