"""Starts one node's ranks, watches them, and leaves none behind.

Several nodes are started by launch/jobs/coordinator.py; each runs its own ranks with this module.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.launch.jobs.hosts import interface_towards
from neuroimagen.launch.jobs.logs import Line, LogTail, append_merged
from neuroimagen.launch.jobs.rank_command import Job, launch_command, launch_environment
from neuroimagen.trainer.runs.rank_status import RankStatus, clear_statuses, read_statuses

STOP_GRACE_SECONDS = 120.0
"""Time that ranks have to save and exit after a stop signal, before they are killed."""
DEATH_GRACE_SECONDS = 5.0
"""Time that the other ranks have to exit after one has died: they may wait in a collective that can never end."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals to save and exit. SLURM sends SIGUSR1 before the time limit."""


class JobFailedError(UserError):
    """Ranks failed.

    Args:
        message: What happened, where the logs are, and what to do.
        kind: The cause: a rank `died` or `failed`, one `refused` (a user's mistake), a node was `lost`, or the
            `launcher` ended early.
        time: When it failed, in seconds since the epoch.
    """

    def __init__(self, message: str, *, kind: str, time: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.time = time

    @property
    def can_restart(self) -> bool:
        """Whether the same start may succeed when it is repeated."""
        return self.kind in ("died", "failed", "launcher")


def run_job(
    job: Job, *, watch: Callable[[], None], take_lines: Callable[[list[Line]], None] | None = None
) -> int | None:
    """Run a job to its end; returns None when it is done, or the signal on which it was asked to stop and did.

    SIGTERM, SIGINT and SIGUSR1 reach every rank of this node at once, so that all save together (the launcher would
    signal one after the other and kill each after 30 s). A second signal kills the ranks. `watch` is called a few times
    per second; an exception that it raises ends the job. `take_lines` gets the lines that the ranks print; by default
    they are merged into job.log.

    Raises JobFailedError when a rank failed: with the rank's own message if it left one, else its number and log.
    """
    job.log_folder.mkdir(parents=True, exist_ok=True)
    clear_statuses(job.log_folder, job.ranks)
    environment = launch_environment(
        os.environ,
        num_ranks=job.num_ranks,
        num_cores=len(os.sched_getaffinity(0)),
        interface=interface_towards(job.master_address) if len(job.nodes) > 1 else None,
    )
    tail = LogTail(job.log_folder, job.ranks)
    if take_lines is None:
        take_lines = partial(append_merged, job.log_folder)
    with (job.log_folder / launcher_log_name(job)).open("ab") as log:
        process = subprocess.Popen(
            launch_command(job),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ending_with_this_process(),
        )
    stop_signals: list[int] = []

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        stop_signals.append(signum)
        if len(stop_signals) > 1 or not _signal_ranks(job):
            _kill_job(process, job)

    previous = {signum: signal.signal(signum, ask_to_stop) for signum in STOP_SIGNALS}
    deadline: float | None = None
    dead: RankStatus | None = None
    try:
        while process.poll() is None:
            watch()
            take_lines(tail.poll())
            time.sleep(0.2)
            if dead is None:
                dead = _dead_rank(job)
                if dead is not None:
                    deadline = time.monotonic() + DEATH_GRACE_SECONDS
            if deadline is None and stop_signals:
                deadline = time.monotonic() + STOP_GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                _kill_job(process, job)
        watch()
    finally:
        _kill_job(process, job)
        process.wait()
        take_lines(tail.poll(last=True))
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    statuses = read_statuses(job.log_folder, job.ranks)
    dead = dead or _dead_rank(job)
    if len(statuses) == job.num_ranks and all(status.state in ("done", "stopped") for status in statuses):
        # A stop signal during the last step has no effect: the job is done.
        stopped = statuses[0].state == "stopped"
        return (stop_signals[0] if stop_signals else signal.SIGTERM) if stopped else None
    if stop_signals and (len(stop_signals) > 1 or len(statuses) < job.num_ranks):
        return stop_signals[-1]
    raise failure(statuses, dead, job, process.returncode)


def launcher_log_name(job: Job) -> str:
    return f"launcher-{job.node_rank}.log" if len(job.nodes) > 1 else "launcher.log"


def _dead_rank(job: Job) -> RankStatus | None:
    return next((status for status in read_statuses(job.log_folder, job.ranks) if status.has_died), None)


def failure(statuses: Sequence[RankStatus], dead: RankStatus | None, job: Job, returncode: int) -> JobFailedError:
    """The error of a failed job.

    Ranks often fail as a consequence of another's failure: one that died is named before a user's mistake, which is
    named before the earliest other failure.
    """
    if dead is not None:
        where = f" on {job.nodes[job.node_rank].host}" if len(job.nodes) > 1 else ""
        return JobFailedError(
            f"rank {dead.rank}{where} exited without an error message (process {dead.pid}: killed, or out of memory). "
            f"The other ranks were stopped. The logs are in {job.log_folder}. Go on from the last checkpoint with "
            "--resume.",
            kind="died",
            time=time.time(),
        )
    for state in ("refused", "failed"):
        first = min((s for s in statuses if s.state == state), key=lambda s: s.time, default=None)
        if first is not None:
            message = (
                first.message
                if state == "refused"
                else f"rank {first.rank} failed: {first.message} (log: {job.log_folder})"
            )
            return JobFailedError(message, kind=state, time=first.time)
    return JobFailedError(
        f"the launcher ended with code {returncode} before every rank was done. The logs are in {job.log_folder}.",
        kind="launcher",
        time=time.time(),
    )


def _signal_ranks(job: Job) -> bool:
    """Ask every rank to stop. Returns False, and asks none, while some are still starting: no work can be lost then."""
    statuses = read_statuses(job.log_folder, job.ranks)
    if len(statuses) < job.num_ranks:
        return False
    for status in statuses:
        if status.state == "running" and not status.has_died:
            os.kill(status.pid, signal.SIGTERM)
    return True


def _kill_job(process: subprocess.Popen[bytes], job: Job) -> None:
    """Kill what is left of the job. The process group is not enough: torchrun gives each rank its own session."""
    import psutil

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for status in read_statuses(job.log_folder, job.ranks):
        with contextlib.suppress(psutil.Error):
            rank = psutil.Process(status.pid)
            if job.module in rank.cmdline():  # not another process that has been given the same number
                rank.kill()
