"""A stage's split of the data kept whole on the device that trains, where it fits: batches are gathered there.

Most data sets of EEG and images are small compared with a GPU's memory: the training split of EEGCVPR40 is 1 GB as
stored. A contrastive step on 4,096 segments needs 461 MB, which a GPU processes faster than a disk or a bus delivers
it. Batches are those of the reader, bit for bit.
"""

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.loading.plan import Plan, SequentialPlan, rank_slice
from neuroimagen.data_shards.loading.reader import Batch, Reader

_LOADED_TOGETHER = 512
"""Segments read at a time into the device's memory."""


class ResidentFeed:
    """Batches of a plan over `rows`, all of whose data lie on `device`.

    Construction reads every segment once, checked as the reader checks it, and every distinct image and latent of the
    stimuli once. The tensors of each batch are new: float32 EEG [B, C, T] and the rest as in `Batch`.
    """

    wait_seconds = 0.0
    """Time the consumer has waited for batches: always 0 here."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        rows: np.ndarray,
        *,
        latents: Mapping[str, LatentStore],
        image_size_px: int | None,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`rows`: all that the plan's batches are made of, in ascending order."""
        self._plan, self._rows, self._device = plan, rows, device
        self._rank, self._world_size = rank, world_size
        index, metadata = dataset.index, dataset.metadata
        self._eeg = torch.empty(len(rows), metadata.n_channels, metadata.n_samples, dtype=torch.float16, device=device)
        reader = Reader(dataset, SequentialPlan(rows, _LOADED_TOGETHER), as_stored=True)
        start = 0
        for batch in reader.epoch(0):
            self._eeg[start : start + len(batch)].copy_(batch.eeg, non_blocking=True)
            start += len(batch)
        self._scale = torch.from_numpy(index.scale[rows]).to(device)
        self._label, self._subject, self._stimulus = (
            torch.from_numpy(column[rows].astype(np.int64)).to(device)
            for column in (index.label, index.subject, index.stimulus)
        )
        # The stimuli of these rows, and which of them belongs to each row.
        stimuli, of_row = np.unique(index.stimulus[rows].astype(np.int64), return_inverse=True)
        self._images: Tensor | None = None
        if image_size_px is not None:
            self._images = torch.from_numpy(dataset.stimuli.images(stimuli, image_size_px)).to(device)
        self._image_of_row = torch.from_numpy(of_row).to(device)
        self._latents: dict[str, tuple[Tensor, Tensor]] = {}
        for kind, store in latents.items():
            distinct, which = store.distinct(stimuli)
            self._latents[kind] = store.stored(distinct).to(device), torch.from_numpy(which[of_row]).to(device)

    def epochs(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` from `start_step` on, and then those of the epochs after it without end."""
        for number in itertools.count(epoch):
            for step in range(start_step if number == epoch else 0, self._plan.steps_per_epoch):
                yield self._batch(rank_slice(self._plan.batch(number, step), self._rank, self._world_size))

    def _batch(self, rows: np.ndarray) -> Batch:
        found = torch.from_numpy(np.searchsorted(self._rows, rows))
        if self._device.type == "cuda":
            found = found.pin_memory()  # a copy from other memory would be waited for
        places = found.to(self._device, non_blocking=True)
        return Batch(
            rows=torch.from_numpy(rows),
            eeg=self._eeg.index_select(0, places),
            scale=self._scale.index_select(0, places),
            label=self._label.index_select(0, places),
            subject=self._subject.index_select(0, places),
            stimulus=self._stimulus.index_select(0, places),
            images=None if self._images is None else self._images.index_select(0, self._image_of_row[places]),
            latents={
                kind: table.index_select(0, which[places]).float() for kind, (table, which) in self._latents.items()
            },
        ).decoded()


def resident_bytes(
    dataset: Dataset, rows: np.ndarray, *, latents: Mapping[str, LatentStore], image_size_px: int | None
) -> int:
    """What a ResidentFeed of `rows` keeps on its device; nothing is read to know it."""
    stimuli = np.unique(dataset.index.stimulus[rows])
    total = len(rows) * dataset.metadata.n_channels * dataset.metadata.n_samples * torch.float16.itemsize
    if image_size_px is not None:
        total += len(stimuli) * 3 * image_size_px**2
    for store in latents.values():
        distinct, _ = store.distinct(stimuli)
        total += len(distinct) * math.prod(store.metadata.shape) * store.metadata.storage_dtype.itemsize
    return total
