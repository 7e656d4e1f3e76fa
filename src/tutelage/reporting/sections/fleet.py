"""The part of a report on devices that seldom hear each other: what each spent, and accuracy against megabytes."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.reporting import charts
from tutelage.reporting.charts import Line, Point, colours_of
from tutelage.reporting.document import Column, DocumentTable, Item, Section, Text
from tutelage.reporting.formatting import score_words, spread
from tutelage.reporting.groups import Group

MEGA = 1e6
ABOUT = ("A message is what a device says of all public rows, as 16-bit numbers; a lost one costs what another does. "
         "Computing is that of training, three times a forward pass, without what a processor does besides.")


def fleet_section(group: Group) -> Section:
    """Device by device what a run cost, as the mean over its runs, and how accuracy grew with it."""
    if not _costs(group):
        return Section("What the devices spent", [])
    score, rows = group.judged_by[0], []
    found = _costs(group)
    for device in found[0]:
        def mean(key: str, device: str = device) -> float | None:
            return spread([costs[device][key] for costs in found])[0]

        rows.append((device, mean("sent"), mean("lost"), _over(mean("bytes"), MEGA), mean("sending_seconds"),
                     mean("sending_joules"), mean("computing_seconds"), mean("computing_joules"),
                     group.mean(device, score.key)[0]))
    columns = (Column("device"), Column("messages", "number"), Column("lost", "number"), Column("MB sent", "number"),
               Column("s on the air", "number"), Column("J on the air", "number"), Column("s computing", "number"),
               Column("J computing", "number"), Column(score_words(score), score.kind))
    items: list[Item] = [Text(ABOUT), DocumentTable("What the devices spent", columns, rows)]
    drawn = _growth(group)
    if drawn:
        items.append(charts.lines(f"{score_words(score)} against megabytes sent", "On validation data, by device.",
                                  drawn, x="MB", share=score.kind == "share"))
    return Section("What the devices spent", items)


def fleets_section(groups: Sequence[Group]) -> Section:
    """The mean accuracy of the devices of each recipe against what all of them sent."""
    fleets = [group for group in groups if _costs(group)]
    if len(fleets) < 2:
        return Section("Accuracy against megabytes", [])
    score, rows, points = fleets[0].judged_by[0], [], []
    for place, group in enumerate(fleets):
        found = _costs(group)
        sent = spread([sum(costs[device]["bytes"] for device in costs) / MEGA for costs in found])[0]
        joules = spread([sum(costs[device]["sending_joules"] + costs[device]["computing_joules"] for device in costs)
                         for costs in found])[0]
        reached = spread([_mean_score(group, run, list(found[0]), score.key) for run in range(len(group.members))])
        rows.append((group.name, sent, joules, *reached))
        if sent and reached[0] is not None:
            points.append(Point(group.name, f"@{place % charts.COLOURS + 1}", sent, reached[0]))
    columns = (Column("recipe"), Column("MB of all devices", "number"), Column("J of all devices", "number"),
               Column(f"{score_words(score)}, mean of the devices", score.kind), Column("sd over runs", score.kind))
    items: list[Item] = [DocumentTable("Accuracy against megabytes", columns, rows)]
    if points:
        about = "The mean of the devices; who sends nothing is in the table alone."
        items.append(charts.plane("Accuracy against megabytes", about, points, [], x="MB of all devices",
                                  y=score_words(score), share=score.kind == "share"))
    return Section("Accuracy against megabytes", items)


def _costs(group: Group) -> list[Mapping[str, Mapping[str, Any]]]:
    """Of each run that has them: device -> its costs at the end."""
    last = [member.run.epochs[-1] for member in group.members if member.run.epochs]
    return [costs for epoch in last if (costs := epoch.get("controllers", {}).get("fleet"))]


def _growth(group: Group) -> list[Line]:
    """Of the first run, by device: its first score after each epoch over the megabytes it has sent."""
    colours, key, lines = colours_of(group.diagram), group.judged_by[0].key, []
    epochs = [(costs, epoch["metrics"]["nodes"]) for epoch in group.first.run.epochs
              if (costs := epoch.get("controllers", {}).get("fleet"))]
    for device in _costs(group)[0]:
        sent = [costs[device]["bytes"] / MEGA for costs, _ in epochs]
        scores = [nodes.get(device, {}).get(key) for _, nodes in epochs]
        if sent and sent[-1] > 0:
            lines.append(Line(device, colours.get(device, "@muted"), sent, scores))
    return lines


def _mean_score(group: Group, run: int, devices: Sequence[str], key: str) -> float | None:
    return spread([group.values(device, key)[run] for device in devices])[0]


def _over(number: float | None, unit: float) -> float | None:
    return None if number is None else number / unit
