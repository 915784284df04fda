"""Hostfiles, and the node selection."""

import subprocess

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.jobs.hosts import (
    Node,
    interface_towards,
    parse_hostfile,
    read_hostfile,
    select_nodes,
    slurm_nodes,
)

A, B = Node(host="a", num_ranks=4), Node(host="b.lan", num_ranks=2)


def test_a_hostfile_is_deepspeed_s() -> None:
    text = "# ours\na slots=4\n\n  b.lan   slots=2  # the small one\n"
    assert parse_hostfile(text) == (A, B)
    from deepspeed.launcher.runner import _parse_hostfile

    assert dict(_parse_hostfile(text.splitlines())) == {node.host: node.num_ranks for node in (A, B)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a slots=4\nb", "line 2: 'b' is not"),
        ("a slots=0", "line 1"),
        ("a slots=1\na slots=2", "a is listed twice"),
        ("# nothing\n", "lists no node"),
    ],
)
def test_a_wrong_hostfile_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_hostfile(text)


def test_a_missing_hostfile_is_an_error(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(UserError, match="cannot read the hostfile"):
        read_hostfile(Path(str(tmp_path)) / "none")


def test_nodes_are_chosen_in_the_file_s_order() -> None:
    assert select_nodes((A, B), include=["b.lan", "a"], exclude=[]) == (A, B)
    assert select_nodes((A, B), include=[], exclude=["a"]) == (B,)
    with pytest.raises(UsageError, match="c is not in the hostfile"):
        select_nodes((A, B), include=["c"], exclude=[])
    with pytest.raises(UsageError, match="leave no node"):
        select_nodes((A,), include=[], exclude=["a"])


def test_the_nodes_of_a_slurm_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def scontrol(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command == ["scontrol", "show", "hostnames", "n[1-2]"]
        return subprocess.CompletedProcess(command, 0, "n1\nn2\n", "")

    monkeypatch.setattr(subprocess, "run", scontrol)
    environment = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_GPUS_ON_NODE": "8"}
    nodes = slurm_nodes(environment, num_ranks=None)
    assert nodes == (Node(host="n1", num_ranks=8), Node(host="n2", num_ranks=8))
    assert slurm_nodes(environment, num_ranks=3)[0].num_ranks == 3
    with pytest.raises(UsageError, match="inside a SLURM job"):
        slurm_nodes({}, num_ranks=1)
    with pytest.raises(UsageError, match="number of ranks per node is not known"):
        slurm_nodes({"SLURM_JOB_NODELIST": "n[1-2]"}, num_ranks=None)


def test_the_interface_towards_oneself_is_the_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
