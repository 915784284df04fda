"""The sums over all logits that InfoNCE consists of, by tiles, in PyTorch: O(N · D) memory.

Shapes: M rows of this rank, N targets of all ranks, D features, C labels; a tile is [R, N] logits of R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import embedding_bag

from neuroimagen.kernels.backends.precision import full_float32

TILE_ELEMENTS = 1 << 21
"""Logits of one tile on a CPU: 8 MB of float32, of which two exist at a time."""
GPU_TILE_ELEMENTS = 1 << 27
"""The same on a GPU, where a larger product uses the processors better: 512 MB of float32."""


@dataclass(frozen=True, kw_only=True)
class LabelGroups:
    """The targets of all ranks by label; labels are numbered by place."""

    place: Tensor
    """[N] int64: number of the target's label, 0 … C − 1."""
    order: Tensor
    """[N] int64: targets sorted by the number of their label."""
    count: Tensor
    """[C] int64: targets with the label."""
    is_distinct: bool
    """Every target has a label of its own; place and order then are 0 … N − 1."""

    @classmethod
    def of(cls, labels: Tensor) -> "LabelGroups":
        """Groups of labels [N]."""
        _, place, count = torch.unique(labels, return_inverse=True, return_counts=True)
        if count.shape == labels.shape:
            identity = torch.arange(labels.shape[0], device=labels.device)
            return cls(place=identity, order=identity, count=torch.ones_like(identity), is_distinct=True)
        return cls(place=place, order=torch.argsort(place, stable=True), count=count, is_distinct=False)

    def means(self, targets: Tensor) -> Tensor:
        """[C, D]: the mean of each label's targets. No atomic additions, so the same bits every time."""
        if self.is_distinct:
            return targets
        return embedding_bag(self.order, targets, self.count.cumsum(0) - self.count, mode="mean")

    def shares(self, rows: Tensor, own: slice) -> Tensor:
        """[C, D]: the sum of this rank's rows of a label over the number of targets of that label on all ranks."""
        if rows.shape[0] == 0:
            return rows.new_zeros(len(self.count), rows.shape[1])
        place, order = self.place[own].sort(stable=True)
        begin = torch.searchsorted(place, torch.arange(len(self.count), device=rows.device))
        return embedding_bag(order, rows, begin, mode="sum") / self.count[:, None]


