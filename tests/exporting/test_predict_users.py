"""The best items of users, from a network and from its exported vectors."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, ModelError
from tutelage.exporting import predict_users
from tutelage.exporting.predict_users import (
    UnknownUser,
    also_taken,
    recommend,
    scorer_of_network,
    scorer_of_vectors,
    users_in,
    write_top_items,
)
from tutelage.exporting.vectors import VECTORS, vectors_bytes
from tutelage.models.recommend import mf
from tutelage.tasks.named import data_for


@pytest.fixture(scope="module")
def shop():
    return data_for(DataSettings("shop"))


@pytest.fixture(scope="module")
def network(shop):
    torch.manual_seed(0)
    return mf(len(shop.classes), shop.shape[0], dim=4)


def scorer_of(network, shop):
    return scorer_of_network(network, shop.classes, [shop.train, shop.validation, shop.test])


def by_hand(network, shop, name, left_out, count):
    """The best items of a user by a plain sort."""
    user = shop.train.names.index(name)
    scores = network(users=torch.tensor([user]))[0].tolist()
    order = sorted((place for place in range(len(scores)) if place not in left_out), key=lambda place: -scores[place])
    return [shop.classes[place] for place in order[:count]]


def taken_in_any_split(shop, name):
    user = torch.tensor([shop.train.names.index(name)])
    return {item for source in (shop.train, shop.validation, shop.test) for item in source.relevant.of(user)[0].tolist()
            if item >= 0}


def test_the_best_items_are_those_of_a_plain_sort_without_what_was_taken(network, shop):
    said = list(recommend(scorer_of(network, shop), ["u007", "u003"], 5))

    for one in said:
        assert list(one.items) == by_hand(network, shop, one.user, taken_in_any_split(shop, one.user), 5)
        assert list(one.scores) == sorted(one.scores, reverse=True)


def test_vectors_say_what_their_network_says(network, shop, tmp_path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(vectors_bytes(network, shop.train.names, shop.classes))

    (said,) = recommend(scorer_of_vectors(path), ["u007"], 4)

    assert list(said.items) == by_hand(network, shop, "u007", set(), 4)


def test_items_of_a_file_of_interactions_are_left_out_too(network, shop, tmp_path):
    before = [one.items for one in recommend(scorer_of(network, shop), ["u001", "u002"], 3)]
    path = tmp_path / "new.csv"
    path.write_text(f"item,user\n{before[0][0]},u001\nno such item,u001\n{before[0][1]},nobody\n{before[0][0]},u001\n")

    after = [one.items for one in recommend(also_taken(scorer_of(network, shop), path), ["u001", "u002"], 3)]

    assert after[0][:2] == before[0][1:]
    assert after[1] == before[1]


def test_an_unknown_user_stops_nothing(network, shop):
    said = list(recommend(scorer_of(network, shop), ["u007", "nobody", "u001"], 2))

    assert [one.user for one in said] == ["u007", "nobody", "u001"]
    assert isinstance(said[1], UnknownUser)
    assert json.loads(said[1].as_json())["error"]["what"] == "a user that is not in the training data"


def test_users_in_small_parts_get_the_same(network, shop, monkeypatch):
    whole = list(recommend(scorer_of(network, shop), shop.train.names[:40], 3))
    monkeypatch.setattr(predict_users, "AT_ONCE", 3 * len(shop.classes))

    parts = list(recommend(scorer_of(network, shop), shop.train.names[:40], 3))

    for one, other in zip(parts, whole, strict=True):
        assert (one.user, one.items) == (other.user, other.items)
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_who_has_taken_everything_gets_nothing(network, shop, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("user,item\n" + "".join(f"u001,{item}\n" for item in shop.classes[1:]))

    (said,) = recommend(also_taken(scorer_of(network, shop), path), ["u001"], 3)

    assert set(said.items) <= {shop.classes[0]}


def test_a_list_and_a_table_name_the_same_users(tmp_path):
    plain, table = tmp_path / "a.txt", tmp_path / "b.csv"
    plain.write_text("u1\n\n u2 \nu1\n")
    table.write_text('n,"who"\n1,u1\n2,u2\n3,u1\n')

    assert users_in(plain, "user") == users_in(table, "who") == ["u1", "u2"]


@pytest.mark.parametrize(("text", "what"), [("a,b\n1,2\n", "no column 'user'"), ("\n", "names no user"),
                                            ("user,item\n", "names no user")])
def test_a_file_without_users_is_refused(tmp_path, text, what):
    path = tmp_path / "a.csv"
    path.write_text(text)

    with pytest.raises(DataError, match=what):
        users_in(path, "user")


def test_the_table_has_a_row_for_each_item(network, shop, tmp_path):
    found = list(recommend(scorer_of(network, shop), ["u007", "nobody"], 3))

    write_top_items(tmp_path / "a.csv", found)
    write_top_items(tmp_path / "a.json", found)

    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["user"], row["place"], row["item"]) for row in rows] == [
        ("u007", str(place), item) for place, item in enumerate(found[0].items, 1)]
    assert [float(row["score"]) for row in rows] == pytest.approx(found[0].scores, abs=1e-7)
    assert json.loads((tmp_path / "a.json").read_text())[0]["items"] == list(found[0].items)


def broken(path, change):
    tensors, told = {"users": torch.zeros(2, 3), "items": torch.zeros(2, 3)}, {
        "format": VECTORS, "user_ids": '["a", "b"]', "item_ids": '["x", "y"]'}
    change(tensors, told)
    save_file(tensors, path, told)


@pytest.mark.parametrize("change", [
    lambda tensors, told: told.update(user_ids='["a"]'),
    lambda tensors, told: told.update(item_ids='["x", "x"]'),
    lambda tensors, told: told.update(item_ids="[1, 2]"),
    lambda tensors, told: told.update(columns="3"),
    lambda tensors, told: told.pop("user_ids"),
    lambda tensors, told: tensors.pop("items"),
    lambda tensors, told: tensors.update(items=torch.zeros(2, 4)),
    lambda tensors, told: tensors.update(items=torch.full((2, 3), torch.inf)),
])
def test_vectors_that_are_not_whole_are_refused(tmp_path, change):
    broken(tmp_path / "v.safetensors", change)

    with pytest.raises(ModelError, match="not vectors as"):
        scorer_of_vectors(tmp_path / "v.safetensors")


def test_a_network_of_other_users_is_refused(shop):
    with pytest.raises(ModelError, match="other users or items"):
        scorer_of_network(mf(len(shop.classes), 7), shop.classes, [shop.train])
