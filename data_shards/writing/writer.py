"""Writes a data set: WebDataset tars, index.parquet, stimuli.parquet, dataset.json. It appears complete or not at all.

Which rows share a shard is known before anything is encoded, so shards are made in parallel, one thread per shard. A
run that was killed leaves its finished shards in a hidden folder (unfinished.py); the next one with the same inputs and
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

from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.encoding import RoundTripError, encode_eeg
from neuroimagen.data_shards.format.schema import (
    INDEX_SCHEMA,
    SCHEMA_VERSION,
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
from neuroimagen.data_shards.format.tar import BLOCK_BYTES, END_OF_ARCHIVE, ShardWriter, padded
from neuroimagen.data_shards.writing.finish import finish
from neuroimagen.data_shards.writing.unfinished import Kind, UnfinishedFolder

DEFAULT_SHARD_BYTES = 64 << 20
_MAX_WORKERS = 8


def _unchanged(eeg: np.ndarray) -> np.ndarray:
    return eeg


class DatasetWriter:
    """Context manager that writes a data set into the folder `out`, in memory that does not grow with the segments.

    Stimuli come before the segments that refer to them. `transform` is applied to every segment's EEG before it is
    encoded. `workers` threads (default: one per core, at most 8) hold one shard's EEG each.

    After a kill, a full disk or Ctrl-C the finished shards are kept for a run with the same metadata (which has the
    hashes of the sources) and options: `num_kept_stimuli` stimuli and the inputs before `resume_position` need not be
    given again. If a record is refused, or none was added, everything is removed.
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
        self._metadata = dataclasses.replace(metadata, schema_version=SCHEMA_VERSION)  # a repacked one may be older
        self._shard_bytes = shard_bytes
        self._transform = transform
        self._workers = workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        self._npy_header = npy_header(metadata.n_channels, metadata.n_samples)
        # A segment's json is smaller than one block, so that every segment takes the same space.
        content = len(self._npy_header) + 2 * metadata.n_channels * metadata.n_samples
        available = shard_bytes - len(END_OF_ARCHIVE)
        self._rows_per_shard = max(1, available // (3 * BLOCK_BYTES + padded(content)))
        self._stimulus_labels: dict[str, tuple[int, int]] = {}  # key → (row, label)
        self._stimuli: list[StimulusRecord] = []  # of the shard being filled
        self._stimuli_bytes = 0
        self._stimulus_shard = 0
        self._segments: list[SegmentRecord] = []  # of the shard being filled
        self._jobs: deque[Future[None]] = deque()
        self.num_segments = 0
        self.num_kept_stimuli = 0
        """Number of stimuli that an interrupted run has finished; the caller skips them."""
        self.resume_position = 0
        """Number of inputs that an interrupted run has finished; the caller skips them."""

    def __enter__(self) -> "DatasetWriter":
        job = f"{self._metadata.to_json()}{self._shard_bytes}"
        self._unfinished = UnfinishedFolder(self._out, hashlib.sha256(job.encode()).hexdigest())
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="neuroimagen-writer")
        self._keep_finished()
        return self

    @property
    def folder(self) -> Path:
        """The unfinished data set, for files that the caller adds."""
        return self._unfinished.data

    def _keep_finished(self) -> None:
        self._stimulus_shard = self._unfinished.num_done("stimuli")
        for shard in range(self._stimulus_shard):
            rows, _ = self._unfinished.rows("stimuli", shard)
            for key, label in zip(rows["key"].to_pylist(), rows["label"].to_pylist(), strict=True):
                self._stimulus_labels[key] = (len(self._stimulus_labels), label)
        self.num_kept_stimuli = len(self._stimulus_labels)
        if finished := self._unfinished.num_done("segments"):
            rows, note = self._unfinished.rows("segments", finished - 1)
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
        """Clean up after an error; returns the error to raise."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        # atomic_path raises UserError from OSError.
        disk = error if isinstance(error, OSError) else error.__cause__
        is_refused = isinstance(error, UserError) and not isinstance(disk, OSError)
        if is_refused or self._unfinished.num_done("segments") == 0:
            self._unfinished.discard()
            left = "nothing was written"
        else:
            self._unfinished.release()
            left = f"finished shards are kept in {self._unfinished.folder} for the next run with the same options"
        if isinstance(disk, OSError):
            return UserError(
                f"cannot write {self._out}: {disk.strerror or disk}. Free space or choose another --out; {left}."
            )
        return error

    def add_stimulus(self, record: StimulusRecord) -> None:
        """Append a stimulus. Raises UserError if its key repeats or its label has no class."""
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
        """Append a segment. Raises UserError if its shape, values, label, stimulus or split are invalid.

        `next_position`: the input with which a resumed run continues after this segment, for sources that drop some of
        their inputs; by default the number of segments so far. The writing thread checks the values, so an error in
        them may be raised a few segments later.
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

    def _submit(self, kind: Kind, shard: int, job: Callable[..., None], *arguments: Any) -> None:
        if self._unfinished.is_done(kind, shard):
            return  # an interrupted run has finished it, but not one before it
        # As many shards as threads are being written, and one more waits: memory stays bounded.
        while len(self._jobs) > self._workers:
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(job, *arguments))

    def _write_stimuli(self, shard: int, records: Sequence[StimulusRecord]) -> None:
        rows = []
        with ShardWriter(self._unfinished.data / "stimuli", shard) as tar:
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
        self._unfinished.record("stimuli", shard, table, {"num_bytes": tar.num_bytes})

    def _write_segments(self, shard: int, first_row: int, records: Sequence[SegmentRecord], next_position: int) -> None:
        rows, round_trip = [], RoundTripError()
        with ShardWriter(self._unfinished.data / "segments", shard) as tar:
            for row, record in enumerate(records, start=first_row):
                rows.append(self._write_segment(tar, row, record, round_trip))
        table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
        note = {
            "num_bytes": tar.num_bytes,
            "next_position": next_position,
            "round_trip": dataclasses.asdict(round_trip),
        }
        self._unfinished.record("segments", shard, table, note)

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
            "session": record.session,
            "recording": record.recording,
            "onset_s": record.onset_s,
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
            raise UserError("no segment is left to write; the notes above say what was dropped.")
        if self._stimuli:
            self._hand_over_stimuli()
        if self._segments:
            self._hand_over_segments()
        while self._jobs:
            self._jobs.popleft().result()
        finish(
            self._unfinished,
            self._metadata,
            num_stimulus_shards=self._stimulus_shard,
            num_segment_shards=-(-self.num_segments // self._rows_per_shard),
        )


def _stimulus_members(record: StimulusRecord) -> list[tuple[str, bytes]]:
    text = stimulus_json(label=record.label, caption=record.caption, detailed_caption=record.detailed_caption)
    return [(f"{record.key}.{record.extension}", record.image), (f"{record.key}.json", text)]
