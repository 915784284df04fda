"""Batches that several threads fill in chunks, returned in order.

A thread that has filled a chunk takes the next one, which may belong to the next batch, so that no thread waits for
another.
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
    """A batch to be filled: `fill` is called once for each of `chunks`, by any threads at the same time."""

    @property
    def batch(self) -> Future[list[B]]:
        """The filled batch, alone in a list, from which its consumer takes it with `pop`.

        The thread that filled the batch may be interrupted before it has let go of this object. It then holds an empty
        list and not the batch, whose memory can be used again as soon as the consumer drops it.
        """
        ...

    @property
    def chunks(self) -> Sequence[slice]: ...
    def fill(self, chunk: slice) -> None: ...


class ChunkedBatch(Generic[B]):
    """A batch of `num_segments` that `fill_chunk` fills; the thread that fills the last chunk calls `finish`.

    `finish` returns the batch.
    """

    def __init__(
        self, num_segments: int, chunk_segments: int, fill_chunk: Callable[[slice], None], finish: Callable[[], B]
    ) -> None:
        self.chunks = chunks(num_segments, chunk_segments)
        self.batch: Future[list[B]] = Future()
        self._steps: tuple[Callable[[slice], None], Callable[[], B]] | None = (fill_chunk, finish)
        self._unfilled = len(self.chunks)
        self._lock = threading.Lock()

    def fill(self, chunk: slice) -> None:
        """Fill a chunk. An error becomes the exception of `batch`."""
        try:
            self._fill_chunk(chunk)
            with self._lock:
                self._unfilled -= 1
                is_last = not self._unfilled
            if is_last:
                self.batch.set_result(self._finish())
        except BaseException as error:
            with self._lock:
                if not self.batch.done():
                    self.batch.set_exception(error)

    def _fill_chunk(self, chunk: slice) -> None:
        assert self._steps is not None, "the batch is filled already"
        self._steps[0](chunk)

    def _finish(self) -> list[B]:
        assert self._steps is not None, "the batch is filled already"
        filled = [self._steps[1]()]
        self._steps = None  # both refer to the batch's memory
        return filled


class FinishedBatch(Generic[B]):
    """A batch that needs no filling."""

    chunks: Sequence[slice] = ()

    def __init__(self, batch: B) -> None:
        self.batch: Future[list[B]] = Future()
        self.batch.set_result([batch])

    def fill(self, chunk: slice) -> None:
        raise ValueError(f"the batch has no chunk {chunk}")


class BatchQueue(Generic[B]):
    """Batches that are filled before the consumer asks for them: at most `batches_ahead` are filled or being filled.

    unfilled: yields the batches to fill, in order; it is advanced by one thread at a time. The queue is a context
    manager: leaving it ends the threads, and no further batch is begun.
    """

    def __init__(self, unfilled: Iterator[Fillable[B]], batches_ahead: int, *, num_threads: int) -> None:
        self._unfilled = unfilled
        self._slots = threading.Semaphore(batches_ahead)
        self._results: queue.SimpleQueue[Future[list[B]] | Future[None]] = queue.SimpleQueue()
        self._waiting: deque[tuple[Fillable[B], slice]] = deque()
        self._taking = threading.Lock()
        self._ended = self._stopped = False
        names = (f"neuroimagen-reader-{number}" for number in range(num_threads))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]

    def __enter__(self) -> "BatchQueue[B]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._slots.release()
        for thread in self._threads:
            thread.join()

    def next_batch(self) -> B | None:
        """The next batch, when it is filled; None after the last. Raises the error that filling it raised."""
        filled = self._results.get().result()
        self._slots.release()
        return filled.pop() if filled else None

    def _work(self) -> None:
        _keep_to_one_core()
        while (taken := self._take()) is not None:
            batch, chunk = taken
            batch.fill(chunk)

    def _take(self) -> tuple[Fillable[B], slice] | None:
        with self._taking:
            while not self._waiting:
                if self._ended:
                    return None
                self._begin()
            return None if self._stopped else self._waiting.popleft()

    def _begin(self) -> None:
        """Add the chunks of the next batch to those that wait, or note that there is none."""
        self._slots.acquire()
        end: Future[None] = Future()
        try:
            unfilled = None if self._stopped else next(self._unfilled, None)
            if unfilled is not None:
                self._results.put(unfilled.batch)
                self._waiting.extend((unfilled, chunk) for chunk in unfilled.chunks)
                return
            end.set_result(None)
        except BaseException as error:  # the consumer raises it
            end.set_exception(error)
        self._ended = True
        self._results.put(end)


def chunks(num_segments: int, chunk_segments: int) -> list[slice]:
    """Contiguous slices of at least `chunk_segments` segments; one slice if there are fewer."""
    edges = [*range(0, max(1, num_segments - chunk_segments + 1), chunk_segments), num_segments]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _keep_to_one_core() -> None:
    """Let PyTorch use this thread only: a copy of 20 µs must not occupy the training thread's cores."""
    # PyTorch sets the number of threads when it is first asked for it, so the limit must be set after that.
    if torch.get_num_threads() > 1:
        threadpoolctl.ThreadpoolController().select(user_api="openmp").limit(limits=1)
