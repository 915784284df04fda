"""Searches with real trainings whose processes are killed at random moments, and whose disk is full."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from real_search import start, wait_for_silence, write_search

from neuroimagen.trainer.runs.rank_status import read_statuses
from neuroimagen.tune.records import SearchFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    return {record.name: [tuple(point) for point in record.curve] for record in SearchFolder(out).records()}


def exports(out: Path) -> dict[str, bytes]:
    """The weights of every trial's run."""
    paths = sorted(out.glob("trials/*/run/contrastive/export/model.safetensors"))
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def kill(victim: str, out: Path, driver: subprocess.Popen[str], chance: random.Random) -> bool:
    """kill -9; returns whether there was something to kill."""
    if victim == "driver":
        driver.kill()
        return True
    if victim == "worker":
        starts = (line for path in out.glob("trials/*/starts.jsonl") for line in path.read_text().splitlines())
        pids = {json.loads(line)["pid"] for line in starts}
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [child.pid for child in psutil.Process(driver.pid).children(recursive=True) if child.pid in pids]
    else:
        logs = out.glob("trials/*/run/contrastive/logs")
        found = [s.pid for log in logs for s in read_statuses(log) if s.state == "running" and not s.has_died]
    if not found:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    return True


def test_driver_worker_and_rank_killed_at_random_moments_change_no_bit(study: Path, tmp_path: Path) -> None:
    """Ten kills; resumed after each that ends it, the search has the weights and curves of an undisturbed one."""
    search = write_search(tmp_path, study, steps=30, margins=[0.2, 0.5], max_retries=20)
    whole = tmp_path / "whole"
    process = start(search, whole)
    said = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, said

    out = tmp_path / "killed"
    chance = random.Random(11)
    process = start(search, out)
    hits = {"driver": 0, "worker": 0, "rank": 0}
    victims = ["rank", "worker", "driver", "rank", "worker", "rank", "driver", "worker", "rank", "driver"]
    for victim in victims:
        moment = time.monotonic() + chance.uniform(8.0, 25.0)
        while time.monotonic() < moment or not kill(victim, out, process, chance):
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            hits[victim] += 1
        if process.poll() is None and victim != "driver":
            continue
        process.communicate(timeout=600)
        wait_for_silence(out)
        process = start(search, out, "margin", *(["--resume"] if (out / "search.json").is_file() else []))
    said = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, said
    assert all(hits.values()), hits
    assert curves(out) == curves(whole)
    assert exports(out) == exports(whole)
    wait_for_silence(out)


def test_a_full_disk_is_one_line_and_the_search_goes_on_when_there_is_room(
    study: Path, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(64 << 20)
    search = write_search(tmp_path, study, steps=20, margins=[0.5], num_ranks=1)
    out, ballast = disk / "out", disk / "ballast"
    process = start(search, out)
    while not (out / "trials" / "0000" / "run" / "contrastive" / "checkpoints" / "latest").is_file():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    said = process.communicate(timeout=600)[0]
    assert "Traceback" not in said
    assert process.returncode == 1, said
    assert "No space left on device" in said
    wait_for_silence(out)
    ballast.unlink()
    process = start(search, out, "margin", "--resume")
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    (record,) = SearchFolder(out).records()
    assert (record.state, record.steps) == ("finished", 20)
