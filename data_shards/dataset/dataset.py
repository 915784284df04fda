"""Opens a data set: its metadata, its index as NumPy columns, its stimuli, its segments, its latents."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.sealed import SealedSplitError, sealed_splits
from neuroimagen.data_shards.dataset.stimulus_store import DEFAULT_CACHE_BYTES, StimulusStore
from neuroimagen.data_shards.format.encoding import decode_eeg
from neuroimagen.data_shards.format.schema import (
    INDEX_SCHEMA,
    SPLITS,
    STIMULI_SCHEMA,
    DatasetMetadata,
    index_schema,
    npy_header,
    read_metadata,
    segment_key,
)
from neuroimagen.data_shards.format.storage import CorruptSampleError, ShardFolder, Shards
from neuroimagen.data_shards.format.tables import (
    check_locations,
    check_range,
    check_stimulus_texts,
    name_codes,
    numpy_column,
    read_row_groups,
    read_table,
    split_codes,
)
from neuroimagen.data_shards.remote.files import RemoteOptions, as_url
from neuroimagen.data_shards.remote.mirror import RemoteDataset

if TYPE_CHECKING:
    from neuroimagen.data_shards.dataset.latent_store import LatentStore
    from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

_TEXT_COLUMNS = ("split", "session", "recording")
"""Columns of index.parquet that are held as codes: few texts, each in many rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """The columns of index.parquet, one row per segment; see schema.INDEX_SCHEMA for their meaning."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    scale: np.ndarray
    label: np.ndarray
    stimulus: np.ndarray
    subject: np.ndarray
    block: np.ndarray
    order: np.ndarray
    split_code: np.ndarray
    """int8 positions in SPLITS."""
    session_code: np.ndarray
    """int32 positions in `sessions`; −1: unknown."""
    recording_code: np.ndarray
    """int32 positions in `recordings`; −1: unknown."""
    onset_s: np.ndarray
    """float64; NaN: unknown."""
    sessions: tuple[str, ...] = ()
    """Names of sessions. Sessions of two subjects may have the same name."""
    recordings: tuple[str, ...] = ()
    """Names of recordings."""

    def __len__(self) -> int:
        return len(self.shard)

    @cached_property
    def key(self) -> np.ndarray:
        """Keys as text. They follow from the row, so they are made only when they are asked for."""
        return np.array([segment_key(row) for row in range(len(self))], dtype="U9")

    @cached_property
    def split(self) -> np.ndarray:
        """train, val or test of each row, as text."""
        return np.array(SPLITS)[self.split_code]

    @cached_property
    def session(self) -> np.ndarray:
        """Session of each row, as text; empty: unknown."""
        return np.array([*self.sessions, ""])[self.session_code]

    @cached_property
    def recording(self) -> np.ndarray:
        """Recording of each row, as text; empty: unknown."""
        return np.array([*self.recordings, ""])[self.recording_code]


class Dataset:
    """A data set, local or behind a URL. Opening it checks dataset.json and both tables; tars open when first read."""

    def __init__(
        self,
        folder: Path,
        metadata: DatasetMetadata,
        index: Index,
        stimuli: StimulusStore,
        remote: RemoteDataset | None = None,
    ) -> None:
        self.folder = folder
        """For a remote data set: the local mirror of its small files."""
        self.remote = remote
        self.metadata = metadata
        self.index = index
        self.stimuli = stimuli
        self.segments = _shards(folder, remote, "segments", metadata.segment_shards)
        self._npy_header = npy_header(metadata.n_channels, metadata.n_samples)
        sealed = sealed_splits()
        stimuli.withhold(_shown_only_in(sealed, index, len(stimuli)) if sealed else None)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        image_cache_bytes: int = DEFAULT_CACHE_BYTES,
        remote_options: RemoteOptions | None = None,
    ) -> "Dataset":
        """Open the data set in folder `path`, or below a URL that fsspec opens (http, s3, hf …).

        Decoded images are cached up to `image_cache_bytes`. `remote_options` is for URLs; by default the environment
        says where the cache is (docs/how-to/remote.md). Raises UserError naming the file when anything is missing,
        damaged or hostile.
        """
        url = as_url(path)
        remote = None if url is None else RemoteDataset(url, remote_options)
        folder = Path(path) if remote is None else remote.mirror
        metadata = read_metadata(folder / "dataset.json")
        table_path = folder / "stimuli.parquet"
        table = read_table(
            table_path,
            STIMULI_SCHEMA,
            num_rows=metadata.num_stimuli,
            sha256=_table_digest(metadata, "stimuli.parquet", folder),
            columns=STIMULI_SCHEMA.names,
        )
        check_locations(table, shard_bytes=metadata.stimulus_shards, where=str(table_path))
        check_stimulus_texts(table, where=str(table_path))
        shards = _shards(folder, remote, "stimuli", metadata.stimulus_shards)
        stimuli = StimulusStore(table, shards, cache_bytes=image_cache_bytes)
        check_range(stimuli.labels, low=0, high=metadata.num_classes, what="label", where=str(table_path))
        return cls(folder, metadata, _read_index(folder, metadata, stimuli), stimuli, remote)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the data set itself, because mapped files and locks cannot be pickled."""
        options = None if self.remote is None else self.remote.options
        return _open_again, (self.location, options)

    @property
    def location(self) -> str:
        """The folder or URL that it was opened from."""
        return str(self.folder) if self.remote is None else self.remote.url

    @property
    def sources(self) -> tuple["Dataset", ...]:
        """The data sets that its rows lie in: itself alone, unless several are joined (joined.py)."""
        return (self,)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row: the number of the data set among `sources` in which it lies, and its row there."""
        return np.zeros(len(rows), dtype=np.int64), rows

    @cached_property
    def digest(self) -> str:
        """16 hex digits that identify the content: both tables, and by their CRCs every sample."""
        tables = "".join(self.metadata.tables[name] for name in ("index.parquet", "stimuli.parquet"))
        return hashlib.sha256(tables.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, split: str, subjects: Iterable[int] | None = None) -> np.ndarray:
        """int64 rows of one split (train, val or test), in file order, of all subjects or of those given.

        Raises SealedSplitError if this process must not read the split.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}.")
        if split in sealed_splits():
            raise SealedSplitError(f"the {split} split of {self.folder}")
        chosen = self.index.split_code == SPLITS.index(split)
        if subjects is not None:
            wanted = sorted(set(subjects))
            if unknown := [subject for subject in wanted if subject not in self.metadata.subjects]:
                raise UserError(f"subject {unknown[0]} is not in the data set; it has {list(self.metadata.subjects)}.")
            chosen &= np.isin(self.index.subject, wanted)
        return np.flatnonzero(chosen)

    def segment_fields(self, row: int) -> dict[str, Any]:
        """The fields of a SegmentRecord that the index holds: all except the EEG."""
        index = self.index
        session, recording = int(index.session_code[row]), int(index.recording_code[row])
        return {
            "stimulus": self.stimuli.keys[int(index.stimulus[row])],
            "label": int(index.label[row]),
            "subject": int(index.subject[row]),
            "split": SPLITS[int(index.split_code[row])],
            "block": int(index.block[row]),
            "order": int(index.order[row]),
            "session": index.sessions[session] if session >= 0 else "",
            "recording": index.recordings[recording] if recording >= 0 else "",
            "onset_s": float(index.onset_s[row]),
            "scale": float(index.scale[row]),
        }

    def eeg_bytes(self, row: int) -> memoryview:
        """The stored float16 data of a segment, [C, T] in C order, after the CRC and header checks.

        Raises CorruptSampleError if a check fails, SealedSplitError if the segment is in a sealed split.
        """
        return next(self.eeg_contents(np.array([row])))

    def eeg_contents(self, rows: np.ndarray) -> Iterator[memoryview]:
        """`eeg_bytes` of several segments, one after the other."""
        index, header = self.index, self._npy_header
        for split in sealed_splits():
            hidden = rows[index.split_code[rows] == SPLITS.index(split)]
            if len(hidden):
                raise SealedSplitError(f"segment {segment_key(int(hidden[0]))} of {self.folder}")
        # As lists, because taking a number out of an array costs as much as all checks of a segment except its CRC.
        columns = (index.shard, index.offset, index.size, index.crc32)
        places = zip(*(column[rows].tolist() for column in columns), strict=True)
        for position, content in enumerate(self.segments.read_all_checked(places)):
            # Every .eeg.npy of a data set has the same shape and dtype and so the same header: comparing bytes is both
            # the strictest check and the cheapest.
            if content is None:
                raise self._corrupt(int(rows[position]), "its CRC differs from the index")
            if content[: len(header)] != header:
                raise self._corrupt(int(rows[position]), "it is not a float16 array of the data set's shape")
            yield content[len(header) :]

    def eeg(self, row: int) -> np.ndarray:
        """float32 [C, T] of one segment."""
        stored = np.frombuffer(self.eeg_bytes(row), dtype="<f2").reshape(self.metadata.n_channels, -1)
        return decode_eeg(stored, float(self.index.scale[row]))

    def latents(self, kind: str, *, model: str, tower: "TowerConfig | None" = None) -> "LatentStore":
        """The cached latents of `kind` (vae, text-class, image …) made by the model in folder `model`.

        `tower`: the configuration of the image tower that the kind is of, if it was given one. Raises UserError naming
        what is cached when none matches.
        """
        from neuroimagen.data_shards.dataset.latent_store import LatentStore

        return LatentStore.find(self, kind, model=model, tower=tower)

    def _corrupt(self, row: int, problem: str) -> CorruptSampleError:
        return CorruptSampleError(
            f"{self.segments.where(int(self.index.shard[row]))}: segment {segment_key(row)} at offset "
            f"{self.index.offset[row]} is damaged: {problem}."
        )


