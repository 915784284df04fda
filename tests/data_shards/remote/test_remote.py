"""Data sets behind a URL, served by an HTTP server that fails, stalls, truncates and corrupts as it is told."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import JoinedDataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.plan import BlockShufflePlan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader
from neuroimagen.data_shards.remote.block_cache import BlockCache
from neuroimagen.data_shards.remote.files import RemoteOptions, as_url
from neuroimagen.launch.cli import main

Fault = str | None
"""What happens to a request: None, "500", "404", "drop", "stall", "truncate" or "corrupt"."""


class Server:
    """Serves a folder with byte ranges; `fault(path, number)` decides about the number-th request of a path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fault: Callable[[str, int], Fault] = lambda path, number: None
        self.ranges = True
        self.requests: list[tuple[str, int, int]] = []  # path, start, stop
        self._lock = threading.Lock()
        self._ended = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _HTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def count(self, part: str) -> int:
        return sum(part in path for path, _, _ in self.requests)

    def decide(self, path: str, start: int, stop: int) -> Fault:
        with self._lock:
            number = sum(earlier == path for earlier, _, _ in self.requests)
            self.requests.append((path, start, stop))
        return self.fault(path, number)


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5, connections of several ranks at once wait a second and more
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a client that has given up on a stalled answer


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self.owner.folder / self.path.lstrip("/")
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.owner.folder / self.path.lstrip("/")
        if path.is_dir():
            links = "".join(f'<a href="{item.name}">{item.name}</a>' for item in sorted(path.iterdir()))
            return self._answer(200, links.encode(), {"Content-Type": "text/html"})
        content = path.read_bytes() if path.is_file() else b""
        start, stop, status = 0, len(content), 200
        if self.owner.ranges and (header := self.headers.get("Range")):
            first, last = header.removeprefix("bytes=").split("-")
            start, status = int(first), 206
            stop = min(len(content), int(last) + 1) if last else len(content)
        fault = self.owner.decide(self.path, start, stop)
        if fault == "500":
            return self._answer(500, b"", {})
        if fault == "404" or not path.is_file():
            return self._answer(404, b"", {})
        if start >= len(content):
            return self._answer(416, b"", {})
        body = bytearray(content[start:stop])
        if fault == "stall":
            self.owner._ended.wait(30)
        if fault == "drop":
            self.close_connection = True
            return None
        if fault == "corrupt":
            body[::97] = bytes(byte ^ 0xFF for byte in body[::97])
        if fault == "truncate":  # less than was announced, as when a connection breaks
            self._answer(status, bytes(body), {}, cut=True)
            self.close_connection = True
            return None
        return self._answer(status, bytes(body), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)


@pytest.fixture
def server(make_dataset: Any, tmp_path: Path) -> Iterator[Server]:
    """200 segments in three shards of at most 128 KiB."""
    local = make_dataset(200, n_channels=8, n_samples=40, shard_bytes=1 << 17, name="served/data")
    assert len(local.segments) >= 3
    made = Server(tmp_path / "served")
    made.local = local  # type: ignore[attr-defined]
    yield made
    made.close()


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


def _open(server: Server, options: RemoteOptions) -> Dataset:
    return Dataset.open(f"{server.url}/data", remote_options=options)


def _assert_same(remote: Dataset, local: Dataset) -> None:
    plan = ShufflePlan(np.arange(len(local)), 0, 16)
    batches = zip(
        Reader(remote, plan, image_size_px=8).epoch(1), Reader(local, plan, image_size_px=8).epoch(1), strict=True
    )
    for far, near in batches:
        assert torch.equal(far.rows, near.rows)
        assert torch.equal(far.eeg, near.eeg)
        assert torch.equal(far.images, near.images)


def test_a_url_opens_like_a_folder_and_the_cache_spares_the_network(server: Any, options: RemoteOptions) -> None:
    remote = _open(server, options)
    assert remote.digest == server.local.digest
    assert server.count(".tar") == 0
    _assert_same(remote, server.local)
    tars = [request for request in server.requests if request[0].endswith(".tar")]
    assert len(tars) == len(set(tars)), "a block was fetched twice"
    assert all(stop - start <= 10_000 for _, start, stop in tars)
    again = _open(server, options)
    _assert_same(again, server.local)
    assert server.count(".tar") == len(tars)
    assert server.count("parquet") == 2
    _assert_same(pickle.loads(pickle.dumps(again)), server.local)
    assert server.count(".tar") == len(tars)


