"""What a data set's files hold: dataset.json, index.parquet, stimuli.parquet and the samples in the tars.

Shapes: C channels, T samples of time. One segment is EEG [C, T]; it is stored as float16 and multiplied by the
`scale` of its index row when read.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import is_number, is_whole
from neuroimagen.data_shards.common.reading import parse_json, read_text, reason
from neuroimagen.data_shards.format.tar import is_valid_key

SCHEMA_VERSION = 2
"""What is written. Version 1 has no session, recording and onset; it is read, with these unknown."""
READABLE_VERSIONS = (1, 2)
SPLITS = ("train", "val", "test")
IMAGE_EXTENSIONS = ("jpg", "png")
MAX_CHANNELS = 4096
MAX_SAMPLES = 1_000_000
MAX_METADATA_BYTES = 64 << 20
MAX_SESSION_BYTES = 32
MAX_RECORDING_BYTES = 120
"""Bounds of a session's and a recording's name as they stand in JSON (UTF-8): with all other fields at their longest, a
segment's .json fills one tar block and no more."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "key": pa.string(),
            "shard": pa.int32(),  # number of the tar in segments/
            "offset": pa.int64(),  # of the .eeg.npy content in the tar, bytes
            "size": pa.int32(),  # of the .eeg.npy content, bytes
            "crc32": pa.uint32(),  # of the .eeg.npy content
            "scale": pa.float32(),  # a power of two; EEG = stored float16 × scale
            "label": pa.int32(),
            "stimulus": pa.int32(),  # row of stimuli.parquet
            "subject": pa.int32(),
            "block": pa.int32(),  # counts the blocks of a subject; -1: unknown
            "order": pa.int32(),  # position within the block; -1: unknown
            "split": pa.string(),  # train, val or test
            "session": pa.string(),  # of the subject; empty: unknown
            "recording": pa.string(),  # what the segment was cut from, unique in the data set; empty: unknown
            "onset_s": pa.float64(),  # of the first stored sample, seconds after the recording's start; NaN: unknown
        }.items()
    ]
)
"""index.parquet: one row per segment."""
ADDED_IN_VERSION_2 = ("session", "recording", "onset_s")


def index_schema(version: int) -> pa.Schema:
    """Columns of index.parquet in a data set of this schema version."""
    if version > 1:
        return INDEX_SCHEMA
    return pa.schema([field for field in INDEX_SCHEMA if field.name not in ADDED_IN_VERSION_2])


