"""InfoNCE's sums over all logits as autograd functions, over ranks and for either backend.

Shapes: M rows of this rank, N targets of all ranks, D features, C labels.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import embedding_bag

from neuroimagen.kernels.backends import infonce_torch
from neuroimagen.kernels.backends.infonce_torch import row_tiles


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
    rows: Tensor,
    targets: Tensor,
    scale: Tensor,
    groups: LabelGroups,
    *,
    own: slice,
    columns: bool = True,
    distributed: bool = False,
    backend: str = "torch",
) -> tuple[Tensor, Tensor, Tensor]:
    """The three sums of the logits ℓ_ij = s x_i·y_j, differentiable in rows, targets and scale:

    log Σ_j exp ℓ_ij [M]; log Σ_i exp ℓ_ij [N], i over the rows of all ranks; and Σ_i mean_{j ∈ P(i)} ℓ_ij over this
    rank's rows, 0-dim float64, P(i) the targets of row i's label. `own`: the targets that belong to this rank's rows.
    The second is the same on every rank, and its gradient counts what every rank makes of it; without `columns` it is
    not differentiable. A collective where `distributed`: all ranks call it with the same targets.
    """
    sums: tuple[Tensor, Tensor, Tensor] = _LogitSums.apply(
        rows, targets, scale, groups, own, columns, distributed, backend
    )
    return sums


def _backend(name: str) -> ModuleType:
    if name == "triton":
        from neuroimagen.kernels.backends import infonce_triton

        return infonce_triton
    return infonce_torch


class _LogitSums(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        rows: Tensor,
        targets: Tensor,
        scale: Tensor,
        groups: LabelGroups,
        own: slice,
        columns: bool,
        distributed: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        row_logsumexp, largest, total = _backend(backend).logsumexps(rows, targets, scale)
        positive = torch.zeros((), dtype=torch.float64, device=rows.device)
        means, own_place = groups.means(targets), groups.place[own]
        for tile in row_tiles(rows.shape[0], rows.shape[1], rows.device):
            positive += (rows[tile] * scale * means[own_place[tile]]).sum(dtype=torch.float64)
        if distributed:
            of_all_ranks = largest.clone()
            dist.all_reduce(of_all_ranks, dist.ReduceOp.MAX)
            total.mul_((largest - of_all_ranks).exp_())
            dist.all_reduce(total)
            largest = of_all_ranks
        column_logsumexp = largest + total.log()
        ctx.groups, ctx.own, ctx.columns = groups, own, columns
        ctx.distributed, ctx.backend = distributed, backend
        if not columns:
            ctx.mark_non_differentiable(column_logsumexp)
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
        if ctx.columns and ctx.distributed:
            column_gradient = column_gradient.contiguous().clone()
            dist.all_reduce(column_gradient)
        products, target_gradient = _backend(ctx.backend).slope_products(
            rows,
            targets,
            scale,
            (row_logsumexp, column_logsumexp),
            (row_gradient.contiguous(), column_gradient.contiguous() if ctx.columns else None),
            of_rows=of_rows or of_scale,
            of_targets=of_targets,
        )
        positive_weight = positive_gradient.to(rows.dtype)
        if target_gradient is not None:
            _add_positives(target_gradient, rows, groups, own, positive_weight * scale)
        if products is None:
            return None, target_gradient, *(None,) * 6
        # products are Σ_j ∂/∂ℓ_ij y_j, to which the positives belong.
        means, own_place = groups.means(targets), groups.place[own]
        scale_gradient = torch.zeros((), dtype=torch.float64, device=rows.device)
        for tile in row_tiles(rows.shape[0], rows.shape[1], rows.device):
            products[tile] += positive_weight * means[own_place[tile]]
            if of_scale:
                scale_gradient += (rows[tile] * products[tile]).sum(dtype=torch.float64)
        return (
            products.mul_(scale) if of_rows else None,
            target_gradient,
            scale_gradient.to(scale.dtype) if of_scale else None,
            *(None,) * 5,
        )


def _add_positives(target_gradient: Tensor, rows: Tensor, groups: LabelGroups, own: slice, weight: Tensor) -> None:
    """Add weight · Σ_i x_i / |P(i)| over this rank's rows i of its label to every target's gradient, in place."""
    if groups.is_distinct:
        target_gradient[own].addcmul_(rows, weight)
        return
    shares = groups.shares(rows, own)
    for tile in row_tiles(target_gradient.shape[0], target_gradient.shape[1], rows.device):
        target_gradient[tile] += weight * shares[groups.place[tile]]