def _open_again(location: str, options: RemoteOptions | None) -> Dataset:
    return Dataset.open(location, remote_options=options)


def _shards(folder: Path, remote: RemoteDataset | None, name: str, shard_bytes: Sequence[int]) -> Shards:
    return ShardFolder(folder / name, shard_bytes) if remote is None else remote.shards(name, shard_bytes)


def _shown_only_in(splits: tuple[str, ...], index: Index, num_stimuli: int) -> np.ndarray:
    """bool [stimuli]: those that were shown in the given splits and in no other."""
    inside = np.isin(index.split_code, [SPLITS.index(split) for split in splits])
    shown = np.zeros((2, num_stimuli), dtype=bool)
    shown[0, index.stimulus[inside]] = True
    shown[1, index.stimulus[~inside]] = True
    return shown[0] & ~shown[1]


def _table_digest(metadata: DatasetMetadata, name: str, folder: Path) -> str:
    digest = metadata.tables.get(name)
    if not isinstance(digest, str):
        raise UserError(f"{folder / 'dataset.json'} gives no SHA-256 for {name}.")
    return digest


def _read_index(folder: Path, metadata: DatasetMetadata, stimuli: StimulusStore) -> Index:
    path = folder / "index.parquet"
    where = str(path)
    # Keys follow from the row, so 10 million of them need not be kept as text; `data verify` compares them.
    schema = index_schema(metadata.schema_version)
    names = [name for name in schema.names if name != "key"]
    groups = read_row_groups(
        path,
        schema,
        num_rows=metadata.num_segments,
        sha256=_table_digest(metadata, "index.parquet", folder),
        columns=names,
        repeating=[name for name in names if name in _TEXT_COLUMNS],
    )
    sessions: dict[str, int] = {}
    recordings: dict[str, int] = {}
    size = len(npy_header(metadata.n_channels, metadata.n_samples)) + 2 * metadata.n_channels * metadata.n_samples
    shard_bytes = np.asarray(metadata.segment_shards, dtype=np.int64)
    columns: dict[str, np.ndarray] | None = None
    start = 0
    for group in groups:
        columns = columns or _unknown_columns(metadata.num_segments, where)
        check_locations(group, shard_bytes=shard_bytes, where=where, expected_size=size, first_row=start)
        found = {name: numpy_column(group, name) for name in names if name not in _TEXT_COLUMNS}
        check_range(found["label"], low=0, high=metadata.num_classes, what="label", where=where)
        check_range(found["stimulus"], low=0, high=len(stimuli), what="stimulus", where=where)
        if not (np.isfinite(found["scale"]).all() and (found["scale"] > 0).all()):
            raise UserError(f"{where}: a scale is not a positive number.")
        if (stimuli.labels[found["stimulus"]] != found["label"]).any():
            raise UserError(f"{where}: labels of segments and of their stimuli disagree.")
        found["split_code"] = split_codes(group, where=where)
        if metadata.schema_version > 1:
            if np.isinf(found["onset_s"]).any():
                raise UserError(f"{where}: an onset_s is infinite.")
            found["session_code"] = name_codes(group, "session", sessions, where=where)
            found["recording_code"] = name_codes(group, "recording", recordings, where=where)
        for name, values in found.items():
            columns[name][start : start + len(values)] = values
        start += len(group)
    return Index(**(columns or _unknown_columns(0, where)), sessions=tuple(sessions), recordings=tuple(recordings))


def _unknown_columns(num_rows: int, where: str) -> dict[str, np.ndarray]:
    """The columns of an Index to be filled; those that version 1 lacks say that the values are unknown."""
    types = {
        field.name: field.type.to_pandas_dtype()
        for field in INDEX_SCHEMA
        if field.name not in ("key", *_TEXT_COLUMNS, "onset_s")
    }
    try:
        return {
            **{name: np.empty(num_rows, dtype) for name, dtype in {**types, "split_code": np.int8}.items()},
            **{name: np.full(num_rows, -1, np.int32) for name in ("session_code", "recording_code")},
            "onset_s": np.full(num_rows, np.nan),
        }
    except MemoryError:
        raise UserError(f"{where} has {num_rows:,} rows, more than this machine's memory holds.") from None
