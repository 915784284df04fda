"""Fetches planned batches: reads, checks, decodes and joins them off the training thread.

Shapes: B segments of this rank's batch, C channels, T samples of time, S image side in pixels.
"""

import dataclasses
import itertools
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.errors import UserError
from neuroimagen.data_shards.plan import Plan
from neuroimagen.data_shards.read_ahead import planned_rows
from neuroimagen.data_shards.storage import CorruptSampleError

if TYPE_CHECKING:
    from neuroimagen.data_shards.latents import LatentStore

_logger = logging.getLogger(__name__)
_MAX_CORRUPT_FRACTION = 0.01
"""With on_corrupt="skip", more damage than this is an error all the same: a broken disk must not go unnoticed."""
_REMOTE_DECODE_THREADS = 4
"""Of a data set behind a URL, where a thread mostly waits for a block. Of a local one a second thread gains nothing: a
segment takes 35 µs, and the interpreter's lock is handed over at each of its three calls (`bench stream`)."""
_SERIAL_ELEMENTS = 32_767
"""PyTorch spreads an element-wise operation over its thread pool from one more than this on; the reader must not take
the training thread's cores for a 20 µs copy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch; its tensors are the consumer's to keep."""

    rows: torch.Tensor
    """int64 [B], rows of the index."""
    eeg: torch.Tensor
    """float32 [B, C, T]."""
    label: torch.Tensor
    """int64 [B]."""
    subject: torch.Tensor
    """int64 [B]."""
    stimulus: torch.Tensor
    """int64 [B], rows of the stimuli."""
    images: torch.Tensor | None
    """uint8 [B, 3, S, S], when the reader was given an image size."""
    latents: dict[str, torch.Tensor]
    """float32 [B, …] for each kind that the reader was given."""

    def __len__(self) -> int:
        return len(self.rows)


class _Buffers:
    """float32 [B, C, T] memory that is used again once nothing refers to it any more.

    A fresh 29 MB batch costs about 5 ms of page faults, more than decoding it. A tensor made with torch.from_numpy
    keeps a reference to its array as long as any tensor shares the storage, so the array's reference count tells
    whether the consumer still holds the batch, and a batch that is kept is never overwritten.
    """

    def __init__(self, capacity: int, pin_memory: bool) -> None:
        self._capacity = capacity
        self._pin_memory = pin_memory
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, int, int]) -> torch.Tensor:
        if self._pin_memory:
            # PyTorch's own allocator recycles pinned memory, and knows about copies still in flight.
            return torch.empty(shape, dtype=torch.float32, pin_memory=True)
        for array in self._arrays:
            # Two references that are ours (the list, the loop) and the argument of getrefcount.
            if array.shape[0] >= shape[0] and sys.getrefcount(array) == 3:
                return torch.from_numpy(array[: shape[0]])
        fresh = np.empty(shape, dtype=np.float32)
        if len(self._arrays) < self._capacity:
            self._arrays.append(fresh)
        return torch.from_numpy(fresh)