@pytest.mark.parametrize("fault", ["500", "drop", "stall", "truncate", "corrupt"])
def test_what_passes_is_borne(server: Any, options: RemoteOptions, fault: str) -> None:
    """The first two requests of every file fail; retries, and CRCs, make it good."""
    options = RemoteOptions(
        **{**options.__dict__, "timeout_s": 0.5 if fault == "stall" else 60.0, "block_bytes": 40_000}
    )
    worst = 1 if fault == "corrupt" else 2
    server.fault = lambda path, number: fault if number < worst and not path.endswith("dataset.json") else None
    remote = _open(server, options)
    _assert_same(remote, server.local)


def test_what_stays_is_one_clear_error(server: Any, options: RemoteOptions) -> None:
    options = RemoteOptions(**{**options.__dict__, "attempts": 3})
    remote = _open(server, options)
    server.fault = lambda path, number: "500" if path.endswith(".tar") else None
    with pytest.raises(UserError, match=r"http://.*segments/00000\.tar in 3 attempts: .*500"):
        remote.eeg(0)
    server.fault = lambda path, number: "corrupt" if path.endswith(".tar") else None
    with pytest.raises(CorruptSampleError, match=r"http://.*00000\.tar: segment 000000000 at offset 512 is damaged"):
        remote.eeg(0)
    server.fault = lambda path, number: "404" if path.endswith(".tar") else None
    asked = len(server.requests)
    with pytest.raises(UserError, match=r"segments/00000\.tar is not there"):
        remote.eeg(0)
    assert len(server.requests) == asked + 1, "what is not there is not asked for again"
    server.fault = lambda path, number: None
    _assert_same(remote, server.local)
    with pytest.raises(UserError, match=r"no-such/dataset\.json is not there"):
        Dataset.open(f"{server.url}/no-such", remote_options=options)
    with pytest.raises(UserError, match="cannot read http://127"):
        Dataset.open("http://127.0.0.1:1/data", remote_options=options)


def test_damaged_tables_and_cut_shards_are_named(server: Any, options: RemoteOptions) -> None:
    shard = server.folder / "data" / "segments" / "00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:30_000])
    remote = _open(server, options)
    row = int(np.flatnonzero(remote.index.shard == 1)[-1])
    with pytest.raises(CorruptSampleError, match=r"00001\.tar gave 0 bytes at offset .* cut or changed"):
        remote.eeg(row)
    shard.write_bytes(content)
    shutil.rmtree(options.cache_folder)
    server.fault = lambda path, number: "corrupt" if path.endswith("index.parquet") else None
    with pytest.raises(UserError, match=r"http://.*index\.parquet is damaged"):
        _open(server, options)


def test_a_server_without_ranges_serves_too(server: Any, options: RemoteOptions) -> None:
    server.ranges = False
    remote = _open(server, options)
    _assert_same(remote, server.local)
    # Pictures and segments: hardly more than once each; two threads may ask for a shard at the same time.
    assert server.count(".tar") <= 4 * (len(remote.segments) + 1)


def test_the_cache_keeps_its_bound(server: Any, options: RemoteOptions) -> None:
    options = RemoteOptions(**{**options.__dict__, "cache_bytes": 50_000})
    remote = _open(server, options)
    blocks = options.cache_folder / "blocks"
    most = 0
    for batch in Reader(remote, ShufflePlan(np.arange(200), 0, 8)).epoch(0):
        np.testing.assert_array_equal(batch.eeg[0].numpy(), server.local.eeg(int(batch.rows[0])))
        most = max(most, sum(path.stat().st_size for path in list(blocks.iterdir()) if path.exists()))
    assert 20_000 < most <= 50_000
    with pytest.raises(UserError, match="can't hold four blocks"):
        RemoteOptions(cache_folder=options.cache_folder, cache_bytes=10, block_bytes=5)


