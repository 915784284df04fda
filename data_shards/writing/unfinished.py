"""The folder of an unfinished data set, hidden beside it: it survives a kill and records every finished shard.

.<name>.part/
    job.json                what is being written; what another job left is removed
    lock                    held by the one process that writes
    done/segments-00000.parquet …  the rows of a finished shard: written last, so that a shard without one is redone
    data/                   becomes the data set
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, refuse_existing, sync_path
from neuroimagen.data_shards.common.reading import content_of, parse_json, read_bytes

_logger = logging.getLogger(__name__)
_NOTE = b"neuroimagen"
Kind = Literal["segments", "stimuli"]
"""Which shards, and which table."""


class UnfinishedFolder:
    """The unfinished data set `out`, locked for this process. `fingerprint` identifies the job: inputs and options."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.part")
        self.data = self.folder / "data"
        refuse_existing(out)
        try:
            (self.folder / "done").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}. Choose another --out.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UserError(f"another process is writing {out}. Wait for it, or choose another --out.") from None
        try:
            self._prepare(json.dumps({"fingerprint": fingerprint}))
        except OSError as error:
            if not self.num_done("segments"):
                shutil.rmtree(self.folder, ignore_errors=True)
            self.release()
            raise UserError(
                f"cannot write {out}: {error.strerror or error}. Free space, or choose another --out."
            ) from error

    def _prepare(self, expected: str) -> None:
        job = self.folder / "job.json"
        found = read_bytes(job) if job.is_file() else None
        if found != expected.encode():
            if found is not None:
                _logger.warning(
                    "%s: an interrupted run with other inputs or options left shards there; they are removed",
                    self.folder,
                )
            for name in ("data", "done"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / "done").mkdir()
            job.write_text(expected, encoding="utf-8")
        for kind in ("segments", "stimuli"):
            (self.data / kind).mkdir(parents=True, exist_ok=True)

    def is_done(self, kind: Kind, shard: int) -> bool:
        """True if this shard is finished."""
        return self._record_path(kind, shard).is_file()

    def num_done(self, kind: Kind) -> int:
        """How many shards from the first one on are finished without a gap."""
        shard = 0
        while self.is_done(kind, shard):
            shard += 1
        return shard

    def record(self, kind: Kind, shard: int, rows: pa.Table, note: Mapping[str, Any]) -> None:
        """Record that a shard is finished: its rows of the table, and what else the end of the job needs (JSON)."""
        table = rows.replace_schema_metadata({_NOTE: json.dumps(note).encode()})
        with atomic_path(self._record_path(kind, shard)) as path:
            pq.write_table(table, path, compression="zstd")

    def rows(self, kind: Kind, shard: int) -> tuple[pa.Table, dict[str, Any]]:
        """The rows and the note of a finished shard."""
        path = self._record_path(kind, shard)
        with content_of(f"go on from {path}", remedy=f"Remove {self.folder}, and run the same command again."):
            table = pq.read_table(path)
            return table.replace_schema_metadata(None), parse_json(table.schema.metadata[_NOTE])

    def publish(self) -> None:
        """Rename the finished data to `out`."""
        if self.out.exists():
            self.out.rmdir()
        sync_path(self.data)
        self.data.replace(self.out)
        sync_path(self.out.parent)
        self.discard()

    def discard(self) -> None:
        """Remove everything unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let another process continue."""
        with suppress(OSError):
            os.close(self._lock)

    def _record_path(self, kind: Kind, shard: int) -> Path:
        return self.folder / "done" / f"{kind}-{shard:05d}.parquet"
