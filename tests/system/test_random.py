"""Random numbers are functions of what they are for, the same on every machine and for good."""

import hashlib
import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tutelage.system.random import derive, normal, permutation, reseed, seeded, uniform

CPU = torch.device("cpu")
WORD = st.integers(-(2**70), 2**70) | st.text()


# What a run was yesterday it is tomorrow: these numbers may never change.


def test_seeds_stay_what_they_are():
    assert derive() == 4090036724241674979
    assert derive(0, "order", 3) == 6254814875441857239
    assert derive("a") == 1417421833181456274
    assert derive(2**63, "é\u2028") == 2738093977842621003


def test_permutations_stay_what_they_are():
    assert permutation(derive(0, "order", 0), 10).tolist() == [5, 7, 8, 2, 4, 9, 3, 6, 0, 1]
    long = permutation(1, 40_000)
    assert (long[:5].tolist(), long[-1].item()) == ([15845, 23214, 4822, 3791, 11315], 10834)


def test_uniform_numbers_stay_what_they_are():
    found = uniform(1, torch.tensor([0, 7, -1, 2**62]), 3)
    assert [[number.hex() for number in row] for row in found.double().tolist()] == [
        ["0x1.7fdf000000000p-1", "0x1.7d54b00000000p-2", "0x1.c0cd7c0000000p-2"],
        ["0x1.ef5a600000000p-5", "0x1.5b45280000000p-2", "0x1.ad3d5c0000000p-2"],
        ["0x1.29ab180000000p-1", "0x1.b23c240000000p-1", "0x1.0067b80000000p-3"],
        ["0x1.ab39b60000000p-1", "0x1.add9c20000000p-1", "0x1.3b84060000000p-1"]]


def test_the_seeded_generator_stays_what_it_is():
    with seeded(0, "t"):
        assert torch.rand(2).tolist() == [0.18348044157028198, 0.3512008786201477]


# Seeds


@settings(max_examples=50, deadline=None)
@given(st.lists(WORD, max_size=4))
def test_a_seed_is_the_hash_of_its_words_and_fits_a_generator(words):
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=8).digest()
    assert derive(*words) == int.from_bytes(digest, "big") // 2
    assert 0 <= derive(*words) < 2**63
    torch.Generator().manual_seed(derive(*words))


def test_unlike_words_give_unlike_seeds():
    words = [(), (0,), ("0",), (0, 0), ("a", "b"), ("ab",), ("a,b",), ('a", "b',), ("b", "a"), (-1,), (10,), (1, 0),
             ("",), ("", "")]
    words += [(seed, "order", epoch) for seed in range(50) for epoch in range(50)]
    assert len({derive(*these) for these in words}) == len(words)


# Uniform numbers

MASK = 2**64 - 1


def by_hand(key: int, sample: int, column: int) -> float:
    """splitmix64 of Steele et al. in plain integers, and its upper 24 bits."""
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        return x ^ x >> 31
    return (mix(mix((sample ^ key) & MASK) + (column + 1) * 0x9E3779B97F4A7C15 & MASK) >> 40) / 2**24


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(1, 5))
def test_uniform_numbers_are_those_of_splitmix(key, sample, count):
    assert uniform(key, torch.tensor([sample]), count)[0].tolist() == [by_hand(key, sample, k) for k in range(count)]


def test_the_mixer_is_the_published_one():
    """The first outputs of splitmix64 seeded with 1234567, as in the reference implementations."""
    from tutelage.system import random as randomness
    state = torch.tensor([(1234567 + k * 0x9E3779B97F4A7C15) & MASK for k in range(1, 4)], dtype=torch.uint64)
    assert [number & MASK for number in randomness._mix(state.view(torch.int64)).tolist()] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_number_depends_on_key_id_and_column_alone():
    ids = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    whole = uniform(5, ids, 8)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uniform(5, ids[order], 8), whole[order])
    assert torch.equal(uniform(5, ids, 3), whole[:, :3])
    for size in (1, 7):
        assert torch.equal(torch.cat([uniform(5, part, 8) for part in ids.split(size)]), whole)
    before = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(uniform(5, ids, 8), whole)
    assert torch.equal(uniform(5, ids, 1), uniform(5, ids, 1))
    torch.random.set_rng_state(before)


