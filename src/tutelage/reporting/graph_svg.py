"""A graph drawn as a graph: an SVG of its nodes by kind and its edges with their divergence, temperature and weight.

What is only learned from stands left, what learns in the middle, what follows or is computed on the right. An edge is
as thick as its share of its student's loss, and has the colour of what is learned from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from tutelage.reporting.charts import colours_of
from tutelage.reporting.document import Drawing
from tutelage.reporting.formatting import shown_text
from tutelage.reporting.graph_model import Diagram, Link, Node

HEIGHT, ROW, MARGIN = 48, 104, 12
"""Of a box, from row to row, and around all, in the units of the drawing."""
MOST_NODES = 10
"""Of a column; the others are counted, not drawn."""
MOST_TEXTS = 10
"""Edges that bear words; more of them bear numbers alone, and the table beneath says what they are."""


class Look(NamedTuple):
    """How wide a box is, how far columns are apart, and whether edges bear words."""

    width: int
    gap: int
    worded: bool


class Spot(NamedTuple):
    """Where a node stands: its column, and the middle of its box."""

    column: int
    x: float
    y: float


class Port(NamedTuple):
    """Where an edge leaves or reaches a box, and to which side (-1 left, 1 right)."""

    x: float
    y: float
    side: int


@dataclass(frozen=True)
class Path:
    """An edge as a cubic curve."""

    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
    side: int

    def at(self, t: float) -> tuple[float, float]:
        """The point at t in [0, 1]."""
        parts = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        x, y = (sum(part * point[axis] for part, point in zip(parts, self.points, strict=True)) for axis in (0, 1))
        return x, y


def draw_graph(diagram: Diagram, shares: Mapping[str, float | None]) -> Drawing:
    """The drawing of a graph; `shares` are of each edge in the loss of its student, at the end."""
    hidden = sum(max(0, len(column) - MOST_NODES) for column in _columns(diagram))
    about = f"{len(diagram.nodes)} networks and {len(diagram.links)} edges between them."
    about += f" {hidden} networks are not drawn, nor their edges; the table has them all." * bool(hidden)
    wide = Look(150, 236, len(diagram.links) <= MOST_TEXTS)
    return Drawing("Who learns from whom", _svg(diagram, shares, wide, about),
                   _svg(diagram, shares, Look(132, 76, False), about), about)


def _svg(diagram: Diagram, shares: Mapping[str, float | None], look: Look, about: str) -> Markup:
    columns = _columns(diagram)
    spots = _spots(columns, look)
    links = [link for link in diagram.links if link.source in spots and link.learner in spots]
    paths = _paths(links, spots, look)
    colours = colours_of(diagram)
    parts = [_relation(node, of, spots, look) for node in diagram.nodes for of in node.of if node.name in spots]
    numbers = {link.name: i for i, link in enumerate(diagram.links, 1)}
    for link, path in zip(links, paths, strict=True):
        parts.append(_edge(link, path, colours[link.source], shares.get(link.name)))
    for link, path in zip(links, paths, strict=True):
        parts.append(_badge(link, path, numbers[link.name], look.worded, colours[link.source]))
    for column in columns:
        parts += [_box(node, spots[node.name], colours[node.name], look) for node in column if node.name in spots]
    right = max([spot.x + look.width / 2 for spot in spots.values()]
                + [max(x for x, _ in path.points) for path in paths]
                + [path.at(0.34)[0] + 75 for path in paths if path.side > 0 and look.worded])
    width, height = right + MARGIN, max(spot.y for spot in spots.values()) + HEIGHT / 2 + MARGIN
    svg = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" style="max-width:{:.0f}px" role="img" aria-label="{}">{}</svg>')
    return svg.format(width, height, width * 1.1, about, Markup("").join(parts))


def _columns(diagram: Diagram) -> list[list[Node]]:
    students = diagram.students()
    learned_from = [Node("labels", "labels")] if any(link.source == "labels" for link in diagram.links) else []
    left = [*learned_from, *(n for n in diagram.nodes if n.kind in ("frozen", "trained") and n.name not in students)]
    middle = [node for node in diagram.nodes if node.kind == "trained" and node.name in students]
    right = [node for node in diagram.nodes if node.kind not in ("frozen", "trained")]
    return [column for column in (left, middle, right) if column]


def _spots(columns: Sequence[Sequence[Node]], look: Look) -> dict[str, Spot]:
    tallest = max(min(len(column), MOST_NODES) for column in columns)
    spots = {}
    for number, column in enumerate(columns):
        drawn = column[:MOST_NODES]
        first = MARGIN + HEIGHT / 2 + (tallest - len(drawn)) * ROW / 2
        for i, node in enumerate(drawn):
            spots[node.name] = Spot(number, MARGIN + look.width / 2 + number * (look.width + look.gap), first + i * ROW)
    return spots


def _paths(links: Sequence[Link], spots: Mapping[str, Spot], look: Look) -> list[Path]:
    """Ports of one side of a box stand in the order of where their edges go, so that few edges cross."""
    ends: dict[tuple[str, int], list[tuple[float, int, bool]]] = {}
    for i, link in enumerate(links):
        source, learner = spots[link.source], spots[link.learner]
        forward = source.column < learner.column
        sides = (1, 1) if source.column == learner.column else (1, -1) if forward else (-1, 1)
        both = ((link.source, learner, sides[0], True), (link.learner, source, sides[1], False))
        for name, other, side, starts in both:
            ends.setdefault((name, side), []).append((other.y + 0.1 * starts, i, starts))
    ports: dict[tuple[int, bool], Port] = {}
    for (name, side), there in ends.items():
        step = min(14.0, (HEIGHT - 10) / len(there))
        for place, (_, i, starts) in enumerate(sorted(there)):
            y = spots[name].y + (place - (len(there) - 1) / 2) * step
            ports[i, starts] = Port(spots[name].x + side * look.width / 2, y, side)
    return [_path(ports[i, True], ports[i, False], i) for i in range(len(links))]


def _path(start: Port, end: Port, number: int) -> Path:
    """A curve that leaves and arrives level; between boxes of one column it makes a bow to their right."""
    if start.side == end.side:
        reach = 0.36 * abs(end.y - start.y) + 34 + 74 * (end.y < start.y)
        return Path(((start.x, start.y), (start.x + reach, start.y), (end.x + reach, end.y), (end.x, end.y)), 1)
    reach = abs(end.x - start.x) * 0.45 * start.side
    return Path(((start.x, start.y), (start.x + reach, start.y), (end.x - reach, end.y), (end.x, end.y)), 0)


def _edge(link: Link, path: Path, colour: str, share: float | None) -> Markup:
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = path.points
    thick = 1.5 + 4.5 * (share if share is not None and 0 <= share <= 1 else 0)
    way = 1 if x2 < x3 else -1
    back = x3 - way * (7 + thick)
    half = 3.5 + thick
    curve = Markup('<path class="edge {}" stroke-width="{:.1f}" d="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} '
                   '{:.1f}"><title>{}</title></path>').format(_class(colour), thick, x0, y0, x1, y1, x2, y2, back, y3,
                                                              _told(link, share))
    head = Markup('<path class="head {}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}L{:.1f} {:.1f}Z"/>')
    return curve + head.format(_class(colour), x3, y3, back, y3 - half, back, y3 + half)


def _badge(link: Link, path: Path, number: int, worded: bool, colour: str) -> Markup:
    x, y = path.at(0.34)  # nearer to where it comes from: there it is not in another's way
    by = link.divergence.partition("(")[0] + link.by.removeprefix(link.divergence)
    text = shown_text(f"{number}  {by} ×{link.weight.partition('(')[0]}", 26) if worded else str(number)
    width = 16 + 6.6 * len(text)
    return Markup('<g class="badge {}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="20" rx="10"/>'
                  '<text x="{:.1f}" y="{:.1f}">{}</text></g>').format(_class(colour), x - width / 2, y - 10, width, x,
                                                                      y + 4, text)


def _box(node: Node, spot: Spot, colour: str, look: Look) -> Markup:
    kind = {"labels": "given", "ema": f"average of {', '.join(node.of)}",
            "computed": node.words if node.rows else f"computed of {len(node.of)}"}.get(node.kind, node.words)
    below = kind if not node.network or node.network == node.name else f"{kind} · {node.network}"
    return Markup('<g class="node {} {}"><rect x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="{}"/>'
                  '<text class="name" x="{:.1f}" y="{:.1f}">{}</text><text class="kind" x="{:.1f}" y="{:.1f}">{}</text>'
                  '</g>').format(node.kind, _class(colour), spot.x - look.width / 2, spot.y - HEIGHT / 2, look.width,
                                 HEIGHT, HEIGHT / 2 if node.kind == "labels" else 9, spot.x, spot.y - 3,
                                 shown_text(node.name, 16), spot.x, spot.y + 14, shown_text(below, 22))


def _relation(node: Node, of: str, spots: Mapping[str, Spot], look: Look) -> Markup:
    """A dotted line from what a node follows, or is computed from: no edge, for nothing is learned along it."""
    source = spots.get(of.partition(".")[0].partition("@")[0])
    if source is None:
        return Markup("")
    spot = spots[node.name]
    side = 1 if spot.x > source.x else -1
    return Markup('<path class="relation" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
        source.x + side * look.width / 2, source.y, spot.x - side * look.width / 2, spot.y)


def _told(link: Link, share: float | None) -> str:
    warm = "" if link.temperature == "1" else f", temperature {link.temperature}"
    counts = f", each image weighted by {link.sample_weight}" if link.sample_weight else ""
    of_loss = "" if share is None else f"; {share:.0%} of its loss at the end"
    return shown_text(f"{link.student} learns from {link.teacher} by {link.by}{warm}, weight {link.weight}"
                      f"{counts}{of_loss}", 400)


def _class(colour: str) -> str:
    return f"c-{colour.removeprefix('@')}"
