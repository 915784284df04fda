"""Whole searches through Ray and the command line, with a stand-in for the training command."""

import contextlib
import html
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint
from neuroimagen.tune.records import SearchFolder, TrialRecord

SPACE = """
  contrastive.margin: {low: 0.05, high: 2.0, log: true}
  contrastive.num_classes: [4, 12, 99]
"""


def tune_command(search: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "neuroimagen.launch.cli", "tune", "margin"),
        *("--config", str(search), "--out", str(out), *more),
    ]


def start(search: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tune_command(search, out, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out.parent
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=500)
    return said


def records(out: Path) -> list[TrialRecord]:
    return SearchFolder(out).records()


def until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, f"ended before {what}: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)


def starts(out: Path, name: str) -> int:
    """How often a trial's command was started."""
    path = SearchFolder(out).trial(name).run() / "commands.txt"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def children_of_trials(out: Path) -> list[psutil.Process]:
    """Processes of any trial below `out` that are alive: commands, and the ranks they had started."""
    ranks = {int(path.read_text()) for path in out.glob("*/*/run/rank.pid") if path.read_text()}
    alive = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if (str(out) in words and "fake_train" in words) or (process.pid in ranks and "prctl" in words):
            alive.append(process)
    return alive


def wait_for_silence(out: Path) -> None:
    deadline = time.monotonic() + 60
    while left := children_of_trials(out):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def test_a_search_from_its_file_to_its_recipe_killed_and_resumed(
    margin_search: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed with -9 in the middle: the resumed search repeats no trial that had ended, and its result is complete."""
    search, out = margin_search(SPACE, wait=0.02, num_trials=8, startup_trials=4, confirm_seeds=2), tmp_path / "out"
    first = start(search, out)

    def some_have_ended() -> bool:
        made = records(out) if (out / "trials").is_dir() else []
        return sum(record.has_ended for record in made) >= 2 and any(not record.has_ended for record in made)

    until(some_have_ended, first, "two trials")
    first.kill()
    first.wait()
    wait_for_silence(out)
    ended = {record.name: record for record in records(out) if record.has_ended}
    before = {name: starts(out, name) for name in ended}
    assert len(ended) >= 2

    refused = start(search, out)
    assert "Continue it with --resume" in finish(refused)
    assert refused.returncode == 1

    second = start(search, out, "--resume")
    said = finish(second)
    assert second.returncode == 0, said
    assert f"resuming: {len(ended)} trials have ended" in said
    made = records(out)
    assert [record.name for record in made] == [f"trials/{number:04d}" for number in range(8)]
    assert all(record.has_ended for record in made)
    assert {name: record for name, record in ((r.name, r) for r in made) if name in ended} == ended
    assert {name: starts(out, name) for name in ended} == before
    wait_for_silence(out)

    # A setting that cannot be trained fails by itself, with the message of the command.
    bad = [record for record in made if record.values["contrastive.num_classes"] == 99]
    assert all(record.state == "failed" and "needs 99 classes" in record.message for record in bad)
    good = [record for record in made if record not in bad]
    assert {record.state for record in good} <= {"finished", "stopped"}
    finished = [record for record in good if record.state == "finished"]
    assert all(record.curve[-1][0] == record.steps == 27 for record in finished)
    best = max(finished, key=lambda record: record.figures["knn_accuracy"])

    # The result: a recipe that `train` takes, a page that loads nothing from the network, and runs with new seeds.
    results = json.loads((out / "results.json").read_text())
    assert results["best"]["trial"] == best.name
    recipe, default = load_recipe(out / "found.yaml"), load_recipe(tmp_path / "recipe.yaml")
    assert recipe.stages["contrastive"].margin == best.values["contrastive.margin"]
    assert (recipe.stages["contrastive"].steps, recipe.seed, recipe.data) == (27, 3, default.data)
    assert recipe.stages["contrastive"].checkpoint_every == default.stages["contrastive"].checkpoint_every
    (comparison,) = results["comparisons"]
    assert comparison["seeds"] == [1003, 1004]
    # Three stimuli of validation confirm nothing.
    assert "contains 0" in comparison["verdict"]
    assert load_recipe(out / "best.yaml") == load_recipe(out / "recipe.yaml")
    assert "best.yaml holds the default setting: with new seeds the found one was not shown to be better." in said
    assert {record.seed for record in SearchFolder(out).records("confirm")} == {1003, 1004}
    page = (out / "report.html").read_text()
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\((?!#|data:)|@import", page)
    assert page.count("<polyline") == sum(bool(record.figures) for record in made)
    assert best.name.removeprefix("trials/") in said


@pytest.mark.slow
def test_a_search_that_is_asked_to_stop_saves_its_trials(margin_search: Callable[..., Path], tmp_path: Path) -> None:
    search, out = margin_search(SPACE.replace(", 99", ""), wait=0.5, num_trials=4, scheduler="none"), tmp_path / "out"
    process = start(search, out)
    until(lambda: any(out.glob("trials/*/run/contrastive/metrics.jsonl")), process, "a validation")
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert process.returncode == 130, said
    assert "Continue with --resume" in said
    wait_for_silence(out)
    assert all(record.state == "running" for record in records(out))
    logs = list(out.glob("trials/*/run/contrastive/metrics.jsonl"))
    assert all(latest_checkpoint(path.parent / "checkpoints") is not None for path in logs)


@pytest.mark.slow
def test_a_lost_worker_s_trial_is_retried_from_its_checkpoint_and_reported(
    margin_search: Callable[..., Path], tmp_path: Path
) -> None:
    search, out = margin_search(SPACE.replace(", 99", ""), wait=0.1, num_trials=3, scheduler="none"), tmp_path / "out"
    process = start(search, out, "--set", "contrastive.checkpoint_every=3")
    until(lambda: any(out.glob("trials/*/run/contrastive/checkpoints/latest")), process, "a checkpoint")
    (folder, *_) = (path.parents[3] for path in out.glob("trials/*/run/contrastive/checkpoints/latest"))
    worker = json.loads((folder / "starts.jsonl").read_text().splitlines()[0])["pid"]
    os.kill(worker, signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 0, said
    record = SearchFolder(out).read(f"trials/{folder.name}")
    assert (record.state, record.retries, record.num_starts) == ("finished", 1, 2)
    assert "its worker process was lost; the trial is started again" in said
    assert "retried 1×" in (out / "report.html").read_text()
    wait_for_silence(out)


@pytest.mark.slow
def test_a_trial_whose_command_is_killed_too_often_fails_by_itself(
    margin_search: Callable[..., Path], tmp_path: Path
) -> None:
    search, out = margin_search(SPACE.replace(", 99", ""), wait=0.1, num_trials=3, max_retries=1), tmp_path / "out"
    process = start(search, out)
    killed: set[int] = set()
    while process.poll() is None:
        path = SearchFolder(out).trial("trials/0000").run() / "commands.txt"
        pids = [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []
        for pid in set(pids) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    said = finish(process)
    assert process.returncode == 0, said
    first, *others = records(out)
    assert first.state == "failed"
    assert "was lost too often" in first.message
    assert len(killed) == 2
    assert all(record.state in ("finished", "stopped") for record in others)


@pytest.mark.slow
def test_a_population_continues_from_checkpoints(margin_search: Callable[..., Path], tmp_path: Path) -> None:
    """Trials are paused, or continue from a copy of a better one's checkpoint; one of them reaches the last step."""
    space = "  contrastive.margin: {low: 0.05, high: 2.0, log: true}\n"
    space += "  contrastive.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
    search = margin_search(
        space, wait=0.05, num_trials=4, scheduler="pbt", sampler="random", grace_steps=9, confirm_seeds=0
    )
    out = tmp_path / "out"
    process = start(search, out, "--concurrent", "2")
    said = finish(process)
    assert process.returncode == 0, said
    made = records(out)
    assert {record.state for record in made} <= {"finished", "stopped"}
    assert any(record.num_starts > 1 for record in made)
    assert any(record.steps == 27 for record in made)
    wait_for_silence(out)


def workers_of(driver: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """Ray's workers that run a trial of this driver."""
    starts = (line for path in out.glob("trials/*/starts.jsonl") for line in path.read_text().splitlines())
    pids = {json.loads(line)["pid"] for line in starts}
    try:
        return [child for child in psutil.Process(driver.pid).children(recursive=True) if child.pid in pids]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "asha_promoting"])
def test_killed_at_random_moments_a_search_ends_complete_and_repeats_nothing(
    scheduler: str, margin_search: Callable[..., Path], tmp_path: Path
) -> None:
    """kill -9 of the driver, of a worker, of the driver …, six times, each some seconds after the start."""
    keys = {"num_trials": 8, "startup_trials": 4, "confirm_seeds": 1, "scheduler": scheduler}
    search, out = margin_search(SPACE.replace(", 99", ""), wait=0.1, **keys), tmp_path / "out"
    moments = random.Random(7)
    finished: dict[str, tuple[TrialRecord, int]] = {}
    killed = 0
    for kill in range(6):
        process = start(search, out, *(["--resume"] if (out / "search.json").is_file() else []))
        until(lambda: (out / "search.json").is_file(), process, "the search's file")
        if kill % 2 == 0:
            time.sleep(moments.uniform(4.0, 14.0))
        else:
            while process.poll() is None and not workers_of(process, out):
                time.sleep(0.1)
            time.sleep(moments.uniform(0.0, 4.0))
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                moments.choice(workers_of(process, out)).kill()
                killed += 1
            time.sleep(moments.uniform(0.5, 4.0))
        if process.poll() is not None:
            break  # the search ended before it could be killed
        process.kill()
        process.wait()
        wait_for_silence(out)
        for record in records(out):
            if record.state == "finished":
                assert finished.setdefault(record.name, (record, starts(out, record.name)))[0] == record
    assert killed, "no worker was hit"
    last = start(search, out, "--resume")
    said = finish(last)
    assert last.returncode == 0, said
    made = {record.name: record for record in records(out)}
    assert sorted(made) == [f"trials/{number:04d}" for number in range(8)]
    assert all(record.has_ended for record in made.values())
    for name, (record, count) in finished.items():
        assert made[name] == record
        assert starts(out, name) == count
    for record in made.values():
        steps = [step for step, _ in record.curve]
        assert steps == list(range(3, record.steps + 1, 3))
    assert (out / "best.yaml").is_file()
    wait_for_silence(out)
