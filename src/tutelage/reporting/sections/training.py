"""The part of a report on training: the graph, what each student learned from over time, and the curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.reporting import charts
from tutelage.reporting.charts import MOST_LINES, Line, colours_of
from tutelage.reporting.document import Cell, Column, DocumentTable, Item, Section, Text, spread_out
from tutelage.reporting.formatting import score_words, spread
from tutelage.reporting.graph_model import Diagram, Link
from tutelage.reporting.graph_svg import draw_graph
from tutelage.reporting.groups import Group
from tutelage.tasks.task import Score

MOST_CHARTS = 6
MOST_ROWS = 120
"""Rows of a long table that a page shows."""


@dataclass(frozen=True)
class Share:
    """An edge's mean loss and its share of the loss of its student, in one epoch of one run."""

    run: str
    epoch: int
    link: Link
    loss: float | None
    share: float | None


def graph_section(group: Group) -> Section:
    """The graph drawn, each edge in words, and its share of the loss over time."""
    shares = shares_of(group)
    by_edge = _over_time(shares)
    last = {name: values[-1] if values else None for name, values in by_edge.items()}
    items: list[Item] = [draw_graph(group.diagram, last), _edges(group.diagram, by_edge, shares)]
    students = [student for student in group.diagram.students()
                if sum(link.learner == student for link in group.diagram.links) > 1]
    if shares:
        items += [_stack(group, student, by_edge) for student in students[:MOST_CHARTS]]
        rows = [(s.run, s.epoch, s.link.student, s.link.name, s.loss, s.share) for s in shares]
        columns = (Column("run"), Column("epoch", "integer"), Column("student"), Column("edge"),
                   Column("loss", "number"), Column("share of its student's loss", "share"))
        brief = spread_out(len(rows), MOST_ROWS)
        items.append(DocumentTable("Losses by edge and epoch", columns, rows, brief=brief, folded=True))
    return Section("Who learns from whom", items)


def curves_section(group: Group) -> Section:
    """Scores on validation data and losses, epoch by epoch, with the spread over runs."""
    if not any(member.run.epochs for member in group.members):
        return Section("Learning curves", [Text("No epoch has finished yet: the log holds no number.")])
    items: list[Item] = []
    for score in group.judged_by:
        drawn = _curves(group, score) if score.each_epoch and score.main else []
        if drawn:
            items.append(charts.lines(f"{score_words(score)} on validation data", _spread_words(group), drawn,
                                      share=score.kind == "share"))
    items.append(charts.lines("Training loss", "The sum over the edges that end at a network. " + _spread_words(group),
                              _losses(group)))
    items += [_scores_table(group), _notes(group)]
    return Section("Learning curves", [item for item in items if item is not None])


def shares_of(group: Group) -> list[Share]:
    """Of each run, epoch and edge. Where losses do not add up to more than 0 there is no share."""
    links = [(link, link.name, link.learner) for link in group.diagram.links]
    found = []
    for member in group.members:
        for epoch in member.run.epochs:
            losses: dict[str, list[float]] = {}
            for _, name, learner in links:
                if name in epoch["losses"]:
                    losses.setdefault(learner, []).append(epoch["losses"][name])
            totals = {learner: _total(given) for learner, given in losses.items()}
            for link, name, learner in links:
                loss, total = epoch["losses"].get(name), totals.get(learner)
                share = None if total is None else 0.0 if loss is None else loss / total  # None: not live in this epoch
                found.append(Share(member.name, epoch["epoch"], link, loss, share))
    return found


def _total(losses: Sequence[float]) -> float | None:
    """The sum of which each loss is a share; None where there can be none."""
    total = sum(losses)
    return total if all(loss >= 0 for loss in losses) and 0 < total < float("inf") else None


def _over_time(shares: Sequence[Share]) -> dict[str, list[float | None]]:
    """Edge -> its share by epoch, mean over runs."""
    by_epoch: dict[tuple[str, int], list[float | None]] = {}
    for share in shares:
        by_epoch.setdefault((share.link.name, share.epoch), []).append(share.share)
    found: dict[str, list[float | None]] = {}  # empty where no epoch has finished
    for (name, _), values in sorted(by_epoch.items()):
        found.setdefault(name, []).append(spread(values)[0])
    return found


