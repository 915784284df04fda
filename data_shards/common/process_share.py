"""Which share of a job this process has, and on which device: read from `accelerate`, under any launcher."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class ProcessShare:
    """This process among those that share a job; by default the only one, on the CPU."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=lambda: None)
    """Returns when every rank has called it."""

    @classmethod
    def from_environment(cls, *, cpu: bool = False) -> "ProcessShare":
        """The share that the launcher (accelerate, torchrun, deepspeed) gave; with `cpu`, accelerators are not used."""
        from accelerate import PartialState

        wait_for_ranks()
        # Without `cpu`, accelerate takes every rank for a single process on a machine that has no accelerator.
        state = PartialState(cpu=cpu or not torch.accelerator.is_available())
        # accelerate gives CPUs the index of their rank; safetensors accepts "cpu" without an index only.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(
            device=device, rank=state.process_index, world_size=state.num_processes, wait=state.wait_for_everyone
        )


def wait_for_ranks() -> None:
    """Return once every rank that PyTorch's agent has started is about to connect to the others.

    While gloo connects, it takes whoever says a peer's small number for that peer. When all begin together, that lasts
    some milliseconds, in place of the seconds by which their imports differ.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(minutes=30)
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    if store.add("ranks that are ready", 1) == int(os.environ["WORLD_SIZE"]):
        store.set("every rank is ready", "yes")
    store.wait(["every rank is ready"])
