"""A simulated study: pictures, captions and the EEG of several subjects, in EEGCVPR40's files or straight to shards.

Stimulus i shows class i mod C; segment n is subject n mod S looking at stimulus n // S, so every subject sees every
picture once. Each stimulus and each segment has its own random stream (`forward_model.random_stream`): the data depend
neither on the number of threads nor on chunks, and a study with more images per class begins with the same pictures.

Files of the EEGCVPR40 layout (see docs/simulator.md): eeg_5_95_std.pth, block_splits_by_image_all.pth,
block_splits_by_image_single.pth, images/<wnid>/<name>.JPEG, and beside them captions.json, scenes.json,
presentation.json and study.json.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, refuse_existing
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.simulator.ceiling import Ceiling, measure_ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import (
    CLASSES,
    Scene,
    class_caption,
    detailed_caption,
    draw_scene,
    layout_features,
    sample_scene,
)
from neuroimagen.data_shards.simulator.forward_model import (
    SFREQ,
    STREAM_SESSION,
    STREAM_SPLIT,
    STREAM_STIMULUS,
    ForwardModel,
    ForwardModelConfig,
    random_stream,
)
from neuroimagen.data_shards.simulator.head_model import MONTAGE
from neuroimagen.data_shards.writing.writer import DEFAULT_SHARD_BYTES, DatasetWriter

Parts = dict[str, np.ndarray]

MAX_FOLDS = 6  # as EEGCVPR40
JPEG_QUALITY = 95
# `--format shards` does what ingest does to the files: the published length filter and window.
LENGTH_RANGE = (450, 600)
WINDOW = (20, 460)
_MEAN_LENGTH = 511
_CHUNK = 64  # segments that the threads make ahead of the writer


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a simulated study consists of."""

    model: ForwardModelConfig = dataclasses.field(default_factory=ForwardModelConfig)
    images_per_class: int = 60
    design: Literal["random", "block"] = "random"
    """random: the pictures in random order. block: class after class, as EEGCVPR40 did."""
    image_size_px: int = 64

    def __post_init__(self) -> None:
        if self.images_per_class < 3:
            raise UserError(f"{self.images_per_class} images per class: a split into three parts takes 3 or more.")
        if self.design not in ("random", "block"):
            raise UserError(f"design {self.design!r}: choose random or block.")
        if not 16 <= self.image_size_px <= 2048:
            raise UserError(f"pictures of {self.image_size_px} px: choose 16 to 2048.")


class Study:
    """A study with every random choice made: pictures, order of presentation, split, and EEG on demand."""

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
        """Name of the picture as EEGCVPR40 has it: <wnid>_<number>."""
        return f"{CLASSES[self.label(stimulus)].wnid}_{stimulus // self.num_classes + 1}"

    def scene(self, stimulus: int) -> Scene:
        return sample_scene(random_stream(self.config.model.seed, STREAM_STIMULUS, stimulus), self.label(stimulus))

    def jpeg(self, stimulus: int) -> bytes:
        """The picture, encoded without subsampling of the colours, which carry the layout."""
        buffer = io.BytesIO()
        picture = Image.fromarray(draw_scene(self.scene(stimulus), self.config.image_size_px))
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    @cached_property
    def presentation(self) -> np.ndarray:
        """Place of each stimulus in each subject's session, int32 [subjects, stimuli].

        A session has as many blocks as classes and `images_per_class` pictures in a block.
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
        """Which of `num_folds` groups each stimulus belongs to, the same number of every class: int8 [stimuli]."""
        rng = random_stream(self.config.model.seed, STREAM_SPLIT)
        groups = np.tile(np.arange(self.config.images_per_class) % self.num_folds, (self.num_classes, 1))
        return rng.permuted(groups, axis=1).T.reshape(-1).astype(np.int8)

    def split_of(self, stimulus: int, fold: int = 0) -> str:
        """Part of the split that a stimulus, so all its segments, belongs to: one group tests, the next validates."""
        return {0: "test", 1: "val"}.get((int(self.group[stimulus]) - fold) % self.num_folds, "train")

    def folds(self) -> list[Parts]:
        """Indices of segments in each part of each fold."""
        stimuli = np.arange(self.num_segments) // self.num_subjects
        place = (self.group[stimuli] - np.arange(self.num_folds)[:, None]) % self.num_folds
        return [
            {"train": np.flatnonzero(row > 1), "val": np.flatnonzero(row == 1), "test": np.flatnonzero(row == 0)}
            for row in place
        ]

    def block_and_order(self, segment: int) -> tuple[int, int]:
        """Block of the session in which a segment was recorded, and its position in the block."""
        stimulus, subject = divmod(segment, self.num_subjects)
        return divmod(int(self.presentation[subject, stimulus]), self.config.images_per_class)

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

        Made by `workers` threads (default: one per core) up to two chunks ahead of the caller. The same to the bit
        whatever `workers` and `chunk` are, and the same as `segment` gives.
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

    def describe(self, ceiling: Ceiling) -> dict[str, Any]:
        """study.json: everything that determined the data, and what can be decoded from them."""
        import importlib.metadata

        versions = {
            package: importlib.metadata.version(package) for package in ("neuroimagen", "numpy", "mne", "pillow")
        }
        return {
            "source": "simulation",
            "seed": self.config.model.seed,
            "config": dataclasses.asdict(self.config),
            "ceiling": dataclasses.asdict(ceiling),
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


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_torch(content: Any, path: Path) -> None:
    """torch.save whose failure to write is the OSError behind it, not the archive writer's complaint."""
    import torch

    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _check_memory(study: Study) -> None:
    """The .pth is one object, so the layout needs all EEG in memory at once, as reading it does."""
    import psutil

    needed = study.num_segments * len(study.model.channel_names) * _MEAN_LENGTH * 4
    available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        raise UserError(
            f"{study.num_segments:,} segments take {needed / 1e9:.1f} GB of memory in the EEGCVPR40 layout and "
            f"{available / 1e9:.1f} GB are free. Choose --format shards, whose memory is constant, or fewer."
        )


