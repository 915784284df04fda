"""Starts one node's ranks through DeepSpeed's launcher or torchrun, watches them, and leaves none behind.

`deepspeed.launcher.launch` is what the `deepspeed` command starts on every node. On a single node the command itself
adds nothing but trouble: it does not pass SIGTERM on, leaving the ranks orphaned, and it returns 0 when the launcher
is killed. Several nodes are started by launch/jobs/coordinator.py, each with one of these.
"""

import base64
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs.hosts import Node, interface_towards
from neuroimagen.launch.jobs.logs import Line, LogTail, append_merged
from neuroimagen.trainer.runs.rank_status import RankStatus, clear_statuses, read_statuses

STOP_GRACE_SECONDS = 120.0
"""Time that ranks have to save and leave after a stop signal, before they are killed."""
DEATH_GRACE_SECONDS = 5.0
"""Time that the other ranks have to leave after one has died: they may wait in a collective that can never end."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Save and leave. SIGUSR1 is what a SLURM script asks for ahead of its time limit."""

Launcher = Literal["deepspeed", "torchrun"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to start on this node: a module, its arguments, the node's ranks and its place among the nodes."""

    module: str
    arguments: tuple[str, ...]
    num_ranks: int
    """On this node."""
    log_folder: Path
    """One log a rank, and the launcher's own."""
    master_port: int
    nodes: tuple[Node, ...] = ()
    """All nodes of the job, in rank order; empty: this one alone."""
    node_rank: int = 0
    master_address: str = "127.0.0.1"
    """Where rank 0 runs, as the other nodes reach it."""
    launcher: Launcher = "deepspeed"
    devices: tuple[str, ...] = ()
    """This node's accelerators, one a rank (DeepSpeed sets CUDA_VISIBLE_DEVICES to them); empty: the first ones."""

    @property
    def first_rank(self) -> int:
        return sum(node.num_ranks for node in self.nodes[: self.node_rank])

    @property
    def ranks(self) -> range:
        """The global ranks on this node."""
        return range(self.first_rank, self.first_rank + self.num_ranks)


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


def launch_command(job: Job) -> list[str]:
    """The exact command that starts this node's ranks."""
    return _torchrun_command(job) if job.launcher == "torchrun" else _deepspeed_command(job)


def _deepspeed_command(job: Job) -> list[str]:
    nodes = job.nodes or (Node(host="localhost", num_ranks=job.num_ranks),)
    # By position, because one host may carry several nodes (network namespaces, containers with one name).
    slots: dict[str, list[int | str]] = {}
    for index, node in enumerate(nodes):
        name = f"{index}:{node.host}" if len(nodes) > 1 else node.host
        given = job.devices if index == job.node_rank else ()
        slots[name] = list(given) or list(range(node.num_ranks))
    world = base64.urlsafe_b64encode(json.dumps(slots).encode()).decode()
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.launch",
        f"--world_info={world}",
        *([f"--node_rank={job.node_rank}"] if len(nodes) > 1 else []),
        f"--master_addr={job.master_address}",
        f"--master_port={job.master_port}",
        f"--enable_each_rank_log={job.log_folder}",
        "--no_local_rank",
        "--module",
        job.module,
        *job.arguments,
    ]


def _torchrun_command(job: Job) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={len(job.nodes) or 1}",
        f"--node-rank={job.node_rank}",
        f"--nproc-per-node={job.num_ranks}",
        f"--master-addr={job.master_address}",
        f"--master-port={job.master_port}",
        "--max-restarts=0",  # restarts are ours: they resume from a checkpoint, and say why
        f"--log-dir={job.log_folder / 'torchrun'}",
        "--redirects=3",
        "--module",
        "--",  # or its parser takes --run, which is ours, for one of its own
        job.module,
        *job.arguments,
    ]


def launch_environment(
    environment: Mapping[str, str], *, num_ranks: int, num_cores: int, interface: str | None = None
) -> dict[str, str]:
    """The ranks' environment: `environment`, and what keeps ranks out of each other's way.

    interface: the network interface towards the other nodes. Left alone, gloo takes the one that the host's name
    resolves to, which on many machines is the loopback.
    """
    ours = dict(environment)
    # A folder named kernels/ in the working directory must not hide the distribution of that name.
    ours["PYTHONSAFEPATH"] = "1"
    ours.setdefault("OMP_NUM_THREADS", str(max(1, num_cores // num_ranks)))
    ours.setdefault("TOKENIZERS_PARALLELISM", "false")
    if interface is not None:
        ours.setdefault("GLOO_SOCKET_IFNAME", interface)
    return ours


def default_num_ranks(num_cores: int, num_gpus: int) -> int:
    """A rank a GPU; without GPUs a rank a core, at most 2."""
    return num_gpus or min(2, num_cores)


def visible_devices(environment: Mapping[str, str], num_ranks: int) -> tuple[str, ...]:
    """The accelerators that this job was given (by Ray, SLURM or a person), one a rank; empty where nobody said.

    Raises UserError when there are fewer than ranks.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if not given:  # unset, or set to nothing: no GPU is to be used
        return ()
    devices = tuple(given.split(","))
    if len(devices) < num_ranks:
        raise UserError(f"{num_ranks} ranks need a GPU each, CUDA_VISIBLE_DEVICES={given} has {len(devices)}.")
    return devices[:num_ranks]


def given_devices(num_ranks: int) -> tuple[str, ...]:
    """The accelerators of this process's environment, if the machine has any."""
    import torch

    return visible_devices(os.environ, num_ranks) if torch.cuda.is_available() else ()


def free_port() -> int:
    """A TCP port that is free on this machine now, on every address."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


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
            preexec_fn=die_with_parent,
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


def die_with_parent() -> None:
    """In a child, before it starts: SIGTERM from the kernel should this process die, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
