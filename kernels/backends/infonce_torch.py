"""The sums over all logits that InfoNCE consists of, by tiles, in PyTorch: O(N · D) memory.

Shapes: M rows of this rank, N targets of all ranks, D features; a tile is [R, N] logits of R rows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from neuroimagen.kernels.backends.precision import full_float32

TILE_ELEMENTS = 1 << 21
"""Logits of one tile on a CPU: 8 MB of float32, of which two exist at a time."""
GPU_TILE_ELEMENTS = 1 << 27
"""The same on a GPU, where a larger product uses the processors better: 512 MB of float32."""


def row_tiles(num_rows: int, num_columns: int, device: torch.device) -> Iterator[slice]:
    elements = TILE_ELEMENTS if device.type == "cpu" else GPU_TILE_ELEMENTS
    step = max(16, elements // max(1, num_columns))
    for first in range(0, num_rows, step):
        yield slice(first, min(num_rows, first + step))


def logsumexps(rows: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ_j exp ℓ_ij [M] of the logits ℓ_ij = s x_i·y_j; the columns' largest logit [N], and Σ_i exp(ℓ_ij −
    largest_j) [N], −∞ and 0 without a row.
    """
    row_logsumexp = rows.new_empty(rows.shape[0])
    largest = rows.new_full((targets.shape[0],), -torch.inf)
    total = rows.new_zeros(targets.shape[0])
    with full_float32():
        for tile in row_tiles(rows.shape[0], targets.shape[0], rows.device):
            logits = (rows[tile] * scale) @ targets.T  # [R, N]
            row_logsumexp[tile] = torch.logsumexp(logits, dim=1)
            new_largest = torch.maximum(largest, logits.amax(0))
            total.mul_((largest - new_largest).exp_()).add_(logits.sub_(new_largest).exp_().sum(0))
            largest = new_largest
    return row_logsumexp, largest, total


def slope_products(
    rows: Tensor,
    targets: Tensor,
    scale: Tensor,
    logsumexp: tuple[Tensor, Tensor],
    weight: tuple[Tensor, Tensor | None],
    *,
    of_rows: bool,
    of_targets: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Σ_j G_ij y_j [M, D] if `of_rows`, and s Σ_i G_ij x_i [N, D] if `of_targets`, with the slopes of the log-sum-exps

    G_ij = g_i exp(ℓ_ij − LSE_i) + h_j exp(ℓ_ij − LSE_j).

    logsumexp: LSE of the rows [M] and of the columns [N]; weight: g [M] and h [N], h None for zeros.
    """
    (row_logsumexp, column_logsumexp), (row_weight, column_weight) = logsumexp, weight
    row_products = torch.empty_like(rows) if of_rows else None
    target_products = torch.zeros_like(targets) if of_targets else None
    with full_float32():
        for tile in row_tiles(rows.shape[0], targets.shape[0], rows.device):
            scaled = rows[tile] * scale
            logits = scaled @ targets.T
            if column_weight is not None:
                slope = (logits - row_logsumexp[tile, None]).exp_().mul_(row_weight[tile, None])
                slope.add_(logits.sub_(column_logsumexp).exp_().mul_(column_weight))
            else:
                slope = logits.sub_(row_logsumexp[tile, None]).exp_().mul_(row_weight[tile, None])
            if row_products is not None:
                torch.mm(slope, targets, out=row_products[tile])
            if target_products is not None:
                target_products.addmm_(slope.T, scaled)
    return row_products, target_products


def soft_positive_sum(rows: Tensor, targets: Tensor, *, own: slice, similarity_scale: float, directions: str) -> Tensor:
    """Σ_i Σ_j W_ij x_i·y_j over this rank's rows, 0-dim; differentiable in rows and targets, not through W.

    With T_ij = softmax_j(k cos(y_i, y_j)), W = T for directions="rows" and W = (T + Tᵀ) / 2 for "both": Tᵀ is the
    target distribution of the other direction. `own`: the targets that belong to this rank's rows.
    """
    found: Tensor = _SoftPositiveSum.apply(rows, targets, own, similarity_scale, directions == "both")
    return found


class _SoftPositiveSum(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, rows: Tensor, targets: Tensor, own: slice, similarity_scale: float, both: bool
    ) -> Tensor:
        unit = torch.nn.functional.normalize(targets, dim=1)
        scaled = unit * similarity_scale
        row_products = torch.zeros_like(rows)  # Σ_j W_ij y_j
        target_products = torch.zeros_like(targets)  # Σ_i W_ij x_i
        with full_float32():
            normaliser = None
            if both:
                # cos is symmetric, so the normaliser of row j of T is that of column j of Tᵀ.
                tiles = row_tiles(targets.shape[0], targets.shape[0], rows.device)
                normaliser = torch.cat([torch.logsumexp(scaled[tile] @ unit.T, dim=1) for tile in tiles])
            for tile in row_tiles(rows.shape[0], targets.shape[0], rows.device):
                similarity = scaled[own][tile] @ unit.T
                weight = torch.softmax(similarity, dim=1)
                if normaliser is not None:
                    weight.add_(similarity.sub_(normaliser).exp_()).div_(2)
                torch.mm(weight, targets, out=row_products[tile])
                target_products.addmm_(weight.T, rows[tile])
        ctx.save_for_backward(row_products, target_products)
        return (rows * row_products).sum(dtype=torch.float64).to(rows.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        row_products, target_products = ctx.saved_tensors
        return gradient * row_products, gradient * target_products, None, None, None