def _edges(diagram: Diagram, by_edge: dict[str, list[float | None]], shares: Sequence[Share]) -> DocumentTable:
    columns = [Column("#", "integer"), Column("learns"), Column("from"), Column("divergence"), Column("T"),
               Column("weight"), Column("each image counts")]
    timed = bool(shares)
    if timed:
        columns += [Column("share at first", "share"), Column("at last", "share"), Column("over time", "sparkline")]
    rows = []
    for number, link in enumerate(diagram.links, 1):
        row: list[Cell | Sequence[float | None]] = [number, link.student, link.teacher, link.by,
                                                    link.temperature, link.weight, link.sample_weight or "1"]
        times = by_edge.get(link.name, [])
        rows.append([*row, times[0], times[-1], times] if times else row)
    note = "A share is of the loss of the network that learns, mean over an epoch and over the runs." if timed else ""
    return DocumentTable("Edges", columns, rows, note, brief=spread_out(len(rows), 60) if len(rows) > 60 else None)


def _stack(group: Group, student: str, by_edge: dict[str, list[float | None]]) -> charts.Chart:
    colours = colours_of(group.diagram)
    links = [link for link in group.diagram.links if link.learner == student]
    links.sort(key=lambda link: -sum(value or 0 for value in by_edge[link.name]))
    epochs = range(1, max(map(len, by_edge.values())) + 1)
    drawn = [Line(f"from {link.teacher} by {link.by}", colours[link.source], epochs, by_edge[link.name])
             for link in links]
    return charts.stacked(f"What {student} learns from", "Shares of its training loss.", drawn)


def _curves(group: Group, score: Score) -> list[Line]:
    colours, found = colours_of(group.diagram), []
    frozen = {node.name for node in group.diagram.nodes if node.kind == "frozen"}
    runs = [member.run.epochs for member in group.members]
    names = {node for epochs in runs for epoch in epochs for node in epoch["metrics"]["nodes"]}
    order = [node.name for node in group.diagram.nodes if node.name in names]
    for node in [*order, *sorted(names - set(order))]:
        values = [[epoch["metrics"]["nodes"].get(node, {}).get(score.key) for epoch in epochs] for epochs in runs]
        line = _line(node, colours.get(node, "@muted"), values, "dash" if node in frozen else "solid")
        if any(charts.finite_or_none(y) is not None for y in line.ys):
            found.append(line)
    sign = -1 if score.better == "higher" else 1  # of more than are drawn, the best
    found.sort(key=lambda line: sign * (charts.finite_or_none(line.ys[-1]) or 0) if len(found) > MOST_LINES else 0)
    return found


def _losses(group: Group) -> list[Line]:
    colours, found = colours_of(group.diagram), []
    for student in group.diagram.students():
        names = [link.name for link in group.diagram.links if link.learner == student]
        values = [[sum(epoch["losses"].get(name, 0.0) for name in names) for epoch in member.run.epochs]
                  for member in group.members]
        found.append(_line(student, colours[student], values))
    return found


def _line(name: str, colour: str, values: Sequence[Sequence[float | None]], dash: str = "solid") -> Line:
    """Mean over runs of each epoch that any has; the band is one standard deviation to each side."""
    longest = max(map(len, values))
    there = [spread([run[i] for run in values if i < len(run)]) for i in range(longest)]
    means = [mean for mean, _ in there]
    band = None
    if any(deviation is not None for _, deviation in there):
        low = [None if m is None or d is None else m - d for m, d in there]
        high = [None if m is None or d is None else m + d for m, d in there]
        band = (low, high)
    return Line(name, colour, range(1, longest + 1), means, band, dash)


def _scores_table(group: Group) -> DocumentTable:
    rows, scores = [], [score for score in group.judged_by if score.each_epoch]
    for member in group.members:
        for epoch in member.run.epochs:
            for node, found in epoch["metrics"]["nodes"].items():
                rows.append((member.name, epoch["epoch"], node, *(found.get(score.key) for score in scores),
                             epoch["learning_rate"].get(node)))
    kept = [i for i in range(len(scores)) if not rows or any(row[3 + i] is not None for row in rows)]
    columns = (Column("run"), Column("epoch", "integer"), Column("network"),
               *(Column(scores[i].title, scores[i].kind) for i in kept), Column("learning rate", "number"))
    brief = spread_out(len(rows), MOST_ROWS)
    return DocumentTable("Scores by epoch, on validation data", columns,
                         [(*row[:3], *(row[3 + i] for i in kept), row[-1]) for row in rows], brief=brief, folded=True)


def _notes(group: Group) -> Text | None:
    open_ = [member.name for member in group.members if member.run.final is None]
    words = f"Not finished: {', '.join(open_[:10])}. What is shown is what the log holds so far."
    return Text(words) if open_ else None


def _spread_words(group: Group) -> str:
    count = len(group.members)
    return f"Mean of {count} runs that differ in their seed; the band is one standard deviation." if count > 1 else ""
