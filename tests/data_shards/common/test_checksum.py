"""CRC-32 is zlib's, whichever implementation is installed."""

import zlib

import numpy as np
import pytest

from neuroimagen.data_shards.common.checksum import crc32


@pytest.mark.parametrize("size", [0, 1, 7, 512, 112_640])
def test_it_is_the_checksum_of_zlib(size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    assert crc32(content) == crc32(memoryview(content)) == zlib.crc32(content)


def test_the_published_check_value() -> None:
    assert crc32(b"123456789") == 0xCBF43926
