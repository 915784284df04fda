"""A data set as the first stage of a `webdataset.DataPipeline`; that library's stages can follow it.

Samples are its dictionaries, contents as bytes: `__key__`, `__url__`, `eeg.npy` (float16), `json` (scale, label,
stimulus, subject, block, order, session, recording, onset_s, split, and the stimulus's captions), and on request the
image under `jpg` or `png`.
Decode them with an allow-list, `webdataset.decode("rgb8", only=["eeg.npy", "json", "jpg", "png"])`: without one,
`webdataset.decode()` executes pickles that a foreign tar may hold.
"""

import io
import json
import math
import random
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.permutation import derive_key
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import npy_header, segment_key
from neuroimagen.data_shards.format.storage import CorruptSampleError, Shards
from neuroimagen.data_shards.format.tar import shard_name
from neuroimagen.data_shards.loading.batch_queue import Fillable, FinishedBatch
from neuroimagen.data_shards.loading.plan import Plan, SequentialPlan, rank_slice
from neuroimagen.data_shards.loading.reader import Batch, Reader


class PlannedSamples(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Yields the samples of one epoch of a plan, in its order, each compared with its CRC.

    In a DataLoader each worker yields every num_workers-th local batch. If all global batches have one size, and
    samples are batched inside the pipeline (`webdataset.batched(local_batch_size)`), the loader returns the batches in
    the order of the plan, whatever the number of workers. Set the attribute `epoch` between epochs.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        *,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start_step: int = 0,
        images: bool = False,
    ) -> None:
        super().__init__()
        self._dataset, self._plan = dataset, plan
        self._rank, self._world_size = rank, world_size
        self._images = images
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in range(self.start_step + first, self._plan.steps_per_epoch, stride):
            for row in rank_slice(self._plan.batch(self.epoch, step), self._rank, self._world_size).tolist():
                yield sample_dictionary(self._dataset, row, images=self._images)


def sample_dictionary(dataset: Dataset, row: int, *, images: bool = False) -> dict[str, Any]:
    """One segment as webdataset's sample dictionary, contents as bytes."""
    index, stimuli = dataset.index, dataset.stimuli
    stimulus = int(index.stimulus[row])
    fields = dataset.segment_fields(row)
    fields |= {
        "onset_s": None if math.isnan(fields["onset_s"]) else fields["onset_s"],
        "caption": stimuli.captions[stimulus],
        "detailed_caption": stimuli.detailed_captions[stimulus] or "",
    }
    header = npy_header(dataset.metadata.n_channels, dataset.metadata.n_samples)
    sample: dict[str, Any] = {
        "__key__": segment_key(row),
        "__url__": dataset.segments.where(int(index.shard[row])),
        "eeg.npy": header + bytes(dataset.eeg_bytes(row)),
        "json": json.dumps(fields, sort_keys=True).encode(),
    }
    if images:
        sample[stimuli.extensions[stimulus]] = bytes(stimuli.encoded(stimulus))
    return sample


def resampled_samples(dataset: Dataset, *, seed: int, shuffle: int = 1000) -> Any:
    """The library's own endless stream: shards drawn with replacement, samples shuffled in a buffer, no exact epochs.

    Reading is sequential in each shard, which suits slow disks and URLs (through the node's cache, with its retries).
    Train, val and test are mixed as in the shards (each sample's json has its split), and a damaged sample is not
    noticed. Decode with an allow-list, as above. Every rank and worker has its own stream.
    """
    import webdataset

    if not len(dataset.segments):
        raise UserError("the data set has no shards to stream.")
    names = [shard_name(shard) for shard in range(len(dataset.segments))]
    return webdataset.DataPipeline(
        webdataset.ResampledShards(names, seed=seed, deterministic=True),
        partial(_opened, dataset),
        webdataset.tariterators.tar_file_expander,
        webdataset.tariterators.group_by_keys,
        webdataset.shuffle(shuffle, rng=random.Random(seed)),
    )


class ResampledReader(Reader):
    """A Reader over `resampled_samples`: for a remote data set larger than the cache, if exact epochs are not needed.

    Batches have the Reader's form and hold only the `rows` given (a split, some subjects), and every sample's CRC is
    checked. An epoch has as many batches as `rows` fill; a sample may occur twice or not at all, and which samples
    occur depends on the number of ranks. `shuffle`: number of samples held in memory to be shuffled.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        global_batch_size: int,
        *,
        seed: int,
        shuffle: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(dataset, SequentialPlan(rows, global_batch_size), **options)
        if len(rows) < global_batch_size:
            raise UserError(f"{len(rows)} segments do not fill a global batch of {global_batch_size}. Make it smaller.")
        self._seed, self._shuffle = seed, shuffle
        self._wanted = np.zeros(len(dataset), dtype=bool)
        self._wanted[rows] = True

    def _unfilled(self, epoch: int, start_step: int) -> Iterator[Fillable[Batch]]:
        seed = int(derive_key(self._seed, epoch, start_step, self.rank)) >> 1
        stream = iter(resampled_samples(self.dataset, seed=seed, shuffle=self._shuffle))
        num_steps = int(self._wanted.sum()) // self.plan.global_batch_size
        size = len(rank_slice(np.arange(self.plan.global_batch_size), self.rank, self.world_size))
        for _ in range(start_step, num_steps):
            yield FinishedBatch(self._next_batch(stream, size))  # one thread at a time advances the stream

    def _next_batch(self, stream: Iterator[dict[str, Any]], size: int) -> Batch:
        rows, eeg = np.empty(size, dtype=np.int64), self.buffer(size)
        position = 0
        while position < size:
            row, content = self._checked(next(stream))
            if self._wanted[row]:
                stored = np.frombuffer(content, dtype="<f2", offset=len(content) - eeg[0].numel() * 2)
                np.copyto(eeg[position].view(-1).numpy(), stored)
                rows[position] = row
                position += 1
        if not self.as_stored:
            eeg.mul_(torch.from_numpy(self.dataset.index.scale[rows])[:, None, None])
        return self.joined(rows, eeg)

    def _checked(self, sample: dict[str, Any]) -> tuple[int, bytes]:
        """Row and .eeg.npy of a sample of the stream. Raises CorruptSampleError unless it is as the index says."""
        key, content = sample["__key__"], sample.get("eeg.npy", b"")
        row = int(key) if key.isdecimal() else -1
        if not (0 <= row < len(self.dataset) and crc32(content) == self.dataset.index.crc32[row]):
            raise CorruptSampleError(f"{sample['__url__']}: segment {key} is damaged: its CRC differs from the index.")
        return row, content


def _opened(dataset: Dataset, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The library's shard descriptions, each with a stream of the shard's bytes."""
    for description in shards:
        shard = int(description["url"].removesuffix(".tar"))
        stream = io.BufferedReader(_ShardStream(dataset.segments, shard, dataset.metadata.segment_shards[shard]))
        yield {"url": dataset.segments.where(shard), "stream": stream}


class _ShardStream(io.RawIOBase):
    """A shard as a file that is read from the beginning to the end."""

    def __init__(self, shards: Shards, shard: int, size: int) -> None:
        super().__init__()
        self._shards, self._shard, self._size = shards, shard, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        if count:
            buffer[:count] = self._shards.read(self._shard, self._position, count)
        self._position += count
        return count