def test_ranks_of_a_node_share_one_cache(server: Any, options: RemoteOptions) -> None:
    """Four processes read one plan at once: together they fetch every block once."""
    script = Path(__file__).with_name("remote_rank.py")
    command = [sys.executable, str(script), f"{server.url}/data", str(options.cache_folder)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE) for rank in range(4)]
    answers = [json.loads(process.communicate(timeout=300)[0]) for process in ranks]
    plan = BlockShufflePlan(np.arange(200), server.local.index.shard, 3, 16, window_shards=1)
    for step in range(plan.steps_per_epoch):
        assert [row for rank in range(4) for row in answers[rank]["rows"][step]] == plan.batch(0, step).tolist()
    for rank in range(4):
        near = Reader(server.local, plan, rank=rank, world_size=4).epoch(0)
        assert answers[rank]["sums"] == [float(batch.eeg.sum()) for batch in near]
    tars = [request for request in server.requests if request[0].endswith(".tar")]
    assert len(tars) == len(set(tars))
    assert server.count("parquet") == 2


def test_streaming_is_sequential_in_bulk_and_waiting_shows(server: Any, options: RemoteOptions) -> None:
    """A block-shuffled epoch through a cache of a fifth of the data fetches every block once."""
    options = RemoteOptions(**{**options.__dict__, "cache_bytes": 150_000, "read_ahead_bytes": 30_000})
    assert sum(server.local.metadata.segment_shards) > 2 * 150_000
    remote = _open(server, options)
    plan = BlockShufflePlan(np.arange(200), remote.index.shard, 3, 8, window_shards=1)
    reader = Reader(remote, plan)
    server.fault = lambda path, number: time.sleep(0.01)
    assert sorted(row for batch in reader.epoch(0) for row in batch.rows.tolist()) == list(range(200))
    assert reader.wait_seconds > 0.05
    starts = [(path, start) for path, start, _ in server.requests if path.endswith(".tar")]
    assert len(set(starts)) == len(starts)


def test_latents_are_found_over_there(server: Any, options: RemoteOptions, tmp_path: Path) -> None:
    remote = _open(server, options)
    assert remote.remote is not None
    assert remote.remote.latent_folders("vae") == []
    store = server.folder / "data" / "latents" / "vae-x-0123456789ab"
    store.mkdir(parents=True)
    (store / "latents.json").write_text("{}")
    (server.folder / "data" / "latents" / "image-y-0123456789ab").mkdir()
    (folder,) = remote.remote.latent_folders("vae")
    assert folder.name == store.name
    assert (folder / "latents.json").read_text() == "{}"


def test_verify_info_and_repack_take_urls(
    server: Any,
    options: RemoteOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(options.cache_folder))
    url = f"{server.url}/data"
    assert main(["data", "verify", url]) == 0
    assert main(["data", "info", url]) == 0
    assert main(["data", "repack", url, "--out", str(tmp_path / "near"), "--shard-mib", "0.125"]) == 0
    for path in sorted(server.local.folder.rglob("*.tar")):
        assert path.read_bytes() == (tmp_path / "near" / path.relative_to(server.local.folder)).read_bytes()
    (server.folder / "data" / "segments" / "stray.tar").write_bytes(b"")
    assert any("stray.tar: this file does not belong" in problem for problem in verify(url))
    monkeypatch.setenv("NEUROIMAGEN_CACHE_GB", "much")
    capsys.readouterr()
    assert main(["data", "info", url]) == 1
    assert "NEUROIMAGEN_CACHE_GB is 'much'" in capsys.readouterr().err


def test_other_protocols_are_fsspec_s(server: Any, options: RemoteOptions) -> None:
    """A synchronous file system, and a protocol that nothing opens."""
    _assert_same(Dataset.open(f"file://{server.local.folder}", remote_options=options), server.local)
    with pytest.raises(UserError, match="cannot open nope://x/y"):
        Dataset.open("nope://x/y", remote_options=options)


