"""The command and the environment that start ranks, as pure functions."""

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs.rank_command import (
    Job,
    default_num_ranks,
    free_port,
    launch_command,
    launch_environment,
    visible_devices,
)

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


def test_ports_are_free() -> None:
    assert 1024 <= free_port() < 65536
