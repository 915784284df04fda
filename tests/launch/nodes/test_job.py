"""A job's ranks, environment and devices, as pure functions."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.nodes.hosts import Node
from neuroimagen.launch.nodes.job import (
    Job,
    default_num_ranks,
    free_port,
    local_nodes,
    rank_environment,
    visible_devices,
)


def test_ranks_have_their_node() -> None:
    nodes = (Node(host="n1", num_ranks=2), Node(host="n2", num_ranks=3))
    job = Job(module="m", arguments=(), nodes=nodes, log_folder=Path("/l"), port=1)
    assert job.num_ranks == 5
    assert [job.ranks_of(node) for node in (0, 1)] == [range(2), range(2, 5)]
    assert job.name_of(1) == "node 1 (n2)"
    assert not job.is_local
    assert Job(module="m", arguments=(), nodes=local_nodes(3), log_folder=Path("/l")).is_local


def test_the_environment_keeps_ranks_apart_and_the_working_directory_off_the_path() -> None:
    ours = rank_environment({"PATH": "/bin", "HOME": "/h"}, num_ranks=2, num_cores=8, interface="eth1")
    assert ours["PYTHONSAFEPATH"] == "1"
    assert ours["OMP_NUM_THREADS"] == "4"
    assert ours["PATH"] == "/bin"
    assert ours["HOME"] == "/h"
    ours = rank_environment({"OMP_NUM_THREADS": "7"}, num_ranks=2, num_cores=1, interface=None)
    assert ours["OMP_NUM_THREADS"] == "7"
    assert rank_environment({}, num_ranks=2, num_cores=1, interface=None)["OMP_NUM_THREADS"] == "1"


def test_collectives_use_the_loopback_or_the_nodes_interface_unless_told_otherwise() -> None:
    alone = rank_environment({}, num_ranks=2, num_cores=8, interface=None)
    assert (alone["GLOO_SOCKET_IFNAME"], alone["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
    among = rank_environment({}, num_ranks=2, num_cores=8, interface="ib0")
    assert among["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "NCCL_SOCKET_IFNAME" not in among  # it finds the fast one itself
    told = rank_environment({"GLOO_SOCKET_IFNAME": "x"}, num_ranks=2, num_cores=8, interface="ib0")
    assert told["GLOO_SOCKET_IFNAME"] == "x"


@pytest.mark.parametrize(("cores", "gpus", "ranks"), [(1, 0, 1), (2, 0, 2), (64, 0, 2), (64, 8, 8), (1, 1, 1)])
def test_default_number_of_ranks(cores: int, gpus: int, ranks: int) -> None:
    assert default_num_ranks(cores, gpus) == ranks


def test_ranks_get_the_devices_that_the_job_was_given() -> None:
    assert visible_devices({}, 2) == visible_devices({"CUDA_VISIBLE_DEVICES": ""}, 2) == ()
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "3,GPU-1f,5"}, 2) == ("3", "GPU-1f")
    with pytest.raises(UserError, match="2 ranks need a GPU each"):
        visible_devices({"CUDA_VISIBLE_DEVICES": "3"}, 2)


def test_ports_are_free() -> None:
    assert 1024 <= free_port() < 65536
