"""Figures for plotly, as plain dicts: data without any looks. Colours are tokens that the page turns into its own.

plotly reads a little HTML in texts, so every name is escaped here: `<a href>` in the name of a class stays text.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.reporting.document import Chart, spread_out
from tutelage.reporting.formatting import shown_text
from tutelage.reporting.graph_model import Diagram

COLOURS = 8
"""Colours of the page, @1 to @8; @muted, @ink and @good are there besides."""
MOST_LINES = 20
MOST_POINTS = 400
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line; `low` and `high` bound its spread. Numbers that are not finite are gaps."""

    name: str
    colour: str
    xs: Sequence[float]
    ys: Values
    spread: tuple[Values, Values] | None = None
    dash: str = "solid"


def colours_of(diagram: Diagram) -> dict[str, str]:
    """Node -> colour token, the same in all charts of a graph; students first, for they have the most lines."""
    students = diagram.students()
    order = [*students, *(node.name for node in diagram.nodes if node.name not in students)]
    return {"labels": "@muted", **{name: f"@{i % COLOURS + 1}" for i, name in enumerate(order)}}


def label(text: object, longest: int = 32) -> str:
    """A foreign name as a text for plotly."""
    return html.escape(shown_text(str(text), longest), quote=False)


def lines(title: str, about: str, drawn: Sequence[Line], *, x: str = "epoch", y: str = "", share: bool = False,
          log: bool = False) -> Chart:
    """Lines over x, each with its spread as a band."""
    data: list[dict[str, Any]] = []
    for line in drawn[:MOST_LINES]:
        at = spread_out(len(line.xs), MOST_POINTS)
        xs, ys = [line.xs[i] for i in at], [finite_or_none(line.ys[i]) for i in at]
        if line.spread is not None:
            low, high = ([finite_or_none(side[i]) for i in at] for side in line.spread)
            both = [i for i in range(len(at)) if low[i] is not None and high[i] is not None]
            data.append({"type": "scatter", "mode": "lines", "x": [xs[i] for i in [*both, *both[::-1]]],
                         "y": [high[i] for i in both] + [low[i] for i in both[::-1]], "fill": "toself",
                         "fillcolor": f"{line.colour}/0.18", "line": {"width": 0}, "hoverinfo": "skip",
                         "showlegend": False})
        data.append({"type": "scatter", "mode": "lines" if len(at) > 12 else "lines+markers", "name": label(line.name),
                     "x": xs, "y": ys, "line": {"color": line.colour, "width": 2.25, "dash": line.dash},
                     "marker": {"size": 6, "color": line.colour}})
    if len(drawn) > MOST_LINES:
        about += f" The first {MOST_LINES} of {len(drawn)} lines are drawn; the table has all."
    layout = {"xaxis": {"title": {"text": x}, **_whole(drawn)}, "hovermode": "x unified",
              "yaxis": {"title": {"text": y}, "tickformat": ".0%" if share else "", "hoverformat":
                        ".2%" if share else ".4g", "type": "log" if log else "linear"}}
    return Chart(title, {"data": data, "layout": layout}, about)


def share_chart(title: str, about: str, drawn: Sequence[Line], *, x: str, y: str) -> Chart:
    """Shares over shares, both from 0 to 1, in a square."""
    made = lines(title, about, drawn, x=x, y=y, share=True)
    axis = {"range": [0, 1.02], "tickformat": ".0%", "dtick": 0.2}
    layout = {axis_name: {**made.figure["layout"][axis_name], **axis} for axis_name in ("xaxis", "yaxis")}
    return Chart(title, {**made.figure, "layout": {**made.figure["layout"], **layout}}, about, square=True)


def precision_chart(title: str, about: str, curves: Mapping[str, Values], colours: Mapping[str, str]) -> Chart:
    """Precision over recall of networks, at recalls of equal steps from 0 to 1."""
    drawn = [Line(name, colours.get(name, "@muted"), [i / (len(curve) - 1) for i in range(len(curve))], curve)
             for name, curve in curves.items()]
    return Chart(title, share_chart(title, about, drawn, x="recall", y="precision").figure, about)


