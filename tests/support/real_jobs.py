"""Real training jobs in the background: how far they are, what they leave, and how their ranks are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from neuroimagen.trainer.runs.rank_status import read_statuses


def start_job(
    recipe: Path, run: Path, *options: str, settings: tuple[str, ...] = (), stage: str = "contrastive"
) -> subprocess.Popen[str]:
    """`neuroimagen launch … -- train STAGE` in the background."""
    words = ["train", stage, "--config", str(recipe), "--run", str(run), "--resume"]
    command = [sys.executable, "-m", "neuroimagen.launch.cli", "launch", *options, "--", *words]
    if settings:
        command += ["--set", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def step_of(run: Path, stage: str = "contrastive") -> int:
    """The last step that a job has logged."""
    path = run / stage / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except ValueError:
        return 0


def wait_for_step(run: Path, step: int, job: subprocess.Popen[str], stage: str = "contrastive") -> None:
    while step_of(run, stage) < step and job.poll() is None:
        time.sleep(0.01)


def kill_a_rank(run: Path, rank: int, stage: str = "contrastive") -> int:
    """SIGKILL; returns its process id."""
    status = next(s for s in read_statuses(run / stage / "logs") if s.rank == rank)
    os.kill(status.pid, signal.SIGKILL)
    return status.pid


def weights(run: Path, stage: str = "contrastive") -> bytes:
    return (run / stage / "export" / "model.safetensors").read_bytes()


def left_behind(run: Path) -> list[str]:
    """Command lines of processes that still work on a run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(run) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(words))
    return found
