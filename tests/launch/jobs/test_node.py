"""A node: how it reports the end of its ranks, and how it follows and loses its coordinator."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs import node
from neuroimagen.launch.jobs.local_ranks import JobFailedError
from neuroimagen.launch.jobs.logs import Line
from neuroimagen.launch.jobs.protocol import Connection, Message, connect, listen
from neuroimagen.launch.jobs.rank_command import Job

JOB = Job(module="m", arguments=(), num_ranks=1, log_folder=Path("/l"), master_port=1)
RunJob = Callable[..., int | None]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen(0) as listening:
        listening.settimeout(20)
        yield listening


@pytest.fixture
def both_ends(listener: socket.socket) -> Iterator[tuple[Connection, Connection]]:
    link = connect("127.0.0.1", listener.getsockname()[1], wait_seconds=5)
    coordinator = Connection(listener.accept()[0])
    yield link, coordinator
    for end in (link, coordinator):
        end._closed.set()
        end._socket.close()


def receive(link: Connection) -> Message:
    """The next message."""
    while not (messages := link.receive()):
        time.sleep(0.01)
    (message,) = messages
    return message


def ends(outcome: int | Exception | None) -> RunJob:
    def run_job(job: Job, *, watch: Callable[[], None], take_lines: Callable[[list[Line]], None]) -> int | None:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run_job


@pytest.mark.parametrize(
    ("outcome", "report"),
    [
        (None, {"outcome": "done"}),
        (signal.SIGUSR1, {"outcome": "stopped"}),
        (JobFailedError("rank 0 died", kind="died", time=7.0), {"outcome": "failed", "kind": "died", "time": 7.0}),
        (UserError("too few GPUs"), {"outcome": "failed", "kind": "refused", "message": "too few GPUs"}),
        (OSError("disk full"), {"outcome": "failed", "kind": "refused", "message": "disk full"}),
    ],
)
def test_the_end_of_the_ranks_is_reported(
    both_ends: tuple[Connection, Connection],
    monkeypatch: pytest.MonkeyPatch,
    outcome: int | Exception | None,
    report: Message,
) -> None:
    monkeypatch.setattr(node, "run_job", ends(outcome))
    assert report.items() <= node.run_attempt(JOB, both_ends[0]).items()


def test_lines_are_sent_and_abort_ends_the_ranks(
    both_ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, coordinator = both_ends

    def run_job(job: Job, *, watch: Callable[[], None], take_lines: Callable[[list[Line]], None]) -> None:
        take_lines([])
        take_lines([(0, "step 1")])
        assert receive(coordinator) == {"type": "log", "lines": [[0, "step 1"]]}
        coordinator.send({"type": "abort"})
        while True:
            watch()
            time.sleep(0.01)

    monkeypatch.setattr(node, "run_job", run_job)
    assert node.run_attempt(JOB, link) == {"outcome": "aborted"}


def test_a_node_serves_its_coordinator_until_it_is_finished_or_gone(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, *, watch: Callable[[], None], take_lines: Callable[[list[Line]], None]) -> None:
        jobs.append(job)

    monkeypatch.setattr(node, "run_job", run_job)
    port = listener.getsockname()[1]
    words = ["--coordinator=127.0.0.1", f"--port={port}", "--node-rank=1", "--nodes=a:1,b:2", "--master-address=a"]
    monkeypatch.setattr(sys, "argv", ["node", *words, "--logs=/l", "--cpu", "--module=m", "--", "x", "--y"])
    monkeypatch.setenv("A_VARIABLE", "old")
    sys.argv.insert(1, "--export=A_VARIABLE=new=1")

    def coordinate(*, is_finished: bool) -> None:
        link = Connection(listener.accept()[0])
        hello = receive(link)
        assert (hello["type"], hello["node"]) == ("hello", 1)
        link.send({"type": "start", "port": 4242})
        assert receive(link)["outcome"] == "done"
        if is_finished:
            link.send({"type": "finish", "code": 3})
        link.close()

    for is_finished, code in ((True, 3), (False, 1)):
        thread = threading.Thread(target=coordinate, kwargs={"is_finished": is_finished})
        thread.start()
        assert node.main() == code
        thread.join(20)
    assert "node 1: the connection to the coordinator is lost: the connection was closed." in capsys.readouterr().err
    assert len(jobs) == 2
    assert (jobs[0].num_ranks, jobs[0].ranks, jobs[0].master_port) == (2, range(1, 3), 4242)
    assert (jobs[0].module, jobs[0].arguments, jobs[0].devices) == ("m", ("x", "--y"), ())
    assert os.environ["A_VARIABLE"] == "new=1"
