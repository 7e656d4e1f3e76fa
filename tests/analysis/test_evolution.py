"""The search itself: it tries what it may, never twice, finds what it is led to, and is a function of its seed."""

from itertools import product

import pytest

from every import every
from tutelage.analysis.search.evolution import Evolution, evolve

CHOICES = [6, 6, 6, 6]


def hill(genes: tuple[int, ...]) -> float:
    """Best at (4, 1, 3, 5), place by place."""
    return -float(sum(abs(gene - best) for gene, best in zip(genes, (4, 1, 3, 5), strict=True)))


def counted(score):
    asked = []

    def ask(genes):
        asked.append(genes)
        return score(genes)
    return ask, asked


def test_a_small_space_is_tried_as_a_whole_and_in_order():
    ask, asked = counted(hill)
    found = evolve([2, 1, 3, 2], ask, Evolution(evaluations=12))
    assert list(found) == asked == list(product(range(2), range(1), range(3), range(2)))


def test_evolution_beats_drawing_at_random():
    ways = [Evolution(evaluations=100, seed=seed) for seed in range(3)]
    evolved = [max(evolve(CHOICES, hill, how).values()) for how in ways]
    drawn = [max(evolve(CHOICES, hill, Evolution(100, population=100, seed=how.seed)).values()) for how in ways]
    assert sum(evolved) > sum(drawn)
    assert evolved.count(0.0) >= 2


def test_no_combination_is_asked_for_twice_and_no_more_than_allowed():
    ask, asked = counted(hill)
    found = evolve(CHOICES, ask, Evolution(evaluations=60))
    assert len(found) == len(asked) == len(set(asked)) == 60
    assert every(found[genes] == hill(genes) for genes in asked)


def test_what_is_refused_costs_no_evaluation_and_is_never_found():
    found = evolve(CHOICES, lambda genes: hill(genes) if genes[0] < 2 else None, Evolution(evaluations=60))
    assert len(found) == 60
    assert every(genes[0] < 2 for genes in found)


def test_a_search_ends_where_nothing_more_is_allowed():
    found = evolve(CHOICES, lambda genes: 1.0 if sum(genes) < 2 else None, Evolution(evaluations=60))
    assert len(found) == 5
    assert evolve(CHOICES, lambda genes: None, Evolution(evaluations=60)) == {}


def test_it_goes_on_where_every_child_is_known():
    assert len(evolve([101], lambda genes: 0.0, Evolution(evaluations=100))) == 100


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_search(seed):
    how = Evolution(evaluations=60, seed=seed)
    assert list(evolve(CHOICES, hill, how)) == list(evolve(CHOICES, hill, how))
    assert list(evolve(CHOICES, hill, how)) != list(evolve(CHOICES, hill, Evolution(evaluations=60, seed=seed + 1)))
