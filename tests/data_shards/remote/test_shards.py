"""Tars behind a URL: byte ranges across blocks, checks, prefetching."""

import pickle
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.remote.mirror import RemoteDataset
from neuroimagen.data_shards.remote.shards import RemoteShards


@pytest.fixture
def shards(served: Any) -> RemoteShards:
    made: RemoteShards = RemoteDataset(served.url, served.options).shards(
        "segments", served.local.metadata.segment_shards
    )
    return made


def content(served: Any, shard: int) -> bytes:
    path: Path = served.local.segments.path(shard)
    return path.read_bytes()


def test_ranges_are_those_of_the_file_within_and_across_blocks(served: Any, shards: RemoteShards) -> None:
    whole = content(served, 1)
    for offset, size in ((0, 10), (9_995, 10), (10_000, 1), (5_000, 25_000), (len(whole) - 3, 3)):
        assert bytes(shards.read(1, offset, size)) == whole[offset : offset + size]
    assert bytes(shards.view(1)) == whole
    assert shards.where(1) == f"{served.url}/segments/00001.tar"
    assert shards.blocks(1, 9_995, 10) == [(1, 0), (1, 1)]
    assert len(shards) == len(served.local.segments)


def test_a_block_is_fetched_once_and_again_only_if_it_is_damaged(served: Any, shards: RemoteShards) -> None:
    expected = content(served, 0)[600:700]
    served.server.fault = lambda path, number: "corrupt" if path.endswith(".tar") and number == 0 else None
    assert bytes(shards.read_checked(0, 600, 100, crc32(expected)) or b"") == expected
    assert served.server.count(".tar") == 2
    assert shards.read_checked(0, 600, 100, crc32(expected) ^ 1) is None
    count = served.server.count(".tar")
    copy = pickle.loads(pickle.dumps(shards))
    assert list(map(bytes, copy.read_all_checked([(0, 600, 100, crc32(expected))]))) == [expected]
    assert served.server.count(".tar") <= count + 1


def test_prefetched_blocks_are_not_fetched_by_the_read(served: Any, shards: RemoteShards) -> None:
    shards.prefetch(shards.blocks(2, 0, 25_000))
    deadline = time.monotonic() + 60
    while served.server.count("00002.tar") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert bytes(shards.read(2, 0, 25_000)) == content(served, 2)[:25_000]
    assert served.server.count("00002.tar") == 3


def test_an_error_of_prefetching_is_raised_by_the_read(served: Any, shards: RemoteShards) -> None:
    served.server.fault = lambda path, number: "404"
    shards.prefetch([(0, 0)])
    with pytest.raises(UserError, match=r"segments/00000\.tar does not exist"):
        shards.read(0, 0, 10)


def test_a_shard_that_was_cut_short_is_named(served: Any, shards: RemoteShards) -> None:
    served.local.segments.path(1).write_bytes(content(served, 1)[:15_000])
    assert bytes(shards.read(1, 0, 10)) == content(served, 1)[:10]
    with pytest.raises(
        CorruptSampleError, match=r"00001\.tar gave 5,000 bytes at offset 10,000 where 10,000 were asked"
    ):
        shards.read(1, 12_000, 10)
