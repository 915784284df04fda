"""A data set behind a URL prefix: its small files are mirrored, its tars are read in blocks.

    <cache>/mirrors/<digest of dataset.json>/   dataset.json, index.parquet, stimuli.parquet
        latents/                                latents computed on this node, where the server has none
        remote-latents/<store>/                 latents.json and index.parquet of the server's latents

The name of a mirror is a digest of dataset.json, which holds the SHA-256 of both tables: a data set that was moved is
the same data set, one that was changed is another.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.format.schema import MAX_METADATA_BYTES, DatasetMetadata
from neuroimagen.data_shards.format.tables import file_sha256
from neuroimagen.data_shards.remote.block_cache import BlockCache
from neuroimagen.data_shards.remote.files import RemoteFiles, RemoteOptions
from neuroimagen.data_shards.remote.shards import RemoteShards

_STORE_NAME = re.compile(r"[a-z][a-z0-9-]{0,120}")


class RemoteDataset:
    """A remote data set's files; `mirror` is a local folder that has all of them but the tars."""

    def __init__(self, url: str, options: RemoteOptions | None = None) -> None:
        """Fetch dataset.json, and the tables unless they are mirrored already. Raises UserError."""
        self.url = url
        self.options = options or RemoteOptions.from_environment()
        self.files = RemoteFiles(url, self.options)
        self._cache = BlockCache(self.options.cache_folder, self.options.cache_bytes)
        content = self.files.read("dataset.json", 0, MAX_METADATA_BYTES)
        try:
            metadata = DatasetMetadata.from_json(content.decode(), where=f"{url}/dataset.json")
        except UnicodeDecodeError:
            raise UserError(f"{url}/dataset.json is not text; the data set is damaged.") from None
        self._digest = hashlib.sha256(content).hexdigest()[:16]
        self.mirror = self.options.cache_folder / "mirrors" / self._digest
        with self._locked():
            self._keep("dataset.json", content)
            for name in ("index.parquet", "stimuli.parquet"):
                self._fetch(name, self.mirror / name, metadata.tables.get(name))

    def shards(self, folder: str, shard_bytes: Sequence[int]) -> RemoteShards:
        """The tars of `folder`, a path below the URL."""
        prefix = f"{self._digest}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
        return RemoteShards(self.files, folder, shard_bytes, self._cache, prefix)

    def latent_folders(self, kind: str | None = None) -> list[Path]:
        """Mirrors of the server's latent stores (of `kind`), with their latents.json."""
        known = [name for name in self.files.list("latents") if _STORE_NAME.fullmatch(name)]
        names = [name for name in known if kind is None or name.startswith(f"{kind}-")]
        with self._locked():
            for name in names:
                content = self.files.read(f"latents/{name}/latents.json", 0, MAX_METADATA_BYTES)
                self._keep(f"remote-latents/{name}/latents.json", content)
        return [self.mirror / "remote-latents" / name for name in names]

    def is_latent_mirror(self, folder: Path) -> bool:
        """True for a folder that `latent_folders` returned."""
        return folder.parent == self.mirror / "remote-latents"

    def fetch_latent_index(self, folder: Path, sha256: str) -> None:
        """Mirror the index of a store that `latent_folders` returned."""
        with self._locked():
            self._fetch(f"latents/{folder.name}/index.parquet", folder / "index.parquet", sha256)

    def _fetch(self, name: str, target: Path, sha256: object) -> None:
        if not isinstance(sha256, str):
            raise UserError(f"{self.url}/dataset.json gives no SHA-256 for {name}.")
        if not (target.is_file() and file_sha256(target) == sha256):
            with atomic_path(target) as path:
                self.files.fetch(name, path, sha256=sha256)

    def _keep(self, name: str, content: bytes) -> None:
        target = self.mirror / name
        if not (target.is_file() and target.read_bytes() == content):
            with atomic_path(target) as path:
                path.write_bytes(content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the mirror's lock: one process of the node fetches, the others wait and find the files."""
        self.mirror.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.mirror / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
