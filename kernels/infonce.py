"""The symmetric InfoNCE loss over a global batch, exact and without the matrix of all pairs: the public interface.

Definition. For N pairs of a row x_i (an EEG embedding) and a target y_i (its stimulus's image embedding), labels c_i
(the stimulus's number) and the logit scale s,

    ℓ_ij = s x_i·y_j,
    L_rows = 1/N Σ_i ( log Σ_j exp ℓ_ij − Σ_j T_ij ℓ_ij ),     L_targets = 1/N Σ_j ( log Σ_i exp ℓ_ij − Σ_i T_ji ℓ_ij ),

and the loss is their mean (InfoNCE, arXiv 1807.03748, eq. 4, in both directions as in CLIP, arXiv 2103.00020, fig. 3).
T_ij is 1/|P(i)| on the positives P(i) = {j : c_j = c_i} and 0 elsewhere: a stimulus that was shown several times in one
batch is no negative of itself (arXiv 2004.11362, eq. 2). With distinct labels this is CLIP's loss.

The rows are used as they are given: normalise the sides that shall have unit norm. Memory is O(N · D): the logits exist
a tile at a time, and the backward pass computes them again.
"""

import torch
from torch import Tensor

from neuroimagen.kernels.backends.dispatch import choose_backend
from neuroimagen.kernels.backends.infonce_operator import LabelGroups, logit_sums
from neuroimagen.kernels.backends.infonce_torch import soft_positive_sum
from neuroimagen.kernels.triplets.global_batch import gather_rows, gather_sizes, is_distributed, sum_over_ranks
from neuroimagen.kernels.triplets.options import BACKENDS

DIRECTIONS = ("both", "rows")


class InfoNCELoss(torch.nn.Module):
    """InfoNCE of the definition at the top of the module.

    With torch.distributed initialised, targets and labels are gathered across ranks with gradients, and each rank
    computes the logits of its own rows. Every rank returns the loss of the whole batch, and the gradients of the
    parameters *summed* over ranks (the logit scale's too) are those of one process on the whole batch. Local batches
    may be uneven, even empty. float16 and bfloat16 rows are cast up. Rows that are not finite make the loss NaN on
    every rank; a batch without a row has loss 0.

    Args:
        directions: "both" is the mean of L_rows and L_targets; "rows" is L_rows alone.
        soft_targets: share α in [0, 1] of the target distribution that follows the similarity of the targets:
            T = (1 − α) T_hard + α softmax_j(k cos(y_i, y_j)). T is a constant: no gradient flows through it.
        soft_target_scale: k, positive.
        global_batch: gather across ranks; False keeps each rank to its own batch.
        gradients: how the training engine combines the ranks' gradients: "sum", or "mean" (DDP, DeepSpeed), where the
            backward pass is multiplied by the number of ranks to make up for it.
        backend: "torch", "triton" or "auto" (Triton on the GPUs that `choose_backend` names). The term of soft targets
            is PyTorch's in either case.
    """

    def __init__(
        self,
        *,
        directions: str = "both",
        soft_targets: float = 0.0,
        soft_target_scale: float = 10.0,
        global_batch: bool = True,
        gradients: str = "sum",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("directions", directions, DIRECTIONS),
            ("gradients", gradients, ("sum", "mean")),
            ("backend", backend, BACKENDS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
        if not 0 <= soft_targets <= 1:
            raise ValueError(f"soft_targets={soft_targets!r} must be a share from 0 to 1")
        if not 0 < soft_target_scale < float("inf"):
            raise ValueError(f"soft_target_scale={soft_target_scale!r} must be a positive number")
        self.directions, self.soft_targets, self.soft_target_scale = directions, soft_targets, soft_target_scale
        self.global_batch, self.gradients, self.backend = global_batch, gradients, backend

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("directions", "soft_targets"))

    @torch.compiler.disable
    def forward(self, rows: Tensor, targets: Tensor, labels: Tensor, *, logit_scale: Tensor | float) -> Tensor:
        """Loss, 0-dim float32 (float64 for float64 rows).

        Args:
            rows: [M, D] float, this rank's.
            targets: [M, D] float, target i that of row i.
            labels: [M] integers; rows of one label are each other's positives.
            logit_scale: s, a number or a 0-dim tensor (differentiable).

        Raises:
            ValueError: shapes that do not fit.
            TypeError: rows or targets that are not floating point, labels that are not integers.
        """
        _check(rows, targets, labels)
        if rows.is_meta:  # shapes without numbers, as in an estimate of memory
            return (rows.sum() + targets.sum()).float() + logit_scale
        device_type = rows.device.type
        with torch.autocast(device_type, enabled=False):
            dtype = torch.promote_types(torch.promote_types(rows.dtype, targets.dtype), torch.float32)
            rows, targets, labels = rows.to(dtype), targets.to(dtype), labels.to(rows.device, torch.int64)
            scale = torch.as_tensor(logit_scale, dtype=dtype, device=rows.device)
            distributed = self.global_batch and is_distributed()
            if distributed:
                sizes = gather_sizes(rows.shape[0], rows.device)
                columns, column_labels = gather_rows(targets, sizes), gather_rows(labels, sizes)
                first = sum(sizes[: torch.distributed.get_rank()])
            else:
                columns, column_labels, first = targets, labels, 0
            own = slice(first, first + rows.shape[0])
            row_logsumexp, column_logsumexp, positive_total = logit_sums(
                rows,
                columns,
                scale,
                LabelGroups.of(column_labels),
                own=own,
                columns=self.directions == "both",
                distributed=distributed,
                backend=choose_backend(self.backend, rows.device, dtype=dtype),
            )
            # One positive term serves both directions: it is a sum over the pairs of one label, read by rows or by
            # columns. The soft targets' term is the mean of the two readings.
            if self.soft_targets:
                soft = soft_positive_sum(
                    rows,
                    columns,
                    own=own,
                    similarity_scale=self.soft_target_scale,
                    directions=self.directions,
                )
                positive_total = (1 - self.soft_targets) * positive_total + self.soft_targets * soft.double() * scale
            total = row_logsumexp.sum(dtype=torch.float64)
            if self.directions == "both":
                total = (total + column_logsumexp[own].sum(dtype=torch.float64)) / 2
            total = total - positive_total
            # Infinities could cancel, and a maximum over ranks may lose a NaN.
            is_finite = torch.linalg.vector_norm(rows).isfinite() & torch.linalg.vector_norm(targets).isfinite()
            total = total + torch.where(is_finite, 0.0, torch.nan)
            if distributed:
                num_ranks = torch.distributed.get_world_size()
                total = sum_over_ranks(total, gradient_scale=num_ranks if self.gradients == "mean" else 1)
            return (total / max(1, columns.shape[0])).to(dtype)


def _check(rows: Tensor, targets: Tensor, labels: Tensor) -> None:
    for name, value in (("rows", rows), ("targets", targets)):
        if value.ndim != 2:
            raise ValueError(f"{name} must be [rows, features], got {tuple(value.shape)}")
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
    if rows.shape != targets.shape or rows.device != targets.device:
        raise ValueError(
            f"rows {tuple(rows.shape)} on {rows.device} do not fit targets {tuple(targets.shape)} on {targets.device}"
        )
    if labels.ndim != 1 or labels.shape[0] != rows.shape[0]:
        raise ValueError(f"labels must be [{rows.shape[0]}], one for each row, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be integers, got {labels.dtype}")
