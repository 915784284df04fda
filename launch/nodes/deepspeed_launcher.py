"""Ranks under DeepSpeed's own launcher, as it is: the `deepspeed` command, with a hostfile or on this machine.

It restarts nothing, does not notice a node that is cut off, and returns 0 also when it was killed: whether the ranks
were done is read from their statuses.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.launch.nodes.causes import JobFailedError, node_failure
from neuroimagen.launch.nodes.job import LOOPBACK, SAFE_PATH, STOP_SIGNALS, Job, free_port
from neuroimagen.launch.nodes.logs import MERGED
from neuroimagen.trainer.runs.rank_status import clear_statuses, read_statuses


def deepspeed_command(job: Job, options: Sequence[str] = ()) -> list[str]:
    """The `deepspeed` command of a job. `options` name the nodes; without them the ranks are on this machine."""
    here = ("--hostfile=", f"--num_gpus={job.num_ranks}", f"--master_addr={LOOPBACK}", f"--master_port={free_port()}")
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", *(options or here)),
        *(f"--enable_each_rank_log={job.log_folder}", "--no_local_rank", "--module", job.module, *job.arguments),
    ]


def run_deepspeed(
    command: Sequence[str], log_folder: Path, num_ranks: int, *, is_local: bool, watch: Callable[[], None]
) -> int | None:
    """Run the command to its end; returns None when every rank is done, or the signal on which it stopped.

    A stop signal goes to the ranks if they are on this machine, else to DeepSpeed. Raises JobFailedError.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    clear_statuses(log_folder)
    with (log_folder / MERGED).open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **SAFE_PATH},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ending_with_this_process(),
        )
    stops: list[int] = []

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        stops.append(signum)
        running = [s.pid for s in read_statuses(log_folder) if s.state == "running"] if is_local else [process.pid]
        for pid in running if len(stops) == 1 else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if len(stops) > 1 or (is_local and len(running) < num_ranks):
            process.kill()

    previous = {signum: signal.signal(signum, ask_to_stop) for signum in STOP_SIGNALS}
    try:
        while process.poll() is None:
            watch()
            time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    watch()
    statuses = read_statuses(log_folder)
    if len(statuses) == num_ranks and all(status.state in ("done", "stopped") for status in statuses):
        return (stops[0] if stops else signal.SIGTERM) if statuses[0].state == "stopped" else None
    if stops and len(statuses) < num_ranks:
        return stops[0]  # some ranks were still starting
    dead = {status.rank: -signal.SIGKILL for status in statuses if is_local and status.has_died}
    error = node_failure(statuses, dead, logs=log_folder)
    if error.kind != "launcher":
        raise error
    raise JobFailedError(
        f"DeepSpeed's launcher ended with code {process.returncode} before every rank was done. Its output is in "
        f"{log_folder / MERGED}.",
        kind="launcher",
    )
