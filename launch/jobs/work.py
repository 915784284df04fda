"""What ranks are started for (training a stage, or a command that shares its work), and running it on this machine."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.launch.jobs.local_ranks import JobFailedError, run_job
from neuroimagen.launch.jobs.logs import OutputTail
from neuroimagen.launch.jobs.rank_command import Job, Launcher, free_port, given_devices

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


def local_job(work: Work, num_ranks: int, launcher: Launcher) -> Job:
    """The job on this machine alone."""
    if num_ranks < 1:
        raise UsageError(f"--num-ranks is {num_ranks}; it must be at least 1.")
    return Job(
        module=work.module,
        arguments=work.arguments,
        num_ranks=num_ranks,
        log_folder=work.log_folder,
        master_port=free_port(),
        launcher=launcher,
        devices=() if work.cpu else given_devices(num_ranks),
    )


def _say(text: str) -> None:
    print(text, flush=True)


def run_here(
    work: Work, *, num_ranks: int, max_restarts: int, launcher: Launcher, say: Callable[[str], None] = _say
) -> int:
    """Run on this machine's ranks, after a failure up to `max_restarts` times again; returns the exit code."""
    local_job(work, num_ranks, launcher)  # a wrong number of ranks is refused before anything is written
    with work.prepared(num_ranks) as needed:
        if not needed:
            return 0
        say(work.describe(num_ranks))
        watcher = work.watcher()
        try:
            signum = _with_restarts(work, num_ranks, launcher, max_restarts, watcher, say)
        finally:
            watcher.close()
        return work.conclude(signum)


def _with_restarts(
    work: Work, num_ranks: int, launcher: Launcher, max_restarts: int, watcher: Watcher, say: Callable[[str], None]
) -> int | None:
    for attempt in range(max_restarts + 1):
        try:
            return run_job(local_job(work, num_ranks, launcher), watch=watcher.update)
        except JobFailedError as error:
            if attempt == max_restarts or not error.can_restart:
                raise
            say(f"{time.strftime('%H:%M:%S')} {work.title}: {error} Restart {attempt + 1} of {max_restarts}.")
    raise AssertionError("unreachable")
