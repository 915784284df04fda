"""`data repack`: the same data set in shards of another size or in another order.

The stored EEG is copied bit for bit, and each segment is checked. Stimuli keep their order, so that cached latents stay
valid; they are copied too. A data set of schema version 1 becomes one of the present version: its sessions, recordings
and onsets stay unknown.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.permutation import derive_key, permute
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DEFAULT_SHARD_BYTES, DatasetWriter

Order = Literal["kept", "shuffled"]


def repacked_order(num_segments: int, order: Order, seed: int) -> np.ndarray:
    """int64 [num_segments]: for each row of the new index, its row in the old one."""
    rows = np.arange(num_segments)
    return permute(rows, num_segments, derive_key(seed)) if order == "shuffled" else rows


def repack(
    dataset: Dataset,
    out: Path,
    *,
    order: Order = "kept",
    seed: int = 0,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    workers: int | None = None,
) -> Dataset:
    """Write `dataset` anew into folder `out` and open it.

    With order "shuffled" every shard is a random sample of the recordings: a reader of a few shards at a time then sees
    all subjects and classes. Raises UserError naming the sample where the old data set is damaged.
    """
    if out.resolve() == dataset.folder.resolve():
        raise UserError(f"{out} is the data set itself. Give --out another folder.")
    metadata = dataset.metadata
    step = {"from": dataset.digest, "order": order, "seed": seed if order == "shuffled" else None}
    history = [*metadata.provenance.get("repacked", []), step]
    metadata = dataclasses.replace(metadata, provenance={**metadata.provenance, "repacked": history})
    rows = repacked_order(len(dataset), order, seed)
    with DatasetWriter(out, metadata, shard_bytes=shard_bytes, workers=workers) as writer:
        for stimulus in track(range(writer.num_kept_stimuli, len(dataset.stimuli)), desc="stimuli"):
            writer.add_stimulus(_stimulus_record(dataset, stimulus))
        rest = rows[writer.resume_position :]
        for record in track(_segment_records(dataset, rest), total=len(rest), desc="segments"):
            writer.add_segment(record)
        for store in sorted((dataset.folder / "latents").glob("[!.]*")):
            shutil.copytree(store, writer.folder / "latents" / store.name, dirs_exist_ok=True)
    return Dataset.open(out)


def _stimulus_record(dataset: Dataset, row: int) -> StimulusRecord:
    stimuli = dataset.stimuli
    return StimulusRecord(
        key=stimuli.keys[row],
        image=bytes(stimuli.encoded(row)),
        extension=stimuli.extensions[row],
        label=int(stimuli.labels[row]),
        caption=stimuli.captions[row],
        detailed_caption=stimuli.detailed_captions[row],
    )


def _segment_records(dataset: Dataset, rows: np.ndarray) -> Iterator[SegmentRecord]:
    for row in rows.tolist():
        stored = np.frombuffer(dataset.eeg_bytes(row), dtype="<f2")
        eeg = stored.reshape(dataset.metadata.n_channels, dataset.metadata.n_samples)
        yield SegmentRecord(eeg=eeg, **dataset.segment_fields(row))
