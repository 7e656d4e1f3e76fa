"""What is held out depends on the ids and the labels, and on nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.splits import first, hold_out
from tutelage.errors import DataError


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(20, 300), classes=st.integers(1, 7), share=st.floats(0.05, 0.9))
def test_the_share_is_exact_and_each_class_has_its_part(rows, classes, share):
    ids = torch.arange(rows) * 3
    labels = (ids * 7919) % classes
    held = hold_out(ids, labels, share, "validation")
    assert int(held.sum()) == round(share * rows)
    for label in range(classes):
        part = labels == label
        assert abs(int(held[part].sum()) - share * int(part.sum())) <= 1.5


def test_the_order_of_the_rows_does_not_matter():
    ids, labels = torch.arange(100), torch.arange(100) % 3
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hold_out(ids, labels, 0.2, "test")[order], hold_out(ids[order], labels[order], 0.2, "test"))


def test_another_purpose_holds_out_other_rows():
    ids, labels = torch.arange(1000), torch.zeros(1000, dtype=torch.int64)
    both = hold_out(ids, labels, 0.1, "test") & hold_out(ids, labels, 0.1, "validation")
    assert 1 <= int(both.sum()) <= 25


def test_what_is_held_out_is_spread_over_the_ids():
    held = hold_out(torch.arange(10_000), torch.zeros(10_000, dtype=torch.int64), 0.1, "validation")
    parts = held.view(10, 1000).sum(1)
    assert parts.min() > 60
    assert parts.max() < 140


def test_the_split_is_pinned_so_that_no_release_moves_it():
    held = hold_out(torch.arange(40), torch.arange(40) % 2, 0.2, "validation")
    assert held.nonzero().flatten().tolist() == [0, 17, 18, 20, 27, 29, 34, 35]


def test_smaller_limits_keep_a_part_of_larger_ones():
    ids = torch.arange(100) + 50
    ten, twenty = set(first(ids, 10).tolist()), set(first(ids, 20).tolist())
    assert len(ten) == 10
    assert ten < twenty
    assert first(ids, None).tolist() == first(ids, 1000).tolist() == list(range(100))


def test_holding_out_nothing_or_everything_is_refused():
    ids = torch.arange(4)
    with pytest.raises(DataError, match="too few images"):
        hold_out(ids, ids, 0.1, "test")
