"""The triplet loss and its gradient from index lists, in Triton: no N × N matrix, no [T, D] copies, no atomics.

With c_aj = ∂Σ/∂d²_aj, which is not zero for an anchor's chosen positives and negatives only,

    ∂Σ/∂x_a = 2 Σ_j c_aj (x_a − x_j),    ∂Σ/∂x_j = 2 Σ_a c_aj (x_j − x_a).

Both are one kernel over lists: the anchors' own, and the same list sorted by j, so that each row is summed by one
program in one order. Where very many anchors chose one candidate, as in a batch whose embeddings have collapsed, its
list is summed in two levels: pieces of PIECE_LENGTH entries, and then the pieces. Distances are recomputed from
differences of the original rows in float32.
"""

import torch
import triton
from torch import Tensor

from neuroimagen.kernels.backends.devices import launches_kernels
from neuroimagen.kernels.backends.semihard_triton import mine_columns
from neuroimagen.kernels.backends.semihard_triton_kernels import gradient_kernel, hinge_kernel, piece_kernel
from neuroimagen.kernels.triplets.class_layout import ClassLayout, LossSum, PositiveSampler

PIECE_LENGTH = 512
"""Entries of a list that one program sums one after the other. A list of 262,144 entries, N = 65,536 anchors with 4
pairs each, becomes 512 pieces: 64 iterations on either level, each of 8 entries, instead of 32,768.
"""


def list_loss(
    embeddings: Tensor, candidates: Tensor, chosen: Tensor, *, margin: float, distance: str, with_gradient: bool
) -> LossSum:
    """The loss of index lists: `chosen` [M, 2 · slots] int32 rows of the candidates, positives first, −1 for none."""
    num_anchors, num_features = embeddings.shape
    num_slots = chosen.shape[1] // 2
    device = embeddings.device
    slope = torch.empty(chosen.shape, dtype=torch.float32, device=device)
    hinge = torch.empty(num_anchors, dtype=torch.float32, device=device)
    active = torch.empty(num_anchors, dtype=torch.int32, device=device)
    BD = min(128, max(16, triton.next_power_of_2(num_features)))
    hinge_kernel[(triton.cdiv(num_anchors, 16),)](
        embeddings, candidates, chosen, slope, hinge, active, num_anchors, num_features, num_slots, margin,
        ROOT=distance == "euclidean", BM=16, BD=BD,
    )  # fmt: skip
    anchor_gradient, candidate_gradient = embeddings[:0], candidates[:0]
    if with_gradient:
        begin = torch.arange(num_anchors + 1, device=device) * (2 * num_slots)
        anchor_gradient = _weighted_differences(embeddings, candidates, begin, chosen, slope, BD)
        target, order = chosen.flatten().sort(stable=True)
        begin = torch.searchsorted(target, torch.arange(candidates.shape[0] + 1, dtype=torch.int32, device=device))
        anchor = (order // (2 * num_slots)).int()
        candidate_gradient = _weighted_differences(candidates, embeddings, begin, anchor, slope.flatten()[order], BD)
    return LossSum(
        total=hinge.sum(dtype=torch.float64),
        num_pairs=(chosen[:, :num_slots] >= 0).sum(),
        num_active=active.sum(),
        anchor_gradient=anchor_gradient,
        candidate_gradient=candidate_gradient,
    )


def _weighted_differences(rows: Tensor, others: Tensor, begin: Tensor, other: Tensor, slope: Tensor, BD: int) -> Tensor:
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    num_rows, num_features = rows.shape
    blocks = triton.cdiv(num_features, BD)
    piece_begin, piece_row = list_pieces(begin, other.numel(), PIECE_LENGTH)
    parts = torch.empty(piece_row.shape[0], num_features, dtype=torch.float32, device=rows.device)
    if len(parts):
        piece_kernel[(len(parts), blocks)](
            rows, others, begin, other, slope, piece_begin, piece_row, parts, num_features,
            LENGTH=PIECE_LENGTH, BE=8, BD=BD,
        )  # fmt: skip
    gradient_kernel[(num_rows, blocks)](
        rows, others, begin, other, slope, piece_begin, parts, out, num_features, BE=8, BD=BD
    )
    return out


def list_pieces(begin: Tensor, num_entries: int, length: int) -> tuple[Tensor, Tensor]:
    """Pieces of at most `length` entries of the lists begin[i] … begin[i + 1] − 1 that are longer than that.

    Returns the first piece of each list, int64 [lists + 1], and the list of each piece, int64 [P], −1 for none. P is the
    largest number that `num_entries` entries can make, so that nothing is fetched from the device.
    """
    size = begin.diff()
    count = torch.where(size > length, (size + length - 1) // length, 0)
    piece_begin = torch.cat([count.new_zeros(1), count.cumsum(0)])
    # Each list of several pieces has more than (pieces − 1) · length entries, at least half of pieces · length.
    piece = torch.arange(2 * num_entries // length, device=begin.device)
    row = torch.searchsorted(piece_begin[1:], piece, right=True)
    return piece_begin, torch.where(row < len(count), row, -1)


@launches_kernels
def loss_sum(
    embeddings: Tensor,
    candidates: Tensor,
    layout: ClassLayout,
    positives: PositiveSampler,
    *,
    margin: float,
    distance: str,
    precision: str,
    with_gradient: bool,
) -> LossSum:
    """As `semihard_torch.loss_sum`, for contiguous float32 rows."""
    mined = mine_columns(embeddings, candidates, layout, positives, precision=precision)
    chosen = torch.cat([mined.positive, mined.negative]).T
    rows = torch.where(chosen < 0, -1, layout.candidate_order[chosen.clamp_min(0).long()]).int()
    by_anchor = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
    by_anchor[layout.anchor_order] = rows
    return list_loss(embeddings, candidates, by_anchor, margin=margin, distance=distance, with_gradient=with_gradient)
