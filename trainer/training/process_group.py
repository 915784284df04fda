"""What ranks must agree on: stopping, failing, whose numbers count."""

from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError


class Ranks:
    """The ranks of this job, and the few collectives beside the gradients'.

    Flags and messages go over gloo on the CPU even when gradients go over NCCL: they must not wait for the GPU's queue.
    """

    def __init__(self) -> None:
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=30)) if self.distributed else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any rank raised it."""
        if not self.distributed:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in raised.tolist()]

    def mean_of(self, value: float) -> float:
        """The mean of a number over ranks, the same bits on every rank; not finite if any rank's is not."""
        if not self.distributed:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return total.item() / self.world_size

    def barrier(self) -> None:
        if self.distributed:
            dist.barrier(group=self._group)

    def messages(self, message: str | None) -> list[str]:
        """What each rank has to say, in rank order, without the silent ones."""
        if not self.distributed:
            return [message] if message else []
        said: list[str | None] = [None] * self.world_size
        dist.all_gather_object(said, message, group=self._group)
        return [text for text in said if text]

    def attempt(self, action: Callable[[], None], *, everywhere: bool = False) -> None:
        """Run `action` on rank 0 (or on every rank); if it fails for a user's reason, every rank raises that reason.

        Without this one rank would leave while the others wait for it until the collectives' time-out.
        """
        problem = None
        if self.is_first or everywhere:
            try:
                action()
            except (OSError, UserError) as error:
                problem = str(error)
        failures = self.messages(problem)
        if failures:
            raise UserError(failures[0])

    def mean(self, figures: Mapping[str, Tensor]) -> dict[str, float]:
        """Each figure averaged over ranks."""
        if not figures:
            return {}
        stacked = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
        if self.distributed:
            dist.all_reduce(stacked)
            stacked /= self.world_size
        return dict(zip(figures, stacked.tolist(), strict=True))
