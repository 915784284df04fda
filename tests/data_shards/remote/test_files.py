"""Files behind a URL: ranges, retries, time limits, and the words of errors."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from range_server import Server

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.remote.files import RemoteFiles, RemoteOptions, as_url, http_status

CONTENT = bytes(range(256)) * 200


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served" / "folder").mkdir(parents=True)
    (tmp_path / "served" / "folder" / "a.bin").write_bytes(CONTENT)
    (tmp_path / "served" / "folder" / "b.bin").write_bytes(b"")
    made = Server(tmp_path / "served")
    yield made
    made.close()


@pytest.fixture
def files(server: Server, options: RemoteOptions) -> RemoteFiles:
    return RemoteFiles(f"{server.url}/folder", options)


def test_ranges_sizes_and_names(files: RemoteFiles) -> None:
    assert files.size("a.bin") == len(CONTENT)
    assert files.read("a.bin") == CONTENT
    assert files.read("a.bin", 100, 300) == CONTENT[100:300]
    assert files.read("a.bin", 51_000, 60_000) == CONTENT[51_000:]
    assert files.read("a.bin", len(CONTENT), len(CONTENT) + 10) == b""
    assert files.list("") == ["a.bin", "b.bin"]
    assert files.list("no-such-folder") == []


@pytest.mark.parametrize("fault", ["500", "drop", "stall", "truncate"])
def test_a_request_that_fails_is_repeated(server: Server, files: RemoteFiles, fault: str) -> None:
    if fault == "stall":
        files = RemoteFiles(files.url, dataclasses.replace(files.options, timeout_s=0.3))
    server.fault = lambda path, number: fault if number < 2 else None
    assert files.read("a.bin", 10, 20) == CONTENT[10:20]
    assert len(server.requests) == 3


def test_a_request_that_keeps_failing_is_one_error(server: Server, files: RemoteFiles) -> None:
    files = RemoteFiles(files.url, dataclasses.replace(files.options, attempts=3))
    server.fault = lambda path, number: "500"
    with pytest.raises(UserError, match=r"cannot read http://.*/folder/a\.bin in 3 attempts: .*500"):
        files.read("a.bin", 0, 10)
    assert len(server.requests) == 3


def test_a_missing_file_is_not_requested_again(server: Server, files: RemoteFiles) -> None:
    with pytest.raises(UserError, match=r"folder/c\.bin does not exist\.$"):
        files.read("c.bin", 0, 10)
    assert len(server.requests) == 1


def test_a_fetched_file_has_the_digest_that_was_asked_for(server: Server, files: RemoteFiles, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    server.fault = lambda path, number: "corrupt" if number == 0 else None
    files.fetch("a.bin", tmp_path / "copy", sha256=digest)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"a\.bin is damaged or belongs to another data set"):
        files.fetch("a.bin", tmp_path / "copy", sha256="0" * 64)
    server.ranges = False
    files.fetch("a.bin", tmp_path / "copy", sha256=digest)


def test_a_status_is_found_behind_errors_of_any_library() -> None:
    class HttpxError(Exception):
        response = type("Response", (), {"status_code": 503})

    class BotocoreError(Exception):
        response = {"ResponseMetadata": {"HTTPStatusCode": 403}}  # noqa: RUF012

    class AiohttpError(Exception):
        status = 404

    assert [http_status(error()) for error in (HttpxError, BotocoreError, AiohttpError)] == [503, 403, 404]
    wrapped = PermissionError("translated")
    wrapped.__cause__ = BotocoreError()
    assert http_status(wrapped) == 403
    assert http_status(ValueError()) is None


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("NEUROIMAGEN_CACHE_GB", "0.5")
    options = RemoteOptions.from_environment()
    assert (options.cache_folder, options.cache_bytes) == (tmp_path, 500_000_000)
    monkeypatch.setenv("NEUROIMAGEN_CACHE_GB", "much")
    with pytest.raises(UserError, match="NEUROIMAGEN_CACHE_GB is 'much'"):
        RemoteOptions.from_environment()
    monkeypatch.delenv("NEUROIMAGEN_CACHE")
    monkeypatch.delenv("NEUROIMAGEN_CACHE_GB")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert RemoteOptions.from_environment().cache_folder == tmp_path / "xdg" / "neuroimagen"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"attempts": 0}, "attempts is 0"), ({"cache_bytes": 10, "block_bytes": 5}, "can't hold four blocks")],
)
def test_impossible_options_are_refused(options: RemoteOptions, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(options, **changes)


def test_paths_and_urls_are_told_apart() -> None:
    assert as_url("data/cvpr40") is None
    assert as_url(Path("/data/http/x")) is None
    assert as_url("C:/data") is None
    assert as_url("http://host/a/b/") == "http://host/a/b"
    assert as_url(Path("http://host/a")) == "http://host/a"
    assert as_url(Path("s3://bucket/key")) == "s3://bucket/key"
    assert as_url("hf://datasets/a/b") == "hf://datasets/a/b"
    assert as_url("file:///x/y") == "file:///x/y"
