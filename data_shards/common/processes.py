"""Which share of a job is this process's, and on which device: `accelerate` says, under any launcher."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share a job; by default alone, on the CPU."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=lambda: None)
    """Returns when every rank has called it."""

    @classmethod
    def from_environment(cls, *, cpu: bool = False) -> "Ranks":
        """As the launcher (accelerate, torchrun, deepspeed) set it up; `cpu`: leave accelerators alone."""
        from accelerate import PartialState

        # Without `cpu`, accelerate takes the ranks of a machine that has no accelerator for one process each.
        state = PartialState(cpu=cpu or not torch.accelerator.is_available())
        # accelerate numbers CPUs by rank; safetensors knows one only.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(
            device=device, rank=state.process_index, world_size=state.num_processes, wait=state.wait_for_everyone
        )
