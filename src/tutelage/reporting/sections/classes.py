"""Parts of a report on single classes: precision over recall, and what each class gained over a plain recipe."""

import tomllib
from collections.abc import Sequence
from typing import NamedTuple

from tutelage.reporting import charts
from tutelage.reporting.charts import Point, colours_of
from tutelage.reporting.document import Column, DocumentTable, Item, Section, spread_out
from tutelage.reporting.formatting import score_words, spread
from tutelage.reporting.groups import VALIDATION, Group
from tutelage.reporting.schema import EvaluationRecord
from tutelage.studies.statistics import difference
from tutelage.tasks.task import Score

MOST_NODES = 6
"""Networks with charts of their own."""
MOST_CLASSES = 30
"""Classes with a row and a column of their own in a chart."""
MOST_CURVES = 9
"""Classes with a chart of precision of their own."""


def precision_section(group: Group, evaluation: EvaluationRecord) -> Section:
    """How many boxes are right, and how many objects are found, as the score asked for falls: where that is told."""
    curves = {node: found for node, scores in evaluation.nodes.items() if (found := scores.get("curves"))}
    names, colours = evaluation.metrics["classes"], colours_of(group.diagram)
    if not any(curve for found in curves.values() for curve in found):
        return Section("Precision and recall")
    shown = dict(list(curves.items())[:MOST_NODES])
    about = "Precision at each recall, as the score asked for falls."
    if any(score.key == "map50" for score in evaluation.judged_by):
        about += " A box is right from IoU 0.5 on."
    means = {node: _mean([curve for curve in found if curve is not None]) for node, found in shown.items()
             if any(curve is not None for curve in found)}
    several = len(names) > 1
    title = "Precision over recall" + ", mean of the classes" * several
    items: list[Item] = [charts.precision_chart(title, about, means, colours)]
    for k in [k for k in range(len(names)) if any(found[k] for found in shown.values())][:MOST_CURVES] * several:
        own = {node: curve for node, found in shown.items() if (curve := found[k]) is not None}
        items.append(charts.precision_chart(f"Precision over recall of {names[k]}", about, own, colours))
    rows = [(node, names[k], i / (len(curve) - 1), point) for node, found in curves.items()
            for k, curve in enumerate(found) if curve is not None for i, point in enumerate(curve)]
    columns = (Column("network"), Column("class"), Column("recall", "share"), Column("precision", "share"))
    table = DocumentTable("Precision by recall", columns, rows,
                          brief=spread_out(len(rows), 90) if len(rows) > 90 else None, folded=True)
    return Section("Precision and recall", [*items, table])


class Gain(NamedTuple):
    """One class in one network of one recipe: means over seeds, and the difference, paired by seed, in the score."""

    name: str
    node: str
    recipe: str
    plain: float
    own: float
    mean: float
    low: float | None
    high: float | None
    n: int


def class_gain_section(groups: Sequence[Group], baselines: Sequence[str | None]) -> Section:
    """What each class gained, in each network, over the same network of a plain recipe.

    The plain recipe is a study's baseline, else the first that learns from labels alone. Compared are evaluations of
    one split with the same classes and as many rows.
    """
    there = [group for group in groups if _score_of(group) is not None]
    plain = next((group for group in there if group.name.split(", ")[0] in baselines),
                 next((group for group in there if _learns_alone(group)), None))
    score = None if plain is None else _score_of(plain)
    if plain is None or score is None:
        return Section("Gain by class")
    found = [gain for group in there if group is not plain and _alike(group) == _alike(plain)
             for node in group.diagram.students() if node in plain.nodes()
             for gain in _gains(group, plain, node, score)]
    share = score.kind == "share"
    about = (f"Differences in {score.title} to {plain.name}{', in points' * share}; "
             "with 95 % intervals where there are three seeds or more.")
    items: list[Item] = []
    for node in dict.fromkeys(gain.node for gain in found):
        own = [gain for gain in found if gain.node == node]
        if len(own) <= MOST_CLASSES:
            items.append(charts.forest(f"What each class gained in {node}", about,
                                       _points(own, score), x=f"{'points of ' * share}{score.title}"))
    kind = "points" if share else "number"
    columns = (Column("class"), Column("network"), Column("recipe"),
               Column(f"{score.title} of {plain.name}", score.kind), Column(score.title, score.kind),
               Column("gain", kind), Column("95 % from", kind), Column("to", kind), Column("n", "integer"))
    brief = sorted(range(len(found)), key=lambda i: found[i].mean)
    brief = [*brief[:MOST_CLASSES], *brief[-MOST_CLASSES:]] if len(found) > 3 * MOST_CLASSES else None
    return Section("Gain by class", [*items, DocumentTable(
        f"{score_words(score)} by class, beside {plain.name}", columns, found,
        f"A gain is a recipe's {score.title} less that of {plain.name}, paired by seed."
        + " The classes that lost and gained most." * (brief is not None), brief)] if found else [])


