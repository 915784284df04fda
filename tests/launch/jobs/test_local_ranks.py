"""The launch command as a pure function, and what a failure is called."""

import base64
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.cli import parse
from neuroimagen.launch.jobs import local_ranks as deepspeed
from neuroimagen.launch.jobs.local_ranks import (
    Job,
    default_num_ranks,
    failure,
    free_port,
    launch_command,
    launch_environment,
    visible_devices,
)
from neuroimagen.launch.jobs.train import TrainWork, default_ranks
from neuroimagen.launch.jobs.work import SharedCommand, local_job
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.rank_status import RankStatus, clear_statuses, read_statuses, write_status

JOB = Job(
    module="a.b", arguments=("x", "--run", "dir with space"), num_ranks=3, log_folder=Path("/l"), master_port=4242
)


def test_the_command_is_the_launcher_s() -> None:
    command = launch_command(JOB)
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.launch"]
    world = next(word for word in command if word.startswith("--world_info=")).partition("=")[2]
    assert json.loads(base64.urlsafe_b64decode(world)) == {"localhost": [0, 1, 2]}
    assert "--master_port=4242" in command
    assert "--enable_each_rank_log=/l" in command
    assert command[-5:] == ["--module", "a.b", "x", "--run", "dir with space"]


def test_the_environment_keeps_ranks_apart_and_the_working_directory_off_the_path() -> None:
    ours = launch_environment({"PATH": "/bin", "HOME": "/h"}, num_ranks=2, num_cores=8)
    assert ours["PYTHONSAFEPATH"] == "1"
    assert ours["OMP_NUM_THREADS"] == "4"
    assert ours["PATH"] == "/bin"
    assert ours["HOME"] == "/h"
    ours = launch_environment({"OMP_NUM_THREADS": "7"}, num_ranks=2, num_cores=1)
    assert ours["OMP_NUM_THREADS"] == "7"
    assert launch_environment({}, num_ranks=2, num_cores=1)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("cores", "gpus", "ranks"), [(1, 0, 1), (2, 0, 2), (64, 0, 2), (64, 8, 8), (1, 1, 1)])
def test_default_number_of_ranks(cores: int, gpus: int, ranks: int) -> None:
    assert default_num_ranks(cores, gpus) == ranks


def test_ranks_get_the_devices_that_the_job_was_given() -> None:
    assert visible_devices({}, 2) == visible_devices({"CUDA_VISIBLE_DEVICES": ""}, 2) == ()
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "3,GPU-1f,5"}, 2) == ("3", "GPU-1f")
    with pytest.raises(UserError, match="2 ranks need a GPU each"):
        visible_devices({"CUDA_VISIBLE_DEVICES": "3"}, 2)
    command = launch_command(replace(JOB, num_ranks=2, devices=("3", "5")))
    world = next(word for word in command if word.startswith("--world_info=")).partition("=")[2]
    assert json.loads(base64.urlsafe_b64decode(world)) == {"localhost": ["3", "5"]}


def test_ranks_that_leave_accelerators_alone_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    words = ["cache", "--data", "d", "--model", "m"]
    with pytest.raises(UserError, match="2 ranks need a GPU each"):
        local_job(SharedCommand(words, parse(words)), 2, "deepspeed")
    words.append("--cpu")
    assert local_job(SharedCommand(words, parse(words)), 2, "deepspeed").devices == ()
    assert default_ranks(cpu=False) == 8
    assert default_ranks(cpu=True) <= 2
    assert TrainWork(Recipe(), "saliency", run=Path("r"), resume=False, cpu=True).arguments[-1] == "--cpu"


def test_ports_are_free() -> None:
    assert 1024 <= free_port() < 65536


def status(rank: int, state: str, message: str = "", time: float = 0.0) -> RankStatus:
    return RankStatus(rank=rank, pid=os.getpid(), state=state, message=message, time=time)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "dead", "words"),
    [
        # The others' broken connections are consequences, whatever the clock says.
        ([status(0, "failed", "connection closed"), status(1, "running")], 1, "rank 1 died without a word"),
        (
            [status(0, "failed", "lost a peer", 1.0), status(1, "refused", "the disk is full", 2.0)],
            None,
            "the disk is full",
        ),
        ([status(0, "failed", "later", 2.0), status(1, "failed", "first", 1.0)], None, "rank 1 failed: first"),
        ([status(0, "done")], None, "the launcher ended with code 9"),
    ],
)
def test_the_cause_comes_before_its_consequences(statuses: list[RankStatus], dead: int | None, words: str) -> None:
    gone = None if dead is None else statuses[dead]
    error = failure(statuses, gone, JOB, 9)
    assert str(error).startswith(words)
    assert error.can_restart == (words != "the disk is full")


def test_statuses_are_written_read_and_cleared(tmp_path: Path) -> None:
    write_status(tmp_path, 1, "running")
    write_status(tmp_path, 0, "refused", "no data")
    assert [(s.rank, s.state, s.message) for s in read_statuses(tmp_path)] == [
        (0, "refused", "no data"),
        (1, "running", ""),
    ]
    assert not any(s.has_died for s in read_statuses(tmp_path))
    write_status(tmp_path, 1, "done")
    assert read_statuses(tmp_path)[1].state == "done"
    clear_statuses(tmp_path)
    assert read_statuses(tmp_path) == []


def test_a_process_that_is_gone_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    running = RankStatus(rank=0, pid=pid, state="running")
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert running.has_died  # a zombie
    finally:
        os.waitpid(pid, 0)
    assert running.has_died  # gone
    assert not status(0, "running").has_died


def test_ranks_that_still_start_are_not_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(deepspeed, "os", SimpleNamespace(kill=lambda pid, signum: sent.append((pid, signum))))
    job = Job(module="m", arguments=(), num_ranks=2, log_folder=tmp_path, master_port=1)
    write_status(tmp_path, 0, "running")
    assert not deepspeed._signal_ranks(job)
    write_status(tmp_path, 1, "done")
    assert deepspeed._signal_ranks(job)
    assert sent == [(os.getpid(), 15)]
