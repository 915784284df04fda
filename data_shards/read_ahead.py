"""Which rows come next, and the fetching of what they need before they are asked for.

A local data set has nothing to fetch: the disk's own read-ahead and the memory map do it. Of a remote one the blocks of
the coming steps are put under way, as many as `RemoteOptions.read_ahead_bytes` allows.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.plan import Plan, rank_slice
from neuroimagen.data_shards.remote_shards import Block, RemoteShards

_MAX_STEPS = 256
"""Steps planned ahead at most; more would cost memory without hiding any more latency."""


def planned_rows(
    dataset: Dataset, plan: Plan, epoch: int, start_step: int, *, rank: int, world_size: int
) -> Iterator[np.ndarray]:
    """int64 rows of this rank's part of each step from `start_step` on; remote blocks are fetched ahead."""
    parts = (rank_slice(plan.batch(epoch, step), rank, world_size) for step in range(start_step, plan.steps_per_epoch))
    if isinstance(dataset.segments, RemoteShards):
        return _fetching_ahead(dataset, dataset.segments, parts)
    return parts


def _fetching_ahead(dataset: Dataset, shards: RemoteShards, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    options = dataset.remote.options if dataset.remote is not None else None
    assert options is not None
    limit = max(1, options.read_ahead_bytes // options.block_bytes)
    coming: deque[tuple[np.ndarray, set[Block]]] = deque()
    needed: dict[Block, int] = {}  # block → steps waiting for it
    while True:
        while len(coming) < _MAX_STEPS and (not coming or len(needed) < limit):
            rows = next(parts, None)
            if rows is None:
                break
            blocks = _blocks(dataset, shards, rows)
            shards.prefetch(blocks.difference(needed))
            for block in blocks:
                needed[block] = needed.get(block, 0) + 1
            coming.append((rows, blocks))
        if not coming:
            return
        rows, blocks = coming.popleft()
        yield rows
        for block in blocks:
            needed[block] -= 1
            if not needed[block]:
                del needed[block]


def _blocks(dataset: Dataset, shards: RemoteShards, rows: np.ndarray) -> set[Block]:
    index = dataset.index
    places = zip(index.shard[rows].tolist(), index.offset[rows].tolist(), index.size[rows].tolist(), strict=True)
    return {block for shard, offset, size in places for block in shards.blocks(shard, offset, size)}