def _gains(group: Group, plain: Group, node: str, score: Score) -> list[Gain]:
    ours, theirs = _by_seed(group, node, score), _by_seed(plain, node, score)
    found = []
    for k, name in enumerate(_alike(plain)[1]):
        own, other = ({seed: number for seed, values in by_seed.items()
                       if (number := charts.finite_or_none(values[k])) is not None} for by_seed in (ours, theirs))
        if own.keys() & other.keys():
            d = difference(own, other)
            found.append(Gain(name, node, group.name, sum(other.values()) / len(other), sum(own.values()) / len(own),
                              d["mean"], d["low"], d["high"], d["n"]))
    return found


def _points(gains: Sequence[Gain], score: Score) -> list[Point]:
    """Green where a class is clearly better, red where it is worse; grey where the interval holds 0, or is none."""
    scale, sign = 100 if score.kind == "share" else 1, 1 if score.better == "higher" else -1
    several, made = len({gain.recipe for gain in gains}) > 1, []
    for gain in gains:
        around = None if gain.low is None or gain.high is None else (scale * gain.low, scale * gain.high)
        clear = around is not None and (around[0] > 0 or around[1] < 0)
        colour = "@muted" if not clear else "@good" if sign * gain.mean > 0 else "@bad"
        name = f"{gain.name}, {gain.recipe}" if several else gain.name
        made.append(Point(name, colour, scale * gain.mean, 0, around))
    return made


def _score_of(group: Group) -> Score | None:
    """The first score that an evaluation has of each class."""
    if group.measured == VALIDATION:
        return None
    evaluation = group.first.evaluations[group.measured]
    keys = {key for scores in evaluation.nodes.values() if isinstance(own := scores.get("per_class"), dict)
            for key in own}
    plain = any(isinstance(scores.get("per_class"), list) for scores in evaluation.nodes.values())
    return next((score for score in group.judged_by if score.key in keys), group.judged_by[0] if plain else None)


def _alike(group: Group) -> tuple[str, list[str], int]:
    """What must be the same of two recipes whose classes are compared."""
    metrics = group.first.evaluations[group.measured].metrics
    return group.measured, metrics["classes"], metrics["rows"]


def _by_seed(group: Group, node: str, score: Score) -> dict[int, Sequence[float | None]]:
    """Seed -> a number of each class."""
    found: dict[int, Sequence[float | None]] = {}
    for member in group.members:
        own = member.evaluations[group.measured].nodes.get(node, {}).get("per_class")
        values = own.get(score.key) if isinstance(own, dict) else own
        if values is not None:
            found[_seed(member.run.config)] = values
    return found


def _seed(config: str) -> int:
    tables = tomllib.loads(config)
    found = {**tables.get("train", {}), **tables.get("python", {})}.get("seed", 0)
    return found if isinstance(found, int) else 0


def _learns_alone(group: Group) -> bool:
    return {link.source for link in group.diagram.links} == {"labels"}


def _mean(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [spread(points)[0] for points in zip(*curves, strict=True)]
