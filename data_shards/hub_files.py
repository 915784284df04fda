"""Files on the Hugging Face hub, each asked for once: RemoteFiles repeats what fails, by its own options.

huggingface_hub's file system repeats every range five times within 23 s and takes no setting for it; six attempts of
ours around that were more than two minutes. What it finds out about addresses and access is used here as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def read(filesystem: Any, path: str, *, start: int, stop: int | None, timeout_s: float) -> bytes:
    """Bytes start..stop of a file; a server that knows no ranges gives all. `timeout_s`: of each pause in the answer.

    Raises FileNotFoundError, and the errors of huggingface_hub and its HTTP library.
    """
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**build_hf_headers(token=filesystem.token), "Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    with _missing_named(path):
        answer = http_backoff("GET", _address(filesystem, path), headers=headers, timeout=timeout_s, max_retries=0)
        hf_raise_for_status(answer)
    return bytes(answer.content)


def size(filesystem: Any, path: str, *, timeout_s: float) -> int | None:
    """Size of a file in bytes, if the hub tells. Raises as `read`."""
    from huggingface_hub import get_hf_file_metadata

    with _missing_named(path):
        address = _address(filesystem, path)
        found = get_hf_file_metadata(address, token=filesystem.token, timeout=timeout_s, endpoint=filesystem.endpoint)
    return None if found.size is None else int(found.size)


def _address(filesystem: Any, path: str) -> str:
    """Where a file lies. Raises FileNotFoundError for a repository or revision that is missing or hidden."""
    from huggingface_hub import hf_hub_url

    place = filesystem.resolve_path(path)
    if not hasattr(place, "repo_id"):  # a bucket
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
