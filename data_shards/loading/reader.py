"""Reads planned batches: reads, checks, decodes and assembles them in threads beside the training thread.

Shapes: B segments of this rank's batch, C channels, T samples of time, S image side in pixels.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.batch_buffers import BatchBuffers
from neuroimagen.data_shards.loading.batch_queue import BatchQueue, ChunkedBatch, Fillable, chunks
from neuroimagen.data_shards.loading.checked_segments import CheckedSegments
from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.prefetch import planned_rows

if TYPE_CHECKING:
    from neuroimagen.data_shards.dataset.latent_store import LatentStore

_LOCAL_DECODE_THREADS = 2
"""For a local data set. Where memory bandwidth is the limit, one thread is as fast (`bench stream`); elsewhere two are
faster."""
_REMOTE_DECODE_THREADS = 4
"""For a data set behind a URL, where a thread mostly waits for a block."""
_CHUNK_SEGMENTS = 128
"""Fewest segments that a thread decodes at a time: about 3 ms of work, much more than the cost of distributing it."""
_GROUP_SEGMENTS = 16
"""Segments per call of PyTorch. Each call takes the interpreter's lock, and waiting for it costs as much as decoding a
segment; of many more segments the first would have left the processor's cache before they are converted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch. The consumer may keep its tensors: they are not overwritten."""

    rows: torch.Tensor
    """int64 [B], rows of the index."""
    eeg: torch.Tensor
    """float32 [B, C, T]; with a `scale`, float16 as stored."""
    label: torch.Tensor
    """int64 [B]."""
    subject: torch.Tensor
    """int64 [B]."""
    stimulus: torch.Tensor
    """int64 [B], rows of the stimuli."""
    images: torch.Tensor | None
    """uint8 [B, 3, S, S], if the reader was given an image size."""
    latents: dict[str, torch.Tensor]
    """float32 [B, …] for each kind of latent that the reader was given."""
    scale: torch.Tensor | None = None
    """float32 [B], the factor by which EEG as stored has to be multiplied."""

    def __len__(self) -> int:
        return len(self.rows)

    def decoded(self) -> "Batch":
        """The batch with float32 EEG, bit for bit the same on every device."""
        if self.scale is None:
            return self
        return dataclasses.replace(self, eeg=self.eeg.float().mul_(self.scale[:, None, None]), scale=None)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with `change` applied to every tensor but `rows`: to move or pin them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "rows"}
        tensors = {name: change(value) for name, value in fields.items() if isinstance(value, torch.Tensor)}
        latents = {kind: change(value) for kind, value in self.latents.items()}
        return dataclasses.replace(self, latents=latents, **tensors)


