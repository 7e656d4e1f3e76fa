"""An evolutionary search among combinations of choices; it knows neither networks nor what a score means."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from tutelage.system.random import derive

Genes = tuple[int, ...]
"""The number of the choice that was made in each place."""
PATIENCE = 1000
"""So many children in a row that are known already, or refused, end a search."""


@dataclass(frozen=True)
class Evolution:
    """How a population changes. All numbers are choices of this project.

    The first members are drawn at random. A child has one place of a parent changed with probability `mutation`, else
    each place from one of two parents. A parent is the best of `tournament` drawn ones. A child takes the place of the
    oldest member that is not among the best `elite`.
    """

    evaluations: int = 200
    population: int = 20
    tournament: int = 5
    mutation: float = 0.5
    elite: int = 5
    seed: int = 0


def evolve(choices: Sequence[int], score: Callable[[Genes], float | None], how: Evolution) -> dict[Genes, float]:
    """The scores of up to `how.evaluations` combinations, in the order in which they were tried.

    `choices` are how many there are in each place. `score` gives a number, the larger the better, or None for a
    combination that may not be chosen: that costs no evaluation. Each is asked for once. If there are not more
    combinations than evaluations, all are tried.

    >>> evolve([2, 2], lambda genes: None if genes == (1, 1) else sum(genes), Evolution())
    {(0, 0): 0, (0, 1): 1, (1, 0): 1}
    """
    assert 0 < how.elite <= how.population, how
    if prod(choices) <= how.evaluations:
        tried = {genes: score(genes) for genes in product(*map(range, choices))}
        return {genes: value for genes, value in tried.items() if value is not None}
    draw = random.Random(derive(how.seed, "evolution"))
    scores: dict[Genes, float] = {}
    refused: set[Genes] = set()
    population: list[Genes] = []
    idle = 0
    while len(scores) < how.evaluations and idle < PATIENCE:
        stuck = idle >= PATIENCE // 10 and idle % 2 == 1  # then every other child is made the other way
        afresh = not population or (len(population) < how.population) != stuck
        child = _random(choices, draw) if afresh else _child(population, scores, choices, how, draw)
        idle += 1
        if child in scores or child in refused:
            continue
        value = score(child)
        if value is None:
            refused.add(child)
            continue
        idle, scores[child] = 0, value
        population.append(child)
        if len(population) > how.population:
            best = sorted(population, key=lambda genes: scores[genes], reverse=True)[:how.elite]
            population.remove(next(genes for genes in population if genes not in best))
    return scores


def _child(population: Sequence[Genes], scores: dict[Genes, float], choices: Sequence[int], how: Evolution,
           draw: random.Random) -> Genes:
    def parent() -> Genes:
        drawn = draw.sample(population, min(how.tournament, len(population)))
        return max(drawn, key=lambda genes: scores[genes])

    if draw.random() >= how.mutation:
        return tuple(draw.choice(pair) for pair in zip(parent(), parent(), strict=True))
    changed = list(parent())
    place = draw.choice([place for place, count in enumerate(choices) if count > 1])
    changed[place] = draw.choice([gene for gene in range(choices[place]) if gene != changed[place]])
    return tuple(changed)


def _random(choices: Sequence[int], draw: random.Random) -> Genes:
    return tuple(draw.randrange(count) for count in choices)
