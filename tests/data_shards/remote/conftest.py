"""A data set behind a server, and options with a small cache."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from range_server import Server

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.remote.files import RemoteOptions


@dataclasses.dataclass
class Served:
    """A local data set, and the server that serves the folder above it."""

    local: Dataset
    server: Server
    options: RemoteOptions

    @property
    def url(self) -> str:
        return f"{self.server.url}/data"

    def open(self, **changes: Any) -> Dataset:
        """The data set behind its URL."""
        return Dataset.open(self.url, remote_options=dataclasses.replace(self.options, **changes))


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    return RemoteOptions(
        cache_folder=tmp_path / "cache",
        cache_bytes=1 << 20,
        block_bytes=10_000,
        backoff_s=0.01,
        timeout_s=60.0,
        connections=3,
    )


@pytest.fixture
def served(make_dataset: Any, tmp_path: Path, options: RemoteOptions) -> Iterator[Served]:
    """200 segments in three shards of at most 128 KiB."""
    local = make_dataset(200, n_channels=8, n_samples=40, shard_bytes=1 << 17, name="served/data")
    assert len(local.segments) >= 3
    server = Server(tmp_path / "served")
    yield Served(local, server, options)
    server.close()
