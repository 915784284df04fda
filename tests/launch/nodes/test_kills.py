"""kill -9 of a rank, of the launcher and of a whole node at random moments: every stage ends with the same bits.

A moment is drawn uniformly over the time that the victim lives in an undisturbed job, start-up included. The job is
resumed after each, so that one run goes through several; a run that ends before its moment is compared, and the next
begins. NEUROIMAGEN_KILLS sets the number of moments per kind of victim.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_jobs import left_behind, start_job
from small_study import RECIPE, TRANSFORMER, write_latents, write_study

from neuroimagen.trainer.stages.registry import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

VICTIMS = ("rank", "launcher", "node")
"""What is killed. A node is the program that watches the ranks, together with all of them."""
STAGE_OF_MANY_KILLS = "contrastive"
BEFORE = {"prior": "alignment", "diffusion": "semantic"}
"""What a stage starts from, and cannot do without."""
SETTINGS = {
    "masked": TRANSFORMER,
    "saliency": ("saliency.initialise_from=null",),
    "semantic": ("semantic.initialise_from=null",),
    "semantic_detailed": ("semantic_detailed.initialise_from=null",),
    "prior": ("prior.embeddings=naive",),
    "diffusion": ("diffusion.steps=20",),
}
COMMON = ("steps=60", "checkpoint_every=4", "log_every=1", "validate_every=20")
MEASURED = ("segments_per_second", "data_wait_share", "memory_gib")
"""Figures of metrics.jsonl that differ from run to run."""
END_SECONDS = 60.0
"""Time in which nothing of a killed job may be left."""


def num_moments(stage: str) -> int:
    return int(os.environ.get("NEUROIMAGEN_KILLS") or (10 if stage == STAGE_OF_MANY_KILLS else 1))


@pytest.fixture(scope="module")
def recipe(tiny_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's recipe with all latents. Read only."""
    folder = tmp_path_factory.mktemp("kills")
    write_latents(write_study(folder / "data"), tiny_diffusion_folder)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "data", model=tiny_diffusion_folder), encoding="utf-8")
    return path


def start(recipe: Path, run: Path, stage: str, num_ranks: int) -> subprocess.Popen[str]:
    settings = (*(f"{stage}.{setting}" for setting in COMMON), *SETTINGS.get(stage, ()))
    return start_job(recipe, run, "--num-ranks", str(num_ranks), settings=settings, stage=stage)


Begun = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def begun(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """begun(run, stage) makes a run that has what the stage starts from."""
    runs: dict[str, Path] = {}

    def make(run: Path, stage: str) -> Path:
        first = BEFORE.get(stage)
        if first is None:
            return run
        if first not in runs:
            runs[first] = tmp_path_factory.mktemp("before") / "run"
            job = start(recipe, runs[first], first, 1)
            said = job.communicate(timeout=900)[0]
            assert job.returncode == 0, said
        return Path(shutil.copytree(runs[first], run))

    return make


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What a job that nothing happens to leaves, and when in it each kind of process was first there."""

    content: dict[str, Any]
    births: dict[str, float]
    seconds: float


def processes(job: subprocess.Popen[str]) -> dict[str, list[int]]:
    """Process ids of a job by kind."""
    found: dict[str, list[int]] = {"launcher": [job.pid], "rank": [], "agent": []}
    for child in psutil.Process(job.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "neuroimagen.launch.nodes.agent" in words:
            found["agent"].append(child.pid)
        elif "neuroimagen.trainer.training.worker" in words:
            found["rank"].append(child.pid)
    found["node"] = found["agent"] and found["agent"] + found["rank"]
    return found


def content(run: Path, stage: str) -> dict[str, Any]:
    """The bytes of all exported files, and the lines of metrics.jsonl without what depends on the machine."""
    folder = run / stage
    paths = [path for path in (folder / "export").rglob("*") if path.is_file()]
    files: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files["metrics"] = [{name: line[name] for name in line if name not in MEASURED} for line in lines]
    return files


def watch(job: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a job to end; returns when each kind of process came, in seconds from now."""
    began = time.monotonic()
    births: dict[str, float] = {}
    while job.poll() is None:
        try:
            found = processes(job)
        except psutil.NoSuchProcess:
            break
        for kind, pids in found.items():
            if pids:
                births.setdefault(kind, time.monotonic() - began)
        time.sleep(0.2)
    return births


def kill(job: subprocess.Popen[str], victim: str, chance: random.Random) -> bool:
    """Kill it, once it is there; returns whether there was something to kill before the job ended."""
    while job.poll() is None:
        try:
            pids = processes(job)[victim]
        except psutil.NoSuchProcess:
            continue
        for pid in [chance.choice(pids)] if victim == "rank" and pids else pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if pids:
            return True
        time.sleep(0.02)
    return False


def wait_for_silence(run: Path) -> None:
    deadline = time.monotonic() + END_SECONDS
    while left := left_behind(run):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def runs_with_kills(
    recipe: Path, begun: Begun, folder: Path, stage: str, num_ranks: int, whole: Undisturbed
) -> Iterator[Path]:
    """Kill and resume jobs at every moment; yields each run when it has come to its end."""
    chance = random.Random(f"{stage} {num_ranks}")
    victims = [victim for victim in VICTIMS for _ in range(num_moments(stage))]
    chance.shuffle(victims)
    number, run = 0, begun(folder / "0", stage)
    is_fresh, speed = True, 1.0  # how fast the machine is now, beside its speed in the undisturbed job
    while True:
        began = time.monotonic()
        job = start(recipe, run, stage, num_ranks)
        killed = False
        moment = 0.0
        if victims:
            moment = chance.uniform(whole.births[victims[0]], whole.seconds) / speed
            try:
                job.wait(moment)
            except subprocess.TimeoutExpired:
                killed = kill(job, victims[0], chance)
        said = job.communicate(timeout=900)[0]
        if is_fresh and not killed:
            speed = whole.seconds / (time.monotonic() - began)
        is_fresh = False
        report = (
            f"{stage}, {num_ranks} ranks, {victims[:1]} killed after {moment:.1f} s of {whole.seconds / speed:.1f} s"
        )
        print(f"{report if killed else stage}: exit code {job.returncode}", flush=True)
        if killed:
            victim = victims.pop(0)
            assert "Traceback" not in said, said
            if victim == "launcher":
                assert job.returncode == -signal.SIGKILL
                # Some are resumed while the ranks of the killed job still save, as an impatient person would.
                if chance.random() < 0.5:
                    wait_for_silence(run)
                continue
            wait_for_silence(run)
            assert job.returncode in (0, 1), said  # 0: it was killed when its work was done
            if job.returncode == 1:
                continue
        assert job.returncode == 0, said
        yield run
        wait_for_silence(run)
        if not victims:
            return
        number, is_fresh = number + 1, True
        run = begun(folder / str(number), stage)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("stage", STAGES.names())
def test_kills_at_random_moments_change_no_bit(
    recipe: Path, begun: Begun, tmp_path: Path, stage: str, num_ranks: int
) -> None:
    began = time.monotonic()
    job = start(recipe, begun(tmp_path / "whole", stage), stage, num_ranks)
    births = watch(job)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 0, said
    whole = Undisturbed(content=content(tmp_path / "whole", stage), births=births, seconds=time.monotonic() - began)
    assert whole.births.keys() >= set(VICTIMS)
    for run in runs_with_kills(recipe, begun, tmp_path, stage, num_ranks, whole):
        found = content(run, stage)
        assert found.keys() == whole.content.keys()
        assert [name for name in found if found[name] != whole.content[name]] == []