def stacked(title: str, about: str, drawn: Sequence[Line]) -> Chart:
    """Shares that add up to one, stacked, over epochs."""
    data = [{"type": "scatter", "mode": "lines", "stackgroup": "one", "name": label(line.name, 48), "x": list(line.xs),
             "y": [finite_or_none(y) for y in line.ys], "line": {"color": line.colour, "width": 1},
             "fillcolor": f"{line.colour}/0.55"} for line in drawn[:MOST_LINES]]
    layout = {"xaxis": {"title": {"text": "epoch"}, **_whole(drawn)}, "hovermode": "x unified",
              "yaxis": {"range": [0, 1], "tickformat": ".0%", "hoverformat": ".1%", "title": {"text": ""}}}
    if len(drawn) > MOST_LINES:
        about += f" The {MOST_LINES} largest of {len(drawn)} are drawn; the table has all."
    return Chart(title, {"data": data, "layout": layout}, about)


def reliability_chart(title: str, about: str, confidence: Values, accuracy: Values, count: Sequence[int],
                      colour: str) -> Chart:
    """Accuracy against confidence by bin, with the diagonal on which both are equal."""
    bins = len(count)
    centres = [(i + 0.5) / bins for i in range(bins)]
    gaps = [None if c is None or a is None else a - c for c, a in zip(confidence, accuracy, strict=True)]
    data = [{"type": "bar", "x": centres, "y": [finite_or_none(a) for a in accuracy], "width": [0.92 / bins] * bins,
             "name": "accuracy", "marker": {"color": f"{colour}/0.75"},
             "customdata": [[n, finite_or_none(c), finite_or_none(g)] for n, c,
                            g in zip(count, confidence, gaps, strict=True)],
             "hovertemplate": "accuracy %{y:.1%}<br>confidence %{customdata[1]:.1%}<br>%{customdata[0]} images"
             "<extra></extra>"},
            {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "as sure as right",
             "line": {"color": "@ink", "width": 1.5, "dash": "dot"}, "hoverinfo": "skip"}]
    axis = {"range": [0, 1], "tickformat": ".0%"}
    layout = {"xaxis": {**axis, "title": {"text": "confidence"}}, "yaxis": {**axis, "title": {"text": "accuracy"}}}
    return Chart(title, {"data": data, "layout": layout}, about, square=True)


def bars(title: str, about: str, xs: Sequence[float], ys: Values, *, x: str, y: str, colour: str = "@1",
         marks: Mapping[str, float | None] | None = None) -> Chart:
    """Bars, with named upright lines at `marks`."""
    data: list[dict[str, Any]] = [{"type": "bar", "x": list(xs), "y": [finite_or_none(v) for v in ys],
                                   "showlegend": False,
                                   "marker": {"color": f"{colour}/0.75"}, "name": y}]
    top = max((height for v in ys if (height := finite_or_none(v)) is not None), default=1) or 1
    for i, (name, at) in enumerate((marks or {}).items()):
        if finite_or_none(at) is not None:
            data.append({"type": "scatter", "mode": "lines", "x": [at, at], "y": [0, top], "name": name,
                         "line": {"color": ("@good", "@bad", "@ink")[i % 3], "width": 2, "dash": "dash"}})
    layout = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "bargap": 0.06}
    return Chart(title, {"data": data, "layout": layout}, about)


def matrix(title: str, about: str, names: Sequence[str], values: Sequence[Values], *, x: str = "", y: str = "",
           share: bool = True) -> Chart:
    """A square matrix with a colour for each cell, its numbers written in where there is room."""
    cells = [[finite_or_none(value) for value in row] for row in values]
    places = list(range(len(names)))
    heat: dict[str, Any] = {"type": "heatmap", "x": places, "y": places, "z": cells, "colorscale": "@scale",
                            "showscale": False, "xgap": 2, "ygap": 2,
                            "hovertemplate": f"%{{z:{'.2%' if share else 'd'}}}<extra></extra>"}
    if len(names) <= 12:
        heat["texttemplate"] = "%{z:.1%}" if share else "%{z}"
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": [label(name, 16) for name in names]}
    layout = {"xaxis": {**ticks, "title": {"text": x}, "side": "bottom", "showgrid": False},
              "yaxis": {**ticks, "title": {"text": y}, "autorange": "reversed", "showgrid": False}}
    return Chart(title, {"data": [heat], "layout": layout}, about, tall=len(names) > 6, square=True)


