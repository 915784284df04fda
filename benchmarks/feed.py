"""A stage's batches as the training loop takes them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from neuroimagen.benchmarks.train_steps import SEED
from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.fetch import Batch
from neuroimagen.data_shards.latents import LatentStore
from neuroimagen.trainer.data import BatchNeeds, StageData
from neuroimagen.trainer.device_feed import on_device
from neuroimagen.trainer.loop import planned_batches
from neuroimagen.trainer.stages.base import Stage

Encode = Callable[[Batch], Tensor]
"""A batch on the device → the latents of its stimuli, float32."""


class Feed:
    """Batches on the device, read by the plan, epoch after epoch; with `encode`, latents are computed on the way."""

    def __init__(
        self,
        dataset: Dataset,
        stage: Stage,
        device: torch.device,
        *,
        needs: BatchNeeds,
        latents: Mapping[str, LatentStore],
        encode: Mapping[str, Encode] | None = None,
    ) -> None:
        data = StageData(dataset, needs=needs, latents=latents, subjects=None, device=device)
        plan = stage.plan(data, SEED)
        self._reader = data.reader(plan)
        self._batches = on_device(planned_batches(self._reader, plan.steps_per_epoch, 0), device)
        self._encode = dict(encode or {})

    @property
    def wait_seconds(self) -> float:
        """What the reader counts: time that the training thread has waited for it."""
        return self._reader.wait_seconds

    def __next__(self) -> Batch:
        batch = next(self._batches)
        if not self._encode:
            return batch
        # Clones are ordinary tensors: what inference mode makes may not take part in a backward pass.
        latents = {kind: encode(batch).clone() for kind, encode in self._encode.items()}
        return replace(batch, images=None, latents=latents)

    def close(self) -> None:
        """End the reader's threads."""
        self._batches.close()  # type: ignore[attr-defined]
