"""InfoNCE as a plain float64 formula on the matrix of all logits: the reference of tests and benchmarks."""

import torch
from torch import Tensor


def reference_infonce(
    rows: Tensor,
    targets: Tensor,
    labels: Tensor,
    *,
    logit_scale: Tensor | float,
    directions: str = "both",
    soft_targets: float = 0.0,
    soft_target_scale: float = 10.0,
) -> Tensor:
    """The loss in float64, straight from the definition in `infonce.py`; differentiable by autograd."""
    rows, targets = rows.double(), targets.double()
    if len(rows) == 0:
        return 0 * (rows.sum() + targets.sum())
    logits = logit_scale * rows @ targets.T
    same = (labels[:, None] == labels[None]).double()
    hard = same / same.sum(1, keepdim=True)
    unit = torch.nn.functional.normalize(targets.detach(), dim=1)
    soft = torch.softmax(soft_target_scale * unit @ unit.T, dim=1)
    target = (1 - soft_targets) * hard + soft_targets * soft
    of_rows = -(target * torch.log_softmax(logits, dim=1)).sum(1).mean()
    if directions == "rows":
        return of_rows
    return (of_rows - (target * torch.log_softmax(logits.T, dim=1)).sum(1).mean()) / 2


def dense_infonce(rows: Tensor, targets: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """CLIP's loss as it is usually written, in the rows' precision: one positive for each row, [N, N] logits."""
    logits = logit_scale * rows @ targets.T
    place = torch.arange(len(rows), device=rows.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, place) + cross_entropy(logits.T, place)) / 2
