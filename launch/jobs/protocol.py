"""The connection between a job's coordinator and its nodes: JSON lines over TCP, with a heartbeat.

A node that is cut off from the network neither closes its connection nor sends anything, and the ranks' collectives
would wait half an hour for it. Both ends therefore send `alive` every second, and treat silence as a loss. No message
is ever executed: what a node runs is in its own command line.
"""

import contextlib
import importlib.metadata
import json
import platform
import socket
import struct
import threading
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import neuroimagen
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.runs.run_folder import PACKAGES

SILENCE_SECONDS = 10.0
"""A peer that has sent nothing for this long is lost."""
_HEARTBEAT_SECONDS = 1.0
_LONGEST_LINE = 1 << 20
Message = dict[str, Any]


class LostError(Exception):
    """The connection is closed or broken, or the other end has been silent for too long."""


class Connection:
    """One end of the connection. Messages are dictionaries with a `type`."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        # Blocking: reads use MSG_DONTWAIT, and SO_SNDTIMEO ends a write to a peer that is cut off.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SILENCE_SECONDS), 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._heard = time.monotonic()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="neuroimagen-heartbeat", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message. Raises LostError if the connection is broken."""
        content = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(content)
        except OSError as error:
            raise LostError(f"the connection broke ({error.strerror or error})") from None

    def receive(self) -> list[Message]:
        """The messages that have arrived since the last call, without waiting.

        Raises LostError when the connection is closed or the other end is silent, once all earlier messages have been
        returned.
        """
        lost: str | None = None
        try:
            while content := self._socket.recv(1 << 16, socket.MSG_DONTWAIT):
                self._received += content
                self._heard = time.monotonic()
            lost = "the connection was closed"
        except BlockingIOError:
            silent = time.monotonic() - self._heard
            if silent > SILENCE_SECONDS:
                lost = f"nothing was heard for {silent:.0f} s"
        except OSError as error:
            lost = f"the connection broke ({error.strerror or error})"
        *lines, rest = bytes(self._received).split(b"\n")
        self._received = bytearray(rest)
        try:
            messages = [message for message in map(json.loads, lines) if message["type"] != "alive"]
        except (ValueError, TypeError, KeyError):
            raise LostError("the other end sent something that is not a message") from None
        if len(rest) > _LONGEST_LINE:
            raise LostError("the other end sent something that is not a message")
        if lost and not messages:
            raise LostError(lost)
        return messages

    def close(self) -> None:
        """Send no more, and read what comes for up to a second: closing at once could discard our last messages."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_HEARTBEAT_SECONDS)
            while self._socket.recv(1 << 16):
                pass
        self._socket.close()

    def _beat(self) -> None:
        while not self._closed.wait(_HEARTBEAT_SECONDS):
            with contextlib.suppress(LostError):  # receive() raises it, on the main thread
                self.send({"type": "alive"})


def connect(address: str, port: int, *, wait_seconds: float) -> Connection:
    """Connect to the coordinator, which may start later than this node. Raises UserError when it does not."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return Connection(socket.create_connection((address, port), timeout=5.0))
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the coordinator at {address}:{port} did not answer within {wait_seconds:.0f} s "
                    f"({error.strerror or error}). Is it started, and does a firewall let the port through?"
                ) from None
            time.sleep(0.5)


def listen(port: int) -> socket.socket:
    """Listen for nodes on every address; port 0 takes a free one. Raises UserError when the port is taken."""
    try:
        if socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        else:
            listener = socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error.strerror or error}. Choose another with --port.") from None
    listener.settimeout(0.2)
    return listener


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
