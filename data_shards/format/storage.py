"""Reading byte ranges of a data set's files."""

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file, reason
from neuroimagen.data_shards.format.tar import shard_name

Place = tuple[int, int, int, int]
"""Shard, offset, size, CRC-32."""


class CorruptSampleError(UserError):
    """A sample's bytes are not what the index says; the message names shard, key and offset."""


class Shards(Protocol):
    """The tars of one folder: local (ShardFolder) or behind a URL (remote/shards.py, RemoteShards)."""

    def __len__(self) -> int: ...

    def where(self, shard: int) -> str:
        """The path or URL of a shard, for messages."""
        ...

    def view(self, shard: int) -> memoryview:
        """The whole shard, which must not be written to. Raises UserError if it cannot be read or has another size."""
        ...

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """`size` bytes of a shard from `offset`."""
        ...

    def read_checked(self, shard: int, offset: int, size: int, checksum: int) -> memoryview | None:
        """The same bytes, or None if their CRC-32 is not `checksum`."""
        ...

    def read_all_checked(self, places: Iterable[Place]) -> Iterator[memoryview | None]:
        """`read_checked` of several places, in order."""
        ...


class ShardFolder:
    """The tars of one folder, memory-mapped when they are first used. Safe to use from several threads.

    A shard's size is compared with `shard_bytes` before every read: reading past the end of a mapped file that was cut
    short would kill the process with SIGBUS. That takes 1 µs, and copying a segment out of the file with `pread`, which
    would need no check, takes 10 µs more (of 12 µs for a segment of 128 × 440 values).
    """

    def __init__(self, folder: Path, shard_bytes: Sequence[int]) -> None:
        self.folder = folder
        self._shard_bytes = shard_bytes
        self._maps: dict[int, tuple[memoryview, Callable[[], int]]] = {}
        """Shard → its mapping, and what asks for the size of the file behind it."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._shard_bytes)

    def where(self, shard: int) -> str:
        """The path of a shard, as text."""
        return str(self.path(shard))

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / shard_name(shard)

    def view(self, shard: int) -> memoryview:
        """The whole shard, which must not be written to. Raises UserError if it is missing or has another size."""
        mapped = self._maps.get(shard)
        if mapped is None:
            with self._lock:
                mapped = self._maps.get(shard) or self._open(shard)
                self._maps[shard] = mapped
        view, file_bytes = mapped
        if file_bytes() != len(view):
            raise self._changed(shard, file_bytes())
        return view

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """`size` bytes of a shard from `offset`, without copying."""
        return self.view(shard)[offset : offset + size]

    def read_checked(self, shard: int, offset: int, size: int, checksum: int) -> memoryview | None:
        """The same bytes, or None if their CRC-32 is not `checksum`."""
        return next(self.read_all_checked([(shard, offset, size, checksum)]))

    def read_all_checked(self, places: Iterable[Place]) -> Iterator[memoryview | None]:
        """`read_checked` of several places, in order; a loop, because one more call costs a tenth of a CRC."""
        view = self.view
        for shard, offset, size, checksum in places:
            content = view(shard)[offset : offset + size]
            yield content if crc32(content) == checksum else None

    def _open(self, shard: int) -> tuple[memoryview, Callable[[], int]]:
        path = self.path(shard)
        try:
            with open_file(path) as file:
                found = os.fstat(file.fileno()).st_size
                if found != self._shard_bytes[shard]:
                    raise self._changed(shard, found)
                # A private mapping, because PyTorch wraps only writable memory without complaint; nothing is written.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                return memoryview(mapped), mapped.size
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise UserError(f"cannot read {path}: {reason(error)}. The data set is incomplete.") from None

    def _changed(self, shard: int, found: int) -> CorruptSampleError:
        return CorruptSampleError(
            f"{self.path(shard)} has {found:,} bytes; dataset.json says {self._shard_bytes[shard]:,}. The shard was "
            "cut short or changed: copy it again, or make the data set again."
        )
