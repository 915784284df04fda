"""Runs a job: starts its nodes, watches them, starts them again after a loss, and names the cause of a failure.

It runs where the command was typed. The nodes' programs (launch/nodes/agent.py) meet in a store of this process.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.launch.nodes.board import Board, Message, version_skew
from neuroimagen.launch.nodes.causes import JobFailedError, causes_by_attempt
from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE, Gate
from neuroimagen.launch.nodes.job import AGAIN_CODE, LOOPBACK, SAFE_PATH, STOP_SIGNALS, Job
from neuroimagen.launch.nodes.logs import MERGED
from neuroimagen.trainer.runs.rank_status import clear_statuses, read_statuses

if TYPE_CHECKING:
    import torch.distributed as dist

STOP_GRACE_SECONDS = 125.0
"""Time that ranks have to save and exit after a stop signal, before they are killed."""
REPORT_SECONDS = 4.0
"""Time in which other nodes may report a failure whose consequence was reported first."""
SILENCE_SECONDS = 12.0
"""A node that has not been heard of for this long is lost."""
SAME_SIGNAL_SECONDS = 2.0
"""Stop signals that follow the first so soon count as one."""
RETRY_SECONDS = 2.0
QUIET_SECONDS = 2.5
DEATH_GRACE_SECONDS = 5.0
"""Time that the nodes' programs have to exit at the end."""
StartCommands = Callable[[int], Sequence[Sequence[str]]]
"""From the port of the store on this machine to the commands that start the nodes. They read the token on their first
line, or in their environment."""


def run_job(
    job: Job,
    commands: StartCommands,
    *,
    token: bytes,
    max_restarts: int,
    watch: Callable[[], None],
    say: Callable[[str], None],
    wait_seconds: float = 300.0,
) -> int | None:
    """Run a job to its end; returns None when it is done, or the signal on which it was asked to stop and did.

    SIGTERM, SIGINT and SIGUSR1 reach every rank at once, so that all save together. A second signal, later than two
    seconds after the first, kills the ranks.
    `watch` is called a few times per second; an exception that it raises ends the job.

    Raises JobFailedError with the cause when the job fails more often than `max_restarts`; UserError when nodes do not
    come, or differ in versions.
    """
    job.log_folder.mkdir(parents=True, exist_ok=True)
    stops: list[int] = []

    asked_at = 0.0

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        # SLURM's signal comes twice: to every process of the job, and from the batch script, which passes it on.
        nonlocal asked_at
        if not stops or time.monotonic() - asked_at > SAME_SIGNAL_SECONDS:
            asked_at = time.monotonic()
            stops.append(signum)

    previous = {signum: signal.signal(signum, ask_to_stop) for signum in STOP_SIGNALS}
    num_restarts = 0

    def restart(error: JobFailedError) -> None:
        """Count a restart. Raises the error where there is none left, or none would help."""
        nonlocal num_restarts
        if stops or num_restarts == max_restarts or not error.can_restart:
            raise error
        num_restarts += 1
        say(f"{time.strftime('%H:%M:%S')} {error} Restart {num_restarts} of {max_restarts}.")

    try:
        while True:
            with _Start(job, commands, token, wait_seconds=wait_seconds, is_first=not num_restarts) as start:
                with contextlib.suppress(_StartAgain):
                    return start.follow(stops, watch, restart, max_restarts=max_restarts - num_restarts)
                start.code = AGAIN_CODE
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class _StartAgain(Exception):  # noqa: N818
    """The nodes have to be started anew: one is lost, or had ended when another failed."""


