"""Batches of text: what is hidden is a function of (seed, draw, id), and pools come in exact counts."""

import pytest
import torch

from every import every
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.text_source import Hiding, Pools, Tokens, counts_of_batch, hide, mixed_rows, most_hidden

ROWS, LENGTH = 200, 20


@pytest.fixture
def tokens() -> Tokens:
    lengths = torch.randint(1, LENGTH + 1, (ROWS, 1), generator=torch.Generator().manual_seed(0))
    there = torch.arange(LENGTH) < lengths
    pieces = torch.where(there, torch.randint(3, 50, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1)), -1)
    return Tokens(pieces, torch.zeros(ROWS, 1).long(), there, 50)


def hiding(tokens: Tokens, share: float = 0.15, seed: int = 0) -> Hiding:
    return Hiding(share, most_hidden(tokens, share), 2, 50, 3, seed)


def test_a_fixed_number_of_places_is_asked_about_and_each_sentence_has_one_at_least(tokens):
    shown, places, said = hide(tokens, torch.arange(ROWS), torch.arange(ROWS), hiding(tokens), 0)
    lengths = tokens.free.sum(1)
    assert places.shape == said.shape == (ROWS, 3)
    assert (said >= 0).sum(1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]
    hidden = torch.zeros_like(tokens.pieces, dtype=torch.bool)
    for row in range(ROWS):
        own = places[row][said[row] >= 0]
        hidden[row, own] = True
        assert len(own.unique()) == len(own)
        assert torch.equal(tokens.pieces[row, own], said[row][said[row] >= 0])
    assert torch.equal(shown[~hidden], tokens.pieces[~hidden])


def test_what_is_hidden_depends_on_seed_draw_and_id_alone(tokens):
    ids = torch.arange(ROWS) + 1000
    whole = hide(tokens, torch.arange(ROWS), ids, hiding(tokens), 3)
    part = torch.tensor([7, 150, 3])
    alone = hide(tokens, part, ids[part], hiding(tokens), 3)
    assert every(torch.equal(one[part], other) for one, other in zip(whole, alone, strict=True))
    for other in (hide(tokens, part, ids[part], hiding(tokens), 4),
                  hide(tokens, part, ids[part], hiding(tokens, seed=1), 3),
                  hide(tokens, part, ids[part] + 1, hiding(tokens), 3)):
        assert not torch.equal(alone[0], other[0])


def test_eight_of_ten_are_marked_one_is_kept_and_one_is_another(tokens):
    counts = torch.zeros(3)
    for draw in range(40):
        shown, places, said = hide(tokens, torch.arange(ROWS), torch.arange(ROWS), hiding(tokens), draw)
        now, true = shown.gather(1, places)[said >= 0], said[said >= 0]
        counts += torch.tensor([(now == 2).sum(), (now == true).sum(), ((now != 2) & (now != true)).sum()])
    assert (counts / counts.sum()).tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_seven_to_three_of_64_are_45_and_19_in_every_batch():
    pools = Pools(("generic", "task"), torch.tensor([0] * 300 + [1] * 100), (0.7, 0.3))
    rows = mixed_rows(pools, 0, 0, 64).view(-1, 64)
    assert rows.shape == (6, 64)
    assert [(batch < 300).sum().item() for batch in rows] == [45] * 6


@pytest.mark.parametrize(("shares", "never"), [((1.0, 0.0), range(300, 400)), ((0.0, 1.0), range(300))])
def test_a_pool_without_a_share_is_never_touched(shares, never):
    pools = Pools(("generic", "task"), torch.tensor([0] * 300 + [1] * 100), shares)
    rows = torch.cat([mixed_rows(pools, 0, epoch, 32) for epoch in range(3)])
    assert not {*rows.tolist()} & {*never}
    assert len(rows) == 3 * 12 * 32


def test_rows_of_a_pool_come_equally_often_to_within_one_over_epochs():
    pools = Pools(("generic", "task"), torch.tensor([0] * 50 + [1] * 30), (0.25, 0.75))
    rows = torch.cat([mixed_rows(pools, 1, epoch, 16) for epoch in range(7)])
    for own in (rows[rows < 50].bincount(minlength=50), rows[rows >= 50].bincount(minlength=80)[50:]):
        assert int(own.max() - own.min()) <= 1


def test_an_order_is_a_function_of_seed_and_epoch():
    pools = Pools(("a", "b"), torch.tensor([0] * 50 + [1] * 30), (0.5, 0.5))
    one = mixed_rows(pools, 0, 2, 16)
    assert torch.equal(one, mixed_rows(pools, 0, 2, 16))
    assert not torch.equal(one, mixed_rows(pools, 0, 3, 16))
    assert not torch.equal(one, mixed_rows(pools, 1, 2, 16))


@pytest.mark.parametrize(("shares", "batch", "counts"), [([0.7, 0.3], 64, [45, 19]), ([0.5, 0.5], 7, [4, 3]),
                                                         ([1 / 3, 1 / 3, 1 / 3], 8, [3, 3, 2]),
                                                         ([0.0, 1.0], 5, [0, 5])])
def test_counts_are_the_nearest_that_sum_to_the_batch(shares, batch, counts):
    assert counts_of_batch(shares, batch) == counts


@pytest.mark.parametrize("task", ["sentences", "slots"])
def test_a_transfer_set_has_no_labels_to_be_reached(task):
    data = load_data(DataSettings("sentences", task=task, mixture={"generic": 0.5, "task": 0.5}), quick=True)
    (batch,) = data.train.batches([torch.arange(len(data.train.ids))], draw=0)
    labels = batch.labels if task == "sentences" else batch.labels["tags"]
    assert bool((labels == -1).all())
    assert bool((data.train.labels == -1).all())
    assert task == "sentences" or bool((batch.labels["there"].sum(1) > 0).all())