def test_drawing_does_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    uniform(1, torch.arange(9), 4)
    permutation(3, 100)
    derive(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_shapes_types_and_limits():
    found = uniform(derive(0), torch.arange(100_000), 2)
    assert (found.shape, found.dtype) == ((100_000, 2), torch.float32)
    assert uniform(0, torch.arange(0), 3).shape == (0, 3)
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1


ids_of = {"in a row": torch.arange(60_000), "far apart": torch.arange(60_000) << 32,
          "with gaps": torch.arange(60_000) * 1000 + 7}


@pytest.mark.parametrize("ids", ids_of)
@pytest.mark.parametrize("key", [0, 1, derive(0, "flip", 3)])
def test_numbers_are_spread_evenly_over_ids_columns_and_keys(ids, key):
    numbers = uniform(key, ids_of[ids], 3)
    for column in numbers.T:
        counts = torch.histc(column, 64, 0, 1).numpy()
        assert stats.chisquare(counts).pvalue > 1e-4
    low_bits = (numbers[:, 0].double() * 2**24).long() % 64
    assert stats.chisquare(low_bits.bincount(minlength=64).numpy()).pvalue > 1e-4


def test_pairs_of_columns_neighbours_and_keys_are_independent():
    ids = torch.arange(60_000)
    one, other = uniform(1, ids, 2), uniform(2, ids, 2)
    pairs = {"columns": (one[:, 0], one[:, 1]), "neighbours": (one[:-1, 0], one[1:, 0]),
             "keys": (one[:, 0], other[:, 0])}
    for name, (first, second) in pairs.items():
        table = ((first * 8).long() * 8 + (second * 8).long()).bincount(minlength=64).view(8, 8).numpy()
        assert stats.chi2_contingency(table).pvalue > 1e-4, name


# Permutations


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_permutation_holds_every_number_once(count):
    found = permutation(7, count)
    assert found.dtype == torch.int64
    assert sorted(found.tolist()) == list(range(count))
    assert torch.equal(found, permutation(7, count))


def test_every_order_is_as_likely_as_every_other():
    orders = list(itertools.permutations(range(4)))
    counts = [0] * len(orders)
    for epoch in range(2400):
        counts[orders.index(tuple(permutation(derive(0, "order", epoch), 4).tolist()))] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


# The global generators


def test_inside_a_stream_numbers_are_its_own_and_outside_nothing_has_happened():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = torch.rand(2)
    with seeded(1, "a"):
        inner = torch.rand(2)
        with seeded(1, "b"):
            torch.rand(100)
        rest = torch.rand(2)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    with seeded(1, "a"):
        assert torch.equal(torch.rand(4), torch.cat([inner, rest]))
    with seeded(1, "b"):
        assert not torch.equal(torch.rand(2), inner)


def test_an_error_inside_a_stream_puts_the_generator_back_too():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="negative"), seeded("x"):
        torch.rand(3, -1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reseeding_starts_the_stream_of_the_words_for_good():
    with seeded("outer"):
        reseed(CPU, 0, "net", 3)
        first = torch.rand(3)
        torch.rand(9)
        reseed(CPU, 0, "net", 3)
        assert torch.equal(torch.rand(3), first)
        reseed(CPU, 0, "net", 4)
        assert not torch.equal(torch.rand(3), first)
    with seeded(0, "net", 3):
        assert torch.equal(torch.rand(3), first)


def test_normal_numbers_are_the_quantiles_of_the_uniform_ones():
    ids = torch.tensor([0, 7, 2**62])
    expected = stats.norm.ppf(uniform(1, ids, 4).double().numpy())
    torch.testing.assert_close(normal(1, ids, 4).double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    many = normal(derive(0), torch.arange(50_000), 2).double()
    assert many.isfinite().all()
    assert stats.kstest(many.flatten().numpy(), "norm").pvalue > 0.01


def test_a_uniform_number_of_0_is_a_normal_one_all_the_same(monkeypatch):
    monkeypatch.setattr("tutelage.system.random.uniform", lambda key, ids, count: torch.tensor([[0.0, 1 - 2**-24]]))
    assert normal(0, torch.tensor([0]), 2)[0].tolist() == pytest.approx([-5.42, 5.29], abs=0.02)