class Reader:
    """Streams a plan's batches for one rank, prefetching in the background.

    latents: kind → store; the batch has the latents of its stimuli. image_size_px: the batch also has the images.
    prefetch_batches: how many finished batches may wait besides those being decoded, as long as the EEG of all fits
    into `prefetch_bytes`. decode_threads: None means two, or four for a data set behind a URL. as_stored: float16 EEG
    with its scale, to be decoded on a GPU: half the bytes to write and to copy. pin_memory: page-locked batches, whose
    copies to a GPU run beside its work; None means if there is a GPU. The order is the plan's, and starting at any step
    costs no extra time.

    on_corrupt: a segment whose bytes are not what the index says is an error, or with "skip" is replaced by the next
    undamaged segment of its class and split, which is the same for any number of ranks; `corrupt` lists what was
    replaced.
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
        as_stored: bool = False,
        pin_memory: bool | None = None,
        on_corrupt: Literal["error", "skip"] = "error",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
        if prefetch_batches < 1:
            raise UserError(f"prefetch_batches is {prefetch_batches}; it must be at least 1.")
        if decode_threads is not None and decode_threads < 1:
            raise UserError(f"decode_threads is {decode_threads}; it must be at least 1.")
        self.decode_threads = decode_threads or _default_threads(dataset)
        self.dataset, self.plan = dataset, plan
        self.rank, self.world_size = rank, world_size
        self._latents = dict(latents or {})
        self._image_size_px = image_size_px
        local_batch_size = -(-plan.global_batch_size // world_size)
        self.as_stored = as_stored
        dtype = torch.float16 if as_stored else torch.float32
        batch_bytes = dtype.itemsize * local_batch_size * dataset.metadata.n_channels * dataset.metadata.n_samples
        being_decoded = -(-self.decode_threads // len(chunks(local_batch_size, _CHUNK_SEGMENTS)))
        self._batches_ahead = max(1, min(prefetch_batches + being_decoded, prefetch_bytes // batch_bytes))
        self._segments = CheckedSegments(dataset, on_corrupt)
        self.corrupt = self._segments.corrupt
        """Row → what is wrong with it, for every damaged segment that was replaced."""
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        # The consumer holds two more for a moment: a loop's variable keeps the last batch until it is given the next.
        self._buffers = BatchBuffers(self._batches_ahead + 2, dtype, self._pin_memory)
        self.wait_seconds = 0.0
        """Total time in seconds that the consumer has waited for batches."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` from `start_step` on. Errors of the background threads are raised here."""
        return self._stream(self._unfilled(epoch, start_step))

    def epochs(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The same, followed by all later epochs without end; prefetching does not stop between epochs."""
        later = (self._unfilled(number, 0) for number in itertools.count(epoch + 1))
        return self._stream(itertools.chain(self._unfilled(epoch, start_step), itertools.chain.from_iterable(later)))

    def _stream(self, unfilled: Iterator[Fillable[Batch]]) -> Iterator[Batch]:
        with BatchQueue(unfilled, self._batches_ahead, num_threads=self.decode_threads) as queue:
            while True:
                started = time.perf_counter()
                batch = queue.next_batch()
                self.wait_seconds += time.perf_counter() - started
                if batch is None:
                    return
                yield batch
                del batch  # so that its buffer can be used while the next batch is awaited

    def read(self, rows: np.ndarray) -> Batch:
        """Read these rows now, in this thread."""
        unfilled = self._unfilled_batch(rows)
        for chunk in unfilled.chunks:
            unfilled.fill(chunk)
        return unfilled.batch.result().pop()

    def joined(self, rows: np.ndarray, eeg: torch.Tensor) -> Batch:
        """The batch of these rows, whose EEG [B, C, T] is already in a buffer."""
        index, stimuli = self.dataset.index, self.dataset.stimuli
        stimulus = index.stimulus[rows].astype(np.int64)
        images = None
        if self._image_size_px is not None:
            images = torch.from_numpy(stimuli.images(stimulus, self._image_size_px))
        batch = Batch(
            rows=torch.from_numpy(rows),
            eeg=eeg,
            label=torch.from_numpy(index.label[rows].astype(np.int64)),
            subject=torch.from_numpy(index.subject[rows].astype(np.int64)),
            stimulus=torch.from_numpy(stimulus),
            images=images,
            latents={kind: torch.as_tensor(store.get(stimulus)) for kind, store in self._latents.items()},
            scale=torch.from_numpy(index.scale[rows]) if self.as_stored else None,
        )
        # The EEG is pinned already, so it is not copied.
        return batch.map(torch.Tensor.pin_memory) if self._pin_memory else batch

    def buffer(self, num_segments: int) -> torch.Tensor:
        """Uninitialised [num_segments, C, T], float32 or as stored. Call it from one thread at a time."""
        return self._buffers.take((num_segments, self.dataset.metadata.n_channels, self.dataset.metadata.n_samples))

    def _decode(self, rows: np.ndarray, eeg: torch.Tensor) -> None:
        """Read and check segments into `eeg` [n, C, T]; the row of a replacement is written into `rows`."""
        flat = eeg.flatten(1)
        targets, contents = flat.unbind(0), self._segments.read(rows)
        for start in range(0, len(rows), _GROUP_SEGMENTS):
            group = slice(start, start + _GROUP_SEGMENTS)
            # Each is copied right after its check, while it is in the processor's cache.
            stored = [
                torch.frombuffer(content, dtype=torch.float16, count=flat.shape[1])
                for content in itertools.islice(contents, _GROUP_SEGMENTS)
            ]
            torch._foreach_copy_(targets[group], stored)
            scale = self.dataset.index.scale[rows[group]]
            if not self.as_stored and (scale != 1).any():
                flat[group].mul_(torch.from_numpy(scale)[:, None])

    def _unfilled(self, epoch: int, start_step: int) -> Iterator[Fillable[Batch]]:
        """The batches of an epoch, to be filled."""
        place = {"rank": self.rank, "world_size": self.world_size}
        return map(self._unfilled_batch, planned_rows(self.dataset, self.plan, epoch, start_step, **place))

    def _unfilled_batch(self, planned: np.ndarray) -> ChunkedBatch[Batch]:
        rows, eeg = np.array(planned, dtype=np.int64), self.buffer(len(planned))
        return ChunkedBatch(
            len(rows),
            _CHUNK_SEGMENTS,
            # The chunks share memory with the batch.
            fill_chunk=lambda chunk: self._decode(rows[chunk], eeg[chunk]),
            finish=lambda: self.joined(rows, eeg),
        )


def _default_threads(dataset: Dataset) -> int:
    if any(source.remote for source in dataset.sources):
        return _REMOTE_DECODE_THREADS
    return min(_LOCAL_DECODE_THREADS, len(os.sched_getaffinity(0)))
