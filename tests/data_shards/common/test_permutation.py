"""Permutations computed place by place: bijective, unrelated between keys, and the same on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.data_shards.common.permutation import derive_key, permute


@given(length=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_every_place_is_reached_once(length: int, seed: int) -> None:
    images = permute(np.arange(length), length, derive_key(seed))
    assert images.dtype == np.int64
    assert sorted(images.tolist()) == list(range(length))


def test_a_place_can_be_computed_alone() -> None:
    key = derive_key(1, 2)
    whole = permute(np.arange(1_000_003), 1_000_003, key)
    for place in (0, 17, 999_999, 1_000_002):
        assert permute(np.array([place]), 1_000_003, key) == whole[place]


def test_lengths_and_keys_broadcast() -> None:
    lengths, keys = np.array([[5], [9]]), derive_key(0, np.array([[1], [2]]))
    both = permute(np.array([[0, 3, 4], [1, 8, 7]]), lengths, keys)
    for row, length in enumerate((5, 9)):
        places = np.array([[0, 3, 4], [1, 8, 7]])[row]
        np.testing.assert_array_equal(both[row], permute(places, length, keys[row, 0]))


def test_keys_differ_with_every_number_and_its_place() -> None:
    keys = {int(derive_key(*numbers)) for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**63,))}
    assert len(keys) == 7


def test_orders_of_two_keys_are_unrelated() -> None:
    """Rank correlation of 100,000 places: its standard deviation is 1/√n under independence."""
    n = 100_000
    first, second = (permute(np.arange(n), n, derive_key(0, epoch)) for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 5 / np.sqrt(n)


def test_the_values_never_change() -> None:
    """The order of an epoch is part of a run: it must be the same after an update."""
    assert int(derive_key(7, 3)) == 0x4CF94AFF3366CB04
    assert permute(np.arange(10), 10, derive_key(7, 3)).tolist() == [5, 6, 4, 7, 2, 9, 1, 8, 3, 0]


@pytest.mark.parametrize("length", [1, 2])
def test_short_lengths(length: int) -> None:
    orders = {tuple(permute(np.arange(length), length, derive_key(seed)).tolist()) for seed in range(40)}
    assert len(orders) == length
