"""The rows of coming steps, and which remote blocks are fetched before they are needed."""

from typing import Any

import numpy as np

from neuroimagen.data_shards.loading.plan import SequentialPlan
from neuroimagen.data_shards.loading.prefetch import planned_rows


class FakeRemote:
    """Stands for the remote of a data set: its options only."""

    def __init__(self, read_ahead_bytes: int) -> None:
        self.options = type("Options", (), {"read_ahead_bytes": read_ahead_bytes, "block_bytes": 1000})


class FakeDataset:
    """One remote data set whose segments take one block each, recording what is prefetched."""

    def __init__(self, num_segments: int, read_ahead_bytes: int) -> None:
        from neuroimagen.data_shards.remote.shards import RemoteShards

        class Shards(RemoteShards):
            def __init__(self) -> None:
                self.prefetched: list[int] = []

            def blocks(self, shard: int, offset: int, size: int) -> list[tuple[int, int]]:
                return [(shard, offset // 1000)]

            def prefetch(self, blocks: Any) -> None:
                self.prefetched += [number for _, number in blocks]

        zeros = np.zeros(num_segments, dtype=np.int64)
        self.segments = Shards()
        self.index = type("Index", (), {"shard": zeros, "offset": np.arange(num_segments) * 1000, "size": zeros + 1})
        self.remote = FakeRemote(read_ahead_bytes)
        self.sources = [self]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(rows), dtype=np.int64), rows


def test_a_rank_gets_its_share_of_every_step(make_dataset) -> None:
    dataset = make_dataset(10)
    plan = SequentialPlan(np.arange(10), 4)
    ranks = [list(planned_rows(dataset, plan, 0, 1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [rows.tolist() for rows in ranks[0]] == [[4, 5], [8]]
    assert [rows.tolist() for rows in ranks[1]] == [[6, 7], [9]]


def test_blocks_are_fetched_ahead_up_to_the_limit() -> None:
    dataset: Any = FakeDataset(40, read_ahead_bytes=6000)
    steps = planned_rows(dataset, SequentialPlan(np.arange(40), 2), 0, 0, rank=0, world_size=1)
    for step in range(20):
        assert next(steps).tolist() == [2 * step, 2 * step + 1]
        prefetched = dataset.segments.prefetched
        # Every block is asked for once, step by step, at most six blocks beyond the step that is being read.
        assert sorted(prefetched) == list(range(len(prefetched)))
        assert min(40, 2 * step + 2) <= len(prefetched) <= min(40, 2 * step + 8)
    assert list(steps) == []
    assert len(dataset.segments.prefetched) == 40


def test_one_step_is_fetched_even_if_it_exceeds_the_limit() -> None:
    dataset: Any = FakeDataset(12, read_ahead_bytes=1)
    steps = planned_rows(dataset, SequentialPlan(np.arange(12), 6), 0, 0, rank=0, world_size=1)
    assert next(steps).tolist() == list(range(6))
    assert sorted(dataset.segments.prefetched) == list(range(6))
