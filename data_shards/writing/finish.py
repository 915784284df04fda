"""The last step of writing a data set: tables and dataset.json from what the finished shards recorded."""

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.format.encoding import RoundTripError
from neuroimagen.data_shards.format.schema import INDEX_SCHEMA, SPLITS, STIMULI_SCHEMA, DatasetMetadata
from neuroimagen.data_shards.format.tables import ROWS_PER_GROUP, file_sha256
from neuroimagen.data_shards.writing.unfinished import Kind, UnfinishedFolder


def finish(
    unfinished: UnfinishedFolder, metadata: DatasetMetadata, *, num_stimulus_shards: int, num_segment_shards: int
) -> None:
    """Write index.parquet, stimuli.parquet and dataset.json, and give the data set its name.

    `metadata` has the fields that the source gives; the others are counted from the tables.
    """
    stimulus_notes = _join_tables(unfinished, "stimuli", num_stimulus_shards, STIMULI_SCHEMA, "stimuli.parquet")
    segment_notes = _join_tables(unfinished, "segments", num_segment_shards, INDEX_SCHEMA, "index.parquet")
    index = unfinished.data / "index.parquet"
    columns = pq.read_table(index, columns=["subject", "split"])
    splits = columns["split"].value_counts().to_pylist()
    round_trip = RoundTripError.worst([note["round_trip"] for note in segment_notes])
    finished = dataclasses.replace(
        metadata,
        subjects=tuple(sorted(columns["subject"].unique().to_pylist())),
        num_segments=len(columns),
        num_stimuli=pq.read_metadata(unfinished.data / "stimuli.parquet").num_rows,
        split_counts=dict.fromkeys(SPLITS, 0) | {item["values"]: item["counts"] for item in splits},
        storage=metadata.storage or {"dtype": "float16", **round_trip.summary()},
        segment_shards=tuple(note["num_bytes"] for note in segment_notes),
        stimulus_shards=tuple(note["num_bytes"] for note in stimulus_notes),
        tables={name: file_sha256(unfinished.data / name) for name in ("index.parquet", "stimuli.parquet")},
    )
    (unfinished.data / "dataset.json").write_text(finished.to_json(), encoding="utf-8")
    unfinished.publish()


def _join_tables(
    unfinished: UnfinishedFolder, kind: Kind, num_shards: int, schema: pa.Schema, name: str
) -> list[dict[str, Any]]:
    """Write a table from the rows of all shards, in row groups of one size; returns the shards' notes."""
    notes: list[dict[str, Any]] = []
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(unfinished.data / name, schema, compression="zstd") as writer:
        for shard in range(num_shards):
            rows, note = unfinished.rows(kind, shard)
            notes.append(note)
            waiting.append(rows)
            if sum(len(table) for table in waiting) >= ROWS_PER_GROUP:
                joined = pa.concat_tables(waiting)
                whole = len(joined) // ROWS_PER_GROUP * ROWS_PER_GROUP
                writer.write_table(joined.slice(0, whole), row_group_size=ROWS_PER_GROUP)
                waiting = [joined.slice(whole)]
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=ROWS_PER_GROUP)
    return notes
