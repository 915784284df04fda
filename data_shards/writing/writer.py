"""Writes a data set: WebDataset tars, index.parquet, stimuli.parquet, dataset.json. It appears whole or not at all.

Which rows share a shard is known before anything is encoded, so shards are made in parallel, a thread each. A run
that was killed leaves its finished shards in a hidden sibling (part_folder.py); the next one with the same inputs and
options keeps them. The same records give the same bytes, whatever the number of threads and interruptions.
"""

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.encoding import RoundTripError, encode_eeg
from neuroimagen.data_shards.format.schema import (
    INDEX_SCHEMA,
    SPLITS,
    STIMULI_SCHEMA,
    DatasetMetadata,
    SegmentRecord,
    StimulusRecord,
    npy_header,
    segment_json,
    segment_key,
    stimulus_json,
)
from neuroimagen.data_shards.format.tables import ROWS_PER_GROUP, file_sha256
from neuroimagen.data_shards.format.tar import BLOCK_BYTES, END_OF_ARCHIVE, ShardWriter, padded
from neuroimagen.data_shards.writing.unfinished import PartFolder

DEFAULT_SHARD_BYTES = 64 << 20
_MAX_WORKERS = 8


def _unchanged(eeg: np.ndarray) -> np.ndarray:
    return eeg


