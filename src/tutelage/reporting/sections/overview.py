"""The first part of a report: each network's accuracy, large; all of them in one table; accuracy against cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.reporting import charts
from tutelage.reporting.charts import Point, colours_of
from tutelage.reporting.document import Card, Cards, Cell, Chart, Column, DocumentTable, Item, Section, Text, spread_out
from tutelage.reporting.formatting import score_words, spread, written
from tutelage.reporting.groups import VALIDATION, Group, network_of
from tutelage.reporting.schema import Cost, NodeCost, exports_in
from tutelage.reporting.sections.evaluation import less_is_better
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Score

MOST_CARDS = 6
MOST_SCORES = 5
"""Of a task, in the table of all networks: the first, and the next of its main ones that are told each epoch."""
EXPORTED = (("node", "network", "text"), ("kind", "format", "text"), ("int8", "int8", "text"),
            ("bytes", "size", "bytes"),
            ("parameters", "parameters", "integer"), ("checked.images", "images checked", "integer"),
            ("checked.agreement", "agrees with the network", "share"), ("checked.accuracy", "accuracy", "share"),
            ("checked.accuracy_of_network", "accuracy of the network", "share"),
            ("checked.relative_difference", "largest relative difference", "number"),
            ("latency.median_ms", "one image", "milliseconds"))
"""What is told of an export: where its JSON has it, what it is called, and its kind."""


def glance_section(groups: Sequence[Group]) -> Section:
    """What was learned, in a few large numbers and one table over all recipes."""
    main = max(groups, key=lambda group: len(group.diagram.links))
    items: list[Item] = [_cards(main), _table(groups)]
    unlike = sorted({group.measured for group in groups})
    if len(unlike) > 1:
        items.append(Text(f"Beware: these {_what(groups)} are of unlike images ({' and '.join(unlike)}). "
                          "Evaluate every run on the same split to compare them."))
    return Section("At a glance", items)


def _firsts(groups: Sequence[Group]) -> list[Score]:
    """The first score of each task, each once."""
    return list(dict.fromkeys(group.judged_by[0] for group in groups))


def _what(groups: Sequence[Group]) -> str:
    """What the networks are judged by, in a word."""
    return "accuracies" if _firsts(groups) == [CLASSIFICATION.scores[0]] else "scores"


def cost_section(groups: Sequence[Group]) -> Section:
    """What the networks cost, and which are the best for their cost."""
    firsts = _firsts(groups)
    title = f"Cost against {score_words(firsts[0], begins=False) if _what(groups) == 'accuracies' else 'scores'}"
    measured = {group.name: cost for group in groups if (cost := _cost(group)) is not None}
    if not measured:
        return Section(title, [Text("Parameters, FLOPs and latency are not measured yet:",
                                    f"tutelage evaluate {groups[0].first.run.folder} --on test")])
    axes = (("parameters", "parameters"), ("flops", "FLOPs"), ("latency", "ms an image"))
    items: list[Item] = [chart for score in firsts for axis in axes
                         if (chart := _plane([group for group in groups if group.judged_by[0] == score], groups, score,
                                             *axis)) is not None]
    items.append(_cost_table(groups, measured))
    told = {f"{cost['convention'].rstrip('.')}. Measured on: {_machine(cost)}." for cost in measured.values()}
    return Section(title, [*items, *(Text(text) for text in sorted(told))])


def exports_section(folders: Sequence[Path]) -> Section:
    """Exported networks that lie in the folders, as the JSON beside each says."""
    found = {path: about for folder in folders for path, about in exports_in(folder).items()}
    rows = [(path.with_suffix("").name, *(_dug(about, key) for key, _, _ in EXPORTED)) for path, about in found.items()]
    columns = [Column("file"), *(Column(name, kind) for _, name, kind in EXPORTED)]
    marks = [Text(f"{path.with_suffix('').name}: {about.get('node', 'the network')} {text}.")
             for path, about in found.items() if (text := _dug(about, "checked.mark.text"))]
    return Section("Exports", [*marks, DocumentTable("Exported networks, each run again after export", columns, rows)]
                   if rows else [])


def _dug(about: Mapping[str, Any], path: str) -> Cell:
    """A word or number of nested mappings, by its dotted path; None where there is none."""
    value: Any = about
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str | int | float) else None


def _cards(group: Group) -> Cards:
    colours, cards, first = colours_of(group.diagram), [], group.judged_by[0]
    nodes = {node.name: node for node in group.diagram.nodes}
    for name in group.nodes()[:MOST_CARDS]:
        mean, deviation = group.mean(name, first.key)
        node = nodes.get(name)
        kind = "mean of the students" if node is None else " · ".join(filter(None, (node.words, node.network)))
        several = [] if deviation is None else [f"± {written(deviation, first.kind)} over {len(group.members)} runs"]
        cards.append(Card(name, mean, first.kind, [kind, *several], colours.get(name, "@muted")))
    of = "validation data" if group.measured == VALIDATION else f"{group.measured} data"
    return Cards(f"{score_words(first)} of {group.name} on {of}", cards)


def _short(group: Group) -> list[Score]:
    """The scores of a group that its table shows, the first in front."""
    return [score for i, score in enumerate(group.judged_by)
            if i == 0 or (score.main and score.each_epoch)][:MOST_SCORES]


def _table(groups: Sequence[Group]) -> DocumentTable:
    scores = list(dict.fromkeys([*_firsts(groups), *(score for group in groups for score in _short(group))]))
    firsts, rows = set(_firsts(groups)), []
    for group in groups:
        kinds, costs = {node.name: node.words for node in group.diagram.nodes}, _costs(group, groups)
        own = _short(group)
        for node in group.nodes():
            known, numbers = costs.get(node), list[float | None]()
            for score in scores:
                mean, deviation = group.mean(node, score.key) if score in own else (None, None)
                numbers += [mean, deviation] if score in firsts else [mean]
            rows.append((group.name, node, kinds.get(node, "ensemble"), len(group.members), group.measured, *numbers,
                         known["parameters"] if known else None, spread([m.run.seconds for m in group.members])[0]))
    columns = [Column("recipe"), Column("network"), Column("kind"), Column("runs", "integer"), Column("measured on")]
    for score in scores:
        columns += [Column(score.title, score.kind), *([Column("± over runs", score.kind)] if score in firsts else [])]
    columns += [Column("parameters", "integer"), Column("training time", "seconds")]
    kept = [i for i in range(len(columns)) if i < 6 or any(row[i] is not None for row in rows)]
    several = any(columns[i].name == "± over runs" for i in kept)
    note = "± is the standard deviation over runs that differ in their seed." if several else ""
    return DocumentTable("All networks", [columns[i] for i in kept], [tuple(row[i] for i in kept) for row in rows],
                         (note + less_is_better(scores)).lstrip(),
                         brief=spread_out(len(rows), 120) if len(rows) > 120 else None)


def _cost(group: Group) -> Cost | None:
    return next((member.cost for member in group.members if member.cost is not None), None)


def _costs(group: Group, groups: Sequence[Group]) -> dict[str, NodeCost]:
    """Node -> cost, where need be as it was measured in another run of the same network for the same data."""
    known = {key: cost for other in [*groups, group] for member in other.members if member.cost is not None
             for node, cost in member.cost["nodes"].items() if (key := network_of(member.run, node)) is not None}
    own = _cost(group)
    found = {node.name: known[key] for node in group.diagram.nodes
             if (key := network_of(group.members[0].run, node.name)) in known}
    return {**found, **(own["nodes"] if own else {})}


def _machine(cost: Cost) -> str:
    machine = cost["machine"]
    return machine if isinstance(machine, str) else ", ".join(f"{key} {value}" for key, value in machine.items())


def _value(cost: NodeCost, axis: str) -> float | None:
    if axis == "latency":
        return cost["latency"]["1"]["median_ms"] if "1" in cost["latency"] else None
    return cost["parameters"] if axis == "parameters" else cost["flops"]


def _plane(shown: Sequence[Group], groups: Sequence[Group], score: Score, axis: str, words: str) -> Chart | None:
    """The networks of the groups of one task by what they cost; costs are known from all groups."""
    points, few = [], len(groups) <= 3
    every = list(dict.fromkeys(node for group in groups for node in group.nodes()))
    for number, group in enumerate(shown):
        for node, cost in _costs(group, groups).items():
            mean, deviation = group.mean(node, score.key)
            x = charts.finite_or_none(_value(cost, axis))
            if x is not None and x > 0 and mean is not None and charts.finite_or_none(mean) is not None:
                around = None if deviation is None else (mean - deviation, mean + deviation)
                colour = f"@{(number if few else every.index(node)) % charts.COLOURS + 1}"
                if len(groups) == 1:
                    colour = colours_of(group.diagram).get(node, "@muted")
                name = f"{node}, {group.name}" if few and len(groups) > 1 else node
                points.append(Point(name, colour, x, mean, around, group.name))
    if not points:
        return None
    about = ("Up" if score.better == "higher" else "Down") + " and to the left is better." + (
        " Point at a mark to see its recipe." * (not few)) + (
        " Bars are one standard deviation over runs." if any(point.around for point in points) else "")
    return charts.plane(f"{score_words(score)} against {words}", about, points,
                        front_of(points, lower=score.better == "lower"), x=words, y=score.title,
                        share=score.kind == "share")


def front_of(points: Sequence[Point], *, lower: bool = False) -> list[Point]:
    """The points that no other beats in both cost and score (the Pareto front), the cheapest first.

    Of the score more is better, or less where `lower`.
    """
    sign = -1 if lower else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def _cost_table(groups: Sequence[Group], costs: dict[str, Cost]) -> DocumentTable:
    rows = []
    for group in groups:
        for node, cost in costs[group.name]["nodes"].items() if group.name in costs else ():
            times = [cost["latency"].get(batch) for batch in ("1", "32")]
            rows.append((group.name, node, cost["parameters"], cost["flops"], cost["bytes"], cost["compression"],
                         *(number for time in times for number in (
                             (time["median_ms"], time["low_ms"], time["high_ms"], time["images_per_second"]) if time
                             else (None,) * 4))))
    timed = [Column(f"{name}, batch {batch}", kind) for batch in (1, 32) for name, kind in (
        ("latency", "milliseconds"), ("lower quartile", "milliseconds"), ("upper quartile", "milliseconds"),
        ("images/s", "integer"))]
    columns = [Column("recipe"), Column("network"), Column("parameters", "integer"), Column("FLOPs", "integer"),
               Column("file", "bytes"), Column("compression", "number"), *timed]
    return DocumentTable("What each network costs", columns, rows)
