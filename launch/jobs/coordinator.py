"""Runs a job of several nodes: starts, watches and restarts them, and names the cause of a failure.

The nodes (launch/jobs/node.py) report to the coordinator over TCP; it runs where `neuroimagen launch` was typed.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.launch.jobs.local_ranks import DEATH_GRACE_SECONDS, STOP_GRACE_SECONDS, STOP_SIGNALS, JobFailedError
from neuroimagen.launch.jobs.logs import append_merged
from neuroimagen.launch.jobs.protocol import Connection, LostError, Message, listen, version_skew
from neuroimagen.launch.jobs.starters import NodesJob

_CAUSES = ("lost", "died", "refused", "failed", "launcher")
"""Kinds of failure, in the order in which one causes another."""


class Member:
    """A node, as the coordinator sees it."""

    def __init__(self, job: NodesJob, hello: Message, link: Connection) -> None:
        self.node_rank = int(hello["node"])
        self.host = job.nodes[self.node_rank].host
        self.versions: dict[str, str] = hello["versions"]
        self.port = int(hello["port"])
        """A free TCP port on the node, where rank 0 of this attempt may listen."""
        self.link = link
        self.ended: Message | None = None
        """The node's report of how this attempt's ranks ended; None while they run."""

    @property
    def name(self) -> str:
        return f"node {self.node_rank} ({self.host})"

    def end(self, outcome: Message) -> None:
        self.ended = outcome


def run_nodes(
    job: NodesJob,
    commands: Sequence[Sequence[str]],
    *,
    max_restarts: int,
    wait_seconds: float,
    watch: Callable[[], None],
    say: Callable[[str], None],
    listener: socket.socket | None = None,
) -> int | None:
    """Start nodes by `commands` and run the job to its end; returns None, or the signal that stopped it.

    Nodes that no command starts (containers without ssh) connect by themselves. `watch` is called repeatedly.

    Raises JobFailedError with the cause when the job fails more often than `max_restarts`; UserError when nodes do not
    connect, or differ in versions.
    """
    job.log_folder.mkdir(parents=True, exist_ok=True)
    stop_signals: list[int] = []
    members: list[Member] = []

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        stop_signals.append(signum)
        _tell(members, {"type": "stop"})

    previous = {signum: signal.signal(signum, ask_to_stop) for signum in STOP_SIGNALS}
    starters: list[subprocess.Popen[bytes]] = []
    code = 1
    try:
        with listener or listen(job.port) as server, (job.log_folder / "nodes.log").open("ab") as log:
            for command in commands:
                starters.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=ending_with_this_process(),
                    )
                )
            _gather(job, server, members, starters, wait_seconds=wait_seconds, is_stopped=lambda: bool(stop_signals))
            members.sort(key=lambda member: member.node_rank)
            if stop_signals:
                return stop_signals[0]
            check_versions(members)
        for attempt in range(max_restarts + 1):
            try:
                stopped = _run_attempt(job, members, watch=watch, is_stopped=lambda: bool(stop_signals))
            except JobFailedError as error:
                if stop_signals or attempt == max_restarts or not error.can_restart:
                    raise
                say(f"{error} Restart {attempt + 1} of {max_restarts}.")
            else:
                code = 0
                return (stop_signals[0] if stop_signals else signal.SIGTERM) if stopped else None
        raise AssertionError("unreachable")
    finally:
        _tell(members, {"type": "finish", "code": code})
        _end(starters)
        for member in members:
            member.link.close()
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _gather(
    job: NodesJob,
    server: socket.socket,
    members: list[Member],
    starters: Sequence[subprocess.Popen[bytes]],
    *,
    wait_seconds: float,
    is_stopped: Callable[[], bool],
) -> None:
    """Wait until every node has connected; fills `members`."""
    deadline = time.monotonic() + wait_seconds
    waiting: list[Connection] = []
    while len(members) < len(job.nodes) and not is_stopped():
        with contextlib.suppress(TimeoutError):
            waiting.append(Connection(server.accept()[0]))
        for link in list(waiting):
            try:
                messages = link.receive()
            except LostError:
                waiting.remove(link)
                continue
            if not messages:
                continue
            waiting.remove(link)
            member = _greet(job, messages[0], link)
            if member is None or any(other.node_rank == member.node_rank for other in members):
                link.close()  # not a node of this job, or one that has connected already
            else:
                members.append(member)
        missing = [
            f"node {rank} ({node.host})"
            for rank, node in enumerate(job.nodes)
            if all(member.node_rank != rank for member in members)
        ]
        failed = next((starter for starter in starters if starter.poll() not in (None, 0)), None)
        if missing and failed is not None:
            raise UserError(
                f"the command that starts the nodes ended with code {failed.returncode} before {', '.join(missing)} "
                f"reported. Its output is in {job.log_folder / 'nodes.log'}."
            )
        if missing and time.monotonic() > deadline:
            raise UserError(
                f"{', '.join(missing)} did not report within {wait_seconds:.0f} s. Check that the same command runs "
                f"there, and that {job.coordinator}:{job.port} can be reached from there."
            )


def _greet(job: NodesJob, hello: Message, link: Connection) -> Member | None:
    try:
        member = Member(job, hello, link)
    except (KeyError, ValueError, IndexError, TypeError):
        return None
    return member if hello["type"] == "hello" and 0 <= member.node_rank < len(job.nodes) else None


def check_versions(members: Sequence[Member]) -> None:
    """Raise UserError if a node has other versions than the first: their results would not agree."""
    first = members[0]
    for member in members[1:]:
        skew = version_skew(first.versions, member.versions)
        if skew:
            raise UserError(
                f"{first.name} and {member.name} differ: {'; '.join(skew)}. Set both up from the same commit."
            )


def _run_attempt(
    job: NodesJob, members: Sequence[Member], *, watch: Callable[[], None], is_stopped: Callable[[], bool]
) -> bool:
    """Start the ranks once and wait for their end; returns whether they stopped on request. Raises JobFailedError."""
    for member in members:
        member.ended = None
    port = members[0].port
    hosts = {rank: job.host_of(rank) for rank in range(job.num_ranks)}
    _tell(members, {"type": "start", "port": port})
    deadline: float | None = None
    aborted = False
    while any(member.ended is None for member in members):
        for member in members:
            try:
                messages = member.link.receive()
            except LostError as error:
                if member.ended is None:
                    member.end(_lost(member, error))
                continue
            for message in messages:
                if message["type"] == "log":
                    append_merged(job.log_folder, [(int(r), str(t)) for r, t in message["lines"]], hosts)
                elif message["type"] == "ended":
                    member.port = int(message["port"])
                    if member.ended is None:
                        member.end(message)
        watch()
        if deadline is None:
            if any(member.ended and member.ended["outcome"] in ("failed", "lost") for member in members):
                # Another node's report may name the cause. Wait a moment for it, then end the other ranks.
                deadline = time.monotonic() + DEATH_GRACE_SECONDS + 1.0
            elif is_stopped():
                deadline = time.monotonic() + STOP_GRACE_SECONDS
        elif time.monotonic() > deadline and not aborted:
            aborted = True
            _tell(members, {"type": "abort"})
        time.sleep(0.1)
    outcomes = [member.ended for member in members if member.ended is not None]
    failures = [outcome for outcome in outcomes if outcome["outcome"] in ("failed", "lost")]
    if failures:
        cause = min(failures, key=lambda outcome: (_CAUSES.index(outcome["kind"]), outcome["time"]))
        raise JobFailedError(cause["message"], kind=cause["kind"], time=cause["time"])
    if any(outcome["outcome"] == "aborted" for outcome in outcomes):
        raise JobFailedError(
            f"the ranks did not stop within {STOP_GRACE_SECONDS:.0f} s and were killed.", kind="launcher"
        )
    return outcomes[0]["outcome"] == "stopped"


def _lost(member: Member, error: LostError) -> Message:
    return {
        "outcome": "lost",
        "kind": "lost",
        "message": f"{member.name} is lost: {error}. It is down or cut off from the network. The other nodes were "
        "stopped. Go on from the last checkpoint with --resume.",
        "time": time.time(),
    }


def _tell(members: Sequence[Member], message: Message) -> None:
    for member in members:
        with contextlib.suppress(LostError):  # receive() raises it
            member.link.send(message)


def _end(starters: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for the commands that started the nodes; kill those that do not end."""
    deadline = time.monotonic() + DEATH_GRACE_SECONDS
    for starter in starters:
        with contextlib.suppress(subprocess.TimeoutExpired):
            starter.wait(max(0.1, deadline - time.monotonic()))
    for starter in starters:
        if starter.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(starter.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                starter.wait(DEATH_GRACE_SECONDS)
        if starter.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(starter.pid, signal.SIGKILL)
            starter.wait()
