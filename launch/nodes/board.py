"""What a job's launcher and its nodes tell each other, as signed values in the job's store.

PyTorch's agents meet in the same store. They keep their state there as a pickle, which runs the code of whoever wrote
it: it is signed too.
"""

import contextlib
import hmac
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import neuroimagen
from neuroimagen.launch.nodes.gate import signature
from neuroimagen.trainer.runs.run_folder import PACKAGES

if TYPE_CHECKING:
    import torch.distributed as dist

PREFIX = "neuroimagen/"
Message = dict[str, Any]
_DIGEST = 32


class Board:
    """Messages by name, each written once. What is not signed with the job's token is not there."""

    def __init__(self, store: "dist.Store", token: bytes) -> None:
        self._store = store
        self._token = token

    def put(self, name: str, message: Message) -> None:
        content = json.dumps(message).encode()
        self._store.set(PREFIX + name, (self._sign(name, content).hex().encode() + content).decode())

    def get(self, name: str) -> Message | None:
        """The message of a name, or None."""
        if not self._store.check([PREFIX + name]):
            return None
        value: bytes = self._store.get(PREFIX + name)
        proof, content = value[: 2 * _DIGEST], value[2 * _DIGEST :]
        if not hmac.compare_digest(proof, self._sign(name, content).hex().encode()):
            return None
        message: Message = json.loads(content)
        return message

    def count(self, name: str, amount: int = 1) -> int:
        """Add to a number, which is 0 at first; returns it. A heartbeat."""
        return int(self._store.add(PREFIX + name, amount))

    def forget_ranks(self) -> None:
        """Delete what ranks have left in the store: everything but this board and the rendezvous."""
        for key in self._store.list_keys():
            if not key.startswith((PREFIX, "torch.rendezvous.")):
                self._store.delete_key(key)

    def _sign(self, name: str, content: bytes) -> bytes:
        return signature(self._token, b"board", name.encode(), content)


def versions() -> dict[str, str]:
    """What must be the same on every node: Python, the packages that results depend on, and our own sources."""
    found = {"Python": platform.python_version().rpartition(".")[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    digest = blake2b(digest_size=8)
    # The folders are links in a checkout, which rglob would not follow.
    for folder in sorted(Path(neuroimagen.__path__[0]).iterdir()):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    found["neuroimagen's sources"] = digest.hexdigest()
    return found


def version_skew(first: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What differs between two nodes' versions, as "torch 2.13.0 against 2.12.1" with `first` before `other`."""
    names = sorted(first.keys() | other.keys())
    return [
        f"{name} {first.get(name, 'absent')} against {other.get(name, 'absent')}"
        for name in names
        if first.get(name) != other.get(name)
    ]
