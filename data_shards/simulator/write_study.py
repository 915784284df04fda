"""Writes a simulated study: in the files of EEGCVPR40, or straight into a data set.

Files of the EEGCVPR40 layout (see docs/explanation/simulator.md): eeg_5_95_std.pth, block_splits_by_image_all.pth,
block_splits_by_image_single.pth, images/<wnid>/<name>.JPEG, and beside them captions.json, scenes.json,
presentation.json and study.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, refuse_existing
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.simulator.ceiling import Ceiling, measure_ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES, class_caption, detailed_caption, layout_features
from neuroimagen.data_shards.simulator.forward_model import SFREQ
from neuroimagen.data_shards.simulator.identification_ceiling import (
    IdentificationCeiling,
    measure_identification_ceiling,
)
from neuroimagen.data_shards.simulator.study import SESSION, Study
from neuroimagen.data_shards.writing.writer import DEFAULT_SHARD_BYTES, DatasetWriter

# `--format shards` does what ingest does to the files: the published length filter and window.
LENGTH_RANGE = (450, 600)
WINDOW = (20, 460)
_MEAN_LENGTH = 511


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_torch(content: Any, path: Path) -> None:
    """torch.save that raises the OSError itself where writing fails, not the archive writer's RuntimeError about it."""
    import torch

    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _check_memory(study: Study) -> None:
    """Raise UserError if the EEG does not fit in memory: the .pth is one object, which is made as a whole."""
    import psutil

    needed = study.num_segments * len(study.model.channel_names) * _MEAN_LENGTH * 4
    available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        raise UserError(
            f"{study.num_segments:,} segments take {needed / 1e9:.1f} GB of memory in the EEGCVPR40 layout and "
            f"{available / 1e9:.1f} GB are free. Choose --format shards, which needs little memory, or fewer segments."
        )


def _identification_ceiling(study: Study) -> IdentificationCeiling:
    """The ceiling of identification among the test stimuli of fold 0."""
    stimuli = [stimulus for stimulus in range(study.num_stimuli) if study.split_of(stimulus) == "test"]
    labels = np.array([study.label(stimulus) for stimulus in stimuli])
    layouts = np.stack([layout_features(study.scene(stimulus)) for stimulus in stimuli])
    return measure_identification_ceiling(study.model, labels, layouts)


def write_eegcvpr40(study: Study, out: Path, *, workers: int | None = None) -> Ceiling:
    """Write the study into the folder `out` in EEGCVPR40's layout. Returns the ceiling, which is in study.json as well.

    Raises UserError if `out` is not empty, the memory is too small or the disk is full; `out` is then not written.
    """
    import torch

    refuse_existing(out)
    _check_memory(study)
    with atomic_folder(out) as folder:
        captions, scenes = {}, {}
        for stimulus in track(range(study.num_stimuli), total=study.num_stimuli, desc="images"):
            scene, name = study.scene(stimulus), study.name(stimulus)
            captions[name] = detailed_caption(scene)
            scenes[name] = dataclasses.asdict(scene) | {"layout": layout_features(scene).tolist()}
            place = folder / "images" / name.split("_")[0]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.JPEG").write_bytes(study.jpeg(stimulus))
        _write_json(folder / "captions.json", captions)
        _write_json(folder / "scenes.json", scenes)
        segments = range(study.num_segments)
        places = [study.block_and_order(index) for index in segments]
        presentation = {
            "block": [block for block, _ in places],
            "order": [order for _, order in places],
            "session": [SESSION for _ in places],
            "recording": [study.recording(index) for index in segments],
            "onset_s": [study.onset_s(index) for index in segments],
        }
        _write_json(folder / "presentation.json", presentation)

        folds = [{split: numbers.tolist() for split, numbers in fold.items()} for fold in study.folds()]
        first_subject = {
            split: [n for n in numbers if n % study.num_subjects == 0] for split, numbers in folds[0].items()
        }
        _save_torch({"splits": folds}, folder / "block_splits_by_image_all.pth")
        _save_torch({"splits": [first_subject]}, folder / "block_splits_by_image_single.pth")

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
        _write_json(folder / "study.json", study.describe(ceiling, _identification_ceiling(study)))
    return ceiling


def write_shards(
    study: Study, out: Path, *, workers: int | None = None, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> tuple[Ceiling, int]:
    """Write the study as a data set, in memory that hardly grows with the study (a few bytes per segment).

    The data set has the segments that `data ingest eegcvpr40` would make from the files with its defaults and fold 0:
    the same length filter, window and split by image. Returns the ceiling and the number of segments that passed the
    length filter.
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
        provenance={"study": study.describe(ceiling, _identification_ceiling(study))},
    )
    with DatasetWriter(out, metadata, shard_bytes=shard_bytes, workers=workers) as writer:
        for stimulus in track(range(writer.num_kept_stimuli, study.num_stimuli), desc="images"):
            writer.add_stimulus(_stimulus_record(study, stimulus))
        start = writer.resume_position
        recorded = study.segments(start=start, workers=workers)
        for index, eeg in enumerate(track(recorded, total=study.num_segments - start, desc="EEG"), start=start):
            stimulus, subject = divmod(index, study.num_subjects)
            if not LENGTH_RANGE[0] <= eeg.shape[1] <= LENGTH_RANGE[1]:
                continue
            block, order = study.block_and_order(index)
            record = SegmentRecord(
                # A copy: a view would keep the whole recording in memory until its shard is written.
                eeg=eeg[:, slice(*WINDOW)].copy(),
                stimulus=study.name(stimulus),
                label=study.label(stimulus),
                subject=subject + 1,
                split=study.split_of(stimulus),
                block=block,
                order=order,
                session=SESSION,
                recording=study.recording(index),
                onset_s=study.onset_s(index) + WINDOW[0] / SFREQ,
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
