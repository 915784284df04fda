"""Writes a latent store shard by shard, so that an interrupted job can continue and several ranks can share the work.

Shards go into an unfinished folder beside the store, `.<name>.part`, each followed by a record that it is complete. A
job that continues after an interruption, with any number of ranks, writes the shards that have no record. The same
inputs give the same bytes on one kind of device and with one version of PyTorch; on a CPU with the same number of
threads.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, sync_path
from neuroimagen.data_shards.common.reading import content_of, read_json_object
from neuroimagen.data_shards.dataset.latent_format import INDEX_SCHEMA, LatentMetadata
from neuroimagen.data_shards.dataset.latent_items import LatentItems
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.tables import TableWriter, file_sha256
from neuroimagen.data_shards.format.tar import BLOCK_BYTES, END_OF_ARCHIVE, member_header, padded, shard_name


class LatentWriter:
    """Writes a store shard by shard: any process may write any shard, in any order; one of them calls `finish`."""

    def __init__(self, root: Path, metadata: LatentMetadata, items: LatentItems) -> None:
        self.metadata = metadata
        self.items = items
        self.folder = root / metadata.name
        self._unfinished = root / f".{metadata.name}.part"
        self.num_shards = -(-len(items.keys) // metadata.shard_items)
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write into {root}: {error.strerror or error}.") from None

    def rows(self, shard: int) -> range:
        """Rows of `items` that lie in a shard."""
        size = self.metadata.shard_items
        return range(shard * size, min((shard + 1) * size, len(self.items.keys)))

    def pending(self, *, rank: int = 0, world_size: int = 1) -> list[int]:
        """The shards of this rank's share that have not been completed yet."""
        # By number, not by position among the missing shards, because ranks list these at different moments.
        share = range(rank, self.num_shards, world_size)
        return [shard for shard in share if not self._record_path(shard).is_file()]

    def write(self, shard: int, latents: torch.Tensor, texts: Sequence[str] | None = None) -> None:
        """Write a whole shard: latents float32 [rows, *shape], and their texts (default: those of `items`).

        Raises UserError on NaN or infinity, naming the stimulus, before anything is written.
        """
        rows = self.rows(shard)
        assert latents.shape == (len(rows), *self.metadata.shape), (latents.shape, self.metadata.shape)
        if texts is None and self.items.texts is not None:
            texts = [self.items.texts[row] for row in rows]
        stored = latents.to("cpu", getattr(torch, self.metadata.dtype))
        finite = torch.isfinite(stored).flatten(1).all(1)
        if not finite.all():
            bad = int((~finite).nonzero()[0, 0])
            raise UserError(
                f"the {self.metadata.kind} latent of {self.items.keys[rows[bad]]} holds NaN or infinity as "
                f"{self.metadata.dtype}. Try --dtype float32; if that does not help, the model or the image is broken."
            )
        numbers = (stored.view(torch.uint16) if self.metadata.dtype == "bfloat16" else stored).numpy()

        content = bytearray()
        offsets, checksums = [], []
        for position, row in enumerate(rows):
            payload = self.metadata.npy_header + numbers[position].tobytes()
            offsets.append(_append_member(content, f"{self.items.keys[row]}.latent.npy", payload))
            checksums.append(zlib.crc32(payload))
            if texts:
                text = json.dumps({"text": texts[position]}, ensure_ascii=False).encode()
                _append_member(content, f"{self.items.keys[row]}.json", text)
        content += END_OF_ARCHIVE
        with atomic_path(self._unfinished / shard_name(shard)) as path:
            path.write_bytes(content)
        record = {
            "num_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "offsets": offsets,
            "crc32": checksums,
            "texts": list(texts) if texts else None,
        }
        # The record comes last: a shard without one is written again.
        with atomic_path(self._record_path(shard)) as path:
            path.write_text(json.dumps(record), encoding="utf-8")

    def finish(self) -> LatentStore:
        """Write index and metadata, and give the folder its name. Every shard must be complete."""
        assert not self.pending()
        # An earlier process may have written the records, and anyone may have damaged them since.
        with content_of(f"finish {self.folder}", remedy=f"Remove {self._unfinished}, and run the same command again."):
            return self._finish([read_json_object(self._record_path(shard)) for shard in range(self.num_shards)])

    def _finish(self, records: Sequence[Mapping[str, Any]]) -> LatentStore:
        with atomic_path(self._unfinished / "index.parquet") as path:
            self._write_index(path, records)
        metadata = dataclasses.replace(
            self.metadata,
            num_latents=len(self.items.keys),
            num_stimuli=len(self.items.stimulus_keys),
            shard_bytes=tuple(record["num_bytes"] for record in records),
            shard_sha256=tuple(record["sha256"] for record in records),
            index_sha256=file_sha256(self._unfinished / "index.parquet"),
        )
        with atomic_path(self._unfinished / "latents.json") as path:
            path.write_text(metadata.to_json(), encoding="utf-8")
        belongs = {"index.parquet", "latents.json", *(shard_name(shard) for shard in range(self.num_shards))}
        for path in self._unfinished.iterdir():  # the records of completion, and what a killed run left
            if path.name not in belongs:
                path.unlink()
        try:
            self._unfinished.replace(self.folder)
        except OSError as error:
            raise UserError(
                f"cannot finish {self.folder}: {error.strerror or error}. Is another job caching the same latents?"
            ) from error
        sync_path(self.folder.parent)
        return LatentStore.open(self.folder)

    def _write_index(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        with TableWriter(path, INDEX_SCHEMA) as table:
            for stimulus, row in zip(self.items.stimulus_keys, self.items.latent_of.tolist(), strict=True):
                shard, position = divmod(row, self.metadata.shard_items)
                record = records[shard]
                table.add(
                    {
                        "stimulus": stimulus,
                        "latent": self.items.keys[row],
                        "shard": shard,
                        "offset": record["offsets"][position],
                        "size": self.metadata.npy_bytes,
                        "crc32": record["crc32"][position],
                        "text": record["texts"][position] if record["texts"] else None,
                    }
                )

    def _record_path(self, shard: int) -> Path:
        return self._unfinished / f"{shard:05d}.json"


def _append_member(content: bytearray, name: str, payload: bytes) -> int:
    """Append a file to a tar in memory; returns the offset of its content."""
    content += member_header(name, len(payload))
    offset = len(content)
    content += payload
    content += bytes(padded(len(payload)) - len(payload))
    assert len(content) % BLOCK_BYTES == 0
    return offset