STIMULI_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),  # jpg or png
        pa.field("label", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),  # of the class
        pa.field("detailed_caption", pa.string()),  # of this image; null where there is none
    ]
)
"""stimuli.parquet: one row per stimulus."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One object class; its label is its position in DatasetMetadata.classes."""

    name: str
    wnid: str = ""
    """WordNet id, or empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetMetadata:
    """dataset.json. A source gives the fields up to `provenance`; the writer fills in the others."""

    name: str
    n_channels: int
    n_samples: int
    sfreq: float
    """Sampling rate in Hz."""
    classes: tuple[ClassInfo, ...]
    band_hz: tuple[float, float] | None = None
    """Pass band of the recording, if known."""
    channel_names: tuple[str, ...] | None = None
    split_rule: str = ""
    """How the segments were divided into train, val and test, in words."""
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hashes of the source files, parameters, versions, and what else the source declares."""

    schema_version: int = SCHEMA_VERSION
    subjects: tuple[int, ...] = ()
    num_segments: int = 0
    num_stimuli: int = 0
    split_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    storage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """dtype of the stored EEG and the measured error of storing it."""
    segment_shards: tuple[int, ...] = ()
    """Size in bytes of each tar in segments/."""
    stimulus_shards: tuple[int, ...] = ()
    """Size in bytes of each tar in stimuli/."""
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of index.parquet and stimuli.parquet."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_channels <= MAX_CHANNELS:
            raise UserError(f"n_channels is {self.n_channels}; it must be 1..{MAX_CHANNELS}.")
        if not 1 <= self.n_samples <= MAX_SAMPLES:
            raise UserError(f"n_samples is {self.n_samples}; it must be 1..{MAX_SAMPLES}.")
        if not (math.isfinite(self.sfreq) and self.sfreq > 0):
            raise UserError(f"sfreq is {self.sfreq}; it must be a positive number of Hz.")
        if self.channel_names is not None and len(self.channel_names) != self.n_channels:
            raise UserError(f"{len(self.channel_names)} channel names for {self.n_channels} channels.")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_json(self) -> str:
        """Deterministic JSON text with its own SHA-256, ending with a newline."""
        body = dataclasses.asdict(self)
        return json.dumps({**body, "sha256": metadata_digest(body)}, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "DatasetMetadata":
        """Parse dataset.json; `where` names the file in errors. Raises UserError for anything invalid."""
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {error}. The data set is damaged; make it again.") from None
        if not isinstance(raw, dict):
            raise UserError(f"{where} holds {type(raw).__name__} where an object is expected.")
        version = raw.get("schema_version")
        if isinstance(version, bool) or version not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise UserError(f"{where} has schema version {version!r}; this neuroimagen reads {readable}.")
        if "sha256" not in raw:
            raise UserError(f"{where}: field 'sha256' is missing. Make the data set again.")
        if raw.pop("sha256") != metadata_digest(raw):
            raise UserError(f"{where} was changed after it was written. Copy it again, or make the data set again.")
        metadata = cls(**_checked_fields(raw, where))
        try:
            json.dumps(raw, allow_nan=False)
        except ValueError:
            raise UserError(f"{where} holds NaN or infinity. The data set is damaged; make it again.") from None
        return metadata


def metadata_digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of dataset.json's fields; without it one flipped byte in a sampling rate would not be noticed."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _checked_fields(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of dataset.json converted to DatasetMetadata's types."""

    def wrong(name: str, expected: str) -> UserError:
        return UserError(f"{where}: {name} is {str(raw.get(name))[:80]!r} where {expected} is expected.")

    known = {field.name for field in dataclasses.fields(DatasetMetadata)}
    if unknown := sorted(set(raw) - known):
        raise UserError(f"{where}: unknown field {unknown[0]!r}.")
    if missing := sorted(known - set(raw)):
        raise UserError(f"{where}: field {missing[0]!r} is missing.")
    for name in ("n_channels", "n_samples", "num_segments", "num_stimuli"):
        if not is_whole(raw[name]) or raw[name] < 0:
            raise wrong(name, "a whole number")
    if not is_number(raw["sfreq"]):
        raise wrong("sfreq", "a number")
    for name in ("name", "split_rule"):
        if not isinstance(raw[name], str):
            raise wrong(name, "text")
    for name in ("preprocessing", "provenance", "split_counts", "storage", "tables"):
        if not isinstance(raw[name], dict):
            raise wrong(name, "an object")
    if not all(is_whole(count) and count >= 0 for count in raw["split_counts"].values()):
        raise wrong("split_counts", "a whole number for each split")
    fields = dict(raw)
    for name in ("subjects", "segment_shards", "stimulus_shards"):
        if not isinstance(raw[name], list) or not all(map(is_whole, raw[name])):
            raise wrong(name, "a list of whole numbers")
        fields[name] = tuple(raw[name])
    if raw["channel_names"] is not None:
        if not isinstance(raw["channel_names"], list) or not all(isinstance(c, str) for c in raw["channel_names"]):
            raise wrong("channel_names", "a list of names or null")
        fields["channel_names"] = tuple(raw["channel_names"])
    if raw["band_hz"] is not None:
        band = raw["band_hz"]
        if not isinstance(band, list) or len(band) != 2 or not all(map(is_number, band)):
            raise wrong("band_hz", "[low, high] or null")
        fields["band_hz"] = (float(band[0]), float(band[1]))
    classes = raw["classes"]
    if not isinstance(classes, list) or not all(
        isinstance(c, dict) and set(c) == {"name", "wnid"} and all(isinstance(v, str) for v in c.values())
        for c in classes
    ):
        raise wrong("classes", "a list of {name, wnid}")
    fields["classes"] = tuple(ClassInfo(**c) for c in classes)
    return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One segment to be written into a data set."""

    eeg: np.ndarray
    """float32 [C, T], finite; with a `scale`, float16 as another data set stores it."""
    stimulus: str
    """Key of the stimulus seen."""
    label: int
    subject: int
    split: str
    """train, val or test."""
    block: int = -1
    """Counts the blocks of a subject; −1: unknown."""
    order: int = -1
    """Position within the block; −1: unknown."""
    session: str = ""
    """Session of the subject; empty: unknown."""
    recording: str = ""
    """Name of the recording that the segment was cut from, unique in the data set; empty: unknown."""
    onset_s: float = math.nan
    """Time of the first sample of `eeg`, in seconds from the start of the recording; NaN: unknown."""
    scale: float | None = None
    """None: the writer encodes `eeg`. A number: the EEG is `eeg` × scale, and `eeg` is stored as it is."""

    def __post_init__(self) -> None:
        check_names(self.session, self.recording)
        if math.isinf(self.onset_s):
            raise UserError(f"onset_s is {self.onset_s}; it must be seconds after the recording's start, or NaN.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StimulusRecord:
    """One stimulus to be written into a data set."""

    key: str
    image: bytes
    """The encoded image, as it will be stored."""
    extension: str
    """jpg or png."""
    label: int
    caption: str
    """Caption of the class."""
    detailed_caption: str | None = None
    """Caption of this image."""

    def __post_init__(self) -> None:
        if not is_valid_key(self.key):
            raise UserError(f"stimulus key {self.key!r} may hold letters, digits, '_' and '-' only, at most 80.")
        if self.extension not in IMAGE_EXTENSIONS:
            raise UserError(f"stimulus {self.key}: extension {self.extension!r} is not one of {IMAGE_EXTENSIONS}.")


def segment_key(row: int) -> str:
    """Key of the segment in row `row` of the index."""
    return f"{row:09d}"


def npy_header(n_channels: int, n_samples: int) -> bytes:
    """The bytes in front of the array data of every .eeg.npy of a data set: little-endian float16 [C, T], C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f2", "fortran_order": False, "shape": (n_channels, n_samples)}
    )
    return buffer.getvalue()


@functools.lru_cache(maxsize=1024)
def check_names(session: str, recording: str) -> None:
    """Raise UserError for a name of a session or recording that does not fit into a segment's .json."""
    for what, name, limit in (("session", session, MAX_SESSION_BYTES), ("recording", recording, MAX_RECORDING_BYTES)):
        size = len(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")) - 2
        if size > limit:
            raise UserError(f"{what} {name[:200]!r} takes {size} bytes; at most {limit} fit. Give it a shorter name.")
        if not name.isprintable():
            raise UserError(f"{what} {name[:200]!r} holds characters that cannot be printed. Give it another name.")


def segment_json(
    *,
    label: int,
    stimulus: str,
    subject: int,
    block: int,
    order: int,
    split: str,
    scale: float,
    session: str = "",
    recording: str = "",
    onset_s: float = math.nan,
    version: int = SCHEMA_VERSION,
) -> bytes:
    """Content of <key>.json: what a reader that does not know the index needs. It fits into one tar block."""
    fields: dict[str, Any] = {
        "block": block,
        "label": label,
        "order": order,
        "scale": scale,
        "split": split,
        "stimulus": stimulus,
        "subject": subject,
    }
    if version > 1:
        onset = None if math.isnan(onset_s) else onset_s
        fields |= {"session": session, "recording": recording, "onset_s": onset}
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()


def stimulus_json(*, label: int, caption: str, detailed_caption: str | None, version: int = SCHEMA_VERSION) -> bytes:
    """Content of a stimulus's <key>.json. Version 1 wrote null where there is no detailed caption; now it is empty:
    Hugging Face `datasets` does not read a field that is null in one shard and text in another.
    """
    detailed = detailed_caption or "" if version > 1 else detailed_caption
    fields = {"caption": caption, "detailed_caption": detailed, "label": label}
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()


def read_metadata(path: Path) -> DatasetMetadata:
    """Read and check dataset.json."""
    try:
        text = read_text(path, limit=MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise UserError(f"no data set at {path.parent}: {path.name} is missing. Make one with `data ingest`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}.") from None
    return DatasetMetadata.from_json(text, where=str(path))
