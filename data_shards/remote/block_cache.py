"""A bounded folder of blocks that many processes of a node share, with locks, atomic renames and LRU eviction.

    lock, used           `used` holds how many bytes are taken; it is changed under `lock`
    stripe-00 … 63       locks: the process that makes a block holds its stripe, so that no two processes fetch it
    blocks/<name>        never changed once they have their name; the time stamp says when a process last opened it

Removing a block that a process has mapped is harmless: the memory stays valid until that process unmaps it. Locks are
flock's, so those of a killed process are released at once.
"""

import fcntl
import mmap
import os
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

_NUM_STRIPES = 64
_ABANDONED_S = 3600.0
"""A temporary file of this age in seconds was left by a process that was killed."""
_KEPT_SHARE = 0.9
"""Eviction removes blocks down to this share of the limit, so that the folder is listed once for many blocks."""


class BlockCache:
    """Blocks by name, at most `limit_bytes` in all."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._blocks = folder / "blocks"
        self._limit = limit_bytes
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the cache {folder}: {error.strerror or error}. Set NEUROIMAGEN_CACHE to another folder."
            ) from error

    def open(self, name: str, size: int) -> memoryview | None:
        """The block, memory-mapped, or None if it is not in the cache or not of this size."""
        try:
            with (self._blocks / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return None
                with suppress(OSError):  # evicted just now; the open file stays readable
                    os.utime(self._blocks / name)
                # A private mapping, because PyTorch wraps only writable memory without complaint.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except FileNotFoundError:
            return None

    def add(self, name: str, content: bytes | memoryview) -> None:
        """Store a block; evict others if there is no room."""
        temporary = self._blocks / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"
        try:
            self._reserve(temporary, len(content))
            with temporary.open("r+b") as file:
                file.write(content)
            with _locked(self._folder / "lock"):  # else an eviction might count neither of its names
                temporary.replace(self._blocks / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"cannot write into the cache {self._folder}: {error.strerror or error}. Free space, or set "
                "NEUROIMAGEN_CACHE to another folder."
            ) from error

    def remove(self, name: str) -> None:
        """Remove a block, if it is in the cache."""
        (self._blocks / name).unlink(missing_ok=True)

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """Hold the lock for making a block; other processes and threads that want to make it wait."""
        with _locked(self._folder / f"stripe-{zlib.crc32(name.encode()) % _NUM_STRIPES:02d}"):
            yield

    def _reserve(self, temporary: Path, num_bytes: int) -> None:
        """Make room and reserve it by a sparse file of that size, which every later listing of the folder counts."""
        with _locked(self._folder / "lock"):
            counter = self._folder / "used"
            try:
                used = int(counter.read_text())
            except (FileNotFoundError, ValueError):
                used = self._limit  # unknown, so that the blocks are counted
            if used + num_bytes > self._limit:
                used = self._evict(int(_KEPT_SHARE * self._limit) - num_bytes)
            counter.write_text(str(used + num_bytes))
            with temporary.open("wb") as file:
                file.truncate(num_bytes)

    def _evict(self, target: int) -> int:
        """Remove the least recently opened blocks until at most `target` bytes are left; returns how many are left."""
        found = []
        for entry in os.scandir(self._blocks):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.startswith(".") and time.time() - status.st_mtime > _ABANDONED_S:
                    self.remove(entry.name)
                else:
                    found.append((status.st_mtime_ns, entry.name, status.st_size))
        used = sum(size for _, _, size in found)
        for _, name, size in sorted(found):
            if used <= max(0, target):
                break
            if not name.startswith("."):
                self.remove(name)
                used -= size
        return used


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Each call opens its own descriptor, so that threads of one process exclude each other too.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