class DatasetWriter:
    """Context manager that writes a data set into the folder `out`, in memory that does not grow with the segments.

    Stimuli come before the segments that refer to them. `transform` is applied to every segment's EEG before it is
    encoded. `workers` threads (default: one a core, at most 8) hold one shard's EEG each.

    After a kill, a full disk or Ctrl-C the finished shards are kept for a run with the same metadata (it names the
    sources by their hashes) and options: `num_kept_stimuli` stimuli and the inputs before `resume_position` need not be
    given again. When a record is refused, or none was added, nothing is left.
    """

    def __init__(
        self,
        out: Path,
        metadata: DatasetMetadata,
        *,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        transform: Callable[[np.ndarray], np.ndarray] = _unchanged,
        workers: int | None = None,
    ) -> None:
        if shard_bytes < 1 << 16:
            raise UserError(f"shard size {shard_bytes} bytes is too small; use at least 65536.")
        self._out = Path(out)
        self._metadata = metadata
        self._shard_bytes = shard_bytes
        self._transform = transform
        self._workers = workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        self._npy_header = npy_header(metadata.n_channels, metadata.n_samples)
        # A segment's json stays below one block, so that every segment takes the same room.
        content = len(self._npy_header) + 2 * metadata.n_channels * metadata.n_samples
        room = shard_bytes - len(END_OF_ARCHIVE)
        self._rows_per_shard = max(1, room // (3 * BLOCK_BYTES + padded(content)))
        self._stimulus_labels: dict[str, tuple[int, int]] = {}  # key → (row, label)
        self._stimuli: list[StimulusRecord] = []  # of the shard being filled
        self._stimuli_bytes = 0
        self._stimulus_shard = 0
        self._segments: list[SegmentRecord] = []  # of the shard being filled
        self._jobs: deque[Future[None]] = deque()
        self.num_segments = 0
        self.num_kept_stimuli = 0
        """Stimuli that an interrupted run has finished; the caller skips as many."""
        self.resume_position = 0
        """Inputs that an interrupted run has finished; the caller skips as many."""

    def __enter__(self) -> "DatasetWriter":
        job = f"{self._metadata.to_json()}{self._shard_bytes}"
        self._part = PartFolder(self._out, hashlib.sha256(job.encode()).hexdigest())
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="neuroimagen-writer")
        self._keep_finished()
        return self

    @property
    def folder(self) -> Path:
        """Where the data set grows, for what else belongs into it."""
        return self._part.data

    def _keep_finished(self) -> None:
        self._stimulus_shard = self._part.num_done("stimuli")
        for shard in range(self._stimulus_shard):
            rows, _ = self._part.rows("stimuli", shard)
            for key, label in zip(rows["key"].to_pylist(), rows["label"].to_pylist(), strict=True):
                self._stimulus_labels[key] = (len(self._stimulus_labels), label)
        self.num_kept_stimuli = len(self._stimulus_labels)
        if finished := self._part.num_done("segments"):
            rows, note = self._part.rows("segments", finished - 1)
            self.num_segments = (finished - 1) * self._rows_per_shard + len(rows)
            self.resume_position = note["next_position"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as late:
            error = late
            raise self._failed(late) from late
        else:
            if error is not None:
                replacement = self._failed(error)
                if replacement is not error:
                    raise replacement from error
        finally:
            self._pool.shutdown(wait=True)

    def _failed(self, error: BaseException) -> BaseException:
        """Clean up behind an error; returns what to raise."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        # atomic_path makes UserErrors of OSErrors.
        disk = error if isinstance(error, OSError) else error.__cause__
        if (isinstance(error, UserError) and not isinstance(disk, OSError)) or self._part.num_done("segments") == 0:
            self._part.discard()
            left = "nothing is left"
        else:
            self._part.release()
            left = f"finished shards are kept in {self._part.folder} for the next run with the same options"
        if isinstance(disk, OSError):
            return UserError(
                f"cannot write {self._out}: {disk.strerror or disk}. Free space or choose another --out; {left}."
            )
        return error

    def add_stimulus(self, record: StimulusRecord) -> None:
        """Append a picture. Raises UserError when its key repeats or its label has no class."""
        if record.key in self._stimulus_labels:
            raise UserError(f"stimulus {record.key} was given twice.")
        self._check_label(record.label, f"stimulus {record.key}")
        size = sum(BLOCK_BYTES + padded(len(content)) for _, content in _stimulus_members(record))
        if self._stimuli and self._stimuli_bytes + size + len(END_OF_ARCHIVE) > self._shard_bytes:
            self._hand_over_stimuli()
        self._stimuli.append(record)
        self._stimuli_bytes += size
        self._stimulus_labels[record.key] = (len(self._stimulus_labels), record.label)

    def add_segment(self, record: SegmentRecord, *, next_position: int | None = None) -> None:
        """Append a segment. Raises UserError when its shape, values, label, stimulus or split are out of order.

        `next_position`: where a resumed run is to go on after this segment, for sources that drop some of their
        inputs; by default the number of segments so far. Values are looked at by the writing thread, so an error in
        them may come a few segments late.
        """
        row = self.num_segments
        shape = (self._metadata.n_channels, self._metadata.n_samples)
        if record.eeg.shape != shape:
            raise UserError(f"segment {row} is EEG of shape {record.eeg.shape}; this data set holds {shape}.")
        if record.split not in SPLITS:
            raise UserError(f"segment {row}: split {record.split!r} is not one of {SPLITS}.")
        self._check_label(record.label, f"segment {row}")
        if record.stimulus not in self._stimulus_labels:
            raise UserError(f"segment {row} refers to stimulus {record.stimulus!r}, which was not added before it.")
        if (expected := self._stimulus_labels[record.stimulus][1]) != record.label:
            raise UserError(
                f"segment {row} has label {record.label}, its stimulus {record.stimulus} has label {expected}."
            )
        self._segments.append(record)
        self.num_segments += 1
        self._next_position = self.num_segments if next_position is None else next_position
        if len(self._segments) == self._rows_per_shard:
            self._hand_over_segments()

    def _check_label(self, label: int, what: str) -> None:
        if not 0 <= label < self._metadata.num_classes:
            raise UserError(f"{what}: label {label} is outside 0..{self._metadata.num_classes - 1}.")

    def _hand_over_stimuli(self) -> None:
        self._submit("stimuli", self._stimulus_shard, self._write_stimuli, self._stimulus_shard, self._stimuli)
        self._stimulus_shard += 1
        self._stimuli, self._stimuli_bytes = [], 0

    def _hand_over_segments(self) -> None:
        shard = (self.num_segments - 1) // self._rows_per_shard
        first_row = self.num_segments - len(self._segments)
        self._submit("segments", shard, self._write_segments, shard, first_row, self._segments, self._next_position)
        self._segments = []

    def _submit(self, part: str, shard: int, job: Callable[..., None], *arguments: Any) -> None:
        if self._part.is_done(part, shard):
            return  # beyond a gap that an interruption left
        # As many shards as threads are under way, and one more waits: memory stays bounded.
        while len(self._jobs) > self._workers:
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(job, *arguments))

    def _write_stimuli(self, shard: int, records: Sequence[StimulusRecord]) -> None:
        rows = []
        with ShardWriter(self._part.data / "stimuli", shard) as tar:
            for record in records:
                offsets = tar.add(_stimulus_members(record))
                rows.append(
                    {
                        "key": record.key,
                        "shard": shard,
                        "offset": offsets[0],
                        "size": len(record.image),
                        "crc32": crc32(record.image),
                        "extension": record.extension,
                        "label": record.label,
                        "caption": record.caption,
                        "detailed_caption": record.detailed_caption,
                    }
                )
        table = pa.Table.from_pylist(rows, schema=STIMULI_SCHEMA)
        self._part.record("stimuli", shard, table, {"num_bytes": tar.num_bytes})

    def _write_segments(self, shard: int, first_row: int, records: Sequence[SegmentRecord], next_position: int) -> None:
        rows, round_trip = [], RoundTripError()
        with ShardWriter(self._part.data / "segments", shard) as tar:
            for row, record in enumerate(records, start=first_row):
                rows.append(self._write_segment(tar, row, record, round_trip))
        table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
        note = {
            "num_bytes": tar.num_bytes,
            "next_position": next_position,
            "round_trip": dataclasses.asdict(round_trip),
        }
        self._part.record("segments", shard, table, note)

    def _write_segment(
        self, tar: ShardWriter, row: int, record: SegmentRecord, round_trip: RoundTripError
    ) -> dict[str, Any]:
        if record.scale is None:
            eeg = self._transform(record.eeg)
            if not np.isfinite(eeg).all():
                raise UserError(
                    f"segment {row} (subject {record.subject}, stimulus {record.stimulus}) holds NaN or infinity."
                )
            stored, scale = encode_eeg(eeg)
            round_trip.add(eeg, stored, scale)
        else:
            stored, scale = record.eeg, record.scale
        fields: dict[str, Any] = {
            "label": record.label,
            "subject": record.subject,
            "block": record.block,
            "order": record.order,
            "split": record.split,
            "scale": scale,
        }
        content, key = self._npy_header + stored.tobytes(), segment_key(row)
        text = segment_json(stimulus=record.stimulus, **fields)
        assert len(text) <= BLOCK_BYTES, text
        offsets = tar.add([(f"{key}.eeg.npy", content), (f"{key}.json", text)])
        return {
            "key": key,
            "shard": tar.shard,
            "offset": offsets[0],
            "size": len(content),
            "crc32": crc32(content),
            "stimulus": self._stimulus_labels[record.stimulus][0],
            **fields,
        }

    def _finish(self) -> None:
        if self.num_segments == 0:
            raise UserError("no segment is left to write: see what was dropped above.")
        if self._stimuli:
            self._hand_over_stimuli()
        if self._segments:
            self._hand_over_segments()
        while self._jobs:
            self._jobs.popleft().result()
        num_segment_shards = -(-self.num_segments // self._rows_per_shard)
        stimulus_notes = self._join_tables("stimuli", self._stimulus_shard, STIMULI_SCHEMA, "stimuli.parquet")
        segment_notes = self._join_tables("segments", num_segment_shards, INDEX_SCHEMA, "index.parquet")
        metadata = self._finished_metadata(stimulus_notes, segment_notes)
        (self._part.data / "dataset.json").write_text(metadata.to_json(), encoding="utf-8")
        self._part.publish()

    def _join_tables(self, part: str, num_shards: int, schema: pa.Schema, name: str) -> list[dict[str, Any]]:
        """Write a table from the rows of all shards, in row groups of one size; returns the shards' notes."""
        notes: list[dict[str, Any]] = []
        waiting: list[pa.Table] = []
        with pq.ParquetWriter(self._part.data / name, schema, compression="zstd") as writer:
            for shard in range(num_shards):
                rows, note = self._part.rows(part, shard)
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

    def _finished_metadata(
        self, stimulus_notes: Sequence[dict[str, Any]], segment_notes: Sequence[dict[str, Any]]
    ) -> DatasetMetadata:
        columns = pq.read_table(self._part.data / "index.parquet", columns=["subject", "split"])
        splits = columns["split"].value_counts().to_pylist()
        counts = dict.fromkeys(SPLITS, 0) | {item["values"]: item["counts"] for item in splits}
        round_trip = RoundTripError.worst([note["round_trip"] for note in segment_notes])
        return dataclasses.replace(
            self._metadata,
            subjects=tuple(sorted(columns["subject"].unique().to_pylist())),
            num_segments=self.num_segments,
            num_stimuli=len(self._stimulus_labels),
            split_counts=counts,
            storage=self._metadata.storage or {"dtype": "float16", **round_trip.summary()},
            segment_shards=tuple(note["num_bytes"] for note in segment_notes),
            stimulus_shards=tuple(note["num_bytes"] for note in stimulus_notes),
            tables={name: file_sha256(self._part.data / name) for name in ("index.parquet", "stimuli.parquet")},
        )


def _stimulus_members(record: StimulusRecord) -> list[tuple[str, bytes]]:
    text = stimulus_json(label=record.label, caption=record.caption, detailed_caption=record.detailed_caption)
    return [(f"{record.key}.{record.extension}", record.image), (f"{record.key}.json", text)]
