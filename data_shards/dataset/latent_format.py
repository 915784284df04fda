"""The format of a latent store: one cached tensor per stimulus or distinct caption, in WebDataset tars with an index.

    latents/<kind>-<model>-<digest>/
        latents.json     what made it: kind, model, revision, preprocessing, shape, dtype, and its shards
        index.parquet    one row per stimulus: where its latent lies; stimuli with the same caption share one latent
        00000.tar …      <key>.latent.npy, and <key>.json with the text where there is one

The digest covers everything that decides the numbers, so latents of two models, revisions or preprocessings never share
a folder.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import is_whole
from neuroimagen.data_shards.common.reading import read_json, reason
from neuroimagen.data_shards.format.schema import metadata_digest
from neuroimagen.data_shards.frozen_models.encoder import DTYPES

SCHEMA_VERSION = 1
SHARD_ITEMS = 256
"""Most latents in a shard: few enough that ranks share the work evenly and an interruption loses little."""
SHARD_BYTES = 64 << 20
"""Most bytes of latents in a shard."""
_MAX_NUMBERS = 1 << 28
"""Most numbers in one latent: a hundred times those of the largest known encoder's."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("stimulus", pa.string(), nullable=False),
        pa.field("latent", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the .latent.npy content in the tar, bytes
        pa.field("size", pa.int32(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
        pa.field("text", pa.string()),  # the caption that was encoded; null for images
    ]
)
"""index.parquet: one row per stimulus, in the data set's order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentMetadata:
    """The content of latents.json."""

    kind: str
    """Name of the latent kind: vae, text-class, image …"""
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
    """SHA-256 of what was encoded: keys, and captions or images."""
    shard_items: int
    """Latents per shard."""
    scaling_factor: float | None = None
    """For VAE latents: the factor by which the U-Net expects them multiplied. The stored numbers are not."""

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
            raw = read_json(path)
        except FileNotFoundError:
            raise UserError(
                f"no latent store at {folder}: latents.json is not there. `neuroimagen cache` makes one."
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {path}: {reason(error)}. Remove the folder and run `neuroimagen cache` again."
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
        for name, kind in {"shape": is_whole, "shard_bytes": is_whole, "shard_sha256": _is_text}.items():
            if not isinstance(raw[name], list) or not all(map(kind, raw[name])):
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where a list is expected.")
            raw[name] = tuple(raw[name])
        for name in ("num_latents", "num_stimuli", "shard_items"):
            if not is_whole(raw[name]) or raw[name] < 0:
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where a whole number is expected.")
        for name in ("kind", "model_id", "revision", "inputs", "index_sha256"):
            if not isinstance(raw[name], str):
                raise UserError(f"{path}: {name} is {str(raw[name])[:80]!r} where text is expected.")
        metadata = cls(**raw)
        shape = metadata.shape
        if metadata.dtype not in DTYPES or not all(0 < n < 1 << 20 for n in shape) or math.prod(shape) > _MAX_NUMBERS:
            raise UserError(f"{path}: dtype {metadata.dtype!r} or shape {metadata.shape} cannot be right. Cache again.")
        return metadata


def _is_text(value: object) -> bool:
    return isinstance(value, str)
