"""The latent store: one cached tensor a stimulus (or a distinct caption), in WebDataset tars with an index.

    latents/<kind>-<model>-<digest>/
        latents.json     what made it: kind, model, revision, preprocessing, shape, dtype, and its shards
        index.parquet    one row a stimulus: where its latent lies; stimuli with one caption share one latent
        00000.tar …      <key>.latent.npy, and <key>.json with the text where there is one

The digest covers everything that decides the numbers, so that two models, revisions or preprocessings never meet in one
folder.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import metadata_digest
from neuroimagen.data_shards.format.storage import CorruptSampleError, ShardFolder, Shards
from neuroimagen.data_shards.format.tables import check_locations, numpy_column, read_table
from neuroimagen.data_shards.frozen_models.latent_kinds import DTYPES, encoder_identity, require_kind
from neuroimagen.data_shards.remote.mirror import RemoteDataset

SCHEMA_VERSION = 1
SHARD_ITEMS = 256
"""Most latents a shard: small enough that ranks share the work evenly and a kill loses little."""
SHARD_BYTES = 64 << 20
_MAX_NUMBERS = 1 << 28
"""In one latent; no encoder of today gives a hundredth of it."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("stimulus", pa.string(), nullable=False),
        pa.field("latent", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the .latent.npy content in the tar, bytes
        pa.field("size", pa.int32(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
        pa.field("text", pa.string()),  # the caption that was encoded; null for pictures
    ]
)
"""index.parquet: one row a stimulus, in the data set's order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentMetadata:
    """latents.json."""

    kind: str
    """What was encoded by what: vae, text-class, image …"""
    model_id: str
    """The model folder's name. For people: the revision identifies the model."""
    revision: str
    """SHA-256 of the model's weights, configurations and vocabulary."""
    preprocessing: Mapping[str, Any]
    shape: tuple[int, ...]
    """Of one latent."""
    dtype: str
    """Of the stored numbers; bfloat16 lies in the .npy as its upper 16 bits, uint16."""
    inputs: str
    """SHA-256 of what was encoded: keys and captions or pictures."""
    shard_items: int
    """Latents a shard."""
    scaling_factor: float | None = None
    """For VAE latents: what the U-Net expects them multiplied by. The stored numbers are not."""

    schema_version: int = SCHEMA_VERSION
    num_latents: int = 0
    num_stimuli: int = 0
    shard_bytes: tuple[int, ...] = ()
    shard_sha256: tuple[str, ...] = ()
    index_sha256: str = ""

    @property
    def digest(self) -> str:
        """12 hex digits over everything that decides the stored bytes."""
        decisive = ("kind", "revision", "preprocessing", "shape", "dtype", "inputs", "shard_items", "schema_version")
        text = json.dumps({name: getattr(self, name) for name in decisive}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.model_id.lower()).strip("-")[:40] or "model"
        return f"{self.kind}-{slug}-{self.digest}"

    @property
    def storage_dtype(self) -> np.dtype:
        """The .npy's dtype."""
        return np.dtype({"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}[self.dtype])

    @property
    def npy_header(self) -> bytes:
        """The bytes before the numbers, the same in every latent of the store."""
        buffer = io.BytesIO()
        header = {"descr": self.storage_dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    @property
    def npy_bytes(self) -> int:
        """Size of one .latent.npy."""
        return len(self.npy_header) + int(np.prod(self.shape)) * self.storage_dtype.itemsize

    def to_json(self) -> str:
        """Deterministic JSON text with its own SHA-256."""
        body = dataclasses.asdict(self)
        return json.dumps({**body, "sha256": metadata_digest(body)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "LatentMetadata":
        """Parse and check <folder>/latents.json."""
        path = folder / "latents.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"no latent store at {folder}: latents.json is not there. `neuroimagen cache` makes one."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"cannot read {path}: {error}. Remove the folder and run `neuroimagen cache` again."
            ) from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {version!r}; this neuroimagen reads {SCHEMA_VERSION}.")
        if raw.pop("sha256", None) != metadata_digest(raw):
            raise UserError(f"{path} was changed after it was written. Remove the folder and cache again.")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(raw) != names:
            raise UserError(
                f"{path}: fields {sorted(set(raw) ^ names)} are unknown or missing. Remove the folder and cache again."
            )
        for name, kind in {"shape": int, "shard_bytes": int, "shard_sha256": str}.items():
            if not isinstance(raw[name], list) or not all(isinstance(item, kind) for item in raw[name]):
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where a list is expected.")
            raw[name] = tuple(raw[name])
        for name in ("num_latents", "num_stimuli", "shard_items"):
            if not isinstance(raw[name], int) or raw[name] < 0:
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where a whole number is expected.")
        for name in ("kind", "model_id", "revision", "inputs", "index_sha256"):
            if not isinstance(raw[name], str):
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where text is expected.")
        metadata = cls(**raw)
        shape = metadata.shape
        if metadata.dtype not in DTYPES or not all(0 < n < 1 << 20 for n in shape) or math.prod(shape) > _MAX_NUMBERS:
            raise UserError(f"{path}: dtype {metadata.dtype!r} or shape {metadata.shape} cannot be.")
        return metadata


class StimulusTable(Protocol):
    """What the cache needs to know of a data set's stimuli; `Stimuli` is one."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def detailed_captions(self) -> Sequence[str | None]: ...
    @property
    def crc32(self) -> npt.NDArray[np.uint32]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentItems:
    """What a store holds: latents by key, and which of them belongs to each stimulus."""

    keys: Sequence[str]
    """Of the latents, unique, usable in tar names."""
    texts: Sequence[str] | None
    """Of the latents, where they are captions that the data set has."""
    stimulus_keys: Sequence[str]
    latent_of: npt.NDArray[np.int64]
    """[number of stimuli]: row of the stimulus's latent in `keys`."""
    digest: str
    """SHA-256 of what is encoded."""

    @classmethod
    def of(cls, stimuli: StimulusTable, kind: str) -> "LatentItems":
        """The items of a kind: one a picture, or one a distinct caption in the order of first appearance.

        Raises UserError when a stimulus lacks the caption that the kind encodes.
        """
        source = require_kind(kind).source
        if source in ("picture", "blip caption"):
            content: list[Any] = [list(stimuli.keys), [int(crc) for crc in stimuli.crc32]]
            rows, texts = {key: row for row, key in enumerate(stimuli.keys)}, None
            latent_of = np.arange(len(rows))
            keys = list(rows)
        else:
            captions = stimuli.captions if source == "class caption" else stimuli.detailed_captions
            missing = [key for key, caption in zip(stimuli.keys, captions, strict=True) if not caption]
            if missing:
                raise UserError(
                    f"{len(missing)} stimuli have no {source} ({missing[0]} …), so {kind} cannot be cached."
                )
            content = [list(stimuli.keys), list(captions)]
            rows = {}
            latent_of = np.array([rows.setdefault(str(caption), len(rows)) for caption in captions], dtype=np.int64)
            texts = list(rows)
            keys = [f"caption-{hashlib.sha256(text.encode()).hexdigest()[:24]}" for text in rows]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return cls(keys=keys, texts=texts, stimulus_keys=stimuli.keys, latent_of=latent_of, digest=digest)


class LatentSource(Protocol):
    """A data set, as far as finding its latents goes."""

    @property
    def folder(self) -> Path: ...
    @property
    def location(self) -> str: ...
    @property
    def remote(self) -> RemoteDataset | None: ...
    @property
    def stimuli(self) -> StimulusTable: ...


class LatentStore:
    """A finished store: latents of stimuli by the stimulus's row in the data set."""

    def __init__(self, folder: Path, metadata: LatentMetadata, table: pa.Table, shards: Shards) -> None:
        self.folder = folder
        self.metadata = metadata
        self.stimulus_keys: list[str] = table.column("stimulus").to_pylist()
        self.texts: list[str | None] = table.column("text").to_pylist()
        """The caption behind each stimulus's latent; None for pictures."""
        self._latent_keys: list[str] = table.column("latent").to_pylist()
        self._shard, self._offset, self._crc32 = (numpy_column(table, name) for name in ("shard", "offset", "crc32"))
        self.shards = shards
        self._header = metadata.npy_header

    @classmethod
    def open(cls, folder: Path, *, remote: RemoteDataset | None = None) -> "LatentStore":
        """Open a store; raises UserError when its table or metadata are damaged.

        `remote`: the data set that `folder` is of, if that is far away; the store may be there or here.
        """
        metadata = LatentMetadata.read(folder)
        shards: Shards = ShardFolder(folder, metadata.shard_bytes)
        if remote is not None and remote.is_latent_mirror(folder):
            remote.fetch_latent_index(folder, metadata.index_sha256)
            shards = remote.shards(f"latents/{folder.name}", metadata.shard_bytes)
        table = read_table(
            folder / "index.parquet",
            INDEX_SCHEMA,
            num_rows=metadata.num_stimuli,
            sha256=metadata.index_sha256,
            columns=INDEX_SCHEMA.names,
        )
        check_locations(
            table, shard_bytes=metadata.shard_bytes, where=f"{folder}/index.parquet", expected_size=metadata.npy_bytes
        )
        return cls(folder, metadata, table, shards)

    @classmethod
    def find(cls, dataset: LatentSource, kind: str, *, model: str | Path) -> "LatentStore":
        """The store of `kind` that was made from this data set by the model folder `model` as it is now.

        Raises UserError naming what is cached when none matches, or when several do.
        """
        identity = encoder_identity(kind, Path(model))
        inputs = LatentItems.of(dataset.stimuli, kind).digest
        root = dataset.folder / "latents"
        folders = {path.parent.name: path.parent for path in root.glob(f"{kind}-*/latents.json")}
        if dataset.remote is not None:
            # A folder's name says what it holds: what is here as well need not be fetched.
            folders = {folder.name: folder for folder in dataset.remote.latent_folders(kind)} | folders
        cached = [(folder, LatentMetadata.read(folder)) for _, folder in sorted(folders.items())]
        fits = [
            folder
            for folder, metadata in cached
            if (metadata.kind, metadata.revision, metadata.inputs) == (kind, identity.revision, inputs)
            and {**identity.preprocessing, "captioner": None} == {**metadata.preprocessing, "captioner": None}
        ]
        if len(fits) == 1:
            return cls.open(fits[0], remote=dataset.remote)
        if fits:
            raise UserError(
                f"{len(fits)} stores of {kind} in {root} fit {model}: {', '.join(folder.name for folder in fits)}. "
                "Remove all but the one to use."
            )
        there = ", ".join(folder.name for folder, _ in cached) or "none of that kind"
        raise UserError(
            f"no {kind} latents of {model} for this data set in {root} (there: {there}; another model, revision or "
            "preprocessing does not count). "
            f"Run: neuroimagen cache --data {dataset.location} --model {model} --kinds {kind}"
        )

    def __len__(self) -> int:
        """Number of stimuli."""
        return len(self.stimulus_keys)

    def get(self, stimuli: npt.ArrayLike) -> torch.Tensor:
        """Latents of the stimuli with these rows, float32 [n, *shape]. Shared captions are read once.

        Raises CorruptSampleError when the stored bytes are not what was written.
        """
        distinct, which = self.distinct(stimuli)
        return self.stored(distinct).float()[torch.from_numpy(which)]

    def distinct(self, stimuli: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Stimuli that have every latent of these once, and for each of these which one of those has its latent."""
        rows = np.asarray(stimuli, dtype=np.int64)
        places = np.stack([self._shard[rows].astype(np.int64), self._offset[rows]], axis=1)
        _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
        return rows[first], inverse.reshape(-1)

    def stored(self, stimuli: npt.NDArray[np.int64]) -> torch.Tensor:
        """Latents of the stimuli with these rows in the store's own dtype, [n, *shape], each read and checked."""
        stored = np.empty((len(stimuli), *self.metadata.shape), dtype=self.metadata.storage_dtype)
        for position, row in enumerate(stimuli):
            stored[position] = self._read(int(row))
        latents = torch.from_numpy(stored)
        return latents.view(torch.bfloat16) if self.metadata.dtype == "bfloat16" else latents

    def _read(self, row: int) -> np.ndarray:
        shard, offset = int(self._shard[row]), int(self._offset[row])
        content = self.shards.read_checked(shard, offset, self.metadata.npy_bytes, int(self._crc32[row]))
        if content is None or content[: len(self._header)] != self._header:
            raise CorruptSampleError(
                f"{self.shards.where(shard)}: latent {self._latent_keys[row]} at offset {offset} is damaged. "
                f"Remove {self.folder} and run `neuroimagen cache` again."
            )
        numbers = np.frombuffer(content, dtype=self.metadata.storage_dtype, offset=len(self._header))
        return numbers.reshape(self.metadata.shape)
