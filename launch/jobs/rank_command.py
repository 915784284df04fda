"""The command and the environment that start one node's ranks through DeepSpeed's launcher or torchrun.

`deepspeed.launcher.launch` is what the `deepspeed` command starts on every node. The `deepspeed` command itself is not
used: it does not pass SIGTERM on, which leaves the ranks orphaned, and it returns 0 when the launcher is killed.
"""

import base64
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs.hosts import Node

Launcher = Literal["deepspeed", "torchrun"]

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Keeps the working directory off the ranks' sys.path. `python -m`, which starts them, puts it there.

In a checkout, `kernels`, `trainer`, `tune`, `launch` and `tests` would be importable by their bare names. transformers
looks for Hugging Face's `kernels`; up to release 5.8 at least, it fails on a folder of that name, which has no version.
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to start on this node: a module, its arguments, the node's ranks and its place among the nodes."""

    module: str
    arguments: tuple[str, ...]
    num_ranks: int
    """On this node."""
    log_folder: Path
    """Folder of one log per rank, and the launcher's."""
    master_port: int
    nodes: tuple[Node, ...] = ()
    """All nodes of the job, in rank order; empty if there is only this one."""
    node_rank: int = 0
    master_address: str = "127.0.0.1"
    """Address of the node of rank 0, as the other nodes reach it."""
    launcher: Launcher = "deepspeed"
    devices: tuple[str, ...] = ()
    """This node's accelerators, one per rank (DeepSpeed sets CUDA_VISIBLE_DEVICES to them); empty: the first ones."""

    @property
    def first_rank(self) -> int:
        return sum(node.num_ranks for node in self.nodes[: self.node_rank])

    @property
    def ranks(self) -> range:
        """The global ranks on this node."""
        return range(self.first_rank, self.first_rank + self.num_ranks)


def launch_command(job: Job) -> list[str]:
    """The exact command that starts this node's ranks."""
    return _torchrun_command(job) if job.launcher == "torchrun" else _deepspeed_command(job)


def _deepspeed_command(job: Job) -> list[str]:
    nodes = job.nodes or (Node(host="localhost", num_ranks=job.num_ranks),)
    # With the position in the name, because several nodes may have one name (network namespaces, containers).
    slots: dict[str, list[int | str]] = {}
    for index, node in enumerate(nodes):
        name = f"{index}:{node.host}" if len(nodes) > 1 else node.host
        given = job.devices if index == job.node_rank else ()
        slots[name] = list(given) or list(range(node.num_ranks))
    world = base64.urlsafe_b64encode(json.dumps(slots).encode()).decode()
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.launch",
        f"--world_info={world}",
        *([f"--node_rank={job.node_rank}"] if len(nodes) > 1 else []),
        f"--master_addr={job.master_address}",
        f"--master_port={job.master_port}",
        f"--enable_each_rank_log={job.log_folder}",
        "--no_local_rank",
        "--module",
        job.module,
        *job.arguments,
    ]


def _torchrun_command(job: Job) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={len(job.nodes) or 1}",
        f"--node-rank={job.node_rank}",
        f"--nproc-per-node={job.num_ranks}",
        f"--master-addr={job.master_address}",
        f"--master-port={job.master_port}",
        "--max-restarts=0",  # our own restarts resume from a checkpoint, and name the cause
        f"--log-dir={job.log_folder / 'torchrun'}",
        "--redirects=3",
        "--module",
        "--",  # without it, its parser takes our --run for an abbreviation of --run-path
        job.module,
        *job.arguments,
    ]


def launch_environment(
    environment: Mapping[str, str], *, num_ranks: int, num_cores: int, interface: str | None = None
) -> dict[str, str]:
    """The ranks' environment: `environment`, with the variables that the ranks need.

    interface: The network interface towards the other nodes. Without it gloo takes the one that the host's name
    resolves to, which on many machines is the loopback.
    """
    ours = {**environment, **SAFE_PATH}
    ours.setdefault("OMP_NUM_THREADS", str(max(1, num_cores // num_ranks)))
    ours.setdefault("TOKENIZERS_PARALLELISM", "false")
    if interface is not None:
        ours.setdefault("GLOO_SOCKET_IFNAME", interface)
    return ours


def default_num_ranks(num_cores: int, num_gpus: int) -> int:
    """One rank per GPU; without GPUs one rank per core, at most 2."""
    return num_gpus or min(2, num_cores)


def visible_devices(environment: Mapping[str, str], num_ranks: int) -> tuple[str, ...]:
    """The accelerators that CUDA_VISIBLE_DEVICES names (set by Ray, SLURM or a person), one per rank.

    Empty where it is not set. Raises UserError when it names fewer accelerators than there are ranks.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if not given:  # not set; or empty: no GPU is to be used
        return ()
    devices = tuple(given.split(","))
    if len(devices) < num_ranks:
        raise UserError(
            f"{num_ranks} ranks need a GPU each, but CUDA_VISIBLE_DEVICES={given} names {len(devices)}. "
            "Lower --num-ranks."
        )
    return devices[:num_ranks]


def given_devices(num_ranks: int) -> tuple[str, ...]:
    """The accelerators of this process's environment, if the machine has any."""
    import torch

    return visible_devices(os.environ, num_ranks) if torch.cuda.is_available() else ()


def free_port() -> int:
    """A TCP port that is free on this machine now, on every address."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
