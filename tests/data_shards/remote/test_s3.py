"""Data sets in S3: s3fs against moto's server on the loopback, endpoint and keys in the AWS variables."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer
from same_stream import assert_streams_alike

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.remote.files import RemoteOptions
from neuroimagen.launch.cli import main

_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://lab, empty."""
    for name, value in {**_VARIABLES, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    _forget_clients()
    requests.post(f"{endpoint}/moto-api/reset", timeout=60).raise_for_status()
    fsspec.filesystem("s3").mkdir("lab")
    yield "s3://lab"
    _forget_clients()


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    return RemoteOptions(cache_folder=tmp_path / "cache", cache_bytes=1 << 20, block_bytes=10_000, backoff_s=0.01)


@pytest.fixture
def local(make_dataset: Any) -> Dataset:
    """200 segments in three shards of at most 128 KiB."""
    made: Dataset = make_dataset(200, n_channels=8, n_samples=40, shard_bytes=1 << 17)
    assert len(made.segments) >= 3
    return made


def _forget_clients() -> None:
    """A file system keeps the endpoint and the keys that it was made with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _upload(folder: Path, url: str) -> str:
    fsspec.filesystem("s3").put(f"{folder}/", f"{url}/", recursive=True)
    return url


def test_a_bucket_streams_as_the_folder_does(bucket: str, options: RemoteOptions, local: Dataset) -> None:
    remote = Dataset.open(_upload(local.folder, f"{bucket}/studies/set"), remote_options=options)
    assert_streams_alike(remote, local)


def test_the_commands_take_s3_urls(
    bucket: str, local: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(tmp_path / "cache"))
    url = _upload(local.folder, f"{bucket}/set")
    assert main(["data", "verify", url]) == 0
    assert main(["data", "info", url]) == 0
    assert "200" in capsys.readouterr().out
    damaged = bytearray((local.folder / "segments" / "00001.tar").read_bytes())
    damaged[700] ^= 1
    fsspec.filesystem("s3").pipe(f"{bucket}/set/segments/00001.tar", bytes(damaged))
    shutil.rmtree(tmp_path / "cache")
    assert main(["data", "verify", url]) == 1
    printed = capsys.readouterr()
    assert "segments/00001.tar" in printed.out + printed.err


def test_a_shard_that_was_cut_is_named_at_once(bucket: str, options: RemoteOptions, local: Dataset) -> None:
    """S3 answers a range behind the end with an error of its own kind, which must not be taken for one that passes."""
    url = _upload(local.folder, f"{bucket}/set")
    content = (local.folder / "segments" / "00001.tar").read_bytes()
    fsspec.filesystem("s3").pipe(f"{bucket}/set/segments/00001.tar", content[:30_000])
    remote = Dataset.open(url, remote_options=RemoteOptions(**{**options.__dict__, "attempts": 1}))
    row = int(np.flatnonzero(remote.index.shard == 1)[-1])
    with pytest.raises(CorruptSampleError, match=r"s3://lab/set/segments/00001\.tar gave 0 bytes at .* cut short"):
        remote.eeg(row)


def test_what_is_not_there_is_named(bucket: str, options: RemoteOptions) -> None:
    with pytest.raises(UserError, match=r"s3://elsewhere/set/dataset\.json does not exist: .*bucket does not exist"):
        Dataset.open("s3://elsewhere/set", remote_options=options)
    with pytest.raises(UserError, match=r"s3://lab/no-such/dataset\.json does not exist: .*key does not exist"):
        Dataset.open(f"{bucket}/no-such", remote_options=options)


def test_wrong_and_missing_credentials_say_what_to_set(
    bucket: str,
    endpoint: str,
    local: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(tmp_path / "cache"))
    url = _upload(local.folder, f"{bucket}/set")
    requests.post(f"{endpoint}/moto-api/reset-auth", data="0", timeout=60).raise_for_status()  # keys are looked at now
    try:
        _forget_clients()
        assert main(["data", "info", url]) == 1
        wrong = capsys.readouterr().err.strip()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        _forget_clients()
        assert main(["data", "info", url]) == 1
        missing = capsys.readouterr().err.strip()
    finally:
        requests.post(f"{endpoint}/moto-api/reset-auth", data="inf", timeout=60)
    assert "no access to s3://lab/set/dataset.json: The AWS Access Key Id you provided does not exist" in wrong
    assert "no access to s3://lab/set/dataset.json: Unable to locate credentials" in missing
    for message in (wrong, missing):
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
        assert "\n" not in message, "one line, and nothing is tried again"
