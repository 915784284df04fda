"""A data set of noise on disk, with latents of noise: the cost of reading does not depend on the values."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_format import SHARD_ITEMS, LatentMetadata
from neuroimagen.data_shards.dataset.latent_items import LatentItems
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.latent_cache.write import LatentWriter
from neuroimagen.data_shards.writing.writer import DatasetWriter
from neuroimagen.trainer.batches.stage_data import Shapes

VALIDATION_SHARE = 16
"""One in this many segments of each class belongs to the validation split."""


def write_noise(
    folder: Path, shapes: Shapes, *, num_segments: int, num_stimuli: int | None = None, image_size_px: int = 64
) -> Dataset:
    """Segments of white noise, classes in turn, each of one of `num_stimuli` JPEG images (default: one per class)."""
    rng = np.random.default_rng(0)
    classes = tuple(ClassInfo(name=f"class {label}") for label in range(shapes.num_classes))
    metadata = DatasetMetadata(
        name="noise", n_channels=shapes.n_channels, n_samples=shapes.n_samples, sfreq=1000.0, classes=classes
    )
    num_stimuli = num_stimuli or len(classes)
    with DatasetWriter(folder, metadata) as writer:
        for number in range(num_stimuli):
            label = number % len(classes)
            writer.add_stimulus(
                StimulusRecord(
                    key=f"s{number}",
                    image=_image(rng, image_size_px),
                    extension="jpg",
                    label=label,
                    caption=f"an image of {classes[label].name}",
                )
            )
        for number in range(num_segments):
            stimulus = number % num_stimuli
            eeg = rng.standard_normal((shapes.n_channels, shapes.n_samples), dtype=np.float32)
            last = number // len(classes) % VALIDATION_SHARE == VALIDATION_SHARE - 1
            writer.add_segment(
                SegmentRecord(
                    eeg=eeg,
                    stimulus=f"s{stimulus}",
                    label=stimulus % len(classes),
                    subject=1,
                    split="val" if last else "train",
                )
            )
    return Dataset.open(folder)


def _image(rng: np.random.Generator, size_px: int) -> bytes:
    """Smooth colours as JPEG, of about a photograph's size: white noise would take several times as long to decode."""
    coarse = Image.fromarray(rng.integers(0, 256, (size_px // 8, size_px // 8, 3), dtype=np.uint8))
    content = io.BytesIO()
    coarse.resize((size_px, size_px), Image.Resampling.BICUBIC).save(content, format="JPEG", quality=90)
    return content.getvalue()


def write_noise_latents(dataset: Dataset, kind: str, shape: tuple[int, ...]) -> LatentStore:
    """A store of `kind` in the data set's folder, float16 as `neuroimagen cache` writes it, holding noise."""
    items = LatentItems.of(dataset.stimuli, kind)
    metadata = LatentMetadata(
        kind=kind,
        model_id="noise",
        revision="0" * 64,
        preprocessing={},
        shape=shape,
        dtype="float16",
        inputs=items.digest,
        shard_items=SHARD_ITEMS,
    )
    writer = LatentWriter(dataset.folder / "latents", metadata, items)
    generator = torch.Generator().manual_seed(0)
    for shard in writer.pending():
        # Not negative, because a VAE's latents include a standard deviation.
        writer.write(shard, torch.rand(len(writer.rows(shard)), *shape, generator=generator))
    return writer.finish()


def open_noise_latents(dataset: Dataset, kind: str) -> LatentStore:
    """The store that `write_noise_latents` wrote."""
    (folder,) = (dataset.folder / "latents").glob(f"{kind}-noise-*")
    return LatentStore.open(folder)
