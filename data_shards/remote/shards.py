"""The tars of a folder behind a URL, read in blocks through the node's cache."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.format.storage import CorruptSampleError, Place
from neuroimagen.data_shards.format.tar import shard_name
from neuroimagen.data_shards.remote.block_cache import BlockCache
from neuroimagen.data_shards.remote.files import RemoteFiles

_MAX_MAPPED = 32
"""Blocks that a process keeps mapped; those that are evicted meanwhile take disk space until they are unmapped."""
Block = tuple[int, int]
"""Shard, and number of the block in it."""


class RemoteShards:
    """Tars behind a URL: the counterpart of ShardFolder (format/storage.py). Safe in threads and after a fork."""

    def __init__(
        self, files: RemoteFiles, folder: str, shard_bytes: Sequence[int], cache: BlockCache, prefix: str
    ) -> None:
        """`prefix` is the beginning of the blocks' names in the cache: it must differ between data sets and folders."""
        self._files, self._folder, self._cache, self._prefix = files, folder, cache, prefix
        self._shard_bytes = shard_bytes
        self._block_bytes = files.options.block_bytes
        self._start_process()

    def _start_process(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._mapped: OrderedDict[Block, memoryview] = OrderedDict()
        self._under_way: dict[Block, Future[memoryview]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._shard_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteShards, (self._files, self._folder, self._shard_bytes, self._cache, self._prefix)

    def where(self, shard: int) -> str:
        """The URL of a shard."""
        return f"{self._files.url}/{self._folder}/{shard_name(shard)}"

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """`size` bytes of a shard from `offset`. Raises UserError if they cannot be fetched."""
        pieces = []
        for block in self.blocks(shard, offset, size):
            start = block[1] * self._block_bytes
            view = self._block(block)
            pieces.append(view[max(0, offset - start) : offset + size - start])
        # Most samples lie in one block; the others are joined, in writable memory, which PyTorch can wrap.
        return pieces[0] if len(pieces) == 1 else memoryview(bytearray().join(pieces))

    def read_checked(self, shard: int, offset: int, size: int, checksum: int) -> memoryview | None:
        """The same bytes, or None if their CRC-32 is not `checksum`, also after the blocks were fetched again."""
        for _ in range(2):
            content = self.read(shard, offset, size)
            if crc32(content) == checksum:
                return content
            for block in self.blocks(shard, offset, size):
                self._forget(block)
        return None

    def read_all_checked(self, places: Iterable[Place]) -> Iterator[memoryview | None]:
        """`read_checked` of several places, in order."""
        return (self.read_checked(*place) for place in places)

    def view(self, shard: int) -> memoryview:
        """The whole shard."""
        return self.read(shard, 0, self._shard_bytes[shard])

    def blocks(self, shard: int, offset: int, size: int) -> list[Block]:
        """The blocks that hold these bytes."""
        first, last = offset // self._block_bytes, (offset + max(size, 1) - 1) // self._block_bytes
        return [(shard, number) for number in range(first, last + 1)]

    def prefetch(self, blocks: Iterable[Block]) -> None:
        """Start fetching blocks in the background. A later read of one of them waits for it, and raises its error."""
        for block in blocks:
            if block not in self._mapped:
                self._start(block)

    def _block(self, block: Block) -> memoryview:
        if self._pid != os.getpid():  # after a fork the pool has no threads, and the lock may be held for ever
            self._start_process()
        with self._lock:
            if (view := self._mapped.get(block)) is not None:
                self._mapped.move_to_end(block)
                return view
            under_way = self._under_way.get(block)
        if under_way is None:
            # A block in the cache must not wait behind blocks that are being fetched.
            if (view := self._cache.open(self._name(block), self._size(block))) is not None:
                self._keep_mapped(block, view)
                return view
            under_way = self._start(block)
        return under_way.result()

    def _start(self, block: Block) -> "Future[memoryview]":
        if self._pid != os.getpid():
            self._start_process()
        with self._lock:
            if block not in self._under_way:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self._files.options.connections, "neuroimagen-fetch")
                self._under_way[block] = self._pool.submit(self._load, block)
            return self._under_way[block]

    def _load(self, block: Block) -> memoryview:
        try:
            view = self._cached_or_fetched(block)
            self._keep_mapped(block, view)
            return view
        finally:
            with self._lock:
                self._under_way.pop(block, None)

    def _keep_mapped(self, block: Block, view: memoryview) -> None:
        with self._lock:
            self._mapped[block] = view
            while len(self._mapped) > _MAX_MAPPED:
                self._mapped.popitem(last=False)

    def _cached_or_fetched(self, block: Block) -> memoryview:
        name, size = self._name(block), self._size(block)
        if (view := self._cache.open(name, size)) is not None:
            return view
        with self._cache.making(name):
            if (view := self._cache.open(name, size)) is not None:
                return view  # another process has fetched it meanwhile
            content = self._fetch(block)
            return self._cache.open(name, size) or memoryview(bytearray(content))

    def _fetch(self, block: Block) -> bytes:
        """Fetch a block and cache it. Raises CorruptSampleError if the shard has another size."""
        shard, number = block
        start, size, whole = number * self._block_bytes, self._size(block), self._shard_bytes[shard]
        found = 0
        for _ in range(2):
            content = self._files.read(f"{self._folder}/{shard_name(shard)}", start, start + size)
            found = len(content)
            if found == size:
                self._cache.add(self._name(block), content)
                return content
            if found == whole:  # the server does not support ranges: cache all that it sent
                for other in self.blocks(shard, 0, whole):
                    first = other[1] * self._block_bytes
                    self._cache.add(self._name(other), content[first : first + self._block_bytes])
                return content[start : start + size]
        raise CorruptSampleError(
            f"{self.where(shard)} gave {found:,} bytes at offset {start:,} where {size:,} were asked for: the shard "
            "was cut short or changed. Copy it again."
        )

    def _forget(self, block: Block) -> None:
        with self._lock:
            self._mapped.pop(block, None)
        self._cache.remove(self._name(block))

    def _name(self, block: Block) -> str:
        return f"{self._prefix}-{block[0]:05d}-{self._block_bytes}-{block[1]:05d}"

    def _size(self, block: Block) -> int:
        return min(self._block_bytes, self._shard_bytes[block[0]] - block[1] * self._block_bytes)
