"""Files behind a URL prefix, read through fsspec: byte ranges, retries with backoff, a time limit on every request."""

import asyncio
import dataclasses
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.remote import hub_files

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<rest>.+)", re.DOTALL)
_LONGEST_PAUSE_S = 30.0
_FINAL_STATUS = set(range(400, 500)) - {408, 425, 429}
"""HTTP statuses that another attempt will not change."""
_NOT_ALLOWED = (401, 403)
_OUT_OF_RANGE = 416


class _OutOfRangeError(Exception):
    """The file ends before the range that was asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How a data set behind a URL is read."""

    cache_folder: Path
    """On a local disk of the node; all ranks and runs may use the same folder."""
    cache_bytes: int = 20 << 30
    """Upper bound of the size of all blocks in `cache_folder`, of all data sets together."""
    block_bytes: int = 8 << 20
    """Shards are fetched and cached in blocks of this size: smaller for random access, larger for sequential."""
    read_ahead_bytes: int = 1 << 30
    """How many bytes may be in transfer or waiting beyond the batch being read."""
    connections: int = 8
    attempts: int = 6
    backoff_s: float = 0.5
    """Pause after the first failure. It doubles with each failure, times a random factor that keeps ranks apart."""
    timeout_s: float = 60.0
    """A request that takes longer counts as failed."""

    def __post_init__(self) -> None:
        for name in ("block_bytes", "read_ahead_bytes", "connections", "attempts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.cache_bytes < 4 * self.block_bytes:
            raise UserError(
                f"a cache of {self.cache_bytes:,} bytes can't hold four blocks of {self.block_bytes:,}. Make it larger."
            )

    @classmethod
    def from_environment(cls) -> "RemoteOptions":
        """The defaults, with the cache where NEUROIMAGEN_CACHE says and of NEUROIMAGEN_CACHE_GB gigabytes."""
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuroimagen"
        folder = Path(os.environ.get("NEUROIMAGEN_CACHE") or default)
        gigabytes = os.environ.get("NEUROIMAGEN_CACHE_GB")
        if gigabytes is None:
            return cls(cache_folder=folder)
        try:
            return cls(cache_folder=folder, cache_bytes=int(float(gigabytes) * 1e9))
        except (ValueError, OverflowError):
            raise UserError(f"NEUROIMAGEN_CACHE_GB is {gigabytes!r}; it must be a number of gigabytes.") from None


def as_url(path: str | Path) -> str | None:
    """The URL that `path` is, or None for a local path. A URL that was a pathlib.Path (http:/host) is restored."""
    match = _URL.fullmatch(os.fspath(path))
    if match is None:
        return None
    rest = match["rest"].rstrip("/")
    return f"file:///{rest}" if match["protocol"] == "file" else f"{match['protocol']}://{rest}"


class RemoteFiles:
    """The files below `url`. Safe to use from several threads, and after a fork."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self.url = url
        self.options = options

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes start..stop of a file; to its end if `stop` is None or the file is shorter.

        If the server does not support ranges, the whole file is returned. Raises UserError.
        """
        try:
            return self._retried(name, lambda: self._read_once(name, start, stop))
        except _OutOfRangeError:
            return b""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, or None if the server does not say."""
        return self._retried(name, lambda: self._size_once(name))

    def list(self, name: str) -> list[str]:
        """Names in a folder; empty if the folder does not exist or the server does not list folders."""
        try:
            found = self._retried(name, lambda: self._list_once(name))
        except UserError:
            return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def fetch(self, name: str, target: Path, *, sha256: str) -> None:
        """Write a whole file to `target`, which the caller renames. Raises UserError if its SHA-256 differs."""
        for _ in range(2):
            digest = hashlib.sha256()
            size, position = self.size(name), 0
            with target.open("wb") as file:
                while size is None or position < size:
                    stop = None if size is None else min(size, position + self.options.block_bytes)
                    content = self.read(name, position, stop)
                    if stop is not None and len(content) > stop - position:
                        content = content[position:]  # the server does not support ranges
                    file.write(content)
                    digest.update(content)
                    position += len(content)
                    if size is None or not content:
                        break
            if digest.hexdigest() == sha256:
                return
        raise UserError(
            f"{self.url}/{name} is damaged or belongs to another data set: its SHA-256 is not the one expected."
        )

    @property
    def _is_hub(self) -> bool:
        return self.url.startswith("hf:")

    def _size_once(self, name: str) -> int | None:
        filesystem, path = self._filesystem(), self._path(name)
        if self._is_hub:
            return hub_files.size(filesystem, path, timeout_s=self.options.timeout_s)
        found: int | None = filesystem.size(path)
        return found

    def _list_once(self, name: str) -> Sequence[str]:
        filesystem, path = self._filesystem(), self._path(name)
        if self._is_hub:
            return hub_files.names(filesystem, path, timeout_s=self.options.timeout_s)
        found: Sequence[str] = filesystem.ls(f"{path}/", detail=False)
        return found

    def _read_once(self, name: str, start: int, stop: int | None) -> bytes:
        filesystem, path = self._filesystem(), self._path(name)
        if self._is_hub:
            return hub_files.read(filesystem, path, start=start, stop=stop, timeout_s=self.options.timeout_s)
        limits: dict[str, int] = {} if (start, stop) == (0, None) else {"start": start}
        if stop is not None:
            limits["end"] = stop
        if not getattr(filesystem, "async_impl", False):
            content: bytes = filesystem.cat_file(path, **limits)  # with the time limits of that file system's library
            return content
        from fsspec.asyn import sync

        async def read() -> bytes:
            answer: bytes = await asyncio.wait_for(filesystem._cat_file(path, **limits), self.options.timeout_s)
            return answer

        return bytes(sync(filesystem.loop, read))

    def _filesystem(self) -> Any:
        import fsspec

        # fsspec keeps one instance per process; asking for it each time is safe after a fork.
        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            raise UserError(f"cannot open {self.url}: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _retried(self, name: str, request: Callable[[], T]) -> T:
        where = f"{self.url}/{name}"
        for attempt in range(self.options.attempts):
            try:
                return request()
            except UserError:
                raise
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise UserError(f"{where} does not exist{_why(error)}{_if_private(self.url, error)}") from None
            except Exception as error:
                reason = " ".join(str(error).split())  # the hub's messages have several lines
                reason = reason or f"no answer within {self.options.timeout_s:g} s ({type(error).__name__})"
                status = http_status(error)
                if status == _OUT_OF_RANGE:
                    raise _OutOfRangeError from error
                if isinstance(error, PermissionError) or status in _NOT_ALLOWED or _lacks_credentials(error):
                    raise UserError(f"no access to {where}: {reason.rstrip('.')}. {_credentials(self.url)}") from error
                if isinstance(error, TypeError | AttributeError) or status in _FINAL_STATUS:
                    raise UserError(f"cannot read {where}: {reason}") from error
                if attempt + 1 == self.options.attempts:
                    raise UserError(f"cannot read {where} in {attempt + 1} attempts: {reason}") from error
                pause = min(_LONGEST_PAUSE_S, self.options.backoff_s * 2**attempt) * random.uniform(0.5, 1)
                _logger.warning("%s: %s; retrying in %.1f s", where, reason, pause)
                time.sleep(pause)
        raise AssertionError("unreachable")


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of a file system (aiohttp's, httpx's, botocore's), or None."""
    while error is not None:
        if isinstance(status := getattr(error, "status", None), int):
            return status
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's error, which s3fs translates and keeps as the cause
            response_status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            response_status = getattr(response, "status_code", None)
        if isinstance(response_status, int):
            return response_status
        error = error.__cause__
    return None


def _why(error: OSError) -> str:
    """What the server says is missing, if it says more than a path: it may be the bucket or the repository."""
    reason = " ".join(str(error).split())
    return f": {reason.rstrip('.')}." if " " in reason and error.errno is None else "."


def _if_private(url: str, error: OSError) -> str:
    """What to do if a hub repository is private: the hub gives the same answer for private and missing ones."""
    hidden = url.startswith("hf:") and "repository not found" in str(error)
    return f" If it is private: {_credentials(url)}" if hidden else ""


def _lacks_credentials(error: BaseException) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


def _credentials(url: str) -> str:
    """What to do when access was refused."""
    protocol = url.partition(":")[0]
    if protocol in ("s3", "s3a"):
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to an account that may read it, and "
            "AWS_ENDPOINT_URL if the server is not Amazon's."
        )
    if protocol == "hf":
        return "Log in with `hf auth login`, or set HF_TOKEN to a token that may read it."
    return "Ask its owner for access, or check the address."
