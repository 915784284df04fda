"""What ranks are started for (training a stage, or a command that shares its work), and running it on this machine."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.launch.nodes.deepspeed_launcher import deepspeed_command, run_deepspeed
from neuroimagen.launch.nodes.gate import new_token
from neuroimagen.launch.nodes.job import Job, Launcher, given_devices, local_nodes
from neuroimagen.launch.nodes.launcher import run_job
from neuroimagen.launch.nodes.logs import OutputTail
from neuroimagen.launch.nodes.starters import node_command

SHARED_COMMANDS = ("cache", "reconstruct")
"""Commands that share their work among ranks."""


class Watcher(Protocol):
    """Shows how far a job is, or what it prints."""

    def update(self) -> None: ...

    def close(self) -> None: ...


class Work(Protocol):
    """A job's content, whatever machines it runs on."""

    title: str
    module: str
    arguments: tuple[str, ...]
    log_folder: Path
    cpu: bool
    """Its ranks use the CPU, whatever accelerators there are."""

    def prepared(self, num_ranks: int) -> AbstractContextManager[bool]:
        """Check and prepare everything before ranks start; yields whether there is anything left to do."""

    def watcher(self) -> Watcher: ...

    def describe(self, num_ranks: int) -> str:
        """One line that is printed at the start."""

    def conclude(self, signum: int | None) -> int:
        """Print how it ended; returns the exit code."""


class SharedCommand:
    """A command whose ranks share the work (`cache`, `reconstruct`); rank 0 prints the results."""

    module = "neuroimagen.launch.rank"

    def __init__(self, words: Sequence[str], args: argparse.Namespace) -> None:
        self.title: str = words[0]
        self.cpu: bool = args.cpu
        self._args = args
        home: Path = args.data if words[0] == "cache" else args.run
        self.log_folder = home.absolute() / "logs" / words[0]
        self.arguments: tuple[str, ...] = (str(self.log_folder), *words)

    @contextmanager
    def prepared(self, num_ranks: int) -> Iterator[bool]:
        if self.title == "reconstruct":
            from neuroimagen.trainer.runs.find_run import require_run

            require_run(self._args.run, recipe=self._args.config is None)  # before the log folder is created in it
        yield True

    def watcher(self) -> Watcher:
        return OutputTail(self.log_folder)

    def describe(self, num_ranks: int) -> str:
        return f"{self.title}: {num_ranks} rank{'s' if num_ranks > 1 else ''}, logs in {self.log_folder}"

    def conclude(self, signum: int | None) -> int:
        if signum is not None:
            print(f"{self.title}: stopped on request. The same command goes on where it stopped.")
            return 128 + signum
        print(f"{self.title}: done")
        return 0


def local_job(work: Work, num_ranks: int) -> Job:
    """The job on this machine alone."""
    if num_ranks < 1:
        raise UsageError(f"--num-ranks is {num_ranks}; it must be at least 1.")
    if not work.cpu:
        given_devices(num_ranks)
    return Job(
        module=work.module,
        arguments=work.arguments,
        nodes=local_nodes(num_ranks),
        log_folder=work.log_folder,
        cpu=work.cpu,
    )


def _say(text: str) -> None:
    print(text, flush=True)


def run_here(
    work: Work, *, num_ranks: int, max_restarts: int, launcher: Launcher, say: Callable[[str], None] = _say
) -> int:
    """Run on this machine's ranks, after a failure up to `max_restarts` times again; returns the exit code."""
    job = local_job(work, num_ranks)  # a wrong number of ranks is refused before anything is written

    def run(watch: Callable[[], None]) -> int | None:
        if launcher == "deepspeed":
            return run_deepspeed(deepspeed_command(job), job.log_folder, num_ranks, is_local=True, watch=watch)

        def commands(store_port: int) -> list[list[str]]:
            return [node_command(job, 0, store_port=store_port)]

        return run_job(job, commands, token=new_token(), max_restarts=max_restarts, watch=watch, say=say)

    return run_work(work, job, run, say=say)


def run_work(
    work: Work,
    job: Job,
    run: Callable[[Callable[[], None]], int | None],
    *,
    say: Callable[[str], None] = _say,
) -> int:
    """Prepare the work, run its job by `run` with what it prints and its progress shown, and conclude it.

    `run` gets what it calls a few times per second, and returns None or the signal on which the job stopped.
    """
    with work.prepared(job.num_ranks) as needed:
        if not needed:
            return 0
        say(work.describe(job.num_ranks) + (f", {len(job.nodes)} nodes" if len(job.nodes) > 1 else ""))
        watcher = work.watcher()
        try:
            signum = run(watcher.update)
        finally:
            watcher.close()
        return work.conclude(signum)
