"""Writes image embeddings of EEG, as the alignment stage predicts them, into a Parquet table.

One row per segment: the segment's row of the index and its subject, stimulus, class and split (for EEG without a data
set: its position and the subject given), and one column of float32 lists for each kind of embedding. The file's
metadata name the run, the kinds, and what was subtracted from the targets.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import embed_rows
from neuroimagen.trainer.networks.alignment import AlignmentModel

METADATA_KEY = b"neuroimagen"
_BATCH = 64


def embed_dataset(model: AlignmentModel, dataset: Dataset, rows: Integers, *, device: str = "cpu") -> pa.Table:
    """The table of the segments in `rows` of a data set's index."""
    index, metadata = dataset.index, dataset.metadata
    _check_size(model, metadata.n_channels, metadata.n_samples, str(dataset.location))
    columns = {
        "segment": pa.array(rows.astype(np.int64)),
        "subject": pa.array(index.subject[rows].astype(np.int32)),
        "stimulus": pa.array([dataset.stimuli.keys[int(number)] for number in index.stimulus[rows]]),
        "label": pa.array(index.label[rows].astype(np.int32)),
        "class": pa.array([metadata.classes[int(label)].name for label in index.label[rows]]),
        "split": pa.array([str(split) for split in index.split[rows]]),
    }
    return _table(columns, embed_rows(model, dataset, rows, device=device))


def embed_segments(
    model: AlignmentModel, eeg: Floats, subjects: Integers, *, device: str | torch.device = "cpu"
) -> dict[str, Floats]:
    """Kind → embeddings float32 [n, P] of segments float32 [n, C, T] that are as the training data."""
    found = {kind: [np.empty((0, size), dtype=np.float32)] for kind, size in model.embedding_sizes.items()}
    starts = range(0, len(eeg), _BATCH)
    for start in track(starts, total=len(starts), desc="image embeddings", unit="batch"):
        part = slice(start, start + _BATCH)
        with torch.inference_mode():
            embeddings, _ = model(torch.from_numpy(eeg[part]).to(device), torch.from_numpy(subjects[part]).to(device))
        for kind, values in embeddings.items():
            found[kind].append(values.float().cpu().numpy())
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def array_table(embeddings: Mapping[str, Floats], *, segments: Integers, subjects: Integers) -> pa.Table:
    """The table of segments without a data set, by their numbers."""
    columns = {"segment": pa.array(segments.astype(np.int64)), "subject": pa.array(subjects.astype(np.int32))}
    return _table(columns, embeddings)


def centres_of(model: AlignmentModel) -> dict[str, Floats]:
    """Kind → what is subtracted from an image's embedding before it is compared, [P]."""
    return {kind: model.centre(kind).cpu().numpy() for kind in model.kinds}


def write_embeddings(table: pa.Table, out: Path, *, centres: Mapping[str, Floats], run: Path) -> None:
    """Write a table of embeddings of the kinds in `centres`; the file is replaced as a whole, or not at all."""
    description = {
        "run": run.resolve().name,
        "kinds": list(centres),
        "centres": {kind: centre.tolist() for kind, centre in centres.items()},
        "comparison": "cosine of an embedding with a target minus its kind's centre",
    }
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(description).encode()})
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _table(columns: Mapping[str, pa.Array], embeddings: Mapping[str, Floats]) -> pa.Table:
    lists = {
        kind: pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).reshape(-1)), values.shape[1])
        for kind, values in embeddings.items()
    }
    return pa.table({**columns, **{f"embedding_{kind}": values for kind, values in lists.items()}})


def _check_size(model: AlignmentModel, n_channels: int, n_samples: int, what: str) -> None:
    encoder = model.encoder
    if (n_channels, n_samples) != (encoder.n_channels, encoder.n_samples):
        raise UserError(
            f"{what} has {n_channels} channels × {n_samples} samples; the run's encoder was trained on "
            f"{encoder.n_channels} × {encoder.n_samples}."
        )
