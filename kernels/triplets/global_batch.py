"""The global batch: rows of every rank in rank order, with gradients that flow back to the rank they came from."""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether torch.distributed runs with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_sizes(num_rows: int, device: torch.device) -> list[int]:
    """Rows on each rank. A collective: every rank calls it."""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = num_rows
    dist.all_reduce(sizes)
    return sizes.tolist()


def gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """[local, …] → [sum(sizes), …] in rank order; local batches may be uneven, even empty.

    Differentiable: the gradient of a rank's rows is the sum over ranks of the gradients of its slice, so when each
    rank's loss is its own share of one sum, every rank gets the gradient of the whole sum.
    """
    gathered: Tensor = _GatherRows.apply(rows, sizes)
    return gathered


def sum_over_ranks(value: Tensor, *, gradient_scale: float = 1) -> Tensor:
    """The sum over ranks, on every rank. The gradient of the local value is `gradient_scale` times the sum's."""
    summed: Tensor = _SumOverRanks.apply(value, gradient_scale)
    return summed


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """The global batch's embeddings (differentiable) and labels, and the row where this rank's begin."""
    sizes = gather_sizes(embeddings.shape[0], embeddings.device)
    labels = labels.to(embeddings.device, torch.int64)
    return gather_rows(embeddings, sizes), gather_rows(labels, sizes), sum(sizes[: dist.get_rank()])


def sum_of_ranks(total: Tensor, counts: Tensor, gradients: str) -> tuple[Tensor, Tensor]:
    """A loss's sum and its counts over all ranks; `gradients`: "mean" where the engine will average them."""
    counts = counts.clone()
    dist.all_reduce(counts)
    return sum_over_ranks(total, gradient_scale=dist.get_world_size() if gradients == "mean" else 1), counts


# PyTorch 2.13 gave it this name, and warns about the old one.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, sizes: list[int]) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.sizes = sizes
        # Collectives need equal shapes: pad to the longest, cut afterwards.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def, override]
        # Each rank needs the sum of its own slice alone: half the traffic of a sum of everything on every rank.
        # Collectives need equal shapes: pad every slice to the longest, cut afterwards.
        longest, num_own = max(ctx.sizes), ctx.sizes[dist.get_rank()]
        padded = gradient.contiguous()
        if min(ctx.sizes) < longest:
            padded = gradient.new_zeros(len(ctx.sizes), longest, *gradient.shape[1:])
            for place, part in zip(padded, gradient.split(ctx.sizes), strict=True):
                place[: len(part)] = part
            padded = padded.flatten(0, 1)
        own = gradient.new_empty(longest, *gradient.shape[1:])
        _reduce_scatter(own, padded)
        return own[:num_own], None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, gradient_scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.gradient_scale = gradient_scale
        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def, override]
        return gradient * ctx.gradient_scale, None
