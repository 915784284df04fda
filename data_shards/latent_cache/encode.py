"""Encodes batches of a data set's images or captions.

There are three cases: images; captions that are known; captions that BLIP makes of the images. Each prepares a batch on
the CPU, in any of several threads, and encodes it in the one thread that uses the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from PIL import Image

from neuroimagen.data_shards.dataset.latent_items import StimulusTable
from neuroimagen.data_shards.frozen_models.captioner import Captioner
from neuroimagen.data_shards.frozen_models.encoder import CaptionEncoder, ImageEncoder
from neuroimagen.data_shards.frozen_models.latent_kinds import CaptionKind, ImageKind, LatentKind
from neuroimagen.data_shards.frozen_models.loading import LoadedModels


class EncodableStimuli(StimulusTable, Protocol):
    """What encoding needs of a data set's stimuli: their table and their images."""

    def image(self, index: int) -> Image.Image:
        """RGB, in its own size. Called by several threads at once."""
        ...


class BatchEncoder(ABC):
    """Encodes rows of a store's items."""

    def prepare(self, rows: Sequence[int]) -> torch.Tensor | None:
        """What the network reads of these rows' images, on the CPU; None where it reads captions. Thread-safe."""
        return None

    @abstractmethod
    def encode(self, rows: Sequence[int], prepared: torch.Tensor | None) -> tuple[torch.Tensor, list[str]]:
        """Latents float32 [len(rows), *shape] on the device, and the captions that were encoded (of images: none)."""


class ImageBatches(BatchEncoder):
    """Images through an image encoder, or views of them, of whose latents the mean is taken."""

    def __init__(
        self,
        stimuli: EncodableStimuli,
        encoder: ImageEncoder,
        view: Callable[[Image.Image, str], list[Image.Image]] | None = None,
    ) -> None:
        """`view`: image and key → the images that are encoded in its place."""
        self._stimuli = stimuli
        self._encoder = encoder
        self._view = view

    def prepare(self, rows: Sequence[int]) -> torch.Tensor:
        # Not by the data set's own cache of decoded images: each is needed once.
        images = [self._stimuli.image(row) for row in rows]
        if self._view is None:
            return self._encoder.pixels(images)
        views = [self._view(image, self._stimuli.keys[row]) for row, image in zip(rows, images, strict=True)]
        return torch.stack([self._encoder.pixels(of_one_view) for of_one_view in zip(*views, strict=True)])

    def encode(self, rows: Sequence[int], prepared: torch.Tensor | None) -> tuple[torch.Tensor, list[str]]:
        assert prepared is not None
        if self._view is None:
            return self._encoder.encode(prepared), []
        # View by view, so that a batch takes no more memory than without views.
        return torch.stack([self._encoder.encode(pixels) for pixels in prepared]).mean(dim=0), []


class CaptionBatches(BatchEncoder):
    """Known captions through a caption encoder."""

    def __init__(self, captions: Sequence[str], encoder: CaptionEncoder) -> None:
        self._captions = captions
        self._encoder = encoder

    def encode(self, rows: Sequence[int], prepared: torch.Tensor | None) -> tuple[torch.Tensor, list[str]]:
        captions = [self._captions[row] for row in rows]
        return self._encoder.encode(captions), captions


class CaptionedImageBatches(BatchEncoder):
    """Images through a captioner, and its captions through a caption encoder."""

    def __init__(self, stimuli: EncodableStimuli, captioner: Captioner, encoder: CaptionEncoder) -> None:
        self._stimuli = stimuli
        self._captioner = captioner
        self._encoder = encoder

    def prepare(self, rows: Sequence[int]) -> torch.Tensor:
        return self._captioner.pixels([self._stimuli.image(row) for row in rows])

    def encode(self, rows: Sequence[int], prepared: torch.Tensor | None) -> tuple[torch.Tensor, list[str]]:
        assert prepared is not None
        captions = self._captioner.caption(prepared)
        return self._encoder.encode(captions), captions


def batch_encoder(
    kind: LatentKind, stimuli: EncodableStimuli, captions: Sequence[str] | None, models: LoadedModels
) -> BatchEncoder:
    """The batch encoder of a kind, with its networks loaded. `captions`: those of the store's items, where known."""
    if isinstance(kind, ImageKind):
        return ImageBatches(stimuli, kind.encoder(models), kind.view(models.folders))
    assert isinstance(kind, CaptionKind)
    if captions is not None:
        return CaptionBatches(captions, kind.encoder(models))
    folder = models.folders.captioner
    assert folder is not None, "`kind.missing` is asked first"
    return CaptionedImageBatches(stimuli, models.get(Captioner, folder), kind.encoder(models))
