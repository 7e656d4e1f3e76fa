"""Rows dealt out to devices: nobody sees another's, and public rows have no label."""

from collections import Counter

import pytest
import torch

from every import every
from toys import data
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.shards import ShardedSource, Shards, dealt, is_shard, shards_of, with_shards
from tutelage.errors import DataError, UsageError

IDS, LABELS = torch.arange(1000) * 7 + 3, torch.arange(1000) % 10


def source(devices: int = 3) -> ShardedSource:
    found = with_shards(data(120), Shards(devices, 0.4, 1.0), seed=0).train
    assert isinstance(found, ShardedSource)
    return found


def test_each_row_is_dealt_once():
    public, shards = dealt(IDS, LABELS, Shards(7, 0.2, 0.3), seed=0)
    assert sorted(torch.cat([public, *shards]).tolist()) == list(range(1000))
    assert len(public) == 200
    assert every(len(shard) > 0 for shard in shards)


def test_a_small_concentration_gives_devices_few_classes_and_a_large_one_all_alike():
    def evenness(concentration: float) -> float:
        _, shards = dealt(IDS, LABELS, Shards(5, 0.2, concentration), seed=0)
        counts = torch.stack([torch.bincount(LABELS[shard], minlength=10) for shard in shards]).float()
        return float((counts / counts.sum(0)).std())

    assert evenness(0.1) > 0.25
    assert evenness(1e6) < 0.02


def test_shards_depend_on_the_seed_and_what_is_public_does_not():
    one, other = (dealt(IDS, LABELS, Shards(4), seed) for seed in (0, 1))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1][0], other[1][0])


def test_rows_without_a_label_are_public():
    public, shards = dealt(IDS, LABELS.where(IDS % 2 == 0, -1), Shards(4), seed=0)
    assert set((IDS % 2 == 1).nonzero()[:, 0].tolist()) <= set(public.tolist())
    assert every(bool((LABELS[shard] >= 0).all()) for shard in shards)


def test_a_device_sees_its_own_rows_and_the_public_ones_and_no_others():
    """Counted by the pixels: what comes in the view of a device is in its own shard, or public."""
    train = source()
    every_row = range(len(train.whole.ids))
    plain = {row: next(train.whole.batches([torch.tensor([row])], draw=0)).inputs[0] for row in every_row}
    seen = {device: Counter() for device in range(3)}
    plan = torch.randperm(len(train.ids))[:24].split(8)
    views = ("", "shard0", "shard1", "shard2")
    for batch, rows in zip(train.batches(plan, draw=0, views=views), plan, strict=True):
        for device in range(3):
            for image in batch.inputs[f"shard{device}"][:8]:
                seen[device][next(row for row, x in plain.items() if torch.equal(x, image))] += 1
            assert torch.equal(batch.inputs[f"shard{device}"][8:], batch.inputs[""])
            assert batch.labels[f"shard{device}"][8:].tolist() == [-1] * 8
            assert batch.labels[f"shard{device}"][:8].min() >= 0
        assert torch.equal(batch.ids, train.ids[rows])
    for device in range(3):
        assert set(seen[device]) <= set(train.shards[device].tolist())
        assert len(seen[device]) > 8  # it is not the same eight in each step


def test_a_batch_is_a_function_of_draw_and_ids_whatever_came_before():
    train, views = source(), ("", "shard1")
    one, other = torch.arange(8), torch.arange(8, 16)
    *_, late = train.batches([one, other], draw=3, views=views)
    (alone,) = train.batches([other], draw=3, views=views)
    assert torch.equal(late.inputs["shard1"], alone.inputs["shard1"])
    (again,) = train.batches([other], draw=4, views=views)
    assert not torch.equal(again.labels["shard1"], alone.labels["shard1"]) or not torch.equal(
        again.inputs["shard1"], alone.inputs["shard1"])


def test_a_shard_of_fewer_rows_than_a_step_shows_each_before_one_comes_again():
    train = source()
    small = ShardedSource(train.whole, train.public, (train.shards[0][:3],), 0)
    rows = small.own(0, 0, torch.arange(8))
    assert sorted(Counter(rows.tolist()).values()) == [2, 3, 3]


def test_whoever_learns_from_public_rows_sees_no_label_and_whoever_judges_does():
    train = source()
    (learning,), (judging,) = (train.batches([torch.arange(5)], draw=draw) for draw in (0, None))
    assert learning.labels.tolist() == [-1] * 5
    assert judging.labels.tolist() == train.labels[:5].tolist()


@pytest.mark.parametrize(("given", "problem"), [
    ({"devices": 0}, "devices"), ({"devices": 2.5}, "devices"), ({"devices": 3, "public": 0.0}, "public"),
    ({"devices": 3, "public": 1.0}, "public"), ({"devices": 3, "concentration": 0.0}, "concentration"),
    ({"device": 3}, "did you mean 'devices'"), ({"public": 0.2}, "devices")])
def test_shards_that_cannot_be_are_refused_by_their_key(given, problem):
    with pytest.raises(UsageError, match=problem):
        shards_of(given)


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"balance": "sqrt"}, {"name": "waves"},
                                     {"name": "shapes"}])
def test_what_shards_do_not_go_with_is_refused(options):
    with pytest.raises(UsageError, match="shards"):
        DataSettings(**{"name": "digits", "shards": {"devices": 2}, **options})


def test_a_device_without_a_row_is_an_error():
    with pytest.raises(DataError, match="device"):
        dealt(IDS[:60], torch.zeros(60, dtype=torch.int64), Shards(40, 0.2, 0.001), seed=0)
    with pytest.raises(DataError, match="fewer rows than devices"):
        dealt(IDS[:6], LABELS[:6], Shards(40, 0.5), seed=0)


def test_a_note_says_how_rows_were_dealt():
    found = load_data(DataSettings("digits", shards={"devices": 4, "public": 0.25}))
    assert "324 training rows are public, without their labels; 4 devices" in found.notes[-1]
    assert len(found.train.ids) == 324


def test_the_names_of_views_are_told_from_others():
    assert [is_shard(name) for name in ("shard0", "shard", "shards", "strong", "shard12")] == [
        True, False, False, False, True]
