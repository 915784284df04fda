"""Plain WebDataset tars in which every byte follows from the members: no times, owners or extra padding."""

import contextlib
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def is_valid_key(key: str) -> bool:
    """True for 1..80 letters, digits, `_` and `-`: no dot (WebDataset ends the key there), no slash, no `..`."""
    return _KEY.fullmatch(key) is not None


def shard_name(shard: int) -> str:
    """File name of a shard: 00000.tar, 00001.tar …"""
    return f"{shard:05d}.tar"


def member_header(name: str, num_bytes: int) -> bytes:
    """The 512-byte USTAR header of a regular file with mode 0644, time 0 and owner 0."""
    member = tarfile.TarInfo(name)
    member.size = num_bytes
    return member.tobuf(tarfile.USTAR_FORMAT)


def padded(num_bytes: int) -> int:
    """`num_bytes` rounded up to whole tar blocks."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


class ShardWriter:
    """Writes samples, each of a few members, into one tar, number `shard` of `folder`, and syncs it at the end."""

    def __init__(self, folder: Path, shard: int) -> None:
        self.shard = shard
        self.num_bytes = 0
        """Bytes written so far; the size of the file once it is closed."""
        self._file: BinaryIO = (folder / shard_name(shard)).open("wb", buffering=1 << 20)

    def add(self, members: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append a sample given as (member name, content); returns the offset of each content."""
        offsets = []
        for name, content in members:
            self._file.write(member_header(name, len(content)))
            offsets.append(self.num_bytes + BLOCK_BYTES)
            self._file.write(content)
            self._file.write(bytes(padded(len(content)) - len(content)))
            self.num_bytes += BLOCK_BYTES + padded(len(content))
        return offsets

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._file:
                self._file.write(END_OF_ARCHIVE)
                self._file.flush()
                os.fsync(self._file.fileno())
            self.num_bytes += len(END_OF_ARCHIVE)
        else:
            # On a full disk the last flush fails as well; the file is removed in any case.
            with contextlib.suppress(OSError):
                self._file.close()
