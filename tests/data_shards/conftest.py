"""A tiny study in EEGCVPR40's layout, data sets made of records, and cached latents."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.frozen_models.latent_kinds import KINDS
from neuroimagen.data_shards.latent_cache.cache import CachedLatents, LatentCache
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES
from neuroimagen.data_shards.writing.writer import DatasetWriter

# Times on a shared machine say nothing; the same examples every time.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")

WNIDS = list(EEGCVPR40_CLASS_NAMES)[:4]


def encoded_image(seed: int, size: tuple[int, int] = (20, 16), image_format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


@dataclasses.dataclass
class Study:
    """Files in EEGCVPR40's layout, and what is in them."""

    folder: Path
    content: dict[str, Any]
    folds: list[dict[str, list[int]]]

    @property
    def eeg(self) -> Path:
        return self.folder / "eeg.pth"

    @property
    def splits(self) -> Path:
        return self.folder / "splits.pth"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def save(self, *, zipped: bool = True) -> None:
        torch.save(self.content, self.eeg, _use_new_zipfile_serialization=zipped)
        torch.save({"splits": self.folds}, self.splits)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """4 classes × 10 pictures, 2 subjects, class by class: 80 segments of 6 channels, 500..520 samples."""
    rng = np.random.default_rng(5)
    images = [f"{wnid}_{number}" for wnid in WNIDS for number in range(10)]
    dataset = [
        {
            "eeg": torch.from_numpy(rng.standard_normal((6, int(rng.integers(500, 521)))).astype(np.float32)),
            "image": image,
            "label": image // 10,
            "subject": subject,
        }
        for subject in (1, 2)
        for image in range(40)
    ]
    order = rng.permutation(80).tolist()
    folds = [
        {"train": order[:60], "val": order[60:70], "test": order[70:]},
        {"train": order[20:], "val": order[:10], "test": order[10:20]},
    ]
    folder = tmp_path / "raw"
    for number, name in enumerate(images):
        path = folder / "images" / name.split("_")[0] / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(number))
    captions = {name: f"picture {name} in detail" for name in images[:30]}
    (folder / "captions.json").write_text(json.dumps(captions))
    made = Study(folder, {"dataset": dataset, "labels": WNIDS, "images": images}, folds)
    made.save()
    return made


MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """make(num_segments=, n_channels=, n_samples=, shard_bytes=, seed=, name=) → Dataset of noise with 3 classes."""

    def make(
        num_segments: int = 40,
        *,
        n_channels: int = 5,
        n_samples: int = 33,
        shard_bytes: int = 1 << 16,
        seed: int = 0,
        name: str = "data",
    ) -> Dataset:
        rng = np.random.default_rng(seed)
        metadata = DatasetMetadata(
            name="noise",
            n_channels=n_channels,
            n_samples=n_samples,
            sfreq=250.0,
            classes=tuple(ClassInfo(name=f"class {label}") for label in range(3)),
        )
        with DatasetWriter(tmp_path / name, metadata, shard_bytes=shard_bytes) as writer:
            for number in range(9):
                writer.add_stimulus(
                    StimulusRecord(
                        key=f"picture_{number}",
                        image=encoded_image(number, image_format="PNG" if number % 2 else "JPEG"),
                        extension="png" if number % 2 else "jpg",
                        label=number % 3,
                        caption=f"an image of class {number % 3}",
                        detailed_caption="ein schönes Bild" if number == 4 else None,
                    )
                )
            for row in range(num_segments):
                number = int(rng.integers(9))
                writer.add_segment(
                    SegmentRecord(
                        eeg=rng.standard_normal((n_channels, n_samples)).astype(np.float32)
                        * np.float32(10.0 ** (row % 7 - 3)),
                        stimulus=f"picture_{number}",
                        label=number % 3,
                        subject=1 + row % 2,
                        order=row,
                        session=("", "1", "2")[row // 2 % 3],
                        recording=("", "subject_ü 1", "subject 2")[row % 2 + 1 if row // 2 % 3 else 0],
                        onset_s=row * 0.1 if row // 2 % 3 == 1 else float("nan"),
                        split=("train", "train", "val", "test")[row % 4],
                    )
                )
        return Dataset.open(tmp_path / name)

    return make


@pytest.fixture
def dataset(make_tiny_dataset: Callable[..., Path], tmp_path: Path) -> Dataset:
    """A data set of 14 stimuli of 12 classes that the test may write into."""
    return Dataset.open(make_tiny_dataset(tmp_path / "data", num_stimuli=14))


@pytest.fixture(scope="session")
def cached(
    make_tiny_dataset: Callable[..., Path],
    tiny_diffusion_folder: Path,
    tiny_blip_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Dataset, LatentCache, dict[str, CachedLatents]]:
    """Every kind cached for 14 stimuli of 12 classes, 5 latents per shard, in batches of 3. Read only."""
    dataset = Dataset.open(make_tiny_dataset(tmp_path_factory.mktemp("cache") / "data", num_stimuli=14))
    cache = LatentCache(dataset, tiny_diffusion_folder, captioner=tiny_blip_folder, batch_size=3, shard_items=5)
    return dataset, cache, {kind: cache.cache(kind) for kind in (*KINDS, "image")}
