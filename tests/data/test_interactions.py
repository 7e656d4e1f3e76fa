"""Interactions of users with items: files, the core, splits, groups, and what a user is given in a draw."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from every import every
from tutelage.data.interaction_files import read_interactions
from tutelage.data.interactions import core_of, each_pair_once, held_back, popularity_groups
from tutelage.data.load_users import load_users
from tutelage.data.settings import DataSettings
from tutelage.data.user_source import Ranking, as_columns, others_than, rank_items, ranked_pairs, two_ranks
from tutelage.errors import DataError, UsageError


@pytest.fixture
def written(tmp_path):
    def write(text, name="taken.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path
    return write


SMALL = "user,item,time\n" + "".join(f"u{user},i{(user + 3 * step) % 7},{10 * step + user}\n"
                                     for user in range(7) for step in range(5))


def of_text(written, text, **settings):
    settings = {"core": 2, "groups": 2, **settings}
    return load_users(DataSettings("interactions", **settings), [written(text)])


def test_the_names_of_users_and_items_survive(written):
    data = of_text(written, SMALL)

    assert data.classes == tuple(f"i{item}" for item in range(7))
    assert data.train.names == tuple(f"u{user}" for user in range(7))


def test_the_splits_of_a_user_do_not_overlap_and_hold_all_that_it_took(written):
    data = of_text(written, SMALL)

    for user in range(7):
        parts = [split.relevant.of(torch.tensor([user]))[0].tolist() for split in (data.train, data.validation,
                                                                                   data.test)]
        items = [item for part in parts for item in part if item >= 0]
        assert sorted(items) == sorted({(user + 3 * step) % 7 for step in range(5)})


def test_what_is_held_out_does_not_depend_on_the_order_of_the_file_or_on_the_seed(written):
    head, *lines = SMALL.splitlines()
    turned = "\n".join([head, *reversed(lines)])
    first, second = of_text(written, SMALL), load_users(
        DataSettings("interactions", core=2, groups=2), [written(turned, "turned.csv")], seed=7)

    assert first.digest == second.digest
    assert first.test.relevant.items.tolist() == second.test.relevant.items.tolist()


def test_by_time_no_interaction_of_training_is_later_than_one_of_the_test(written):
    found = each_pair_once(read_interactions(written(SMALL)))
    kept, splits = held_back(found, "time", 0.25)

    assert kept.times[splits["train"]].max() < kept.times[splits["validation"]].min()
    assert kept.times[splits["validation"]].max() < kept.times[splits["test"]].min()


def test_by_time_what_train_does_not_know_is_left_out_and_told(written):
    kept, _ = held_back(each_pair_once(read_interactions(written(SMALL + "u0,new,99\n"))), "time", 0.25)

    assert "new" not in kept.item_names
    assert any("left out: train knows not" in note for note in kept.notes)


def test_the_core_is_what_is_left_when_nothing_more_must_go(written):
    found = each_pair_once(read_interactions(written(SMALL + "lone,i0,1\nu0,rare,2\nlone,rare,3\n")))
    kept = core_of(found, 3)

    assert every(count >= 3 for numbers in (kept.users, kept.items) for count in Counter(numbers.tolist()).values())
    assert "lone" not in kept.user_names
    assert "rare" not in kept.item_names


def test_a_core_that_nothing_has_is_refused(written):
    with pytest.raises(DataError, match="no interaction is left"):
        core_of(each_pair_once(read_interactions(written(SMALL))), 50)


def test_users_with_a_single_interaction_are_left_out_and_told(written):
    data = of_text(written, SMALL + "lone,i0,1\nother,i1,1\n", core=1)

    assert "lone" not in data.train.names
    assert any(note.startswith("2 users with a single") for note in data.notes)


@pytest.mark.parametrize(("counts", "wanted", "groups"), [
    ([50, 30, 10, 5, 3, 1, 1], 3, [0, 1, 2, 2, 2, 2, 2]),
    ([1, 50, 3, 30, 1, 10, 5], 3, [2, 0, 2, 1, 2, 2, 2]),
    ([4, 4, 4, 4], 2, [0, 0, 1, 1]),
    ([5, 5, 5, 1], 1, [0, 0, 0, 0]),
    ([10, 10, 1], 2, [0, 1, 1]),
])
def test_groups_have_about_as_many_interactions_each(counts, wanted, groups):
    assert popularity_groups(counts, wanted) == groups


def test_more_groups_than_items_are_refused():
    with pytest.raises(UsageError, match="more groups than items"):
        popularity_groups([3, 2], 3)


@pytest.mark.parametrize(("text", "what", "where"), [
    ("user\na\n", "fewer than two columns", "line of names"),
    ("user;item\na;b\n", "fewer than two columns", "line of names"),
    ("who,what\na,b\n", "no column 'user'", "line of names"),
    ("user,item,time\na,b,2011-12-09\nc,d,yesterday\n", "time that cannot be read", "row 2"),
    ("user,item,time\na,b,1\nc,d,nan\n", "time that cannot be read", "row 2"),
    ("user,item,weight\na,b,1\nc,d,inf\n", "no finite number", "row 2"),
    ("user,item\na,b\nc\n", "another length", "row 2"),
    ("user,item\na,b\nc,d\na,b\n", "more than once", "row 3"),
])
def test_what_cannot_be_used_is_refused_with_file_and_row(written, text, what, where):
    with pytest.raises(DataError, match=what) as caught:
        each_pair_once(read_interactions(written(text)))
    assert "taken.csv" in caught.value.where
    assert where in caught.value.where


def test_interactions_that_come_again_are_merged_at_their_first_time_if_asked(written):
    found = each_pair_once(read_interactions(written("user,item,time\na,b,5\nc,d,1\na,b,3\n")), "merge")

    assert (found.users.tolist(), found.items.tolist(), found.times.tolist()) == ([0, 1], [0, 1], [3, 1])


def test_rows_that_took_something_back_are_no_interactions(written):
    file = read_interactions(written("who,what,many\na,b,2\na,c,-1\n,d,1\n"), {"user": "who", "item": "what",
                                                                                "weight": "many"})

    assert (file.user_names, file.item_names, file.left_out) == (("a",), ("b",), 2)


def test_the_others_are_all_that_a_user_did_not_take_alike():
    taken = torch.tensor([[0, 3, 4, -1], [1, -1, -1, -1], [0, 1, 2, 3]])
    odds = torch.linspace(0, 0.999, 60).expand(3, 60).double()

    found = others_than(taken, odds, 5)

    assert [sorted(Counter(row.tolist()).items()) for row in found] == [
        [(1, 30), (2, 30)], [(0, 15), (2, 15), (3, 15), (4, 15)], [(4, 60)]]
    assert others_than(torch.tensor([[0, 1]]), odds[:1], 2).unique().tolist() == [-1]


def test_ranks_are_drawn_in_proportion_to_the_exponential_and_without_replacement():
    generator = torch.Generator().manual_seed(0)
    odds = torch.rand(2, 100_000, generator=generator, dtype=torch.float64)
    shares = np.array([0.2204825866, 0.2097295240, 0.1995008944, 0.1897711209, 0.1805158742])

    first, second = two_ranks(odds[0], odds[1], torch.full((100_000,), 5), 20.0)

    assert not bool((first == second).any())
    assert chisquare(np.bincount(first, minlength=5), 100_000 * shares).pvalue > 0.001
    pairs = np.bincount(5 * first + second, minlength=25).reshape(5, 5)
    wanted = shares[:, None] * shares / (1 - shares[:, None])
    off = ~np.eye(5, dtype=bool)
    assert chisquare(pairs[off], 100_000 * wanted[off]).pvalue > 0.001


def test_a_group_with_fewer_than_two_items_has_no_pair():
    first, second = two_ranks(torch.tensor([0.3, 0.9, 0.99]), torch.tensor([0.5, 0.1, 0.999]), torch.tensor([0, 1, 2]),
                              20.0)

    assert first.tolist()[:2] == second.tolist()[:2] == [-1, -1]
    assert {int(first[2]), int(second[2])} == {0, 1}


def ranking_of(scores, taken, groups, pairs=12):
    return Ranking(*rank_items(scores, taken, groups, 10), pairs, 20.0)


def test_every_pair_is_of_one_group_not_taken_and_in_the_teacher_s_order():
    generator = torch.Generator().manual_seed(1)
    scores, groups = torch.randn(6, 20, generator=generator), torch.arange(20) % 3
    taken = torch.stack([torch.randperm(20, generator=generator)[:7].sort().values for _ in range(6)])
    taken[0, 5:] = -1

    preferred, other = ranked_pairs(ranking_of(scores, taken, groups), torch.arange(6), 0, 3)

    assert preferred.shape == (6, 12)
    assert bool((preferred >= 0).all())
    assert bool((groups[preferred] == groups[other]).all())
    assert bool((scores.gather(1, preferred) > scores.gather(1, other)).all())
    assert not bool((preferred[:, :, None] == taken[:, None]).any() | (other[:, :, None] == taken[:, None]).any())


def test_the_pairs_are_those_of_seed_draw_and_user_and_of_the_teacher_s_order_alone():
    scores, taken, groups = torch.randn(6, 20, generator=torch.Generator().manual_seed(1)), torch.full((6, 1), -1), (
        torch.arange(20) % 2)
    whole = ranked_pairs(ranking_of(scores, taken, groups), torch.arange(6), 0, 3)
    some = ranked_pairs(ranking_of(scores.exp(), taken, groups), torch.tensor([4, 1]), 0, 3)
    later = ranked_pairs(ranking_of(scores, taken, groups), torch.arange(6), 0, 4)

    assert every(torch.equal(one[[4, 1]], other) for one, other in zip(whole, some, strict=True))
    assert not torch.equal(whole[0], later[0])


def test_candidates_stand_side_by_side_and_labels_are_their_columns():
    items, columns = as_columns({"better": torch.tensor([[7, 3]]), "worse": torch.tensor([[5, -1]])})

    assert items.tolist() == [[7, 3, 5, 0]]
    assert {name: column.tolist() for name, column in columns.items()} == {"better": [[0, 1]], "worse": [[2, -1]]}
