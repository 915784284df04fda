"""Batches filled by several threads: whole, in order, bounded, and ending cleanly whatever goes wrong."""

import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.data_shards.loading.batch_queue import BatchQueue, ChunkedBatch, FinishedBatch, chunks


@given(num=st.integers(0, 500), size=st.integers(1, 200))
def test_chunks_cover_a_batch_once(num: int, size: int) -> None:
    covered = [place for chunk in chunks(num, size) for place in range(num)[chunk]]
    assert covered == list(range(num))
    assert all(chunk.stop - chunk.start >= min(size, num) for chunk in chunks(num, size))


def _unfilled(num_batches: int, begun: list[int], *, fails_at: int | None = None) -> Iterator[ChunkedBatch[np.ndarray]]:
    rng = np.random.default_rng(0)
    for number in range(num_batches):
        begun.append(number)
        values = np.zeros(40, dtype=int)
        pauses = rng.uniform(0, 2e-3, size=40)

        def fill(chunk: slice, number=number, values=values, pauses=pauses) -> None:
            time.sleep(pauses[chunk.start])
            if number == fails_at and chunk.start == 20:
                raise ValueError("broken")
            values[chunk] += number

        yield ChunkedBatch(40, 10, fill, lambda values=values: values)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_batches_come_whole_and_in_order(num_threads: int) -> None:
    with BatchQueue(_unfilled(12, []), 3, num_threads=num_threads) as queue:
        for number in range(12):
            assert queue.next_batch().tolist() == [number] * 40
        assert queue.next_batch() is None


def test_no_more_are_begun_than_allowed() -> None:
    begun: list[int] = []
    with BatchQueue(_unfilled(12, begun), 3, num_threads=4) as queue:
        for taken in range(1, 5):
            queue.next_batch()
            time.sleep(0.05)
            assert len(begun) <= 3 + taken


def test_a_thread_that_is_interrupted_after_filling_a_batch_does_not_hold_it() -> None:
    """Otherwise the batch's memory could not be used again when its consumer drops it, and more would be allocated."""
    interrupted, consumed = threading.Event(), threading.Event()

    def wait_for_the_consumer(_: object) -> None:
        interrupted.set()
        consumed.wait(20)

    def unfilled(_: int) -> ChunkedBatch[np.ndarray]:
        values = np.arange(4)
        batch = ChunkedBatch(4, 2, lambda chunk: values[chunk].sort(), lambda: values)
        # A callback runs in the thread that fills, between handing the batch over and letting go of it.
        batch.batch.add_done_callback(wait_for_the_consumer)
        return batch

    with BatchQueue(map(unfilled, range(1)), 1, num_threads=1) as queue:
        batch = queue.next_batch()
        assert batch is not None
        assert batch.tolist() == [0, 1, 2, 3]
        assert interrupted.wait(20)
        dropped = weakref.ref(batch)
        del batch
        assert dropped() is None
        consumed.set()


def test_an_error_comes_in_its_batchs_place_and_threads_end() -> None:
    before = threading.active_count()
    with BatchQueue(_unfilled(12, [], fails_at=4), 3, num_threads=3) as queue:
        assert [int(queue.next_batch()[0]) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="broken"):
            queue.next_batch()
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_after_the_batches_before_it() -> None:
    def source() -> Iterator[FinishedBatch[int]]:
        yield FinishedBatch(0)
        yield FinishedBatch(1)
        raise RuntimeError("no plan")

    with BatchQueue(source(), 2, num_threads=2) as queue:
        assert [queue.next_batch(), queue.next_batch()] == [0, 1]
        with pytest.raises(RuntimeError, match="no plan"):
            queue.next_batch()
