"""Parts of a report on forecasts: how many targets fall into each interval, and the scores of each series."""

from tutelage.reporting import charts
from tutelage.reporting.charts import Line, colours_of
from tutelage.reporting.document import Column, DocumentTable, Item, Section
from tutelage.reporting.groups import Group
from tutelage.reporting.schema import EvaluationRecord

MOST_NODES = 8
"""Networks with a line in the chart."""
MOST_SERIES = 20
"""Series that are shown of many: the hardest and, half as many, the easiest."""
TITLES = {"mae": "MAE", "coverage": "in 90 %", "unit_mae": "MAE in own unit"}


def coverage_section(group: Group, evaluation: EvaluationRecord) -> Section:
    """How many targets each interval holds: where networks say how far off they may be."""
    curves = {node: curve for node, scores in evaluation.nodes.items()
              if (curve := scores.get("coverage_curve")) is not None}
    if not curves:
        return Section("Intervals")
    colours = colours_of(group.diagram)
    just = [Line("as many as it should", "@ink", [0, 1], [0.0, 1.0], dash="dot")]
    drawn = [Line(node, colours.get(node, "@muted"), curve["interval"], curve["share"])
             for node, curve in list(curves.items())[:MOST_NODES]]
    about = ("The share of targets that lie in each central interval of their forecast. Below the dotted line a "
             "network is too sure, above it not sure enough.")
    items: list[Item] = [charts.share_chart("How many targets the intervals hold", about, [*just, *drawn],
                                            x="probability of the interval", y="share of targets in it")]
    first = next(iter(curves.values()))
    rows = [(f"{wanted:.0%}", *(curve["share"][i] for curve in curves.values()))
            for i, wanted in enumerate(first["interval"])]
    columns = (Column("interval"), *(Column(node, "share") for node in curves))
    items.append(DocumentTable("Coverage by interval", columns, rows, folded=True))
    return Section("Intervals", items)


def series_section(evaluation: EvaluationRecord) -> Section:
    """The scores of each series beside the naive forecast; of many the hardest and the easiest are shown."""
    found = {node: told for node, scores in evaluation.nodes.items() if (told := scores.get("by_series")) is not None}
    if not found:
        return Section("Series")
    first = next(iter(found.values()))
    keys = [key for key in TITLES if key in first]
    naive = str((evaluation.metrics.get("baseline") or {}).get("name", "naive forecast"))
    columns = [Column("series"), Column(evaluation.metrics.get("samples", "samples"), "integer"),
               Column(f"MAE of the {naive}", "number")]
    columns += [Column(f"{node}: {TITLES[key]}", "share" if key == "coverage" else "number")
                for node in found for key in keys]
    rows = [(name, first["count"][i], first["naive_mae"][i],
             *(told[key][i] for told in found.values() for key in keys)) for i, name in enumerate(first["series"])]
    brief = None
    if len(rows) > 2 * MOST_SERIES:
        last = list(found.values())[-1]["mae"]
        order = sorted(range(len(rows)), key=lambda i: -(charts.finite_or_none(last[i]) or 0.0))
        brief = [*order[:MOST_SERIES], *order[-MOST_SERIES // 2:]]
    worse = {node: sum(1 for own, plain in zip(told["mae"], first["naive_mae"], strict=True)
                       if own is not None and plain is not None and own >= plain) for node, told in found.items()}
    note = f"Series in which the {naive} is at least as good: " + ", ".join(
        f"{node} {count} of {len(rows)}" for node, count in worse.items()) + "."
    return Section("Series", [DocumentTable("Scores by series", columns, rows,
                                            note + " Shown are the hardest and the easiest." * (brief is not None),
                                            brief)])
