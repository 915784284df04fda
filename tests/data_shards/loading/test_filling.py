"""Batches filled by several threads: whole, in order, bounded, and ending cleanly whatever goes wrong."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.data_shards.loading.filling import Filled, Filling, FillingLine, parts


@given(num=st.integers(0, 500), size=st.integers(1, 200))
def test_parts_cover_a_batch_once(num: int, size: int) -> None:
    covered = [place for part in parts(num, size) for place in range(num)[part]]
    assert covered == list(range(num))
    assert all(part.stop - part.start >= min(size, num) for part in parts(num, size))


def _fillings(num_batches: int, begun: list[int], *, fails_at: int | None = None) -> Iterator[Filling[np.ndarray]]:
    rng = np.random.default_rng(0)
    for number in range(num_batches):
        begun.append(number)
        values = np.zeros(40, dtype=int)
        pauses = rng.uniform(0, 2e-3, size=40)

        def fill(part: slice, number=number, values=values, pauses=pauses) -> None:
            time.sleep(pauses[part.start])
            if number == fails_at and part.start == 20:
                raise ValueError("broken")
            values[part] += number

        yield Filling(40, 10, fill, lambda values=values: values)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_batches_come_whole_and_in_order(num_threads: int) -> None:
    with FillingLine(_fillings(12, []), 3, num_threads=num_threads) as line:
        for number in range(12):
            assert line.next_batch().tolist() == [number] * 40
        assert line.next_batch() is None


def test_no_more_are_begun_than_allowed() -> None:
    begun: list[int] = []
    with FillingLine(_fillings(12, begun), 3, num_threads=4) as line:
        for taken in range(1, 5):
            line.next_batch()
            time.sleep(0.05)
            assert len(begun) <= 3 + taken


def test_an_error_comes_in_its_batchs_place_and_threads_end() -> None:
    before = threading.active_count()
    with FillingLine(_fillings(12, [], fails_at=4), 3, num_threads=3) as line:
        assert [int(line.next_batch()[0]) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="broken"):
            line.next_batch()
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_after_the_batches_before_it() -> None:
    def source() -> Iterator[Filled[int]]:
        yield Filled(0)
        yield Filled(1)
        raise RuntimeError("no plan")

    with FillingLine(source(), 2, num_threads=2) as line:
        assert [line.next_batch(), line.next_batch()] == [0, 1]
        with pytest.raises(RuntimeError, match="no plan"):
            line.next_batch()
