"""A trial's process: the command that a person would type, in a process group of its own, read through metrics.jsonl.

The line protocol is the run's own log: one JSON object a line, `step` and figures, validations under `val_…`. It is
read from the file, so a launcher may start the ranks on other nodes of a shared file system, and a resumed run, which
drops the lines beyond its checkpoint and writes them again, is followed all the same.

Nothing stays behind: the command dies with the worker that started it, however that dies, and `stop` ends what the
command has started, wherever it moved.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.parent_death import ending_with_this_process

STOP_GRACE_SECONDS = 60.0
"""Time to save a checkpoint and leave after a request to stop, before everything is killed."""


def trial_command(
    *, recipe: Path, run: Path, num_ranks: int | None, launcher: Sequence[str] | None = None
) -> list[str]:
    """The command of a margin trial: what a person would type to train, or to go on training, this run."""
    return [
        *(launcher if launcher is not None else (sys.executable, "-m", "neuroimagen.launch.cli")),
        *("train", "contrastive", "--config", str(recipe), "--run", str(run)),
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
        """The exit code, None while the command runs, negative when a signal killed it."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line that the command said since it was started."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else ""

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Ask the command to stop, give it time to save, then kill all that it started."""
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
        # The ranks' launcher has a session of its own. A pid that was given anew has another start time.
        for process in family:
            if process.is_running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self._process.wait()


def descendants(pid: int) -> set[Any]:
    """psutil processes below a process, at any depth."""
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


class MetricsTail:
    """Reads the lines that a run adds to its metrics.jsonl; each step's validation is given once."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        """`after`: lines up to this step were given before."""
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
            # A resume replaces the file: what it keeps has been read, what it dropped is measured again.
            self._file_id, self._position = status.st_ino, 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            while (raw := file.readline()).endswith(b"\n"):
                self._position = file.tell()
                line = json.loads(raw)
                if line["step"] > self._after and any(key.startswith("val_") for key in line):
                    self._after = line["step"]
                    yield line
