"""A bounded folder of blocks that many processes of a node share: locks, atomic renames, least recently used out first.

    lock, used           `used` holds how many bytes are taken, changed under `lock`
    stripe-00 … 63       locks: whoever wants to make a block holds its stripe, so that no two processes fetch it
    blocks/<name>        never changed once they have their name; the time stamp says when a process last opened it

Removing a block that someone has mapped is harmless: the memory stays until that process lets go. Locks are flock's, so
those of a killed process are free at once.
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
_LEAVINGS_S = 3600.0
"""A temporary file this old was left by a process that died."""
_KEPT_SHARE = 0.9
"""Eviction goes down to this share of the limit, so that the folder is listed once for many blocks."""


class BlockCache:
    """Blocks by name, of `limit_bytes` in all."""

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
        """The block, mapped, or None if it is not here or not of this size."""
        try:
            with (self._blocks / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return None
                with suppress(OSError):  # evicted just now: what is open stays readable
                    os.utime(self._blocks / name)
                # A private mapping, because PyTorch wraps only writable memory without complaint.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except FileNotFoundError:
            return None

    def add(self, name: str, content: bytes | memoryview) -> None:
        """Keep a block; others go if there is no room."""
        temporary = self._blocks / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"
        try:
            self._reserve(temporary, len(content))
            with temporary.open("r+b") as file:
                file.write(content)
            with _locked(self._folder / "lock"):  # a block that changes its name is not to escape who counts them
                temporary.replace(self._blocks / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"cannot write into the cache {self._folder}: {error.strerror or error}. Free space, or set "
                "NEUROIMAGEN_CACHE to another folder."
            ) from error

    def remove(self, name: str) -> None:
        """Drop a block, if it is here."""
        (self._blocks / name).unlink(missing_ok=True)

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """Hold the right to make a block; other processes and threads that want to make it wait."""
        with _locked(self._folder / f"stripe-{zlib.crc32(name.encode()) % _NUM_STRIPES:02d}"):
            yield

    def _reserve(self, temporary: Path, num_bytes: int) -> None:
        """Make room, and take it: an empty file of that size is counted by whoever lists the folder meanwhile."""
        with _locked(self._folder / "lock"):
            counter = self._folder / "used"
            try:
                used = int(counter.read_text())
            except (FileNotFoundError, ValueError):
                used = self._limit  # unknown: count them
            if used + num_bytes > self._limit:
                used = self._evict(int(_KEPT_SHARE * self._limit) - num_bytes)
            counter.write_text(str(used + num_bytes))
            with temporary.open("wb") as file:
                file.truncate(num_bytes)

    def _evict(self, target: int) -> int:
        """Remove the blocks not opened for longest until at most `target` bytes are left; returns how many are."""
        found = []
        for entry in os.scandir(self._blocks):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.startswith(".") and time.time() - status.st_mtime > _LEAVINGS_S:
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
    # A descriptor of its own each time, so that threads of one process exclude each other too.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
