"""What is held out depends on the names and the labels, and on nothing else."""

import hashlib
import math
from contextlib import nullcontext
from pathlib import PurePath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from every import every
from tutelage.data.splits import Cut, first, hold, hold_out, names_of_paths, spread_over_classes
from tutelage.errors import DataError, UsageError
from tutelage.system.random import derive, hashed

SIZES = st.lists(st.sampled_from([1, 2, 3, 5, 7, 30, 200]), min_size=2, max_size=12)


def classes_of_sizes(sizes: list[int], key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Names in no order, and labels: so many rows of each class."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return hashed(key, torch.arange(len(labels))), labels


def held_by_hand(names: list[int], labels: list[int], share: float, purpose: str) -> set[int]:
    """The names that the rule holds out, class by class in plain Python."""
    held = set()
    for label in set(labels):
        own = [name for name, other in zip(names, labels, strict=True) if other == label]
        keys = hashed(derive("split", purpose), torch.tensor(own)).tolist()
        turn = (label + 0.5) * (math.sqrt(5) - 1) / 2 % 1
        wanted = min(len(own) - 1, math.floor(share * len(own) + turn))
        held |= {name for _, name in sorted(zip(keys, own, strict=True))[:wanted]}
    return held


def cut_twice(names: torch.Tensor, labels: torch.Tensor) -> dict[int, str]:
    """Name -> its split, as a folder is cut that has no splits: a fifth for the test, a tenth of the rest."""
    test = hold(names, labels, 0.2, "test")
    rest = (~test).nonzero()[:, 0]
    validation = rest[hold(names[rest], labels[rest], 0.1, "validation")]
    splits = dict.fromkeys(names.tolist(), "train")
    return splits | dict.fromkeys(names[test].tolist(), "test") | dict.fromkeys(names[validation].tolist(), "val")


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, share=st.floats(0.05, 0.9), key=st.integers(0, 2**40))
def test_what_is_held_out_is_what_the_rule_says_by_hand(sizes, share, key):
    names, labels = classes_of_sizes(sizes, key)
    by_hand = held_by_hand(names.tolist(), labels.tolist(), share, "validation")
    with nullcontext() if by_hand else pytest.raises(DataError, match="too few images"):
        assert set(names[hold(names, labels, share, "validation")].tolist()) == by_hand


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES.filter(lambda sizes: sum(sizes) > 20), key=st.integers(0, 2**40))
def test_every_class_keeps_a_training_image_whatever_its_size(sizes, key):
    names, labels = classes_of_sizes(sizes, key)
    test = hold(names, labels, 0.9, "test")
    assert set(labels[~test].tolist()) == set(labels.tolist())
    rest = (~test).nonzero()[:, 0]
    try:
        left = rest[~hold(names[rest], labels[rest], 0.9, "validation")]
    except DataError:
        left = rest
    assert set(labels[left].tolist()) == set(labels.tolist())
    single = {label for label, size in enumerate(sizes) if size == 1}
    assert not single & set(labels[test].tolist())


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES.filter(lambda sizes: sum(sizes) > 40), key=st.integers(0, 2**40), data=st.data())
def test_an_image_more_moves_at_most_two_others_all_of_its_class(sizes, key, data):
    names, labels = classes_of_sizes(sizes, key)
    left_out = data.draw(st.integers(0, len(names) - 1).filter(lambda row: sizes[int(labels[row])] > 1))
    rows = torch.arange(len(names)) != left_out
    whole, without = cut_twice(names, labels), cut_twice(names[rows], labels[rows])
    moved = [name for name in without if without[name] != whole[name]]
    assert len(moved) <= 2
    assert {int(labels[names == name]) for name in moved} <= {int(labels[left_out])}


@pytest.mark.parametrize(("count", "size"), [(1000, 2), (1000, 3), (200, 7), (1000, 5)])
def test_many_small_classes_take_turns_so_that_together_they_give_the_share(count, size):
    names, labels = classes_of_sizes([size] * count, 1)
    held = hold(names, labels, 0.2, "test")
    assert abs(int(held.sum()) - 0.2 * count * size) <= 2


def test_a_larger_share_holds_out_all_that_a_smaller_one_does():
    names, labels = classes_of_sizes([5, 30, 200, 1000], 3)
    small, large = hold(names, labels, 0.1, "test"), hold(names, labels, 0.3, "test")
    assert every((large[small]).tolist())
    assert int(small.sum()) < int(large.sum())


def test_the_order_and_the_purpose_by_rule_2():
    names, labels = classes_of_sizes([40, 200, 1000], 5)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    held = hold(names, labels, 0.2, "test")
    assert torch.equal(held[order], hold(names[order], labels[order], 0.2, "test"))
    assert int((held & hold(names, labels, 0.2, "validation")).sum()) < 0.3 * int(held.sum())


def test_rule_2_is_pinned_so_that_no_release_moves_it():
    held = hold(torch.arange(40), torch.arange(40) % 2, 0.2, "validation")
    assert held.nonzero().flatten().tolist() == [4, 5, 11, 18, 24, 30, 31, 37]
    paths = [PurePath("a/1.png"), PurePath("b/ü.jpg")]
    assert names_of_paths(paths).tolist() == [
        int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)
        for name in (b"a/1.png", "b/ü.jpg".encode())]


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, key=st.integers(0, 2**40), unlabelled=st.integers(0, 60), data=st.data())
def test_a_limit_keeps_every_class_in_proportion_and_a_part_of_what_a_larger_one_keeps(sizes, key, unlabelled, data):
    names, labels = classes_of_sizes([*sizes, unlabelled], key)
    labels = labels.where(labels < len(sizes), -1)
    large = data.draw(st.integers(len(sizes), len(labels)))
    small = data.draw(st.integers(len(sizes), large))
    cut = Cut(2, names)
    few, more = (cut.first(torch.arange(len(names)), labels, labels, limit) for limit in (small, large))
    assert len(few) == small
    assert set(few.tolist()) <= set(more.tolist())
    assert set(labels[few].tolist()) >= set(range(len(sizes)))
    kept = labels[few].where(labels[few] >= 0, len(sizes)).bincount(minlength=len(sizes) + 1).tolist()
    # Each class has its share of the rows, except where the one image of a small class takes another's place.
    for count, size in zip(kept, [*sizes, unlabelled], strict=True):
        assert count <= size * small / len(labels) + 2
        assert count >= min(size, size * (small - len(sizes)) / len(labels) - 2)


def test_the_order_of_a_limit_does_not_depend_on_the_order_of_the_rows():
    names, labels = classes_of_sizes([3, 5, 30], 9)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    assert names[spread_over_classes(names, labels)].tolist() == names[order][
        spread_over_classes(names[order], labels[order])].tolist()


def test_other_labels_choose_other_rows_of_a_limit_only_where_a_class_would_have_none():
    ids, own = torch.arange(90), torch.arange(90) % 3
    cut = Cut()
    plain = cut.first(ids, own, own, 12).tolist()
    assert cut.first(ids, torch.full_like(own, 4), own, 12).tolist() == plain
    left_out = next(row for row in range(90) if row not in plain)
    told = own.where(ids != left_out, 7)
    changed = cut.first(ids, told, own, 12).tolist()
    assert left_out in changed
    assert len(set(changed) & set(plain)) == 11


def test_another_rule_than_there_is_is_refused():
    with pytest.raises(UsageError, match="split_rule"):
        Cut(3)


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
