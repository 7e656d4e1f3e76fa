"""What networks and data of a recommender must know of each other before a run."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.data.source import Data, Source
from tutelage.data.user_source import Ranking, UserSource, rank_items
from tutelage.errors import UsageError
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen
from tutelage.graph.taps import logits_of
from tutelage.models.network import body_of
from tutelage.models.recommend import GraphRecommender
from tutelage.tasks.recommendation.rows import RankedPairs

RANKED = 1000
"""Items of a group that are ranked; those behind them are as good as never drawn."""
TOGETHER = 256
"""Users that are ranked at once: a score of every user and item is never in memory."""


def connected(network: nn.Module, source: Source) -> None:
    """Let a network that spreads over interactions have those of train."""
    body = body_of(network)
    if isinstance(body, GraphRecommender) and isinstance(source, UserSource):
        users = torch.arange(len(source.relevant.counts)).repeat_interleave(source.relevant.counts)
        body.connect(torch.stack([users, source.relevant.items]))


def with_rankings(data: Data, graph: Graph, models: Mapping[str, nn.Module]) -> Data:
    """The data with the pairs that a frozen teacher of the graph ranks, where an edge compares such pairs."""
    edges = [edge for edge in graph.edges if isinstance(edge.rows, RankedPairs)]
    if not edges or not isinstance(data.train, UserSource):
        return data
    asked = {(parse_end(edge.teacher).node, edge.rows) for edge in edges}
    teacher, rows = next(iter(asked))
    if len(asked) > 1 or not isinstance(graph.nodes.get(teacher), Frozen):
        raise UsageError("ranked pairs are those of one frozen teacher", where="rows ranked",
                         found=", ".join(sorted({name for name, _ in asked})), expected="one frozen node",
                         fix='take rows "lists" to learn from a network that is still learning')
    assert isinstance(rows, RankedPairs)
    ranking = ranking_of(models[teacher], data.train, rows.pairs, rows.rank_scale, rows.blind)
    short = int((ranking.counts[data.train.ids] < 2).sum())
    notes = (f"{short} groups of users have fewer than two items that the user did not take: no pairs of them",)
    return replace(data, train=replace(data.train, ranking=ranking), notes=data.notes + notes if short else data.notes)


@torch.no_grad()
def ranking_of(teacher: nn.Module, source: UserSource, pairs: int, rank_scale: float, blind: bool = False) -> Ranking:
    """How a frozen teacher ranks what each user did not take, group by group; `blind`, all items are one group."""
    groups = torch.zeros_like(source.groups) if blind else source.groups
    count, device = len(source.relevant.counts), next(teacher.parameters()).device
    found: list[tuple[Tensor, Tensor]] = []
    was = teacher.training
    teacher.eval()
    for users in torch.arange(count).split(TOGETHER):
        scores = logits_of(teacher(users=users.to(device))).float()
        taken = source.relevant.of(users).to(device)
        found.append(rank_items(scores, taken, groups.to(device), min(RANKED, int(groups.bincount().max()))))
    teacher.train(was)
    items, counts = (torch.cat(part) for part in zip(*found, strict=True))
    return Ranking(items, counts, pairs, rank_scale)
