"""Results that threads compute before they are asked for: in order, bounded, errors in their place."""

import threading
import time
from contextlib import closing

import pytest

from neuroimagen.data_shards.common.thread_map import map_in_threads


def test_results_come_in_order_whoever_is_fastest() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number * number

    assert list(map_in_threads(slow_first, range(20), num_threads=4)) == [number * number for number in range(20)]
    assert list(map_in_threads(slow_first, [], num_threads=4)) == []


def test_threads_work_while_nobody_asks_but_not_without_bound() -> None:
    begun: list[int] = []
    results = map_in_threads(lambda number: begun.append(number), range(100), num_threads=3)
    with closing(results):
        next(results)
        time.sleep(0.2)
        assert sorted(begun) == [0, 1, 2, 3]


def test_an_error_comes_in_the_place_of_its_result() -> None:
    results = map_in_threads(lambda number: 1 // (number - 2), range(6), num_threads=4)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closed_it_leaves_no_thread() -> None:
    before = threading.active_count()
    results = map_in_threads(abs, range(100), num_threads=4)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