def test_paths_and_urls_are_told_apart() -> None:
    assert as_url("data/cvpr40") is None
    assert as_url(Path("/data/http/x")) is None
    assert as_url("C:/data") is None
    assert as_url("http://host/a/b/") == "http://host/a/b"
    assert as_url(Path("http://host/a")) == "http://host/a"
    assert as_url(Path("s3://bucket/key")) == "s3://bucket/key"
    assert as_url("hf://datasets/a/b") == "hf://datasets/a/b"
    assert as_url("file:///x/y") == "file:///x/y"


def test_a_fork_reads_on(server: Any, options: RemoteOptions) -> None:
    """What DataLoader workers do."""
    remote = _open(server, options)
    expected = remote.eeg(0)
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(remote.eeg(row), server.local.eeg(row)) for row in (0, 150, 199))
        os._exit(0 if same and np.array_equal(remote.eeg(0), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _fill(folder: Path, limit: int, seed: int) -> None:
    cache = BlockCache(folder, limit)
    rng = np.random.default_rng(seed)
    for _ in range(300):
        name, size = f"block-{rng.integers(60)}", 1000
        with cache.making(name):
            if (view := cache.open(name, size)) is None:
                cache.add(name, bytes([int(name.split("-")[1])]) * size)
            else:
                assert bytes(view) == bytes([int(name.split("-")[1])]) * size


def test_killed_writers_leave_a_cache_that_works(tmp_path: Path) -> None:
    """kill -9 amid heavy use by several processes: bounded, no half block, no lock left."""
    context = multiprocessing.get_context("fork")
    for round_number in range(3):
        writers = [context.Process(target=_fill, args=(tmp_path, 20_000, round_number * 3 + i)) for i in range(3)]
        for writer in writers:
            writer.start()
        time.sleep(0.05)
        writers[0].kill()
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers[1:]] == [0, 0]
    _fill(tmp_path, 20_000, 99)
    blocks = [path for path in (tmp_path / "blocks").iterdir() if not path.name.startswith(".")]
    assert 10_000 <= sum(path.stat().st_size for path in blocks) <= 20_000
    for path in blocks:
        assert path.read_bytes() == bytes([int(path.name.split("-")[1])]) * 1000


def test_a_remote_data_set_joins_a_local_one(server: Any, options: RemoteOptions, make_dataset: Any) -> None:
    """Its blocks are fetched ahead as if it were alone: each once."""
    here = make_dataset(40, n_channels=8, n_samples=40, seed=3, name="here")
    near = JoinedDataset([here, server.local])
    far = JoinedDataset([here, _open(server, options)])
    plan = ShufflePlan(near.rows("train"), 0, 16)
    for first, second in zip(Reader(far, plan).epoch(0), Reader(near, plan).epoch(0), strict=True):
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.eeg, second.eeg)
    tars = [request for request in server.requests if request[0].endswith(".tar")]
    assert tars
    assert len(tars) == len(set(tars)), "a block was fetched twice"


def test_a_block_that_changes_its_name_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eviction lists the folder; what is renamed between the listing and the look at its size would escape it."""
    cache = BlockCache(tmp_path, 5_000)
    for number in range(4):
        cache.add(f"block-{number}", bytes(1_000))
    writing = threading.Event()
    renamed = threading.Event()
    real_replace, real_scandir = Path.replace, os.scandir

    def replace(self: Path, target: Path) -> Path:
        if target.name == "slow":
            writing.set()
            time.sleep(0.2)  # the other thread is to be at its listing
        done = real_replace(self, target)
        renamed.set()
        return done

    def scandir(path: Path) -> list[os.DirEntry[str]]:
        entries = list(real_scandir(path))
        renamed.wait(0.5)
        return entries

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "scandir", scandir)
    slow = threading.Thread(target=cache.add, args=("slow", bytes(1_000)))
    slow.start()
    assert writing.wait(10)
    renamed.clear()
    cache.add("last", bytes(1_000))
    slow.join()
    monkeypatch.undo()
    assert sum(path.stat().st_size for path in (tmp_path / "blocks").iterdir()) <= 5_000
    assert int((tmp_path / "used").read_text()) >= sum(p.stat().st_size for p in (tmp_path / "blocks").iterdir())
