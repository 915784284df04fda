"""Image embeddings that the frozen networks made: of single stimuli, and their mean over the training stimuli."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.latent_store import LatentStore


class CachedEmbeddings:
    """Reads embeddings from the cached latents of each kind, which are opened when they are first needed."""

    def __init__(
        self, stores: Callable[[], Mapping[str, LatentStore]], training_stimuli: Integers, *, device: torch.device
    ) -> None:
        """`training_stimuli`: numbers of the stimuli that are averaged, each once."""
        self._open = stores
        self._training_stimuli = training_stimuli
        self._device = device
        self._stores: Mapping[str, LatentStore] | None = None
        self._means: dict[str, Tensor] = {}

    def of(self, kind: str, stimuli: Integers) -> Tensor:
        """Embeddings float32 [n, E] of the stimuli with these numbers."""
        if self._stores is None:
            self._stores = self._open()
        return self._stores[kind].get(stimuli).to(self._device)

    def mean(self, kind: str) -> Tensor:
        """The mean over the training stimuli, float32 [1, E]."""
        if kind not in self._means:
            total = torch.zeros(1, dtype=torch.float64)
            for start in range(0, len(self._training_stimuli), 1024):
                total = total + self.of(kind, self._training_stimuli[start : start + 1024]).double().cpu().sum(0)
            mean = (total / len(self._training_stimuli)).float()
            self._means[kind] = mean[None].to(self._device)
        return self._means[kind]
