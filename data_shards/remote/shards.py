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
"""Blocks that a process keeps mapped; what others evict meanwhile takes disk space until it lets go."""
Block = tuple[int, int]
"""Shard, and number of the block in it."""


class RemoteShards:
    """What ShardFolder is for local tars (storage.py). Safe to use from several threads, and after a fork."""

    def __init__(
        self, files: RemoteFiles, folder: str, shard_bytes: Sequence[int], cache: BlockCache, prefix: str
    ) -> None:
        """`prefix` begins the names of the blocks in the cache: it must differ between data sets and folders."""
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
        """`size` bytes of a shard from `offset`. Raises UserError when they cannot be had."""
        parts = []
        for block in self.blocks(shard, offset, size):
            start = block[1] * self._block_bytes
            view = self._block(block)
            parts.append(view[max(0, offset - start) : offset + size - start])
        # Most samples lie in one block; the others are joined, in memory that PyTorch may wrap.
        return parts[0] if len(parts) == 1 else memoryview(bytearray().join(parts))

    def read_checked(self, shard: int, offset: int, size: int, checksum: int) -> memoryview | None:
        """`read`, or None when the CRC-32 is not `checksum`, not even of bytes fetched anew."""
        for _ in range(2):
            content = self.read(shard, offset, size)
            if crc32(content) == checksum:
                return content
            for block in self.blocks(shard, offset, size):
                self._forget(block)
        return None

    def read_all_checked(self, places: Iterable[Place]) -> Iterator[memoryview | None]:
        """`read_checked` of several places, one after the other."""
        return (self.read_checked(*place) for place in places)

    def view(self, shard: int) -> memoryview:
        """The whole shard."""
        return self.read(shard, 0, self._shard_bytes[shard])

    def blocks(self, shard: int, offset: int, size: int) -> list[Block]:
        """The blocks that hold these bytes."""
        first, last = offset // self._block_bytes, (offset + max(size, 1) - 1) // self._block_bytes
        return [(shard, number) for number in range(first, last + 1)]

    def prefetch(self, blocks: Iterable[Block]) -> None:
        """Start fetching blocks in the background. Whoever reads one of them later waits for it, or gets its error."""
        for block in blocks:
            if block not in self._mapped:
                self._start(block)

    def _block(self, block: Block) -> memoryview:
        if self._pid != os.getpid():  # the child of a fork has neither the pool's threads nor a lock in a known state
            self._start_process()
        with self._lock:
            if (view := self._mapped.get(block)) is not None:
                self._mapped.move_to_end(block)
                return view
            under_way = self._under_way.get(block)
        if under_way is None:
            # What is in the cache must not wait behind what is being fetched.
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
                return view  # another process was quicker
            content = self._fetch(block)
            return self._cache.open(name, size) or memoryview(bytearray(content))

    def _fetch(self, block: Block) -> bytes:
        """Get a block from afar and keep it. Raises CorruptSampleError when the shard has another size."""
        shard, number = block
        start, size, whole = number * self._block_bytes, self._size(block), self._shard_bytes[shard]
        found = 0
        for _ in range(2):
            content = self._files.read(f"{self._folder}/{shard_name(shard)}", start, start + size)
            found = len(content)
            if found == size:
                self._cache.add(self._name(block), content)
                return content
            if found == whole:  # a server without ranges: keep all that it gave
                for other in self.blocks(shard, 0, whole):
                    first = other[1] * self._block_bytes
                    self._cache.add(self._name(other), content[first : first + self._block_bytes])
                return content[start : start + size]
        raise CorruptSampleError(
            f"{self.where(shard)} gave {found:,} bytes at offset {start:,} where {size:,} were asked for: the shard "
            "was cut or changed. Copy it again."
        )

    def _forget(self, block: Block) -> None:
        with self._lock:
            self._mapped.pop(block, None)
        self._cache.remove(self._name(block))

    def _name(self, block: Block) -> str:
        return f"{self._prefix}-{block[0]:05d}-{self._block_bytes}-{block[1]:05d}"

    def _size(self, block: Block) -> int:
        return min(self._block_bytes, self._shard_bytes[block[0]] - block[1] * self._block_bytes)
