"""The checksum is zlib's CRC-32, with ISA-L and without."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from neuroimagen.data_shards.common.checksum import crc32

CODE = """
import sys
if {hidden}:
    sys.modules["isal"] = None
from neuroimagen.data_shards.common.checksum import crc32
print(crc32.__module__, crc32(b"123456789"), crc32(bytes(range(256)) * 99))
"""


@pytest.mark.parametrize(("hidden", "module"), [(False, "isal"), (True, "zlib")])
def test_it_is_zlib_s_crc(hidden: bool, module: str) -> None:
    command = [sys.executable, "-c", CODE.format(hidden=hidden)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, *values = done.stdout.split()
    assert module in found
    assert [int(value) for value in values] == [zlib.crc32(b"123456789"), zlib.crc32(bytes(range(256)) * 99)]
    assert int(values[0]) == 0xCBF43926


@pytest.mark.parametrize("size", [0, 1, 7, 512, 112_640])
def test_it_takes_bytes_and_views(size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    assert crc32(content) == crc32(memoryview(content)) == zlib.crc32(content)
