"""Ranks are really killed: the job names them, goes on, and ends with the weights of an undisturbed job."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from real_jobs import kill_a_rank, left_behind, start_job, step_of, wait_for_step, weights
from small_study import RECIPE, write_latents

from neuroimagen.trainer.runs.rank_status import read_statuses

SETTINGS = ("contrastive.steps=60", "contrastive.log_every=1", "contrastive.checkpoint_every=7")


@pytest.fixture(scope="module")
def whole(job_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks that nothing disturbs. Read only."""
    run = tmp_path_factory.mktemp("whole") / "run"
    job = start_job(job_recipe, run, "--num-ranks", "2", settings=SETTINGS)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 0, said
    return run


def test_a_killed_rank_is_named_and_the_job_goes_on_to_the_same_weights(
    job_recipe: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    job = start_job(job_recipe, run, "--num-ranks", "2", "--max-restarts", "1", settings=SETTINGS)
    wait_for_step(run, 10, job)
    pid = kill_a_rank(run, 1)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 0, said
    assert f"rank 1 exited without an error message (process {pid}: " in said
    assert "Restart 1 of 1." in said
    assert weights(run) == weights(whole)
    assert left_behind(run) == []


@pytest.fixture(scope="module")
def latents_recipe(job_recipe: Path, tiny_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's recipe with the cached latents that the other stages need. Read only."""
    folder = tmp_path_factory.mktemp("latents")
    data = shutil.copytree(job_recipe.parent / "data", folder / "data")
    write_latents(data, tiny_diffusion_folder, kinds=("image",))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=data, model=tiny_diffusion_folder), encoding="utf-8")
    return path


@pytest.mark.slow
def test_alignment_killed_by_kill_9_resumes_to_the_same_weights(latents_recipe: Path, tmp_path: Path) -> None:
    """Its logit scale, batches of repetitions and the state of InfoNCE come from the checkpoint, or from nowhere."""
    settings = (
        "alignment.steps=40",
        "alignment.checkpoint_every=7",
        "alignment.log_every=1",
        "alignment.batch_size=8",
        "alignment.repetitions=2",
        "alignment.ema_decay=0.9",
    )
    whole = start_job(latents_recipe, tmp_path / "whole", "--num-ranks", "1", settings=settings, stage="alignment")
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said

    run = tmp_path / "killed"
    job = start_job(latents_recipe, run, "--num-ranks", "1", settings=settings, stage="alignment")
    wait_for_step(run, 10, job, "alignment")
    kill_a_rank(run, 0, "alignment")
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 1, said
    assert "rank 0 exited without an error message" in said
    assert not (run / "alignment" / "export").exists()

    resumed = start_job(latents_recipe, run, "--num-ranks", "1", settings=settings, stage="alignment")
    said = resumed.communicate(timeout=900)[0]
    assert resumed.returncode == 0, said
    assert weights(run, "alignment") == weights(tmp_path / "whole", "alignment")
    assert left_behind(run) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_ten_kills_at_random_moments_change_no_bit(job_recipe: Path, tmp_path: Path, zero_stage: int) -> None:
    steps = 300
    settings = (
        f"contrastive.steps={steps}",
        "contrastive.checkpoint_every=9",
        "contrastive.log_every=1",
        "contrastive.validate_every=50",
        f"contrastive.zero_stage={zero_stage}",
    )
    whole = start_job(job_recipe, tmp_path / "whole", "--num-ranks", "2", settings=settings)
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said

    run = tmp_path / "killed"
    chance = random.Random(zero_stage)
    job = start_job(job_recipe, run, "--num-ranks", "2", "--max-restarts", "10", settings=settings)
    for moment in sorted(chance.sample(range(5, steps - 5), 10)):
        wait_for_step(run, moment, job)
        time.sleep(chance.uniform(0, 0.05))  # between steps, in a step, in a checkpoint
        kill_a_rank(run, chance.randrange(2))
        # The next attempt's ranks have other processes; its log begins again at the checkpoint.
        deadline = time.monotonic() + 120
        while any(s.has_died for s in read_statuses(run / "contrastive" / "logs")) and time.monotonic() < deadline:
            time.sleep(0.05)
        wait_for_start(run, job)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 0, said
    assert said.count("exited without an error message") == 10
    assert weights(run) == weights(tmp_path / "whole")
    assert left_behind(run) == []


@pytest.mark.slow
def test_a_job_that_is_resumed_at_once_waits_for_the_ranks_of_a_killed_launcher(
    job_recipe: Path, tmp_path: Path
) -> None:
    """They save when they notice, which a stopped process does late: two jobs would write into one folder."""
    settings = ("contrastive.steps=400", "contrastive.log_every=1", "contrastive.checkpoint_every=1000")
    run = tmp_path / "run"
    job = start_job(job_recipe, run, "--num-ranks", "1", settings=settings)
    wait_for_step(run, 5, job)
    (rank,) = read_statuses(run / "contrastive" / "logs")
    stopped = (psutil.Process(rank.pid).ppid(), rank.pid)  # else its agent would kill it after half a minute
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    job.kill()
    job.wait()
    resumed = start_job(job_recipe, run, "--num-ranks", "1", settings=settings)
    assert resumed.stdout is not None
    try:
        said = resumed.stdout.readline()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert f"waiting for the ranks of an earlier job, which save a checkpoint and exit (processes {rank.pid})" in said
    said = resumed.communicate(timeout=900)[0]
    assert resumed.returncode == 0, said
    lines = [json.loads(line) for line in (run / "contrastive" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 401))
    assert left_behind(run) == []


def wait_for_start(run: Path, job: subprocess.Popen[str]) -> None:
    """Until both ranks of the present attempt run."""
    logs = run / "contrastive" / "logs"
    while job.poll() is None:
        if sum(s.state == "running" and not s.has_died for s in read_statuses(logs)) == 2:
            return
        time.sleep(0.05)


def test_a_stop_signal_saves_and_another_number_of_ranks_goes_on(job_recipe: Path, whole: Path, tmp_path: Path) -> None:
    """SIGUSR1, as SLURM sends it; then one rank goes on where two stopped, over the same global batches."""
    settings = (*SETTINGS, "contrastive.checkpoint_every=1000")  # no checkpoint but that of the stop
    run = tmp_path / "run"
    job = start_job(job_recipe, run, "--num-ranks", "2", settings=settings)
    wait_for_step(run, 5, job)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 128 + signal.SIGUSR1, said
    assert "stopped on request" in said
    stopped_at = step_of(run)
    assert 5 <= stopped_at < 60

    resumed = start_job(job_recipe, run, "--num-ranks", "1", "--launcher", "deepspeed", settings=settings)
    said = resumed.communicate(timeout=900)[0]
    assert resumed.returncode == 0, said
    losses, expected = losses_of(run), losses_of(whole)
    assert sorted(losses) == list(range(1, 61))
    assert losses == pytest.approx(expected, rel=2e-3)
    assert left_behind(run) == []


def losses_of(run: Path) -> dict[int, float]:
    """Step → the loss that was logged."""
    lines = [json.loads(line) for line in (run / "contrastive" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
