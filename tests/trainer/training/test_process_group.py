"""What ranks agree on, with one rank and with three."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.training.process_group import ProcessGroup

CODE = """
import os, sys, torch, torch.distributed as dist
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.training.process_group import ProcessGroup
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=3)
group = ProcessGroup()
assert (group.rank, group.world_size, group.is_first, group.distributed) == (rank, 3, rank == 0, True)
assert group.any(rank == 2, False) == [True, False]
assert group.mean_of(float(rank)) == 1.0
assert group.mean_of(float("nan") if rank == 1 else 0.0) != group.mean_of(0.0)
assert group.messages(f"from {rank}" if rank else None) == ["from 1", "from 2"]
assert group.mean({"a": torch.tensor(float(rank)), "b": torch.ones(())}) == {"a": 1.0, "b": 1.0}
assert group.mean({}) == {}
ran = []
group.attempt(lambda: ran.append(rank))
assert ran == ([0] if rank == 0 else [])

def fail_on_last():
    ran.append("everywhere")
    if rank == 2:
        raise OSError(28, "No space left on device")

for everywhere in (True, False):
    try:
        group.attempt(fail_on_last, everywhere=everywhere)
        assert not everywhere
    except UserError as error:
        assert everywhere
        assert "No space left" in str(error)
assert ran.count("everywhere") == (2 if rank == 0 else 1)
group.barrier()
os._exit(0)
"""


def test_three_ranks_agree(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", CODE]
    options = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], **options) for rank in range(3)]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors


def test_one_rank_agrees_with_itself() -> None:
    group = ProcessGroup()
    assert (group.rank, group.world_size, group.is_first, group.distributed) == (0, 1, True, False)
    assert group.any(True, False) == [True, False]
    assert group.mean_of(2.5) == 2.5
    assert (group.messages("a"), group.messages(None)) == (["a"], [])
    assert group.mean({"a": torch.tensor(2.0)}) == {"a": 2.0}
    group.barrier()

    def fail() -> None:
        raise OSError("no such folder")

    with pytest.raises(UserError, match="no such folder"):
        group.attempt(fail)
