"""The process of a trial: its command, the log that is followed, and no process left running, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from neuroimagen.launch.cli import build_parser
from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint
from neuroimagen.tune.trials.process import MetricsTail, TrialProcess, trial_command, trial_environment

FAKE_TRAIN = Path(__file__).parents[1] / "fake_train.py"


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def write_recipe(folder: Path, **settings: object) -> Path:
    contrastive = {
        **{"steps": 40, "validate_every": 4, "checkpoint_every": 4, "weight_decay": 0.05},
        **{"num_classes": 12, "margin": 0.5, "learning_rate": 1e-3},
        **settings,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"seed": 0, "contrastive": contrastive}))
    return path


def fake_command(folder: Path, **settings: object) -> list[str]:
    return trial_command(
        stage="contrastive",
        recipe=write_recipe(folder, **settings),
        run=folder / "run",
        num_ranks=1,
        launcher=[sys.executable, str(FAKE_TRAIN)],
    )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[TrialProcess]:
    started = TrialProcess(fake_command(tmp_path), log=tmp_path / "trial.log", environment=os.environ)
    yield started
    started.stop(grace_seconds=0.0)


def rank_pid(folder: Path) -> int:
    path = folder / "run" / "rank.pid"
    until(lambda: path.is_file() and path.read_text() != "", "the rank to start")
    return int(path.read_text())


def test_the_command_is_that_of_the_command_line(tmp_path: Path) -> None:
    command = trial_command(stage="alignment", recipe=tmp_path / "r.yaml", run=tmp_path / "run", num_ranks=2)
    assert command[:3] == [sys.executable, "-m", "neuroimagen.launch.cli"]
    args = build_parser().parse_args(command[3:])
    assert (args.stages, args.num_ranks, args.resume, args.run) == (["alignment"], 2, True, tmp_path / "run")
    launched = trial_command(
        stage="contrastive", recipe=Path("r"), run=Path("x"), num_ranks=None, launcher=["neuroimagen", "launch", "--"]
    )
    assert launched == [
        "neuroimagen",
        "launch",
        "--",
        *["train", "contrastive", "--config", "r", "--run", "x", "--resume"],
    ]


def test_ranks_get_the_threads_of_a_rank_not_of_the_trial() -> None:
    ours = trial_environment({"OMP_NUM_THREADS": "8", "HOME": "/h"}, cpus_per_rank=2)
    assert ours == {"OMP_NUM_THREADS": "2", "HOME": "/h"}


def test_a_stopped_trial_has_saved_and_has_no_process_left(process: TrialProcess, tmp_path: Path) -> None:
    rank = rank_pid(tmp_path)
    metrics = tmp_path / "run" / "contrastive" / "metrics.jsonl"
    until(metrics.is_file, "a validation")
    assert os.getpgid(process.pid) == process.pid
    process.stop()
    saved = latest_checkpoint(tmp_path / "run" / "contrastive" / "checkpoints")
    assert saved is not None
    assert int(saved.name.removeprefix("step-")) >= 4
    assert process.poll() == 128 + signal.SIGTERM
    until(lambda: is_gone(rank), "the rank to be gone")


def test_a_trial_that_ignores_a_stop_is_killed_with_all_its_processes(tmp_path: Path) -> None:
    deaf = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    deaf += "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    deaf += "print(p.pid, flush=True); time.sleep(600)"
    process = TrialProcess([sys.executable, "-c", deaf], log=tmp_path / "log", environment=os.environ)
    until(lambda: (tmp_path / "log").read_text().strip() != "", "its child")
    child = int((tmp_path / "log").read_text())
    process.stop(grace_seconds=0.2)
    assert process.poll() == -signal.SIGKILL
    until(lambda: is_gone(child), "the child in its own session to be gone")


def test_a_trial_ends_with_its_worker_also_if_that_is_killed(tmp_path: Path) -> None:
    command = fake_command(tmp_path, steps=10_000)
    worker = (
        "import json, os, sys, time; from pathlib import Path\n"
        "from neuroimagen.tune.trials.process import TrialProcess\n"
        "process = TrialProcess(json.loads(sys.argv[1]), log=Path(sys.argv[2]), environment=os.environ)\n"
        "print(process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", worker, json.dumps(command), str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        trial = int(parent.stdout.readline())
        rank = rank_pid(tmp_path)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: is_gone(trial) and is_gone(rank), "trial and rank to be gone")


def test_the_last_line_is_that_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier start\n")
    process = TrialProcess([sys.executable, "-c", "pass"], log=log, environment=os.environ)
    until(lambda: process.poll() is not None, "the end")
    assert process.last_line() == ""
    process = TrialProcess(fake_command(tmp_path, num_classes=99), log=log, environment=os.environ)
    until(lambda: process.poll() is not None, "the end")
    assert process.poll() == 1
    assert process.last_line() == "neuroimagen train: the plan needs 99 classes, the data set has 12."


def test_every_validation_is_read_once_over_half_lines_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert list(tail.read()) == []
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "val_accuracy": 0.1}\n{"step": 4, "val_acc')
    assert [line["step"] for line in tail.read()] == [2]
    with path.open("a") as file:
        file.write('uracy": 0.2}\n')
    assert [line["step"] for line in tail.read()] == [4]
    # A resume from step 2 drops step 4 and writes it again, under a new inode, as the run does.
    replacement = tmp_path / "replacement"
    replacement.write_text('{"step": 2, "val_accuracy": 0.1}\n')
    replacement.replace(path)
    assert list(tail.read()) == []
    with path.open("a") as file:
        file.write('{"step": 4, "val_accuracy": 0.2}\n{"step": 6, "val_accuracy": 0.3}\n')
    assert [line["step"] for line in tail.read()] == [6]
    assert [line["step"] for line in MetricsTail(path, after=2).read()] == [4, 6]
