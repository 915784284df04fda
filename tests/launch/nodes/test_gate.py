"""The gate before a job's store: who knows the token comes through, and a stranger changes nothing."""

import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from network_nodes import NONSENSE

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.nodes import gate as module
from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE, Entrance, Gate, new_token, shared_token, signature

TOKEN = b"the token of this test"


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection:
                while content := connection.recv(1 << 16):
                    connection.sendall(content)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def gate(echo: int) -> Iterator[Gate]:
    opened = Gate("127.0.0.1", 0, token=TOKEN, target=echo)
    yield opened
    opened.close()


@pytest.fixture
def entrance(gate: Gate) -> Iterator[Entrance]:
    opened = Entrance("127.0.0.1", gate.port, token=TOKEN, wait_seconds=5)
    yield opened
    opened.close()


def sent_back(port: int, content: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(content)
        found = b""
        while len(found) < len(content):
            found += connection.recv(1 << 16)
        return found


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bytes_go_both_ways_unchanged(entrance: Entrance) -> None:
    content = secrets.token_bytes(3_000_000)
    threads = [threading.Thread(target=lambda: found.append(sent_back(entrance.port, content))) for _ in range(5)]
    found: list[bytes] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [content] * 5


def test_a_closed_gate_closes_what_goes_through_it(gate: Gate, entrance: Entrance) -> None:
    with socket.create_connection(("127.0.0.1", entrance.port), timeout=20) as connection:
        connection.sendall(b"x")
        assert connection.recv(10) == b"x"
        gate.close()
        assert connection.recv(10) == b""


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_disconnected_and_reaches_nothing(
    gate: Gate, entrance: Entrance, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(module, "AUTHENTICATION_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as stranger:
        try:
            stranger.sendall(content)
            answer = b"".join(iter(lambda: stranger.recv(1 << 16), b""))
        except OSError:  # disconnected before it had said all
            answer = b""
    # A challenge of 32 bytes, and then nothing, or 32 zeros.
    assert answer[32:] in (b"", bytes(32))
    until(lambda: gate.num_refused == 1)
    assert sent_back(entrance.port, b"still here") == b"still here"


def test_an_answer_that_was_overheard_is_worth_nothing(gate: Gate) -> None:
    """Every connection has its own challenge; a gate's proof is not a node's."""

    def answer(reply: Callable[[bytes], bytes]) -> bytes:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as connection:
            challenge = connection.recv(32)
            connection.sendall(reply(challenge))
            return connection.recv(32)

    kept: list[bytes] = []

    def honest(challenge: bytes) -> bytes:
        ours = bytes(range(32))
        kept.append(ours + signature(TOKEN, b"node", challenge, ours))
        return kept[0]

    assert answer(honest) not in (b"", bytes(32))
    assert answer(lambda challenge: kept[0]) == bytes(32)
    assert answer(lambda challenge: bytes(32) + signature(TOKEN, b"gate", challenge, bytes(32))) == bytes(32)


def test_a_flood_leaves_room_for_a_node(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    strangers = [socket.create_connection(("127.0.0.1", gate.port)) for _ in range(100)]
    try:
        until(lambda: gate.num_refused == 80)
        opened = Entrance("127.0.0.1", gate.port, token=TOKEN, wait_seconds=5)
        assert sent_back(opened.port, b"through") == b"through"
        opened.close()
    finally:
        for stranger in strangers:
            stranger.close()


def test_another_token_is_named_at_once(gate: Gate) -> None:
    with pytest.raises(UserError, match=f"has another token than this node. Set {TOKEN_VARIABLE}"):
        Entrance("127.0.0.1", gate.port, token=b"another", wait_seconds=60)
    until(lambda: gate.num_refused == 1)


def test_a_gate_that_does_not_know_the_token_is_not_believed() -> None:
    """A stranger who has taken the port first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pretend() -> None:
            connection, _ = listener.accept()
            connection.sendall(bytes(32))
            connection.recv(64)
            connection.sendall(b"y" * 32)

        threading.Thread(target=pretend, daemon=True).start()
        with pytest.raises(UserError, match="has another token"):
            Entrance("127.0.0.1", listener.getsockname()[1], token=TOKEN, wait_seconds=60)


def test_a_taken_port_and_an_absent_gate_are_named(gate: Gate) -> None:
    with pytest.raises(UserError, match=rf"port {gate.port} of 127\.0\.0\.1 cannot be used: .* another with --port"):
        Gate("127.0.0.1", gate.port, token=TOKEN, target=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} did not answer within 0 s .* firewall"):
        Entrance("127.0.0.1", port, token=TOKEN, wait_seconds=0)


def test_nodes_that_share_a_home_share_a_key_that_only_this_user_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    tokens = {shared_token(Path("/runs/a")), shared_token(Path("/runs/a"))}
    assert len(tokens) == 1
    assert shared_token(Path("/runs/b")) not in tokens
    (key,) = (tmp_path / "neuroimagen").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes() not in tokens
    key.chmod(0o644)
    with pytest.raises(UserError, match=r"others can read or change .*launch.key. Delete it"):
        shared_token(Path("/runs/a"))
    monkeypatch.setenv(TOKEN_VARIABLE, "x" * 16)
    assert shared_token(Path("/runs/a")) == b"x" * 16
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(UsageError, match="has 5 characters; use at least 16"):
        shared_token(Path("/runs/a"))
    assert len({new_token() for _ in range(10)}) == 10


def test_signatures_keep_parts_apart() -> None:
    assert signature(TOKEN, b"ab", b"c") != signature(TOKEN, b"a", b"bc")
    assert signature(TOKEN, b"a") != signature(b"other", b"a")