class _Start:
    """One start of the job's nodes, with a store of its own. PyTorch's agents restart ranks within it."""

    def __init__(self, job: Job, commands: StartCommands, token: bytes, *, wait_seconds: float, is_first: bool) -> None:
        self._job = job
        self._commands = commands
        self._token = token
        self._wait_seconds = wait_seconds
        self._nodes = range(len(job.nodes))
        self._is_first = is_first
        self._starters: list[subprocess.Popen[bytes]] = []
        self._heard: dict[int, tuple[int, float]] = {}
        """Of each node that has come, its number of heartbeats and when the last came."""
        self._ended: dict[int, Message] = {}
        self._num_failures = dict.fromkeys(self._nodes, 0)
        self._num_cleaned = 0
        self._run_id = secrets.token_hex(8)
        self.code = 1

    def __enter__(self) -> "_Start":
        clear_statuses(self._job.log_folder)
        store, port = _loopback_store()
        self._board = Board(store, self._token)
        self._gate: Gate | None = None
        try:
            if not self._job.is_local:
                self._gate = Gate(self._job.bind, self._job.port, token=self._token, target=port)
            self._started = self._commands(port)
            self._starters += map(self._start, self._started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self._job.log_folder / MERGED).open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **SAFE_PATH, TOKEN_VARIABLE: self._token.decode()},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ending_with_this_process(),
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(self._token + b"\n")
        return process

    def follow(
        self,
        stops: Sequence[int],
        watch: Callable[[], None],
        restart: Callable[[JobFailedError], None],
        *,
        max_restarts: int,
    ) -> int | None:
        """Wait for the nodes, and then for their end; returns as run_job does. Raises _StartAgain after a loss."""
        if not self._gather(stops):
            return stops[0]
        self._board.put("begin", {"run_id": self._run_id, "max_restarts": max_restarts})
        reports: list[Message] = []
        judged_at: float | None = None
        kill_at: float | None = None
        while True:
            watch()
            if self._board.get(f"restart/{self._num_cleaned + 1}") is not None:
                self._num_cleaned += 1
                self._board.forget_ranks()
                self._board.put(f"clean/{self._num_cleaned}", {})
            now = time.monotonic()
            reports += self._new_reports(now)
            if reports and judged_at is None:
                judged_at = now + REPORT_SECONDS
            is_over = len(self._ended) == len(self._nodes)
            if judged_at is not None and (is_over or (now > judged_at and not self._is_one_quiet(now))):
                for cause in causes_by_attempt(reports):
                    restart(cause)
                failed = max(report["attempt"] for report in reports)
                if any(
                    ended["outcome"] in ("lost", "failed") or ended["attempt"] <= failed
                    for ended in self._ended.values()
                ):
                    raise _StartAgain
                reports, judged_at = [], None  # PyTorch's agents restart the ranks, or have done so
            if is_over:
                is_stopped = any(message["outcome"] == "stopped" for message in self._ended.values())
                self.code = 0
                return (stops[0] if stops else signal.SIGTERM) if is_stopped else None
            if stops and kill_at is None:
                if len(read_statuses(self._job.log_folder)) < self._job.num_ranks:
                    return stops[0]  # some ranks are still starting: no work can be lost
                self._board.put("stop", {})
                kill_at = now + STOP_GRACE_SECONDS
            if len(stops) > 1:
                return stops[-1]
            if kill_at is not None and now > kill_at:
                raise JobFailedError(
                    f"the ranks did not stop within {STOP_GRACE_SECONDS:.0f} s and were killed.", kind="launcher"
                )
            time.sleep(0.2)

    def _gather(self, stops: Sequence[int]) -> bool:
        """Wait until every node has come, and check their versions; False if asked to stop."""
        deadline = time.monotonic() + self._wait_seconds
        found: dict[int, dict[str, str]] = {}
        while len(found) < len(self._nodes):
            if stops:
                return False
            for node in set(self._nodes) - found.keys():
                if (hello := self._board.get(f"hello/{node}")) is not None:
                    found[node] = hello["versions"]
            missing = ", ".join(self._job.name_of(node) for node in self._nodes if node not in found)
            for index, starter in enumerate(self._starters):
                if not missing or starter.poll() in (None, 0):
                    continue
                if self._is_first:
                    raise UserError(
                        f"the command that starts the nodes ended with code {starter.returncode} before {missing} "
                        f"reported. Its output is in {self._job.log_folder / MERGED}."
                    )
                time.sleep(RETRY_SECONDS)  # a node that was lost may be starting up
                self._starters[index] = self._start(self._started[index])
            if missing and time.monotonic() > deadline:
                raise UserError(self._absence(missing))
            time.sleep(0.1)
        self._heard = {node: (0, time.monotonic()) for node in self._nodes}
        for node in self._nodes[1:]:
            if skew := version_skew(found[0], found[node]):
                raise UserError(
                    f"{self._job.name_of(0)} and {self._job.name_of(node)} differ: {'; '.join(skew)}. Set both up from "
                    "the same commit."
                )
        return True

    def _absence(self, missing: str) -> str:
        refused = ""
        if self._gate is not None and self._gate.num_refused:
            refused = f" {self._gate.num_refused} connections without the job's token were refused."
        return (
            f"{missing} did not report within {self._wait_seconds:.0f} s.{refused} Check that the same command runs "
            f"there, and that {self._job.address}:{self._job.port} can be reached from there."
        )

    def _new_reports(self, now: float) -> Iterator[Message]:
        """The failures that nodes have reported since the last call, and the nodes that were lost."""
        for node in self._nodes:
            while (report := self._board.get(f"failure/{node}/{self._num_failures[node]}")) is not None:
                self._num_failures[node] += 1
                yield report
            if node in self._ended:
                continue
            if (ended := self._board.get(f"ended/{node}")) is not None:
                self._ended[node] = ended
                if ended["outcome"] == "failed":
                    yield ended
                continue
            count, heard_at = self._heard[node]
            if (beats := self._board.count(f"beat/{node}", 0)) != count:
                self._heard[node] = (beats, now)
            elif now - heard_at > SILENCE_SECONDS or self._is_gone(node):
                self._ended[node] = {"outcome": "lost"}
                yield self._loss(node, "its program has ended" if self._is_gone(node) else "nothing is heard of it")

    def _is_one_quiet(self, now: float) -> bool:
        """Whether a node has missed some heartbeats: if it is lost, that is the cause of what others report."""
        return any(now - self._heard[node][1] > QUIET_SECONDS for node in self._nodes if node not in self._ended)

    def _is_gone(self, node: int) -> bool:
        """Whether the command that started this node alone has ended."""
        starters = self._starters
        return len(starters) == len(self._nodes) and starters[node].poll() is not None

    def _loss(self, node: int, why: str) -> Message:
        if self._job.is_local:
            message = (
                "the program that watches the ranks was killed, and the ranks with it. Its output is in "
                f"{self._job.log_folder / MERGED}. Go on from the last checkpoint with --resume."
            )
        else:
            message = (
                f"{self._job.name_of(node)} is lost: {why}. It is down, cut off from the network, or was killed "
                "there. The other nodes were stopped. Go on from the last checkpoint with --resume."
            )
        return {"kind": "lost", "message": message, "time": time.time(), "attempt": 0}

    def __exit__(self, *_: object) -> None:
        """End the nodes: all of them, however far they are."""
        with contextlib.suppress(RuntimeError):
            self._board.put("verdict", {"code": self.code})
        deadline = time.monotonic() + DEATH_GRACE_SECONDS
        alive = sum(node not in self._ended or self._ended[node]["outcome"] != "lost" for node in self._heard)
        while time.monotonic() < deadline and (
            self._board.count("left", 0) < alive or any(starter.poll() is None for starter in self._starters)
        ):
            time.sleep(0.05)
        for kill in (signal.SIGTERM, signal.SIGKILL):
            for starter in self._starters:
                if starter.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(starter.pid, kill)
            for starter in self._starters:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    starter.wait(DEATH_GRACE_SECONDS)
        if self._gate is not None:
            self._gate.close()
        del self._board  # with the store


def _loopback_store() -> "tuple[dist.TCPStore, int]":
    """A store that only processes of this machine reach, and its port."""
    import torch.distributed as dist

    listener = socket.create_server((LOOPBACK, 0), backlog=1024)
    port: int = listener.getsockname()[1]
    return (
        dist.TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()),
        port,
    )