def write_eegcvpr40(study: Study, out: Path, *, workers: int | None = None) -> Ceiling:
    """Write the study into the folder `out` in EEGCVPR40's layout. Returns the ceiling, which study.json holds as well.

    Raises UserError if `out` is in use, memory is too small for it or the disk is full; then nothing is left behind.
    """
    import torch

    refuse_existing(out)
    _check_memory(study)
    with atomic_folder(out) as folder:
        captions, scenes = {}, {}
        for stimulus in track(range(study.num_stimuli), total=study.num_stimuli, desc="pictures"):
            scene, name = study.scene(stimulus), study.name(stimulus)
            captions[name] = detailed_caption(scene)
            scenes[name] = dataclasses.asdict(scene) | {"layout": layout_features(scene).tolist()}
            place = folder / "images" / name.split("_")[0]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.JPEG").write_bytes(study.jpeg(stimulus))
        _write_json(folder / "captions.json", captions)
        _write_json(folder / "scenes.json", scenes)
        places = [study.block_and_order(index) for index in range(study.num_segments)]
        _write_json(folder / "presentation.json", {"block": [p[0] for p in places], "order": [p[1] for p in places]})

        folds = [{part: rows.tolist() for part, rows in fold.items()} for fold in study.folds()]
        first = {part: [row for row in rows if row % study.num_subjects == 0] for part, rows in folds[0].items()}
        _save_torch({"splits": folds}, folder / "block_splits_by_image_all.pth")
        _save_torch({"splits": [first]}, folder / "block_splits_by_image_single.pth")

        items = []
        recorded = track(study.segments(workers=workers), total=study.num_segments, desc="EEG", unit="segment")
        for index, eeg in enumerate(recorded):
            stimulus, subject = divmod(index, study.num_subjects)
            label = study.label(stimulus)
            items.append({"eeg": torch.from_numpy(eeg), "image": stimulus, "label": label, "subject": subject + 1})
        content = {
            "dataset": items,
            "labels": [item.wnid for item in CLASSES[: study.num_classes]],
            "images": [study.name(stimulus) for stimulus in range(study.num_stimuli)],
        }
        _save_torch(content, folder / "eeg_5_95_std.pth")
        ceiling = measure_ceiling(study.model)
        _write_json(folder / "study.json", study.describe(ceiling))
    return ceiling


def write_shards(
    study: Study, out: Path, *, workers: int | None = None, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> tuple[Ceiling, int]:
    """Write the study straight into a data set, in memory that hardly grows with it (a few bytes a segment).

    What `data ingest eegcvpr40` would make of the files with its defaults and fold 0: the length filter, the window,
    the split by image. Returns the ceiling and the number of segments that the length filter left.
    """
    refuse_existing(out)
    ceiling = measure_ceiling(study.model)
    metadata = DatasetMetadata(
        name="simulated",
        n_channels=len(study.model.channel_names),
        n_samples=WINDOW[1] - WINDOW[0],
        sfreq=SFREQ,
        classes=tuple(ClassInfo(name=item.name, wnid=item.wnid) for item in CLASSES[: study.num_classes]),
        channel_names=tuple(study.model.channel_names),
        split_rule=f"by image, fold 0 of {study.num_folds}, seed {study.config.model.seed}",
        preprocessing={"length_range": list(LENGTH_RANGE), "window": list(WINDOW)},
        provenance={"study": study.describe(ceiling)},
    )
    with DatasetWriter(out, metadata, shard_bytes=shard_bytes, workers=workers) as writer:
        for stimulus in track(range(writer.num_kept_stimuli, study.num_stimuli), desc="pictures"):
            writer.add_stimulus(_stimulus_record(study, stimulus))
        start = writer.resume_position
        recorded = study.segments(start=start, workers=workers)
        for index, eeg in enumerate(track(recorded, total=study.num_segments - start, desc="EEG"), start=start):
            stimulus, subject = divmod(index, study.num_subjects)
            if not LENGTH_RANGE[0] <= eeg.shape[1] <= LENGTH_RANGE[1]:
                continue
            block, order = study.block_and_order(index)
            record = SegmentRecord(
                # A copy: a view would keep the whole recording until its shard is written.
                eeg=eeg[:, slice(*WINDOW)].copy(),
                stimulus=study.name(stimulus),
                label=study.label(stimulus),
                subject=subject + 1,
                split=study.split_of(stimulus),
                block=block,
                order=order,
            )
            writer.add_segment(record, next_position=index + 1)
    return ceiling, writer.num_segments


def _stimulus_record(study: Study, stimulus: int) -> StimulusRecord:
    scene = study.scene(stimulus)
    return StimulusRecord(
        key=study.name(stimulus),
        image=study.jpeg(stimulus),
        extension="jpg",
        label=study.label(stimulus),
        caption=class_caption(scene),
        detailed_caption=detailed_caption(scene),
    )