class Reader:
    """Streams a plan's batches for one rank, prefetching in the background.

    latents: kind → store; the batch carries the latents of its stimuli. image_size_px: also carry the pictures.
    prefetch_batches: how many finished batches may wait, as long as their EEG fits into `prefetch_bytes`.
    decode_threads: how many share a batch; None means one, or four for a data set behind a URL. pin_memory: page-locked
    EEG for fast copies to a GPU; None means where there is one. The order is the plan's, and a start at any step costs
    nothing.

    on_corrupt: a segment whose bytes are not what the index says is an error, or with "skip" replaced by the next sound
    segment of its class and part, which every number of ranks finds alike; `corrupt` lists what was replaced.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        *,
        rank: int = 0,
        world_size: int = 1,
        latents: Mapping[str, "LatentStore"] | None = None,
        image_size_px: int | None = None,
        prefetch_batches: int = 2,
        prefetch_bytes: int = 1 << 30,
        decode_threads: int | None = None,
        pin_memory: bool | None = None,
        on_corrupt: Literal["error", "skip"] = "error",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
        if prefetch_batches < 1:
            raise UserError(f"prefetch_batches is {prefetch_batches}; it must be at least 1.")
        if decode_threads is not None and decode_threads < 1:
            raise UserError(f"decode_threads is {decode_threads}; it must be at least 1.")
        self.decode_threads = decode_threads or (
            _REMOTE_DECODE_THREADS if any(source.remote for source in dataset.sources) else 1
        )
        self.dataset, self.plan = dataset, plan
        self.rank, self.world_size = rank, world_size
        self._latents = dict(latents or {})
        self._image_size_px = image_size_px
        local_batch_size = -(-plan.global_batch_size // world_size)
        batch_bytes = 4 * local_batch_size * dataset.metadata.n_channels * dataset.metadata.n_samples
        self._prefetch_batches = max(1, min(prefetch_batches, prefetch_bytes // batch_bytes))
        self._skip_corrupt = on_corrupt == "skip"
        self._counting = threading.Lock()
        self.corrupt: dict[int, str] = {}
        """Row → what is wrong with it, of every damaged segment that was replaced."""
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        # One in the consumer's hands, one being filled, the others waiting.
        self._buffers = _Buffers(self._prefetch_batches + 2, pinned)
        self.wait_seconds = 0.0
        """Total time the consumer has waited for batches."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` from `start_step` on. Errors of the background thread are raised here."""
        results: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        slots = threading.Semaphore(self._prefetch_batches)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._produce, args=(epoch, start_step, results, slots, stop), name="neuroimagen-reader", daemon=True
        )
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = results.get()
                self.wait_seconds += time.perf_counter() - started
                slots.release()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
                del item  # so that its buffer is free while we wait for the next
        finally:
            stop.set()
            slots.release()
            thread.join()

    def read(self, rows: np.ndarray) -> Batch:
        """Read these rows now, in this thread."""
        return self._read(rows, decoders=None)

    def _read(self, rows: np.ndarray, decoders: ThreadPoolExecutor | None) -> Batch:
        eeg, rows = self._read_eeg(np.array(rows, dtype=np.int64), decoders)
        return self._joined(rows, eeg)

    def _joined(self, rows: np.ndarray, eeg: torch.Tensor) -> Batch:
        """The batch of these rows, whose EEG has been read."""
        index, stimuli = self.dataset.index, self.dataset.stimuli
        stimulus = index.stimulus[rows].astype(np.int64)
        images = None
        if self._image_size_px is not None:
            images = torch.from_numpy(stimuli.images(stimulus, self._image_size_px))
        return Batch(
            rows=torch.from_numpy(rows),
            eeg=eeg,
            label=torch.from_numpy(index.label[rows].astype(np.int64)),
            subject=torch.from_numpy(index.subject[rows].astype(np.int64)),
            stimulus=torch.from_numpy(stimulus),
            images=images,
            latents={kind: torch.as_tensor(store.get(stimulus)) for kind, store in self._latents.items()},
        )

    def _read_eeg(self, rows: np.ndarray, decoders: ThreadPoolExecutor | None) -> tuple[torch.Tensor, np.ndarray]:
        """float32 [B, C, T] and the rows it is of. Each segment is checked and decoded while it is in the cache."""
        metadata = self.dataset.metadata
        eeg = self._buffers.take((len(rows), metadata.n_channels, metadata.n_samples))
        if decoders is None or len(rows) < 2 * self.decode_threads:
            self._decode(rows, eeg)
        else:
            # Contiguous shares, each written by one thread; the views share memory with rows and eeg.
            shares = np.linspace(0, len(rows), self.decode_threads + 1).astype(int)
            parts = [slice(start, stop) for start, stop in itertools.pairwise(shares)]
            for part in [decoders.submit(self._decode, rows[part], eeg[part]) for part in parts]:
                part.result()
        return eeg, rows

    def _decode(self, rows: np.ndarray, eeg: torch.Tensor) -> None:
        """Read, check and decode segments into `eeg` [n, C, T]; where one is replaced, `rows` says by which."""
        # Piece p of segment i is pieces[p][i]: all the views are made here, at once.
        # One piece where PyTorch has no thread pool to spread it over.
        size = _SERIAL_ELEMENTS if torch.get_num_threads() > 1 else eeg.shape[1] * eeg.shape[2]
        pieces = [piece.unbind(0) for piece in eeg.flatten(1).split(size, dim=1)]
        for position, row in enumerate(rows.tolist()):
            row, content = self._sound_segment(row)
            rows[position] = row
            scale = float(self.dataset.index.scale[row])
            start = 0
            for piece in pieces:
                target = piece[position]
                target.copy_(torch.frombuffer(content, dtype=torch.float16, count=target.numel(), offset=start))
                target.mul_(scale)
                start += 2 * target.numel()

    def _sound_segment(self, row: int) -> tuple[int, memoryview]:
        """The row and bytes of a segment, or of its replacement."""
        try:
            return row, self.dataset.eeg_bytes(row)
        except CorruptSampleError as error:
            if not self._skip_corrupt:
                raise
            self._count_corrupt(row, str(error))
        index = self.dataset.index
        alike = np.flatnonzero((index.label == index.label[row]) & (index.split_code == index.split_code[row]))
        for candidate in np.roll(alike, -int(np.searchsorted(alike, row)) - 1)[:-1].tolist():
            try:
                return candidate, self.dataset.eeg_bytes(candidate)
            except CorruptSampleError as error:
                self._count_corrupt(candidate, str(error))
        raise CorruptSampleError(f"{self.corrupt[row]} No other segment of its class and part is sound.")

    def _count_corrupt(self, row: int, problem: str) -> None:
        with self._counting:
            new = row not in self.corrupt
            self.corrupt.setdefault(row, problem)
        if new:
            _logger.warning("replaced: %s", problem)
        if len(self.corrupt) > max(1, _MAX_CORRUPT_FRACTION * len(self.dataset)):
            raise CorruptSampleError(
                f"{len(self.corrupt)} of {len(self.dataset)} segments are damaged, more than 1 %; the last: {problem} "
                "Run `data verify`."
            )

    def _batches(self, epoch: int, start_step: int, decoders: ThreadPoolExecutor) -> Iterator[Batch]:
        place = {"rank": self.rank, "world_size": self.world_size}
        for rows in planned_rows(self.dataset, self.plan, epoch, start_step, **place):
            yield self._read(rows, decoders)

    def _produce(
        self,
        epoch: int,
        start_step: int,
        results: "queue.SimpleQueue[Batch | BaseException | None]",
        slots: threading.Semaphore,
        stop: threading.Event,
    ) -> None:
        try:
            with ThreadPoolExecutor(self.decode_threads, "neuroimagen-decode") as decoders:
                batches = self._batches(epoch, start_step, decoders)
                while True:
                    slots.acquire()
                    if stop.is_set():
                        return
                    batch = next(batches, None)
                    results.put(batch)
                    if batch is None:
                        return
                    del batch  # its buffer is free once the consumer lets go
        except BaseException as error:  # handed over: the consumer raises it
            results.put(error)
