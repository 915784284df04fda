"""A job: which ranks it starts, on which nodes, in which environment."""

import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.nodes.hosts import Node

Launcher = Literal["torchrun", "deepspeed"]

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Keeps the working directory off the ranks' sys.path. `python -m`, which starts them, puts it there.

In a checkout, `kernels`, `trainer`, `tune`, `launch` and `tests` would be importable by their bare names. transformers
looks for Hugging Face's `kernels`; up to release 5.8 at least, it fails on a folder of that name, which has no version.
"""
LOOPBACK = "127.0.0.1"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals to save and exit. SLURM sends SIGUSR1 before the time limit."""
AGAIN_CODE = 75
"""Exit code of a node whose job may start once more (EX_TEMPFAIL)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to start: a module with its arguments, as ranks on nodes."""

    module: str
    arguments: tuple[str, ...]
    nodes: tuple[Node, ...]
    """In rank order."""
    log_folder: Path
    """Folder of the ranks' logs and statuses, which every node can read."""
    cpu: bool = False
    """The ranks use the CPU, whatever accelerators there are."""
    address: str = LOOPBACK
    """Where the job's gate listens: an address of the launcher's machine, as the nodes reach it."""
    bind: str = LOOPBACK
    """The launcher's own address on the network of the nodes, which the gate listens at."""
    port: int = 0
    """Port of the gate; 0 if every rank is on this machine, and no gate is needed."""
    exports: tuple[str, ...] = ()
    """NAME=VALUE of the environment variables that the nodes get."""
    folder: Path = Path()
    """Working directory, the same on every node."""

    @property
    def num_ranks(self) -> int:
        return sum(node.num_ranks for node in self.nodes)

    @property
    def is_local(self) -> bool:
        """Whether every rank is on the launcher's machine."""
        return not self.port

    def ranks_of(self, node_rank: int) -> range:
        """The global ranks of a node."""
        first = sum(node.num_ranks for node in self.nodes[:node_rank])
        return range(first, first + self.nodes[node_rank].num_ranks)

    def name_of(self, node_rank: int) -> str:
        return f"node {node_rank} ({self.nodes[node_rank].host})"


def local_nodes(num_ranks: int) -> tuple[Node, ...]:
    return (Node(host="localhost", num_ranks=num_ranks),)


def rank_environment(
    environment: Mapping[str, str], *, num_ranks: int, num_cores: int, interface: str | None
) -> dict[str, str]:
    """The ranks' environment: `environment`, with the variables that the ranks need.

    interface: The network interface towards the other nodes; None on one machine, where nothing but the loopback is
        used. Without it gloo takes the interface that the host's name resolves to, and NCCL the first that is up.
    """
    ours = {**environment, **SAFE_PATH}
    ours.setdefault("OMP_NUM_THREADS", str(max(1, num_cores // num_ranks)))
    ours.setdefault("TOKENIZERS_PARALLELISM", "false")
    ours.setdefault("GLOO_SOCKET_IFNAME", interface or "lo")
    if interface is None:
        ours.setdefault("NCCL_SOCKET_IFNAME", "lo")
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
