"""Batches filled by several threads, part after part across the batches' borders, and handed out in order.

A thread that has filled its part takes the next one, of the next batch if need be, so that none waits for another.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

import threadpoolctl  # type: ignore[import-untyped]
import torch

B = TypeVar("B")


class Fillable(Protocol[B]):
    """A batch to be filled: `fill` is called once for each of `parts`, by any threads at the same time."""

    @property
    def batch(self) -> Future[B]: ...
    @property
    def parts(self) -> Sequence[slice]: ...
    def fill(self, part: slice) -> None: ...


class Filling(Generic[B]):
    """A batch of `num_segments`, filled by `fill_part`; who fills the last part also calls `finish`, which makes it."""

    def __init__(
        self, num_segments: int, part_segments: int, fill_part: Callable[[slice], None], finish: Callable[[], B]
    ) -> None:
        self.parts = parts(num_segments, part_segments)
        self.batch: Future[B] = Future()
        self._fill_part, self._finish = fill_part, finish
        self._unfilled = len(self.parts)
        self._lock = threading.Lock()

    def fill(self, part: slice) -> None:
        """Fill a part. What goes wrong is the batch's exception."""
        try:
            self._fill_part(part)
            with self._lock:
                self._unfilled -= 1
                is_last = not self._unfilled
            if is_last:
                self.batch.set_result(self._finish())
        except BaseException as error:
            with self._lock:
                if not self.batch.done():
                    self.batch.set_exception(error)


class Filled(Generic[B]):
    """A batch that came whole."""

    parts: Sequence[slice] = ()

    def __init__(self, batch: B) -> None:
        self.batch: Future[B] = Future()
        self.batch.set_result(batch)

    def fill(self, part: slice) -> None:
        raise ValueError(f"the batch has no part {part}")


class FillingLine(Generic[B]):
    """Batches ahead of their consumer: at most `batches_ahead` are filled or being filled.

    fillings: where the batches come from, in order; advanced by one thread at a time. A context manager: on leaving it
    no batch is begun any more, and the threads have ended.
    """

    def __init__(self, fillings: Iterator[Fillable[B]], batches_ahead: int, *, num_threads: int) -> None:
        self._fillings = fillings
        self._slots = threading.Semaphore(batches_ahead)
        self._results: queue.SimpleQueue[Future[B] | Future[None]] = queue.SimpleQueue()
        self._waiting: deque[tuple[Fillable[B], slice]] = deque()
        self._taking = threading.Lock()
        self._ended = self._stopped = False
        names = (f"neuroimagen-reader-{number}" for number in range(num_threads))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]

    def __enter__(self) -> "FillingLine[B]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._slots.release()
        for thread in self._threads:
            thread.join()

    def next_batch(self) -> B | None:
        """The next batch, once it is filled; None after the last. Raises what went wrong with it."""
        batch = self._results.get().result()
        self._slots.release()
        return batch

    def _work(self) -> None:
        _keep_to_one_core()
        while (taken := self._take()) is not None:
            filling, part = taken
            filling.fill(part)
            # The batch's memory is free once its consumer lets go: nothing here may keep it.
            del taken, filling

    def _take(self) -> tuple[Fillable[B], slice] | None:
        with self._taking:
            while not self._waiting:
                if self._ended:
                    return None
                self._begin()
            return None if self._stopped else self._waiting.popleft()

    def _begin(self) -> None:
        """Put the next batch in line, or the end."""
        self._slots.acquire()
        end: Future[None] = Future()
        try:
            filling = None if self._stopped else next(self._fillings, None)
            if filling is not None:
                self._results.put(filling.batch)
                self._waiting.extend((filling, part) for part in filling.parts)
                return
            end.set_result(None)
        except BaseException as error:  # handed over: the consumer raises it
            end.set_exception(error)
        self._ended = True
        self._results.put(end)


def parts(num_segments: int, part_segments: int) -> list[slice]:
    """Contiguous parts of at least `part_segments`, or all in one."""
    edges = [*range(0, max(1, num_segments - part_segments + 1), part_segments), num_segments]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _keep_to_one_core() -> None:
    """Keeps PyTorch's operations in this thread: it must not take the training thread's cores for a 20 µs copy."""
    # PyTorch sets a thread's number when it is first asked, so the limit must come after.
    if torch.get_num_threads() > 1:
        threadpoolctl.ThreadpoolController().select(user_api="openmp").limit(limits=1)
