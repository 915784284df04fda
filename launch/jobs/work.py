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
from neuroimagen.launch.nodes.launcher import StartCommands, run_job
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
    if launcher == "deepspeed":
        return run_deepspeed_work(
            work, num_ranks, deepspeed_command(job), max_restarts=max_restarts, is_local=True, say=say
        )
    return run_work(
        work,
        job,
        lambda store_port: [node_command(job, 0, store_port=store_port)],
        token=new_token(),
        max_restarts=max_restarts,
        say=say,
    )


def run_work(
    work: Work,
    job: Job,
    commands: StartCommands,
    *,
    token: bytes,
    max_restarts: int,
    wait_seconds: float = 300.0,
    say: Callable[[str], None] = _say,
) -> int:
    """Run a job whose nodes `commands` start, with PyTorch's elastic agent on each; returns the exit code."""
    return _shown(
        work,
        job.num_ranks,
        len(job.nodes),
        lambda watch: run_job(
            job, commands, token=token, max_restarts=max_restarts, watch=watch, say=say, wait_seconds=wait_seconds
        ),
        say,
    )


def run_deepspeed_work(
    work: Work,
    num_ranks: int,
    command: Sequence[str],
    *,
    max_restarts: int,
    is_local: bool,
    say: Callable[[str], None] = _say,
) -> int:
    """Run a job by DeepSpeed's own launcher; returns the exit code."""
    if max_restarts:
        raise UsageError("DeepSpeed's launcher restarts nothing. Leave out --max-restarts, or --launcher deepspeed.")
    return _shown(
        work,
        num_ranks,
        1,
        lambda watch: run_deepspeed(command, work.log_folder, num_ranks, is_local=is_local, watch=watch),
        say,
    )


def _shown(
    work: Work,
    num_ranks: int,
    num_nodes: int,
    run: Callable[[Callable[[], None]], int | None],
    say: Callable[[str], None],
) -> int:
    """Prepare the work, run it with what it prints and its progress shown, and conclude it."""
    with work.prepared(num_ranks) as needed:
        if not needed:
            return 0
        say(work.describe(num_ranks) + (f", {num_nodes} nodes" if num_nodes > 1 else ""))
        watcher = work.watcher()
        try:
            signum = run(watcher.update)
        finally:
            watcher.close()
        return work.conclude(signum)