@dataclass(frozen=True)
class Point:
    """One network, or one difference; `around` bounds its spread, `recipe` says where it comes from."""

    name: str
    colour: str
    x: float
    y: float
    around: tuple[float, float] | None = None
    recipe: str = ""


def plane(title: str, about: str, points: Sequence[Point], front: Sequence[Point], *, x: str, y: str,
          share: bool = True) -> Chart:
    """Networks by cost (logarithmic) and a score; a line joins those that no other one beats in both."""
    data: list[dict[str, Any]] = []
    if len(front) > 1:
        data.append({"type": "scatter", "mode": "lines", "x": [p.x for p in front], "y": [p.y for p in front],
                     "name": "best for its cost", "hoverinfo": "skip",
                     "line": {"color": "@muted", "width": 1.5, "dash": "dot", "shape": "hv"}})
    named: dict[str, list[Point]] = {}
    for point in points:
        named.setdefault(point.name, []).append(point)
    for name, alike in named.items():
        colour = alike[0].colour
        error = {} if not any(point.around for point in alike) else {"error_y": {
            "type": "data", "symmetric": False, "color": colour, "thickness": 1.5,
            "array": [point.around[1] - point.y if point.around else 0 for point in alike],
            "arrayminus": [point.y - point.around[0] if point.around else 0 for point in alike]}}
        data.append({"type": "scatter", "mode": "markers", "x": [point.x for point in alike],
                     "y": [point.y for point in alike], **error, "name": label(name, 40),
                     "text": [label(point.recipe, 40) for point in alike], "marker": {"color": colour, "size": 11},
                     "hovertemplate": f"%{{text}}<br>%{{x:.4s}}, %{{y:{'.2%' if share else '.4g'}}}"})
    least, most = min(point.x for point in points), max(point.x for point in points)
    ticks = {"dtick": 1} if most > 10 * least else {}  # over decades, those alone have words
    layout = {"xaxis": {"title": {"text": x}, "type": "log", **ticks}, "hovermode": "closest",
              "yaxis": {"title": {"text": label(y)}, "tickformat": ".1%" if share else "",
                        "hoverformat": ".2%" if share else ".4g"}}
    return Chart(title, {"data": data, "layout": layout}, about)


def forest(title: str, about: str, points: Sequence[Point], *, x: str) -> Chart:
    """Differences with their intervals, one a row, and a line at no difference at all."""
    rows = list(range(len(points)))
    none = {"type": "scatter", "mode": "lines", "x": [0, 0], "y": [-0.6, len(points) - 0.4], "showlegend": False,
            "line": {"color": "@muted", "width": 1.5, "dash": "dot"}, "hoverinfo": "skip"}
    data = [none, {"type": "scatter", "mode": "markers", "x": [p.x for p in points], "y": rows, "showlegend": False,
             "marker": {"size": 9, "color": [p.colour for p in points]}, "name": "difference",
             "error_x": {"type": "data", "symmetric": False, "thickness": 2, "color": "@muted",
                         "array": [p.around[1] - p.x if p.around else 0 for p in points],
                         "arrayminus": [p.x - p.around[0] if p.around else 0 for p in points]}}]
    ticks = {"tickmode": "array", "tickvals": rows, "ticktext": [label(p.name, 28) for p in points]}
    layout = {"xaxis": {"title": {"text": label(x, 60)}, "hoverformat": ".4g"},
              "yaxis": {**ticks, "range": [len(points) - 0.4, -0.6], "showgrid": False}}
    return Chart(title, {"data": data, "layout": layout}, about, tall=len(points) > 8)


def _whole(drawn: Sequence[Line]) -> dict[str, int]:
    """Marks of an axis that counts: at whole numbers, also where there are few."""
    return {"dtick": 1} if max((len(line.xs) for line in drawn), default=0) <= 12 else {}


def finite_or_none(value: float | None) -> float | None:
    """The number, or None where there is none: JSON and plotly know neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
