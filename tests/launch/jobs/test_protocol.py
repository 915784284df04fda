"""The connection between a coordinator and its nodes, over real sockets."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs import protocol
from neuroimagen.launch.jobs.protocol import Connection, LostError, Message, connect, listen, version_skew, versions


@pytest.fixture
def both_ends() -> Iterator[tuple[Connection, Connection]]:
    with listen(0) as listener:
        node = connect("127.0.0.1", listener.getsockname()[1], wait_seconds=5)
        coordinator = Connection(listener.accept()[0])
    yield node, coordinator
    for end in (node, coordinator):
        end._closed.set()
        end._socket.close()


def received(end: Connection, is_enough: Callable[[list[Message]], bool]) -> list[Message]:
    messages: list[Message] = []
    deadline = time.monotonic() + 20
    while not is_enough(messages):
        assert time.monotonic() < deadline, messages
        messages += end.receive()
        time.sleep(0.01)
    return messages


def test_messages_arrive_whole_in_order_and_without_the_heartbeat(both_ends: tuple[Connection, Connection]) -> None:
    node, coordinator = both_ends
    sent = [{"type": "log", "lines": [[0, "x" * 300_000]]}, {"type": "ended", "outcome": "done"}]
    for message in sent:
        node.send(message)
    node.send({"type": "alive"})
    assert received(coordinator, lambda messages: len(messages) == 2) == sent
    assert coordinator.receive() == []


def test_the_last_message_is_read_before_the_end_of_the_connection(both_ends: tuple[Connection, Connection]) -> None:
    node, coordinator = both_ends
    node.send({"type": "finish"})
    node.close()
    assert received(coordinator, bool) == [{"type": "finish"}]
    with pytest.raises(LostError, match="the connection was closed"):
        coordinator.receive()


def test_a_peer_without_a_heartbeat_is_lost(
    both_ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, coordinator = both_ends
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 0.3)
    node._closed.set()  # ends its heartbeat; the connection stays open
    with pytest.raises(LostError, match=r"nothing was heard for \d+ s"):
        received(coordinator, lambda messages: False)


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n"])
def test_what_is_no_message_loses_the_connection_not_the_job(content: bytes) -> None:
    with listen(0) as listener:
        stranger = socket.create_connection(listener.getsockname()[:2])
        link = Connection(listener.accept()[0])
    stranger.sendall(content)
    time.sleep(0.2)
    with pytest.raises(LostError, match="not a message"):
        link.receive()
    stranger.close()


def test_a_coordinator_that_does_not_answer_and_a_taken_port_are_named() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used: .* Choose another with --port"):
            listen(port)
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} did not answer within 0 s"):
        connect("127.0.0.1", port, wait_seconds=0)


def test_versions_name_packages_and_our_sources() -> None:
    found = versions()
    assert {"Python", "torch", "neuroimagen's sources"} <= found.keys()
    assert found == versions()
    assert version_skew(found, found) == []
    assert version_skew({"a": "1"}, {"a": "2"}) == ["a 1 against 2"]
    assert version_skew({"a": "1"}, {"b": "2"}) == ["a 1 against absent", "b absent against 2"]
