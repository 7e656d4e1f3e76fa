"""How often each class comes in an epoch, and what is said of classes of unequal size."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from every import every
from tutelage.data import from_tensors
from tutelage.data.balance import notes_on_classes, rows_of_epoch
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.system.random import derive, permutation

LABELS = torch.tensor([-1] * 5 + [0] * 40 + [1] * 3 + [2] * 17 + [4])


def test_without_balance_each_row_comes_once_in_the_order_of_old():
    order = rows_of_epoch(LABELS, "none", 7, 3)
    assert torch.equal(order, permutation(derive(7, "order", 3), len(LABELS)))


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any), unlabelled=st.integers(0, 9),
       balance=st.sampled_from(["sqrt", "uniform"]), epoch=st.integers(0, 1000))
def test_each_class_has_its_draws_and_each_row_of_it_as_many_as_the_others(sizes, unlabelled, balance, epoch):
    labels = torch.cat([torch.full((unlabelled,), -1), torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))])
    order = rows_of_epoch(labels, balance, 0, epoch)
    assert len(order) == len(labels)
    times = Counter(order.tolist())
    weight = {label: size**0.5 if balance == "sqrt" else 1.0 for label, size in enumerate(sizes) if size}
    for label, part in weight.items():
        rows = (labels == label).nonzero()[:, 0].tolist()
        wanted = sum(sizes) * part / sum(weight.values())
        own = [times[row] for row in rows]
        assert abs(sum(own) - wanted) < 1 + 1e-6
        assert max(own) - min(own) <= 1
    assert [times[row] for row in range(unlabelled)] == [1] * unlabelled


def test_over_many_epochs_a_class_has_its_share_exactly_and_a_row_that_of_its_class():
    epochs = 800
    total = torch.zeros(len(LABELS))
    for epoch in range(epochs):
        total += rows_of_epoch(LABELS, "sqrt", 1, epoch).bincount(minlength=len(LABELS))
    sizes = torch.tensor([40.0, 3.0, 17.0, 1.0])
    wanted = 61 * sizes.sqrt() / sizes.sqrt().sum()
    for label, size, many in zip((0, 1, 2, 4), sizes, wanted, strict=True):
        own = total[label == LABELS] / epochs
        assert abs(float(own.sum() - many)) < 0.05
        assert float((own - many / size).abs().max()) < 0.09


def test_an_epoch_depends_on_seed_and_number_alone_and_is_mixed():
    one = rows_of_epoch(LABELS, "uniform", 0, 0)
    assert torch.equal(one, rows_of_epoch(LABELS, "uniform", 0, 0))
    assert not torch.equal(one, rows_of_epoch(LABELS, "uniform", 0, 1))
    assert not torch.equal(one, rows_of_epoch(LABELS, "uniform", 1, 0))
    first_half = LABELS[one[: len(one) // 2]]
    assert set(first_half.tolist()) == {-1, 0, 1, 2, 4}


def test_an_unknown_balance_is_refused():
    with pytest.raises(ValidationError, match="uniform"):
        TypeAdapter(DataSettings).validate_python({"name": "digits", "balance": "unifrom"})


def test_balance_is_part_of_the_data_and_no_balance_leaves_them_as_they_were():
    pair = torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 2
    plain, balanced = from_tensors(pair), from_tensors(pair, balance="sqrt")
    assert (plain.balance, balanced.balance) == ("none", "sqrt")
    assert plain.digest == from_tensors(pair, balance="none").digest != balanced.digest
    assert load_data(DataSettings("digits", balance="uniform")).balance == "uniform"


def test_what_no_image_teaches_and_no_image_judges_is_named_with_how_many_there_are_to_train_on():
    labels = {"train": torch.tensor([0, 0, 2, 2, 3, -1]), "validation": torch.tensor([0, 2]),
              "test": torch.tensor([0, 2, 3])}
    assert notes_on_classes(("ant", "bee", "cat", "dog"), labels) == (
        "no training image teaches 1 of 4 classes: bee",
        "no validation image judges 2 of 4 classes: bee (0 to train on), dog (1 to train on)",
        "no test image judges 1 of 4 classes: bee (0 to train on)")


def test_where_no_training_image_has_a_label_that_alone_is_told():
    labels = {"train": torch.tensor([-1, -1]), "validation": torch.tensor([0, 1])}
    assert notes_on_classes(("ant", "bee"), labels) == ("no training image has a label",)
    assert rows_of_epoch(labels["train"], "uniform", 0, 0).sort().values.tolist() == [0, 1]


def test_the_largest_and_the_smallest_class_are_told_where_one_has_three_times_the_other():
    def said(*sizes: int) -> tuple[str, ...]:
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return notes_on_classes(tuple("abcdef"[: len(sizes)]), {"train": labels, "validation": labels})

    assert said(10, 29, 12) == ()
    (note,) = said(10, 30, 12)
    assert note.startswith("classes of unequal size: 30 training images of b, 10 of a")


def test_a_long_list_of_classes_is_cut_short():
    names = tuple(f"c{number}" for number in range(40))
    labels = torch.arange(5)
    (note, *_) = notes_on_classes(names, {"train": labels, "validation": labels})
    assert note == "no training image teaches 35 of 40 classes: c5, c6, c7, c8, c9, c10, c11, c12, c13, c14 and 25 more"


def test_of_a_whole_published_set_and_of_a_smoke_run_there_is_nothing_to_say():
    assert load_data(DataSettings("digits")).notes == ()
    assert load_data(DataSettings("cifar100"), quick=True).notes == ()
    assert load_data(DataSettings("digits"), quick=True).notes == ()


def unlike(rows: int) -> torch.Tensor:
    """Images of which no two are the same."""
    return torch.arange(rows, dtype=torch.uint8)[:, None, None, None].expand(rows, 1, 8, 8)


def test_gaps_in_the_numbers_of_labels_are_told():
    labels = torch.arange(40) % 4
    data = from_tensors((unlike(40), labels.where(labels != 2, 5)), 0.2)
    assert every(note.endswith(("2, 4", "2 (0 to train on), 4 (0 to train on)")) for note in data.notes)
    assert len(data.notes) == 2
