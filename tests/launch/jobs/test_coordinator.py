"""The coordinator and its nodes over real sockets; the nodes' ranks are scripted, not run."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs import coordinator, protocol
from neuroimagen.launch.jobs.coordinator import run_nodes
from neuroimagen.launch.jobs.hosts import Node
from neuroimagen.launch.jobs.local_ranks import JobFailedError
from neuroimagen.launch.jobs.protocol import Connection, LostError, connect, listen, versions
from neuroimagen.launch.jobs.starters import NodesJob

Script = Callable[[Connection, dict[str, Any]], None]
"""What a node does when it is told to start."""
DONE = {"type": "ended", "outcome": "done", "port": 1}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "DEATH_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 2.0)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listen(0) as listener:
        yield listener


def run(
    server: socket.socket, folder: Path, scripts: list[Script], *, restarts: int = 0, skew: dict[str, str] | None = None
) -> tuple[int | None, list[str], list[dict[str, Any]]]:
    """Run a job whose nodes follow `scripts`; returns the result, what was said, and every message a node was sent."""
    port = server.getsockname()[1]
    nodes = tuple(Node(host=f"n{k}", num_ranks=2) for k in range(len(scripts)))
    job = NodesJob(
        module="m", arguments=(), nodes=nodes, coordinator="127.0.0.1", port=port, log_folder=folder, folder=folder
    )
    heard: list[dict[str, Any]] = []
    said: list[str] = []

    def node(rank: int) -> None:
        link = connect("127.0.0.1", port, wait_seconds=5)
        found = versions() | (skew or {} if rank == 1 else {})
        link.send({"type": "hello", "node": rank, "versions": found, "port": 100 + rank})
        try:
            while True:
                for message in link.receive():
                    heard.append({"node": rank, **message})
                    if message["type"] == "start":
                        scripts[rank](link, message)
                    elif message["type"] == "abort":
                        link.send({"type": "ended", "outcome": "aborted", "port": 1})
                    elif message["type"] == "finish":
                        return link.close()
                time.sleep(0.01)
        except LostError:
            return None

    threads = [threading.Thread(target=node, args=(rank,)) for rank in range(len(scripts))]
    for thread in threads:
        thread.start()
    try:
        result = run_nodes(
            job, [], max_restarts=restarts, wait_seconds=10, watch=lambda: None, say=said.append, listener=server
        )
    finally:
        for thread in threads:
            thread.join(10)
    return result, said, heard


def done(link: Connection, message: dict[str, Any]) -> None:
    link.send({"type": "log", "lines": [[2, "hello"]]})
    link.send(DONE)


def failed(kind: str, message: str) -> Script:
    outcome = {"type": "ended", "outcome": "failed", "kind": kind, "message": message, "time": time.time(), "port": 1}
    return lambda link, _: link.send(outcome)


def nothing(link: Connection, message: dict[str, Any]) -> None:
    """Ranks that wait in a collective that can never end."""


def test_nodes_start_together_and_finish(server: socket.socket, tmp_path: Path) -> None:
    result, _, heard = run(server, tmp_path, [done, done])
    assert result is None
    starts = [message for message in heard if message["type"] == "start"]
    assert [(start["node"], start["port"]) for start in sorted(starts, key=lambda s: s["node"])] == [(0, 100), (1, 100)]
    assert [message["code"] for message in heard if message["type"] == "finish"] == [0, 0]
    line = (tmp_path / "job.log").read_text().splitlines()[0]
    assert line.endswith(" n1 rank 2 | hello")  # rank 2 is the second node's first


def test_a_dead_rank_is_named_before_the_others_consequences(server: socket.socket, tmp_path: Path) -> None:
    scripts = [failed("failed", "connection reset"), failed("died", "rank 3 on n1 died"), nothing]
    with pytest.raises(JobFailedError, match="rank 3 on n1 died"):
        run(server, tmp_path, scripts)


def test_restarts_are_counted_and_said(server: socket.socket, tmp_path: Path) -> None:
    attempts = iter([failed("died", "rank 0 died"), done])
    result, said, heard = run(server, tmp_path, [lambda link, m: next(attempts)(link, m), done], restarts=1)
    assert result is None
    assert said == ["rank 0 died Restart 1 of 1."]
    assert sum(message["type"] == "start" for message in heard) == 4


def test_a_user_s_mistake_is_not_tried_again(server: socket.socket, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="the disk is full"):
        run(server, tmp_path, [failed("refused", "the disk is full"), done], restarts=5)


def test_a_silent_node_is_lost_and_named(
    server: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(link: Connection, message: dict[str, Any]) -> None:
        link._closed.set()  # its heartbeat ends, its connection stays
        time.sleep(4)

    with pytest.raises(JobFailedError, match=r"node 1 \(n1\) is lost: nothing was heard for \d+ s.*--resume"):
        run(server, tmp_path, [nothing, cut_off])


def test_other_versions_are_refused(server: socket.socket, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"node 0 \(n0\) and node 1 \(n1\) differ: torch .* against 1\.0\."):
        run(server, tmp_path, [done, done], skew={"torch": "1.0"})


def test_a_stop_signal_reaches_every_node(server: socket.socket, tmp_path: Path) -> None:
    def stops(link: Connection, message: dict[str, Any]) -> None:
        while not any(m["type"] == "stop" for m in link.receive()):
            time.sleep(0.01)
        link.send({"type": "ended", "outcome": "stopped", "port": 1})

    killer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    result, _, _ = run(server, tmp_path, [stops, stops])
    assert result == signal.SIGUSR1


def test_a_node_that_never_comes_is_named(server: socket.socket, tmp_path: Path) -> None:
    job = NodesJob(
        module="m",
        arguments=(),
        nodes=(Node(host="n0", num_ranks=1),),
        coordinator="127.0.0.1",
        port=1,
        log_folder=tmp_path,
        folder=tmp_path,
    )
    with pytest.raises(UserError, match=r"node 0 \(n0\) did not report within 0 s"):
        run_nodes(job, [], max_restarts=0, wait_seconds=0.3, watch=lambda: None, say=print, listener=server)
    with pytest.raises(UserError, match="ended with code 3 before node 0"):
        run_nodes(
            job, [["bash", "-c", "exit 3"]], max_restarts=0, wait_seconds=9, watch=print, say=print, listener=listen(0)
        )
