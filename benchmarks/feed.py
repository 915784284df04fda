"""A stage's batches, read as the training loop reads them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from neuroimagen.benchmarks.train_steps import SEED
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.stages.base import Stage

Encode = Callable[[Batch], Tensor]
"""A batch on the device → the latents of its stimuli, float32."""


class StageBatches:
    """Batches on the device in the plan's order, epoch after epoch; with `encode`, latents are computed from images."""

    def __init__(
        self,
        dataset: Dataset,
        stage: Stage,
        device: torch.device,
        *,
        needs: BatchNeeds,
        latents: Mapping[str, LatentStore],
        encode: Mapping[str, Encode] | None = None,
        resident_gib: float | None = None,
    ) -> None:
        data = StageData(dataset, needs=needs, latents=latents, subjects=None, device=device, resident_gib=resident_gib)
        self._feed = data.feed(stage.plan(data, SEED))
        self._batches = self._feed.epochs(0)
        self._encode = dict(encode or {})

    @property
    def wait_seconds(self) -> float:
        """Time that the training thread has waited for batches, as the training log counts it."""
        return self._feed.wait_seconds

    def __next__(self) -> Batch:
        batch = next(self._batches)
        if not self._encode:
            return batch
        # Clones are ordinary tensors: those made in inference mode may not take part in a backward pass.
        latents = {kind: encode(batch).clone() for kind, encode in self._encode.items()}
        return replace(batch, images=None, latents=latents)

    def close(self) -> None:
        """End the reader's threads, if there is a reader."""
        self._batches.close()  # type: ignore[attr-defined]
