"""An authenticated way to a job's store: PyTorch's TCPStore, which lets everyone read and write who can connect.

The store listens on the loopback alone. A `Gate` beside it listens at the address that the nodes use, and forwards the
connections that prove to know the job's token; an `Entrance` on each node is a loopback port that leads to the gate.
Every message before that has a fixed length, so that nothing a stranger sends is parsed. Who has not proved it within
AUTHENTICATION_SECONDS is disconnected, and of more than MAX_WAITING at once the one that has waited longest.
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UsageError, UserError

TOKEN_VARIABLE = "NEUROIMAGEN_JOB_TOKEN"
AUTHENTICATION_SECONDS = 5.0
MAX_WAITING = 256
SILENCE_SECONDS = 10
"""A peer from which the kernel has heard nothing for this long is lost."""
_DIGEST = 32
_REFUSED = bytes(_DIGEST)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def new_token() -> bytes:
    return secrets.token_hex(_DIGEST).encode()


def shared_token(job: Path) -> bytes:
    """The token of a job whose nodes are started by hand: of the environment, or made from this user's own key.

    The key is made when it is first needed; nodes that share the home folder share it.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    if given is not None:
        if len(given) < 16:
            raise UsageError(f"{TOKEN_VARIABLE} has {len(given)} characters; use at least 16, chosen at random.")
        return given.encode()
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "neuroimagen" / "launch.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            part.touch(mode=0o600, exist_ok=False)
            part.write_bytes(new_token())
            with contextlib.suppress(FileExistsError):  # another node was first
                os.link(part, path)
            part.unlink()
        found = path.stat()
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}. Set {TOKEN_VARIABLE} on every node instead.") from None
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.getuid():
        raise UserError(f"others can read or change {path}. Delete it: the next launch makes a new one.")
    return signature(key, b"job", os.fsencode(job)).hex().encode()


def signature(token: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 of `parts`, each with its length."""
    mac = hmac.new(token, digestmod="sha256")
    for part in parts:
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()


class _Server:
    """Serves each connection of a listening socket by `_serve`, on a thread of its own."""

    def __init__(self, listener: socket.socket, token: bytes) -> None:
        self.port: int = listener.getsockname()[1]
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="neuroimagen-gate", daemon=True)
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=listener, backlog=1024))
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._guard(self._serve(reader, writer), writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, serving: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, UserError, asyncio.CancelledError):
                await serving
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close every connection and stop listening."""
        with contextlib.suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Gate(_Server):
    """Listens at an address of this machine and forwards authenticated connections to `target`, a loopback port."""

    def __init__(self, address: str, port: int, *, token: bytes, target: int) -> None:
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((address, port), family=family, backlog=1024)
        except OSError as error:
            raise UserError(
                f"port {port} of {address} cannot be used: {error.strerror or error}. Choose another with --port."
            ) from None
        self.num_refused = 0
        """Connections that did not know the token."""
        self._target = target
        self._waiting: dict[asyncio.Task[Any], None] = {}
        super().__init__(listener, token)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _notice_silence(writer)
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = None
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        is_known = False
        try:
            async with asyncio.timeout(AUTHENTICATION_SECONDS):
                is_known = await self._authenticate(reader, writer)
        finally:
            self._waiting.pop(task, None)
            if not is_known:
                self.num_refused += 1
        if is_known:
            await _forward((reader, writer), await asyncio.open_connection("127.0.0.1", self._target))

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        ours = secrets.token_bytes(_DIGEST)
        writer.write(ours)
        theirs, proof = await reader.readexactly(_DIGEST), await reader.readexactly(_DIGEST)
        is_known = hmac.compare_digest(proof, signature(self._token, b"node", ours, theirs))
        writer.write(signature(self._token, b"gate", ours, theirs) if is_known else _REFUSED)
        return is_known


class Entrance(_Server):
    """Listens on the loopback and forwards connections to the gate at host:port.

    Raises UserError if the gate does not answer within `wait_seconds`, or has another token.
    """

    def __init__(self, host: str, port: int, *, token: bytes, wait_seconds: float) -> None:
        self._gate = (host, port)
        self._token = token
        deadline = time.monotonic() + wait_seconds
        while (problem := asyncio.run(self._try())) is not None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the launcher at {host}:{port} did not answer within {wait_seconds:.0f} s ({problem}). Is it "
                    "started, and does a firewall let the port through?"
                )
            time.sleep(0.5)
        super().__init__(socket.create_server(("127.0.0.1", 0), backlog=1024), token)

    async def _try(self) -> str | None:
        """Connect once, and disconnect; returns what is in the way."""
        try:
            _, writer = await self._connect()
        except (OSError, EOFError) as error:
            return str(error) or "it closed the connection" if isinstance(error, EOFError) else _reason(error)
        writer.close()
        return None

    async def _connect(self) -> Stream:
        async with asyncio.timeout(AUTHENTICATION_SECONDS):
            reader, writer = await asyncio.open_connection(*self._gate)
            try:
                _notice_silence(writer)
                theirs, ours = await reader.readexactly(_DIGEST), secrets.token_bytes(_DIGEST)
                writer.write(ours + signature(self._token, b"node", theirs, ours))
                answer = await reader.readexactly(_DIGEST)
                if not hmac.compare_digest(answer, signature(self._token, b"gate", theirs, ours)):
                    raise UserError(
                        f"the launcher at {self._gate[0]}:{self._gate[1]} has another token than this node. Set "
                        f"{TOKEN_VARIABLE} to the same random text on every node."
                    )
            except BaseException:
                writer.close()
                raise
        return reader, writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(10):  # a flood of strangers can push a connection out before it is authenticated
            with contextlib.suppress(OSError, EOFError):
                gate = await self._connect()
                break
            await asyncio.sleep(0.2)
        else:
            return
        await _forward((reader, writer), gate)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or "no answer"


async def _forward(one: Stream, other: Stream) -> None:
    """Carry bytes both ways until either end closes."""
    pumps = [asyncio.ensure_future(_pump(one[0], other[1])), asyncio.ensure_future(_pump(other[0], one[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for _, writer in (one, other):
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(1 << 16):
        writer.write(content)
        await writer.drain()


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Have the kernel close a connection whose other end is down or cut off: neither would close it."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("KEEPIDLE", 2), ("KEEPINTVL", 2), ("KEEPCNT", (SILENCE_SECONDS - 2) // 2)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
