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
"""Time that ranks have to save and leave after a stop signal, before they are killed."""
DEATH_GRACE_SECONDS = 5.0
"""Time that the other ranks have to leave after one has died: they may wait in a collective that can never end."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Save and leave. SIGUSR1 is what a SLURM script asks for ahead of its time limit."""


class JobFailedError(UserError):
    """Ranks failed. `kind` tells the cause: a rank died, one refused (a user's mistake), one failed, a node was lost,
    or the launcher ended early; `time` is when.
    """

    def __init__(self, message: str, *, kind: str, time: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.time = time

    @property
    def can_restart(self) -> bool:
        """Whether the same start may succeed another time."""
        return self.kind in ("died", "failed", "launcher")


def run_job(
    job: Job, *, watch: Callable[[], None], take_lines: Callable[[list[Line]], None] | None = None
) -> int | None:
    """Run a job to its end; returns None when it is done, or the signal on which it was asked to stop and did.

    SIGTERM, SIGINT and SIGUSR1 reach every rank of this node at once, so that all save together (the launcher would
    tell one after the other and kill each after 30 s). A second signal kills. `watch` is called a few times a second;
    what it raises ends the job. `take_lines` gets what the ranks print; by default it is merged into job.log.

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
    asked: list[int] = []

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        if len(asked) > 1 or not _signal_ranks(job):
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
            if deadline is None and asked:
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
        # A stop request that came during the last step changes nothing: the job is done.
        stopped = statuses[0].state == "stopped"
        return (asked[0] if asked else signal.SIGTERM) if stopped else None
    if asked and (len(asked) > 1 or len(statuses) < job.num_ranks):
        return asked[-1]
    raise failure(statuses, dead, job, process.returncode)


def launcher_log_name(job: Job) -> str:
    return f"launcher-{job.node_rank}.log" if len(job.nodes) > 1 else "launcher.log"


def _dead_rank(job: Job) -> RankStatus | None:
    return next((status for status in read_statuses(job.log_folder, job.ranks) if status.has_died), None)


def failure(statuses: Sequence[RankStatus], dead: RankStatus | None, job: Job, returncode: int) -> JobFailedError:
    """Why a job failed, the cause before its consequences: a dead rank, a refusal, the first other failure."""
    if dead is not None:
        where = f" on {job.nodes[job.node_rank].host}" if len(job.nodes) > 1 else ""
        return JobFailedError(
            f"rank {dead.rank}{where} died without a word (process {dead.pid}; killed, or out of memory?). The others "
            f"were stopped. Its log is in {job.log_folder}; go on from the last checkpoint with --resume.",
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
    """Ask every rank to stop; False if some are still starting, so that nobody has anything to lose yet."""
    statuses = read_statuses(job.log_folder, job.ranks)
    if len(statuses) < job.num_ranks:
        return False
    for status in statuses:
        if status.state == "running" and not status.has_died:
            os.kill(status.pid, signal.SIGTERM)
    return True


def _kill_job(process: subprocess.Popen[bytes], job: Job) -> None:
    """Kill whatever is left of the job. torchrun gives each rank a session of its own, so the group is not enough."""
    import psutil

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for status in read_statuses(job.log_folder, job.ranks):
        with contextlib.suppress(psutil.Error):
            rank = psutil.Process(status.pid)
            if job.module in rank.cmdline():  # not another's process that has the number by now
                rank.kill()
