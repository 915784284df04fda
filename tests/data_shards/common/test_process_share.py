"""A process's share of a job: alone by default, and as a launcher's environment says."""

import json
import os
import subprocess
import sys

import torch

from neuroimagen.data_shards.common.process_share import ProcessShare

PRINT_SHARE = """
import json
from neuroimagen.data_shards.common.process_share import ProcessShare
share = ProcessShare.from_environment(cpu=True)
share.wait()
print(json.dumps([share.rank, share.world_size, str(share.device)]))
"""


def test_by_default_a_process_is_alone_on_the_cpu() -> None:
    share = ProcessShare()
    assert (share.rank, share.world_size, share.device) == (0, 1, torch.device("cpu"))
    share.wait()


def test_two_processes_of_a_launcher_know_their_ranks() -> None:
    from neuroimagen.launch.nodes.job import free_port

    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_SHARE],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    shares = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]
    assert shares == [[0, 2, "cpu"], [1, 2, "cpu"]]
