"""Local shards: mapped, bounded by the size that dataset.json states, checked by CRC."""

import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.storage import CorruptSampleError, ShardFolder
from neuroimagen.data_shards.format.tar import shard_name

CONTENTS = [np.random.default_rng(shard).bytes(2048) for shard in range(2)]


@pytest.fixture
def shards(tmp_path: Path) -> ShardFolder:
    for shard, content in enumerate(CONTENTS):
        (tmp_path / shard_name(shard)).write_bytes(content)
    return ShardFolder(tmp_path, [2048, 2048])


def test_ranges_are_those_of_the_file(shards: ShardFolder) -> None:
    assert bytes(shards.read(1, 512, 100)) == CONTENTS[1][512:612]
    assert bytes(shards.view(0)) == CONTENTS[0]
    assert shards.view(0) is shards.view(0)
    assert shards.where(1) == str(shards.path(1))
    assert len(shards) == 2


def test_only_bytes_with_the_right_checksum_are_returned(shards: ShardFolder) -> None:
    right = crc32(CONTENTS[0][:700])
    assert bytes(shards.read_checked(0, 0, 700, right) or b"") == CONTENTS[0][:700]
    found = list(shards.read_all_checked([(0, 0, 700, right), (1, 0, 700, right), (0, 0, 700, right)]))
    assert [content is None for content in found] == [False, True, False]


def test_a_shard_of_another_size_is_refused_before_it_is_mapped(shards: ShardFolder) -> None:
    shards.path(1).write_bytes(CONTENTS[1][:-1])
    with pytest.raises(CorruptSampleError, match=r"00001\.tar has 2,047 bytes; dataset\.json says 2,048"):
        shards.read(1, 0, 10)
    shards.path(1).unlink()
    with pytest.raises(UserError, match=r"cannot read .*00001\.tar: No such file.*The data set is incomplete"):
        shards.read(1, 0, 10)


def test_a_shard_that_is_cut_while_it_is_open_is_an_error_that_names_it(shards: ShardFolder) -> None:
    path = shards.path(0)
    size = path.stat().st_size
    whole = bytes(shards.view(0))
    os.truncate(path, size // 2)
    for read in (lambda: shards.view(0), lambda: shards.read(0, size - 8, 8), lambda: shards.read_checked(0, 0, 8, 0)):
        with pytest.raises(CorruptSampleError, match=f"{path} has {size // 2:,} bytes"):
            read()
    path.write_bytes(whole)
    assert bytes(shards.read(0, 0, size)) == whole


def test_a_fifo_in_place_of_a_shard_is_refused_at_once(shards: ShardFolder) -> None:
    path = shards.path(0)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="a FIFO, not a file"):
        shards.view(0)
