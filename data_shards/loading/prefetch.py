"""The rows of the coming steps; for remote data sets, their blocks are fetched before they are needed.

A local data set needs no fetching: the system reads ahead for its memory-mapped files. For a remote one the blocks of
the coming steps are fetched, as many as `RemoteOptions.read_ahead_bytes` allows.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import Plan, rank_slice
from neuroimagen.data_shards.remote.shards import Block, RemoteShards

_MAX_STEPS = 256
"""Most steps that are planned ahead; more would cost memory and would not hide more latency."""


def planned_rows(
    dataset: Dataset, plan: Plan, epoch: int, start_step: int, *, rank: int, world_size: int
) -> Iterator[np.ndarray]:
    """int64 rows of this rank's share of each step from `start_step` on; remote blocks are fetched ahead."""
    shares = (rank_slice(plan.batch(epoch, step), rank, world_size) for step in range(start_step, plan.steps_per_epoch))
    if any(source.remote is not None for source in dataset.sources):
        return _fetching_ahead(dataset, shares)
    return shares


_Place = tuple[RemoteShards, Block]


def _fetching_ahead(dataset: Dataset, shares: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    options = [source.remote.options for source in dataset.sources if source.remote is not None]
    limit = max(1, min(option.read_ahead_bytes // option.block_bytes for option in options))
    coming: deque[tuple[np.ndarray, set[_Place]]] = deque()
    needed: dict[_Place, int] = {}  # block → number of planned steps that need it
    while True:
        while len(coming) < _MAX_STEPS and (not coming or len(needed) < limit):
            rows = next(shares, None)
            if rows is None:
                break
            blocks = _blocks(dataset, rows)
            for shards, block in blocks.difference(needed):
                shards.prefetch([block])
            for place in blocks:
                needed[place] = needed.get(place, 0) + 1
            coming.append((rows, blocks))
        if not coming:
            return
        rows, blocks = coming.popleft()
        yield rows
        for place in blocks:
            needed[place] -= 1
            if not needed[place]:
                del needed[place]


def _blocks(dataset: Dataset, rows: np.ndarray) -> set[_Place]:
    found: set[_Place] = set()
    which, own = dataset.locate(rows)
    for number, source in enumerate(dataset.sources):
        shards, index = source.segments, source.index
        if isinstance(shards, RemoteShards):
            there = own[which == number]
            places = zip(
                index.shard[there].tolist(), index.offset[there].tolist(), index.size[there].tolist(), strict=True
            )
            found |= {(shards, block) for place in places for block in shards.blocks(*place)}
    return found
