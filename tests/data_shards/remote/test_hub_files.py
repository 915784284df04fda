"""Data sets at hf:// URLs: huggingface_hub's file system against a server of the hub's answers, on the loopback."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
from same_stream import assert_streams_alike

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.remote.files import RemoteOptions
from neuroimagen.launch.cli import main

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Answers for the one data set repository lab/set, whose files lie in `folder`."""

    page_entries = 2
    """Of a listing; the hub's own has 1000."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token: str | None = None
        """Without this one the repository is hidden."""
        self.gated = False
        """Everyone sees the repository, nobody may read its files."""
        self.is_down = False
        """Every answer is 503."""
        self.refused: list[str] = []
        """Paths that were asked for while it was down."""
        self.ranges: list[tuple[str, int, int]] = []  # path, start, stop
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if self._admitted("/api/datasets/lab/set/paths-info/main"):
            found = [self.hub.folder / name for name in body["paths"]]
            self._json([self._entry(path) for path in found if path.exists()])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.is_down:
            self.hub.refused.append(path)
            return self._answer(503, b"", {})
        tree, resolve = "/api/datasets/lab/set/tree/main", "/datasets/lab/set/resolve/main/"
        if path in ("/api/datasets/lab/set", "/api/datasets/lab/set/revision/main"):
            if self._admitted(path):
                self._json({"id": "lab/set", "sha": _COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0})
        elif path.startswith(tree):
            folder = self.hub.folder / path.removeprefix(tree).lstrip("/")
            if folder.is_dir():
                first = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
                entries = [self._entry(item) for item in sorted(folder.iterdir())]
                after = first + self.hub.page_entries
                more = f'<{self.hub.url}{urlsplit(self.path).path}?cursor={after}>; rel="next"'
                self._json(entries[first:after], {"Link": more} if after < len(entries) else {})
            else:
                self._error(404, "EntryNotFound")
        elif path.startswith(resolve):
            self._file(path.removeprefix(resolve))
        else:
            self._error(401, "RepoNotFound")
        return None

    def _file(self, name: str) -> None:
        if self.hub.gated:
            return self._error(403, "GatedRepo")
        if not (self.hub.folder / name).is_file():
            return self._error(404, "EntryNotFound")
        content = (self.hub.folder / name).read_bytes()
        start, stop = 0, len(content)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(len(content), int(last) + 1)
        if self.command == "GET":
            self.hub.ranges.append((name, start, stop))
        return self._answer(206 if asked else 200, content[start:stop], {})

    def _admitted(self, path: str) -> bool:
        if self.hub.token in (None, self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return True
        self._error(401, "RepoNotFound")
        return False

    def _entry(self, path: Path) -> dict[str, object]:
        name = str(path.relative_to(self.hub.folder))
        oid = hashlib.sha1(name.encode()).hexdigest()
        size = path.stat().st_size if path.is_file() else 0
        return {"type": "file" if path.is_file() else "directory", "path": name, "size": size, "oid": oid}

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": "so says the hub"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def local(make_dataset: Any) -> Dataset:
    """200 segments in three shards of at most 128 KiB."""
    made: Dataset = make_dataset(200, n_channels=8, n_samples=40, shard_bytes=1 << 17, name="repository/eeg")
    assert len(made.segments) >= 3
    return made


@pytest.fixture
def hub(local: Dataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub(local.folder.parent)
    # HF_ENDPOINT is read when huggingface_hub is imported; the test of the command sets the variable itself.
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        template.replace(huggingface_hub.constants.ENDPOINT, made.url),
    )
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    _forget_clients()
    yield made
    made.close()
    _forget_clients()


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    return RemoteOptions(cache_folder=tmp_path / "cache", cache_bytes=1 << 20, block_bytes=10_000, backoff_s=0.01)


def _forget_clients() -> None:
    fsspec.get_filesystem_class("hf").clear_instance_cache()


def test_a_repository_streams_as_the_folder_does(hub: Hub, local: Dataset, options: RemoteOptions) -> None:
    remote = Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)
    assert_streams_alike(remote, local)
    tars = [place for place in hub.ranges if place[0].endswith(".tar")]
    assert all(stop - start <= options.block_bytes for _, start, stop in tars), "more was fetched than asked for"
    assert len(tars) == len(set(tars)), "a block was fetched twice"


def test_a_folder_of_several_pages_is_listed_whole(hub: Hub, local: Dataset, options: RemoteOptions) -> None:
    remote = Dataset.open("hf://datasets/lab/set/eeg", remote_options=options).remote
    assert remote is not None
    names = sorted(path.name for path in (local.folder / "segments").iterdir())
    assert len(names) > hub.page_entries
    assert remote.files.list("segments") == names
    assert remote.files.list("latents") == []


def test_a_shard_that_was_cut_is_named(hub: Hub, local: Dataset, options: RemoteOptions) -> None:
    shard = local.folder / "segments" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:30_000])
    remote = Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)
    row = int(np.flatnonzero(remote.index.shard == 1)[-1])
    with pytest.raises(CorruptSampleError, match=r"hf://.*segments/00001\.tar gave 0 bytes .* cut short or changed"):
        remote.eeg(row)


def test_what_is_missing_or_hidden_is_named(hub: Hub, options: RemoteOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"hf://datasets/lab/set/none/dataset\.json does not exist"):
        Dataset.open("hf://datasets/lab/set/none", remote_options=options)
    with pytest.raises(
        UserError, match=r"datasets/lab/other/dataset\.json does not exist: .*repository not found.*HF_TOKEN"
    ):
        Dataset.open("hf://datasets/lab/other", remote_options=options)
    hub.token = "secret"
    _forget_clients()
    with pytest.raises(UserError, match=r"does not exist: .*repository not found.*HF_TOKEN"):
        Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)
    monkeypatch.setenv("HF_TOKEN", "secret")
    _forget_clients()
    assert len(Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)) == 200
    hub.gated = True
    with pytest.raises(UserError, match=r"no access to hf://datasets/lab/set/eeg/dataset\.json: .*gated.*HF_TOKEN"):
        Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)


def test_a_hub_that_is_down_is_asked_as_often_as_the_options_say(
    hub: Hub, options: RemoteOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub's own repeating does not multiply ours: 3 requests, not 18."""
    options = dataclasses.replace(options, attempts=3)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    remote = Dataset.open("hf://datasets/lab/set/eeg", remote_options=options)
    assert remote.remote is not None
    files = remote.remote.files
    assert pauses == []

    hub.is_down = True
    for ask in (lambda: remote.eeg(0), lambda: files.size("index.parquet")):
        with pytest.raises(UserError, match=r"in 3 attempts: .*503"):
            ask()
        assert len(hub.refused) == 3, hub.refused
        hub.refused.clear()
    assert files.list("latents") == []
    assert len(hub.refused) == 3, hub.refused
    assert len(pauses) == 6
    assert max(pauses) <= 2 * options.backoff_s

    pauses.clear()
    hub.close()
    huggingface_hub.close_session()  # which keeps connections open
    with pytest.raises(UserError, match=r"00000\.tar in 3 attempts: .*refused"):
        remote.eeg(0)
    assert len(pauses) == 2


def test_verify_reads_every_byte(
    hub: Hub, local: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(tmp_path / "cache"))
    assert main(["data", "verify", "hf://datasets/lab/set/eeg"]) == 0
    shard = local.folder / "segments" / "00001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(tmp_path / "another"))
    capsys.readouterr()
    assert main(["data", "verify", "hf://datasets/lab/set/eeg"]) == 1
    printed = capsys.readouterr()
    assert "segments/00001.tar" in printed.out + printed.err


def test_the_command_finds_the_hub_where_the_environment_says(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "NEUROIMAGEN_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "-m", "neuroimagen.launch.cli", "data", "info", "hf://datasets/lab/set/eeg"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "200" in done.stdout
