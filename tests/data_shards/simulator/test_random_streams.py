"""Random streams: independent of each other, and the same in every version."""

import itertools

import numpy as np

from neuroimagen.data_shards.simulator.random_streams import STREAM_HEAD, STREAM_SEGMENT, random_stream


def test_seed_purpose_and_index_each_give_another_stream() -> None:
    streams = [(0, STREAM_SEGMENT, 0), (1, STREAM_SEGMENT, 0), (0, STREAM_HEAD, 0), (0, STREAM_SEGMENT, 1)]
    drawn = [random_stream(*stream).standard_normal(2000) for stream in streams]
    for first, second in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(2000)
    np.testing.assert_array_equal(drawn[0], random_stream(0, STREAM_SEGMENT).standard_normal(2000))


def test_the_values_never_change() -> None:
    assert random_stream(3, STREAM_HEAD, 2).integers(2**32, size=3).tolist() == [3311283300, 979534735, 3044830676]