def logit_sums(
    rows: Tensor, targets: Tensor, scale: Tensor, groups: LabelGroups, *, own: slice, distributed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The three sums of the logits ℓ_ij = s x_i·y_j, differentiable in rows, targets and scale:

    log Σ_j exp ℓ_ij [M]; log Σ_i exp ℓ_ij [N], i over the rows of all ranks; and Σ_i mean_{j ∈ P(i)} ℓ_ij over this
    rank's rows, 0-dim float64, P(i) the targets of row i's label. `own`: the targets that belong to this rank's rows.
    The second is the same on every rank, and its gradient counts what every rank makes of it. A collective where
    `distributed`: all ranks call it with the same targets.
    """
    sums: tuple[Tensor, Tensor, Tensor] = _LogitSums.apply(rows, targets, scale, groups, own, distributed)
    return sums


def soft_positive_sum(rows: Tensor, targets: Tensor, *, own: slice, similarity_scale: float, directions: str) -> Tensor:
    """Σ_i Σ_j W_ij x_i·y_j over this rank's rows, 0-dim; differentiable in rows and targets, not through W.

    With T_ij = softmax_j(k cos(y_i, y_j)), W = T for directions="rows" and W = (T + Tᵀ) / 2 for "both": Tᵀ is the
    target distribution of the other direction. `own`: the targets that belong to this rank's rows.
    """
    found: Tensor = _SoftPositiveSum.apply(rows, targets, own, similarity_scale, directions == "both")
    return found


def _tiles(num_rows: int, num_columns: int, device: torch.device) -> Iterator[slice]:
    elements = TILE_ELEMENTS if device.type == "cpu" else GPU_TILE_ELEMENTS
    step = max(16, elements // max(1, num_columns))
    for first in range(0, num_rows, step):
        yield slice(first, min(num_rows, first + step))


class _LogitSums(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, rows: Tensor, targets: Tensor, scale: Tensor, groups: LabelGroups, own: slice, distributed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        row_logsumexp = rows.new_empty(rows.shape[0])
        positive = torch.zeros((), dtype=torch.float64, device=rows.device)
        means, own_place = groups.means(targets), groups.place[own]
        # Of the columns: the largest logit so far, and the sum of exp(logit − largest).
        largest = rows.new_full((targets.shape[0],), -torch.inf)
        total = rows.new_zeros(targets.shape[0])
        with full_float32():
            for tile in _tiles(rows.shape[0], targets.shape[0], rows.device):
                scaled = rows[tile] * scale
                positive += (scaled * means[own_place[tile]]).sum(dtype=torch.float64)
                logits = scaled @ targets.T  # [R, N]
                row_logsumexp[tile] = torch.logsumexp(logits, dim=1)
                new_largest = torch.maximum(largest, logits.amax(0))
                total.mul_((largest - new_largest).exp_()).add_(logits.sub_(new_largest).exp_().sum(0))
                largest = new_largest
        if distributed:
            of_all_ranks = largest.clone()
            dist.all_reduce(of_all_ranks, dist.ReduceOp.MAX)
            total.mul_((largest - of_all_ranks).exp_())
            dist.all_reduce(total)
            largest = of_all_ranks
        column_logsumexp = largest + total.log()
        ctx.groups, ctx.own, ctx.distributed = groups, own, distributed
        ctx.save_for_backward(rows, targets, scale, row_logsumexp, column_logsumexp)
        return row_logsumexp, column_logsumexp, positive

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, row_gradient: Tensor, column_gradient: Tensor, positive_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """∂/∂ℓ_ij = g_i exp(ℓ_ij − LSE_i) + h_j exp(ℓ_ij − LSE_j) + p [j ∈ P(i)] / |P(i)|, h summed over ranks."""
        rows, targets, scale, row_logsumexp, column_logsumexp = ctx.saved_tensors
        groups, own = ctx.groups, ctx.own
        of_rows, of_targets, of_scale = ctx.needs_input_grad[:3]
        if ctx.distributed:
            column_gradient = column_gradient.contiguous().clone()
            dist.all_reduce(column_gradient)
        has_columns = bool(column_gradient.any())
        positive_weight = positive_gradient.to(rows.dtype)
        products = torch.empty_like(rows)  # Σ_j ∂/∂ℓ_ij y_j
        target_gradient = torch.zeros_like(targets) if of_targets else None
        means, own_place = groups.means(targets), groups.place[own]
        with full_float32():
            for tile in _tiles(rows.shape[0], targets.shape[0], rows.device):
                scaled = rows[tile] * scale
                logits = scaled @ targets.T
                if has_columns:
                    slope = (logits - row_logsumexp[tile, None]).exp_().mul_(row_gradient[tile, None])
                    slope.add_(logits.sub_(column_logsumexp).exp_().mul_(column_gradient))
                else:
                    slope = logits.sub_(row_logsumexp[tile, None]).exp_().mul_(row_gradient[tile, None])
                if of_rows or of_scale:
                    torch.mm(slope, targets, out=products[tile])
                    products[tile] += positive_weight * means[own_place[tile]]
                if target_gradient is not None:
                    target_gradient.addmm_(slope.T, scaled)
        del means
        if target_gradient is not None:
            _add_positives(target_gradient, rows, groups, own, positive_weight * scale)
        scale_gradient = None
        if of_scale:
            scale_gradient = torch.zeros((), dtype=torch.float64, device=rows.device)
            for tile in _tiles(rows.shape[0], rows.shape[1], rows.device):
                scale_gradient += (rows[tile] * products[tile]).sum(dtype=torch.float64)
            scale_gradient = scale_gradient.to(scale.dtype)
        return products.mul_(scale) if of_rows else None, target_gradient, scale_gradient, None, None, None


def _add_positives(target_gradient: Tensor, rows: Tensor, groups: LabelGroups, own: slice, weight: Tensor) -> None:
    """Add weight · Σ_i x_i / |P(i)| over this rank's rows i of its label to every target's gradient, in place."""
    if groups.is_distinct:
        target_gradient[own] += weight * rows
        return
    shares = groups.shares(rows, own)
    for tile in _tiles(target_gradient.shape[0], target_gradient.shape[1], rows.device):
        target_gradient[tile] += weight * shares[groups.place[tile]]


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
                tiles = _tiles(targets.shape[0], targets.shape[0], rows.device)
                normaliser = torch.cat([torch.logsumexp(scaled[tile] @ unit.T, dim=1) for tile in tiles])
            for tile in _tiles(rows.shape[0], targets.shape[0], rows.device):
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
