"""Files on the Hugging Face hub, requested once: RemoteFiles repeats failed requests, by its own options.

huggingface_hub's file system repeats ranges and listings five times within 23 s, which cannot be changed; six attempts
of RemoteFiles, each of which does that, would take more than two minutes. Its addresses and credentials are used here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote


def read(filesystem: Any, path: str, *, start: int, stop: int | None, timeout_s: float) -> bytes:
    """Bytes start..stop of a file; all of it if the server ignores ranges. `timeout_s`: of each pause in the answer.

    Raises FileNotFoundError, and the errors of huggingface_hub and its HTTP library.
    """
    headers = {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    with _missing_named(path):
        return bytes(_get(filesystem, _address(filesystem, path), headers=headers, timeout_s=timeout_s).content)


def size(filesystem: Any, path: str, *, timeout_s: float) -> int | None:
    """Size of a file in bytes, or None if the hub does not say. Raises the same errors as `read`."""
    from huggingface_hub import get_hf_file_metadata

    with _missing_named(path):
        address = _address(filesystem, path)
        found = get_hf_file_metadata(address, token=filesystem.token, timeout=timeout_s, endpoint=filesystem.endpoint)
    return None if found.size is None else int(found.size)


def names(filesystem: Any, path: str, *, timeout_s: float) -> list[str]:
    """Paths of the files and folders in a folder. Raises the same errors as `read`."""
    with _missing_named(path):
        place = filesystem.resolve_path(path)
        if _is_bucket(place):
            return [str(name) for name in filesystem.ls(path, detail=False)]
        tree = f"api/{place.repo_type}s/{place.repo_id}/tree/{quote(place.revision, safe='')}"
        page: str | None = f"{filesystem.endpoint}/{tree}/{quote(place.path_in_repo, safe='')}"
        found: list[str] = []
        while page:  # one page has a thousand names
            answer = _get(filesystem, page, headers={}, timeout_s=timeout_s)
            found += [str(entry["path"]) for entry in answer.json()]
            page = answer.links.get("next", {}).get("url")
    return found


def _get(filesystem: Any, address: str, *, headers: dict[str, str], timeout_s: float) -> Any:
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**build_hf_headers(token=filesystem.token), **headers}
    answer = http_backoff("GET", address, headers=headers, timeout=timeout_s, max_retries=0)
    hf_raise_for_status(answer)
    return answer


def _is_bucket(place: Any) -> bool:
    return not hasattr(place, "repo_id")


def _address(filesystem: Any, path: str) -> str:
    """The URL of a file. Raises FileNotFoundError for a repository or revision that is missing or private."""
    from huggingface_hub import hf_hub_url

    place = filesystem.resolve_path(path)
    if _is_bucket(place):
        return str(filesystem.url(path))
    return str(
        hf_hub_url(
            place.repo_id,
            place.path_in_repo,
            repo_type=place.repo_type,
            revision=place.revision,
            endpoint=filesystem.endpoint,
        )
    )


@contextmanager
def _missing_named(path: str) -> Iterator[None]:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    except EntryNotFoundError as error:
        raise FileNotFoundError(path) from error
