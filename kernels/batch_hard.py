"""Batch-hard triplets over a global batch: the farthest positive and the nearest negative of each anchor.

Definition (Hermans et al. 2017, arXiv 1703.07737, eq. 5). For every anchor a that has a positive and a negative

    p(a) = argmax { d(a, p) : class(p) = class(a), p ≠ a },   n(a) = argmin { d(a, n) : class(n) ≠ class(a) },

d the squared Euclidean distance; "euclidean" chooses the same triplets and "cosine" those of the normalised rows. Ties
go to the lowest row. Exact and chunked: O(CHUNK · N) memory beside the rows.
"""

import torch
from torch import Tensor

from neuroimagen.kernels.triplets.global_batch import gather_batch, is_distributed, sum_of_ranks
from neuroimagen.kernels.triplets.options import DISTANCES, check_margin

CHUNK = 1024
"""Anchors whose distances are computed together."""


class BatchHardTripletLoss(torch.nn.Module):
    """L = 1/A Σ_a max(0, d(a, p(a)) − d(a, n(a)) + margin) over the A anchors of the global batch with both.

    Ranks, gradients, uneven local batches, rows that are not finite and rows of half precision are as in
    `SemiHardTripletLoss`; so are `distance`, `global_batch` and `gradients`. Without a triplet the loss is 0, and so is
    its gradient.

    Args:
        margin: in units of the distance.
        distance: "sqeuclidean" |x−y|², "euclidean" |x−y|, or "cosine" 1 − cos(x, y).
        reduction: divide by all anchors ("pairs") or by those with a positive hinge ("active").
        global_batch: gather across ranks; False keeps each rank to its own batch.
        gradients: how the training engine combines the ranks' gradients: "sum" or "mean".
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: str = "sqeuclidean",
        reduction: str = "pairs",
        global_batch: bool = True,
        gradients: str = "sum",
    ) -> None:
        super().__init__()
        choices = {"distance": DISTANCES, "reduction": ("pairs", "active"), "gradients": ("sum", "mean")}
        for name, value in (("distance", distance), ("reduction", reduction), ("gradients", gradients)):
            if value not in choices[name]:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(choices[name])}")
        check_margin(margin)
        self.margin, self.distance, self.reduction = float(margin), distance, reduction
        self.global_batch, self.gradients = global_batch, gradients

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Loss, 0-dim float32 (float64 for float64 rows), of embeddings [M, D] with labels [M]."""
        if embeddings.dtype in (torch.float16, torch.bfloat16):
            embeddings = embeddings.float()
        if self.distance == "cosine":
            embeddings = torch.nn.functional.normalize(embeddings, dim=1)
        labels = labels.to(embeddings.device, torch.int64)
        distributed = self.global_batch and is_distributed()
        candidates, candidate_labels, offset = embeddings, labels, 0
        if distributed:
            candidates, candidate_labels, offset = gather_batch(embeddings, labels)
        anchor, positive, negative = mine_batch_hard(embeddings, labels, candidates, candidate_labels, offset)
        rows = embeddings[anchor]
        to_positive, to_negative = (self._distance(rows, candidates[index]) for index in (positive, negative))
        hinge = (to_positive - to_negative + self.margin).clamp_min(0)
        # A row that is not finite on any rank makes the loss NaN on every rank. With nothing to mine the loss is 0, and
        # still depends on the embeddings, so that backward() works.
        total = hinge.sum() + torch.where(torch.isfinite(candidates).all(), 0.0, torch.nan) + 0.0 * embeddings.sum()
        counts = torch.stack([torch.as_tensor(len(anchor), device=hinge.device), (hinge > 0).sum()])
        if distributed:
            total, counts = sum_of_ranks(total, counts, self.gradients)
        return total / counts[0 if self.reduction == "pairs" else 1].clamp_min(1)

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        squared = (first - second).square().sum(dim=1)
        if self.distance == "cosine":
            return squared / 2
        if self.distance == "euclidean":
            # The root has no gradient at 0, where two rows are equal.
            return torch.where(squared > 0, squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt(), squared)
        return squared


@torch.no_grad()
def mine_batch_hard(
    embeddings: Tensor, labels: Tensor, candidates: Tensor, candidate_labels: Tensor, anchor_offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(anchor, positive, negative), int64 [A] each: the triplet of every anchor that has one, in the anchors' order.

    Anchors are the rows of embeddings [M, D]; positives and negatives index rows of candidates [N, D], in which anchor
    i is row anchor_offset + i. Labels are int64 [M] and [N].
    """
    chunks = []
    with torch.autocast(embeddings.device.type, enabled=False):
        for start in range(0, len(embeddings), CHUNK):
            rows = embeddings[start : start + CHUNK]
            # By differences, not |x|² + |y|² − 2xy, which loses the distance of rows that are close together.
            distance = torch.cdist(rows, candidates, compute_mode="donot_use_mm_for_euclid_dist")
            same = labels[start : start + CHUNK, None] == candidate_labels[None]
            own = torch.arange(len(rows), device=rows.device)
            is_positive = same.clone()
            is_positive[own, anchor_offset + start + own] = False
            positive = distance.masked_fill(~is_positive, -torch.inf).argmax(dim=1)
            negative = distance.masked_fill(same, torch.inf).argmin(dim=1)
            whole = is_positive.any(dim=1) & ~same.all(dim=1)
            chunks.append(torch.stack([own + start, positive, negative])[:, whole])
    empty = torch.empty(3, 0, dtype=torch.int64, device=embeddings.device)
    anchor, positive, negative = torch.cat([empty, *chunks], dim=1)
    return anchor, positive, negative
