"""Blocks and orders from what the index has, and segments that share samples: compared with counting pair by pair."""

import itertools

import numpy as np
import pytest
from index_columns import make_index

from neuroimagen.data_shards.dataset.recording_time import recording_time, shared_samples
from neuroimagen.data_shards.format.schema import SPLITS


def test_recorded_blocks_and_orders_are_taken_as_they_are() -> None:
    index = make_index(block=[0, 0, 1, 1], order=[1, 0, 0, 1], onset_s=[5.0, 1, 2, 3], recording_code=[0, 0, 0, 0])
    time = recording_time(index)
    assert (time.blocks.tolist(), time.orders.tolist(), time.origin) == ([0, 0, 1, 1], [1, 0, 0, 1], "")


def test_blocks_that_every_session_counts_anew_are_counted_on() -> None:
    index = make_index(block=[0, 1, 0, 1], order=[0, 0, 0, 0], session_code=[1, 1, 0, 0])
    assert recording_time(index).blocks.tolist() == [2, 3, 0, 1]
    index = make_index(block=[0, 1, 0, 1], order=[0, 0, 0, 0], session_code=[1, 1, 0, 0], subject=[1, 1, 2, 2])
    assert recording_time(index).blocks.tolist() == [0, 1, 0, 1]


def test_an_order_that_is_missing_follows_from_the_onsets() -> None:
    index = make_index(block=[0, 1, 0, 1, 0], onset_s=[9.0, 30, 3, 20, 6], recording_code=[0] * 5)
    assert recording_time(index).orders.tolist() == [2, 1, 0, 0, 1]


def test_without_blocks_each_recording_of_a_subject_is_one_in_the_order_of_sessions() -> None:
    index = make_index(
        subject=[1, 1, 2, 1, 1], recording_code=[2, 0, 1, 2, 0], session_code=[0, 1, 0, 0, 1], onset_s=[4.0, 1, 7, 2, 0]
    )
    time = recording_time(index)
    assert time.is_known
    assert time.blocks.tolist() == [0, 1, 0, 0, 1]
    assert time.orders.tolist() == [1, 1, 0, 0, 0]
    assert "each recording is taken for one" in time.origin


def test_an_order_in_a_recording_is_enough() -> None:
    time = recording_time(make_index(recording_code=[0, 0, 1], order=[5, 2, 0]))
    assert (time.blocks.tolist(), time.orders.tolist()) == ([0, 0, 1], [1, 0, 0])


@pytest.mark.parametrize(
    "columns",
    [
        {"order": [0, 1]},
        {"onset_s": [0.0, np.nan], "recording_code": [0, 0]},
        {"onset_s": [0.0, 1.0], "recording_code": [0, -1]},
        {"recording_code": [0, 0]},
    ],
)
def test_what_is_not_known_of_every_segment_stays_unknown(columns: dict) -> None:
    assert not recording_time(make_index(**columns)).is_known


def test_stretches_divide_each_recording_evenly() -> None:
    rng = np.random.default_rng(0)
    recordings, subject = np.repeat([0, 1, 2], [120, 30, 70]), np.repeat([1, 1, 4], [120, 30, 70])
    shuffled = rng.permutation(220)
    onset = np.arange(220.0)[shuffled]
    index = make_index(recording_code=recordings[shuffled], subject=subject[shuffled], onset_s=onset)
    time = recording_time(index, stretch=50)
    blocks, orders = time.blocks[np.argsort(onset)], time.orders[np.argsort(onset)]
    sizes = [[60, 60, 30], [70]]
    expected = [np.repeat(np.arange(len(each)), each) for each in sizes]
    assert blocks.tolist() == np.concatenate(expected).tolist()
    assert orders.tolist() == [order for each in sizes for size in each for order in range(size)]


def test_shared_samples_are_those_of_every_pair() -> None:
    rng = np.random.default_rng(3)
    n_samples, sfreq = 44, 250.0
    recording, split = rng.integers(3, size=80), rng.integers(3, size=80)
    first = rng.integers(1500, size=80)  # sample at which a segment begins
    index = make_index(recording_code=recording, split_code=split, onset_s=first / sfreq)
    expected = {}
    for one, other in itertools.product(range(80), repeat=2):
        if recording[one] == recording[other] and abs(first[one] - first[other]) < n_samples:
            expected.setdefault((split[one], split[other]), {}).setdefault(one, other)
    found = {(each.split, each.other): each for each in shared_samples(index, n_samples=n_samples, sfreq=sfreq)}
    assert set(found) == {("test", "train"), ("test", "val"), ("val", "train")}
    for (name, other), each in found.items():
        pairs = expected[SPLITS.index(name), SPLITS.index(other)]
        assert each.count == len(pairs)
        for row, near in each.examples:
            assert row in pairs
            assert abs(first[row] - first[near]) < n_samples
            assert recording[row] == recording[near]


def test_segments_that_only_touch_share_no_samples() -> None:
    index = make_index(recording_code=[0, 0], split_code=[0, 2], onset_s=[0.1, 0.1 + 0.44])
    assert list(shared_samples(index, n_samples=440, sfreq=1000.0)) == []
    assert len(list(shared_samples(index, n_samples=441, sfreq=1000.0))) == 1


def test_recordings_of_different_lengths_do_not_touch() -> None:
    index = make_index(recording_code=[0, 1], split_code=[0, 2], onset_s=[1000.0, 0.0])
    assert list(shared_samples(index, n_samples=440, sfreq=1000.0)) == []
