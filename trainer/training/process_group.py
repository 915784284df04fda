"""The ranks of a training job as one group: what they agree on, beside the gradients that DeepSpeed reduces."""

from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError


class ProcessGroup:
    """The processes of this training job, one per rank, and the collectives by which they agree.

    Flags and messages go over gloo on the CPU even when gradients go over NCCL: they must not wait for the GPU's queue.
    Without `torch.distributed`, and with one rank, every collective returns what this process gave.
    """

    def __init__(self) -> None:
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=30)) if self.distributed else None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes logs and exports."""
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank. A collective."""
        if not self.distributed:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in raised.tolist()]

    def mean_of(self, value: float) -> float:
        """The mean of a number over ranks, the same bits on every rank; not finite if any rank's is not. A
        collective.
        """
        if not self.distributed:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return total.item() / self.world_size

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.distributed:
            dist.barrier(group=self._group)

    def messages(self, message: str | None) -> list[str]:
        """The messages of all ranks in rank order, without those of ranks that have none. A collective."""
        if not self.distributed:
            return [message] if message else []
        found: list[str | None] = [None] * self.world_size
        dist.all_gather_object(found, message, group=self._group)
        return [text for text in found if text]

    def attempt(self, action: Callable[[], None], *, everywhere: bool = False) -> None:
        """Run `action` on rank 0, or with `everywhere` on every rank. A collective.

        Raises UserError on every rank if it raises UserError or OSError on any: otherwise the other ranks would wait
        for that one until the collectives' time-out.
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
        """Each figure, a scalar tensor, averaged over ranks. A collective."""
        if not figures:
            return {}
        stacked = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
        if self.distributed:
            dist.all_reduce(stacked)
            stacked /= self.world_size
        return dict(zip(figures, stacked.tolist(), strict=True))
