"""A simulated study: images, captions and the EEG of several subjects. write_study.py writes it.

Stimulus i shows class i mod C; in segment n, subject n mod S looks at stimulus n // S, so every subject sees every
image once. Each stimulus and each segment has its own random stream (`random_streams.random_stream`): the data depend
neither on the number of threads nor on chunks, and a study with more images per class begins with the same images.
"""

import dataclasses
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.simulator.ceiling import Ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES, Scene, draw_scene, layout_features, sample_scene
from neuroimagen.data_shards.simulator.forward_model import SFREQ, ForwardModel, ForwardModelConfig
from neuroimagen.data_shards.simulator.head_model import MONTAGE
from neuroimagen.data_shards.simulator.identification_ceiling import IdentificationCeiling
from neuroimagen.data_shards.simulator.random_streams import (
    STREAM_SESSION,
    STREAM_SPLIT,
    STREAM_STIMULUS,
    random_stream,
)

Fold = dict[str, np.ndarray]
"""train, val, test → numbers of segments."""

MAX_FOLDS = 6  # as in EEGCVPR40
SESSION = "01"
IMAGE_INTERVAL_S = 1.0
"""From one image to the next; longer than any segment, so segments share no samples."""
BLOCK_PAUSE_S = 10.0
JPEG_QUALITY = 95
_CHUNK = 64  # segments that the threads compute ahead of the writer


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a simulated study consists of."""

    model: ForwardModelConfig = dataclasses.field(default_factory=ForwardModelConfig)
    images_per_class: int = 60
    design: Literal["random", "block"] = "random"
    """random: the images in random order. block: class after class, as in EEGCVPR40."""
    image_size_px: int = 64

    def __post_init__(self) -> None:
        if self.images_per_class < 3:
            raise UserError(f"{self.images_per_class} images per class: train, val and test need 3 or more.")
        if self.design not in ("random", "block"):
            raise UserError(f"design {self.design!r}: choose random or block.")
        if not 16 <= self.image_size_px <= 2048:
            raise UserError(f"images of {self.image_size_px} px: choose 16 to 2048.")


class Study:
    """A study with every random choice made: images, order of presentation, split; EEG is computed on demand."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.model = ForwardModel(config.model)
        self.num_classes = config.model.num_classes
        self.num_subjects = config.model.num_subjects
        self.num_stimuli = self.num_classes * config.images_per_class
        self.num_segments = self.num_stimuli * self.num_subjects
        self.num_folds = min(MAX_FOLDS, config.images_per_class)

    def label(self, stimulus: int) -> int:
        return stimulus % self.num_classes

    def name(self, stimulus: int) -> str:
        """Name of the image in the style of EEGCVPR40: <wnid>_<number>."""
        return f"{CLASSES[self.label(stimulus)].wnid}_{stimulus // self.num_classes + 1}"

    def scene(self, stimulus: int) -> Scene:
        return sample_scene(random_stream(self.config.model.seed, STREAM_STIMULUS, stimulus), self.label(stimulus))

    def jpeg(self, stimulus: int) -> bytes:
        """The image, encoded without subsampling of the colours, which are part of the layout features."""
        buffer = io.BytesIO()
        image = Image.fromarray(draw_scene(self.scene(stimulus), self.config.image_size_px))
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    @cached_property
    def presentation(self) -> np.ndarray:
        """Place of each stimulus in each subject's session, int32 [subjects, stimuli].

        A session has one block per class, and `images_per_class` images in a block.
        """
        per_class = self.config.images_per_class
        places = np.empty((self.num_subjects, self.num_stimuli), np.int32)
        for subject in range(self.num_subjects):
            rng = random_stream(self.config.model.seed, STREAM_SESSION, subject)
            if self.config.design == "random":
                places[subject] = rng.permutation(self.num_stimuli)
            else:
                blocks = rng.permutation(self.num_classes)[:, None] * per_class
                within = rng.permuted(np.tile(np.arange(per_class), (self.num_classes, 1)), axis=1)
                places[subject] = (blocks + within).T.reshape(-1)  # stimulus i is image i // C of class i % C
        return places

    @cached_property
    def group(self) -> np.ndarray:
        """Which of `num_folds` groups each stimulus is in, int8 [stimuli]; each class is divided evenly among them."""
        rng = random_stream(self.config.model.seed, STREAM_SPLIT)
        groups = np.tile(np.arange(self.config.images_per_class) % self.num_folds, (self.num_classes, 1))
        return rng.permuted(groups, axis=1).T.reshape(-1).astype(np.int8)

    def split_of(self, stimulus: int, fold: int = 0) -> str:
        """Split of a stimulus and of all its segments: one group is for testing, the next for validation."""
        return {0: "test", 1: "val"}.get((int(self.group[stimulus]) - fold) % self.num_folds, "train")

    def folds(self) -> list[Fold]:
        """The segments of each split, for each fold."""
        stimuli = np.arange(self.num_segments) // self.num_subjects
        place = (self.group[stimuli] - np.arange(self.num_folds)[:, None]) % self.num_folds
        return [
            {
                "train": np.flatnonzero(groups > 1),
                "val": np.flatnonzero(groups == 1),
                "test": np.flatnonzero(groups == 0),
            }
            for groups in place
        ]

    def block_and_order(self, segment: int) -> tuple[int, int]:
        """Block of the session in which a segment was recorded, and its position in the block."""
        stimulus, subject = divmod(segment, self.num_subjects)
        return divmod(int(self.presentation[subject, stimulus]), self.config.images_per_class)

    def onset_s(self, segment: int) -> float:
        """When the image of a segment appeared, in seconds from the start of the subject's recording."""
        block, order = self.block_and_order(segment)
        return block * (self.config.images_per_class * IMAGE_INTERVAL_S + BLOCK_PAUSE_S) + order * IMAGE_INTERVAL_S

    def recording(self, segment: int) -> str:
        """Name of the recording that a segment belongs to; every subject has one, of one session."""
        return f"sub-{segment % self.num_subjects + 1:02d}_ses-{SESSION}"

    def segment(self, index: int) -> np.ndarray:
        """EEG of a segment: float32 [128, L]."""
        stimulus, subject = divmod(index, self.num_subjects)
        drift = None
        if self.config.model.drift:
            place = (self.presentation[subject, stimulus] + 0.5) / self.config.images_per_class
            drift = self.model.drift(subject, self.num_classes, np.array([place]))[0]
        layout = layout_features(self.scene(stimulus))
        return self.model.segment(index, label=self.label(stimulus), layout=layout, subject=subject, drift=drift)

    def segments(self, *, start: int = 0, workers: int | None = None, chunk: int = _CHUNK) -> Iterator[np.ndarray]:
        """All segments in order from number `start` on.

        `workers` threads (default: one per core) compute them up to two chunks ahead of the caller. Every bit is the
        same whatever `workers` and `chunk` are, and the same as in `segment`.
        """
        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool, single_blas_thread():
            ahead = [pool.submit(self.segment, i) for i in range(start, min(start + chunk, self.num_segments))]
            for first in range(start + chunk, self.num_segments + chunk, chunk):
                now, ahead = (
                    ahead,
                    [pool.submit(self.segment, i) for i in range(first, min(first + chunk, self.num_segments))],
                )
                while now:
                    yield now.pop(0).result()

    def describe(self, ceiling: Ceiling, identification: IdentificationCeiling) -> dict[str, Any]:
        """Content of study.json: everything that determined the data, and what can be decoded from them."""
        import importlib.metadata

        versions = {
            package: importlib.metadata.version(package) for package in ("neuroimagen", "numpy", "mne", "pillow")
        }
        return {
            "source": "simulation",
            "seed": self.config.model.seed,
            "config": dataclasses.asdict(self.config),
            "ceiling": dataclasses.asdict(ceiling),
            "identification_ceiling": dataclasses.asdict(identification),
            "num_segments": self.num_segments,
            "num_stimuli": self.num_stimuli,
            "classes": [dataclasses.asdict(item) for item in CLASSES[: self.num_classes]],
            "montage": MONTAGE,
            "channel_names": self.model.channel_names,
            "sfreq": SFREQ,
            "channel_mean": self.model.mean.tolist(),
            "channel_scale": self.model.scale.tolist(),
            "versions": versions,
        }
