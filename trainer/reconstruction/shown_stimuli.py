"""What was shown: the stimuli of a data set's segments, for the conditions that are not drawn from the EEG alone.

Shapes: n segments, S side of an image in px, E length of an image embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.pixels import from_uint8
from neuroimagen.trainer.reconstruction.image_embeddings import CachedEmbeddings
from neuroimagen.trainer.reconstruction.noise import SegmentSample, other_stimuli


class ShownStimuli:
    """Reads the stimuli of segments, their classes and their image embeddings, each when it is first needed."""

    def __init__(
        self,
        dataset: Dataset,
        stores: Callable[[], Mapping[str, LatentStore]],
        *,
        subjects: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        """`stores`: opens the cached latents of every kind that the model takes. `subjects`: those whose stimuli count,
        where stimuli are averaged or drawn among; None: all.
        """
        self.stores = stores
        self._dataset = dataset
        self._subjects = subjects
        self._device = device

    def numbers(self, rows: Integers) -> Integers:
        """Numbers of the stimuli of the segments in these rows of the index, int64 [n]."""
        return self._dataset.index.stimulus[rows].astype(np.int64)

    def labels(self, rows: Integers) -> list[int]:
        """Labels of the classes that the segments' stimuli are of."""
        labels: list[int] = self._dataset.index.label[rows].tolist()
        return labels

    def images(self, rows: Integers, size_px: int) -> Tensor:
        """The stimuli of segments, [n, 3, size_px, size_px] in [-1, 1]."""
        images = self._dataset.stimuli.images(self.numbers(rows), size_px)
        return from_uint8(torch.from_numpy(images)).to(self._device)

    def mean_image(self, size_px: int) -> Tensor:
        """The mean of the stimuli of the training split, each counted once: [1, 3, S, S] in [-1, 1]."""
        if size_px not in self._means:
            stimuli = self.training
            total = torch.zeros(3, size_px, size_px, dtype=torch.float64)
            for start in range(0, len(stimuli), 64):
                images = self._dataset.stimuli.images(stimuli[start : start + 64], size_px)
                total += torch.from_numpy(images).double().sum(0)
            self._means[size_px] = from_uint8(total / len(stimuli)).to(self._device)[None]
        return self._means[size_px]

    def embeddings(self, kind: str, rows: Integers) -> Tensor:
        """Cached image embeddings of the segments' stimuli, float32 [n, E]."""
        return self._embeddings.of(kind, self.numbers(rows))

    def mean_embedding(self, kind: str) -> Tensor:
        """The mean cached embedding of the training stimuli, [1, E]."""
        return self._embeddings.mean(kind)

    def other_embeddings(self, kind: str, items: Sequence[SegmentSample], *, seed: int, split: str) -> Tensor:
        """Of each image to draw, the embedding of another stimulus of the split than its segment's, [n, E].

        Raises UserError if the split has one stimulus only.
        """
        of_split = self.of_split(split)
        if len(of_split) < 2:
            raise UserError(f"the {split} split has one stimulus only, so there is no other.")
        own = self.numbers(np.array([item.row for item in items], dtype=np.int64))
        return self._embeddings.of(kind, other_stimuli(seed, items, own=own, stimuli=of_split))

    def of_split(self, split: str) -> Integers:
        """Numbers of the stimuli of a split, each once."""
        return np.unique(self._dataset.index.stimulus[self._dataset.rows(split, self._subjects)]).astype(np.int64)

    @cached_property
    def training(self) -> Integers:
        """Numbers of the stimuli of the training split, each once."""
        return self.of_split("train")

    @cached_property
    def class_captions(self) -> dict[int, str]:
        """Label → caption, of the classes that have a stimulus: that of the first stimulus of the class."""
        stimuli = self._dataset.stimuli
        return dict(zip(stimuli.labels.tolist()[::-1], stimuli.captions[::-1], strict=True))

    @cached_property
    def _embeddings(self) -> CachedEmbeddings:
        return CachedEmbeddings(self.stores, self.training, device=self._device)

    @cached_property
    def _means(self) -> dict[int, Tensor]:
        return {}
