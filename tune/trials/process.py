"""The process of a trial: the training command of the command line, in its own process group, followed by its log.

The search reads the run's metrics.jsonl: one JSON object per line, with `step` and figures, those of a validation under
`val_…`. As it is a file, a launcher may start the ranks on other nodes with a shared file system. A resumed run, which
drops the lines beyond its checkpoint and writes them again, can be followed too.

No process is left running: the command ends when the worker that started it ends, also if the worker is killed, and
`stop` ends everything that the command has started, in whatever session.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.trainer.runs.metrics_lines import metrics_line

STOP_GRACE_SECONDS = 60.0
"""Time that a command has to save a checkpoint and end after it was asked to stop. Then everything is killed."""


def trial_command(
    *, stage: str, recipe: Path, run: Path, num_ranks: int | None, launcher: Sequence[str] | None = None
) -> list[str]:
    """The command of a trial that trains `stage`: the one that starts or resumes its training in `run`."""
    return [
        *(launcher if launcher is not None else (sys.executable, "-m", "neuroimagen.launch.cli")),
        *("train", stage, "--config", str(recipe), "--run", str(run)),
        *(() if num_ranks is None else ("--num-ranks", str(num_ranks))),
        "--resume",
    ]


def trial_environment(environment: Mapping[str, str], *, cpus_per_rank: int) -> dict[str, str]:
    """The command's environment: threads that fit what the trial was given."""
    # Ray gives OMP_NUM_THREADS the CPUs of the whole trial; its ranks would each take all of them.
    return {**environment, "OMP_NUM_THREADS": str(cpus_per_rank)}


class TrialProcess:
    """A running command. Its output goes to `log`."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=ending_with_this_process(),
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while the command runs, negative if a signal ended it."""
        return self._process.poll()

    def last_line(self) -> str:
        """The last line of output since the command was started, or an empty string."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").split("\n")
        printed = [line.strip() for line in lines if line.strip()]
        return printed[-1] if printed else ""

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Ask the command to stop, give it time to save, then kill everything that it has started."""
        family = descendants(self.pid)
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
            while self.poll() is None and time.monotonic() < deadline:
                family |= descendants(self.pid)
                time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # The launcher of the ranks has its own session. A process id that is in use again has another start time.
        for process in family:
            if process.is_running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self._process.wait()


def descendants(pid: int) -> set[Any]:
    """The processes (of psutil) that a process has started, directly or indirectly."""
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


class MetricsTail:
    """Reads the lines that a run appends to its metrics.jsonl; the validation of each step is returned once."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        """after: lines up to this step are skipped."""
        self._path = path
        self._after = after
        self._file_id: int | None = None
        self._position = 0

    def read(self) -> Iterator[dict[str, float]]:
        """Complete new lines with a validation, in the order of their steps."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        if status.st_ino != self._file_id or status.st_size < self._position:
            # A resumed run replaces the file. Lines that it keeps were read before; those it drops are written again.
            self._file_id, self._position = status.st_ino, 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            while (raw := file.readline()).endswith(b"\n"):
                self._position = file.tell()
                line = metrics_line(raw)
                if line is None:
                    continue
                if line["step"] > self._after and any(key.startswith("val_") for key in line):
                    self._after = int(line["step"])
                    yield line
