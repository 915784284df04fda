"""Which share of a job this process has, and on which device: read from `accelerate`, under any launcher."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


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

        # Without `cpu`, accelerate takes every rank for a single process on a machine that has no accelerator.
        state = PartialState(cpu=cpu or not torch.accelerator.is_available())
        # accelerate gives CPUs the index of their rank; safetensors accepts "cpu" without an index only.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(
            device=device, rank=state.process_index, world_size=state.num_processes, wait=state.wait_for_everyone
        )
