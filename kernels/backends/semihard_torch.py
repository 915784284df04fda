"""The exact chunked backend: PyTorch (and NumPy's vectorised sort on CPU), any device, any class structure.

Work O(N² log N), memory O(R·N) for chunks of R anchors. Per chunk: squared distances by one matrix product; 64-bit keys
(distance bits above, column below) sorted by row. One binary search per pair finds the nearest negative strictly
farther than the positive; the last key is the farthest. The loss and its gradient are formed chunk by chunk from the
index lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from neuroimagen.kernels.backends.precision import full_float32
from neuroimagen.kernels.triplets.class_layout import ClassLayout, LossSum, PositiveSampler, centred

CHUNK_ELEMENTS = 1 << 21
"""Entries of the R × N distance chunk: 8 MB of distances and 16 MB of keys; larger chunks were not faster on CPU."""
GPU_CHUNK_ELEMENTS = 1 << 25
"""The same on a GPU, larger so that kernel launches are not the cost: about 1 GB with the sort's buffers."""
_SMALLEST_DISTANCE = 1e-37  # replaces zero: −0.0 and rounding below zero would break the order of the bits


@dataclass(frozen=True, kw_only=True)
class Block:
    """The pairs of R sorted anchors, K slots each; every tensor but `rows` is [R, K]."""

    rows: Tensor
    """[R] sorted anchors."""
    positive: Tensor
    negative: Tensor
    """Columns, int64."""
    exists: Tensor
    is_fallback: Tensor
    positive_distance: Tensor
    negative_distance: Tensor
    """Squared distances in the centred frame, float32."""


def search_blocks(
    anchors: Tensor, candidates: Tensor, layout: ClassLayout, positives: PositiveSampler
) -> Iterator[Block]:
    """Mine `anchors` [M, D] against `candidates` [N, D], float32, centred, both in sorted order."""
    anchor_norm, candidate_norm = (x.square().sum(1) for x in (anchors, candidates))
    num_candidates, device = candidates.shape[0], candidates.device
    column = torch.arange(num_candidates, dtype=torch.int32, device=device)
    elements = CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS
    for classes, width in _chunks(layout, positives.count, max(16, elements // num_candidates)):
        rows = torch.cat([torch.arange(first, last, device=device) for first, last, _, _ in classes])
        distance = torch.addmm(candidate_norm[None], anchors[rows], candidates.T, alpha=-2)
        distance.add_(anchor_norm[rows, None]).clamp_min_(_SMALLEST_DISTANCE)
        keys = torch.empty(distance.shape, dtype=torch.int64, device=device)
        low_high = keys.view(torch.int32).view(*distance.shape, 2)
        low_high[..., 0] = column
        low_high[..., 1] = distance.view(torch.int32)
        begin = 0
        for first, last, start, end in classes:
            keys[begin : begin + last - first, start:end] = torch.iinfo(torch.int64).max
            begin += last - first
        keys = sort_rows(keys)
        positive, exists = positives.columns(rows, width)
        positive_distance = distance.gather(1, positive)
        wanted = (positive_distance.view(torch.int32).long() + 1) << 32
        place = torch.searchsorted(keys, wanted)
        num_negatives = (num_candidates - (layout.end - layout.start)[rows])[:, None]
        # The farthest negative is the first of those that share the largest distance.
        largest = keys.gather(1, num_negatives - 1) >> 32 << 32
        is_fallback = place >= num_negatives
        place = torch.where(is_fallback, torch.searchsorted(keys, largest), place)
        negative = keys.gather(1, place) & 0xFFFFFFFF
        yield Block(
            rows=rows,
            positive=positive,
            negative=negative,
            exists=exists,
            is_fallback=is_fallback & exists,
            positive_distance=positive_distance,
            negative_distance=distance.gather(1, negative),
        )


def sort_rows(keys: Tensor) -> Tensor:
    """int64 keys sorted along the last dimension; NumPy's AVX sort is about 8 times torch.sort's speed on a CPU."""
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
        return keys
    return keys.sort(-1).values


def _chunks(layout: ClassLayout, count: Tensor, max_rows: int) -> Iterator[tuple[list[tuple[int, int, int, int]], int]]:
    """Chunks of about `max_rows` anchors as ([(first, last, start, end), …], width): runs of anchors of one class,
    small classes together with others of about their size, so that the padding of the pair lists stays below one
    half.
    """
    _, sizes = torch.unique_consecutive(layout.start * (layout.num_candidates + 1) + layout.end, return_counts=True)
    last = sizes.cumsum(0)
    first = last - sizes
    table = torch.stack([first, last, layout.start[first], layout.end[first], count[first]], 1) if len(sizes) else sizes
    runs = sorted((run for run in table.tolist() if run[4]), key=lambda run: run[4])
    chunk: list[tuple[int, int, int, int]] = []
    room, width, narrowest = max_rows, 0, 0
    for begin, stop, start, end, num_positives in runs:
        while begin < stop:
            if chunk and (room <= 0 or num_positives > 2 * narrowest):
                yield chunk, width
                chunk, room = [], max_rows
            if not chunk:
                narrowest = num_positives
            taken = min(stop - begin, room)
            chunk.append((begin, begin + taken, start, end))
            begin, room, width = begin + taken, room - taken, num_positives
    if chunk:
        yield chunk, width


def mine(
    embeddings: Tensor, candidates: Tensor, layout: ClassLayout, positives: PositiveSampler
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(anchor, positive, negative) rows and is_fallback, each [T], ordered by anchor and then by positive."""
    anchors, columns, _ = centred(embeddings, candidates)
    device = embeddings.device
    num_pairs = torch.zeros(embeddings.shape[0] + 1, dtype=torch.int64, device=device)
    num_pairs[layout.anchor_order + 1] = positives.count
    offset = num_pairs.cumsum(0)
    total = int(offset[-1])
    anchor, positive, negative = (torch.empty(total, dtype=torch.int64, device=device) for _ in range(3))
    is_fallback = torch.empty(total, dtype=torch.bool, device=device)
    with full_float32():
        for block in search_blocks(anchors[layout.anchor_order], columns[layout.candidate_order], layout, positives):
            row = layout.anchor_order[block.rows, None].expand_as(block.positive)
            place = (offset[row] + torch.arange(row.shape[1], device=device))[block.exists]
            anchor[place] = row[block.exists]
            positive[place] = layout.candidate_order[block.positive[block.exists]]
            negative[place] = layout.candidate_order[block.negative[block.exists]]
            is_fallback[place] = block.is_fallback[block.exists]
    return anchor, positive, negative, is_fallback


def loss_sum(
    embeddings: Tensor,
    candidates: Tensor,
    layout: ClassLayout,
    positives: PositiveSampler,
    *,
    margin: float,
    distance: str,
    with_gradient: bool,
) -> LossSum:
    """Σ max(0, f(d²_ap) − f(d²_an) + margin) over the mined pairs, f the identity ("sqeuclidean") or the root
    ("euclidean").

    With c_aj = ∂Σ/∂d²_aj, non-zero for the chosen p and n only:
    ∂Σ/∂x_a = 2 Σ_j c_aj (x_a − x_j),  ∂Σ/∂x_j = 2 Σ_a c_aj (x_j − x_a).
    float32 or float64 rows; mining is done in float32 either way.
    """
    anchors, columns, unit = centred(embeddings, candidates)
    anchors, columns = anchors[layout.anchor_order], columns[layout.candidate_order]
    device, dtype = embeddings.device, embeddings.dtype
    total = torch.zeros((), dtype=torch.float64, device=device)
    num_pairs, num_active = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
    anchor_gradient = torch.zeros_like(anchors) if with_gradient else anchors[:0]
    candidate_gradient = torch.zeros_like(columns) if with_gradient else columns[:0]
    # |x|² − 2xy + |y|² cancels for near-equal rows: harmless in a squared distance beside a margin, not under a root.
    from_rows = distance == "euclidean" or dtype == torch.float64
    with full_float32():
        for block in search_blocks(anchors.float(), columns.float(), layout, positives):
            mine_rows = anchors[block.rows]
            if from_rows:
                squared = [pair_distances(mine_rows, columns, chosen) for chosen in (block.positive, block.negative)]
            else:
                squared = [block.positive_distance.to(dtype), block.negative_distance.to(dtype)]
            near, far = (value * unit.to(dtype).square() for value in squared)
            if distance == "euclidean":
                near, far = near.sqrt(), far.sqrt()
            hinge = (near - far + margin).masked_fill(~block.exists, 0)
            active = hinge > 0
            total += hinge.clamp_min(0).sum(dtype=torch.float64)
            num_pairs += block.exists.sum()
            num_active += active.sum()
            if not with_gradient:
                continue
            weight = active.to(dtype)
            if distance == "euclidean":
                # d|x| = x / |x| dx, and the zero vector is the subgradient at 0.
                slopes = [torch.where(value > 0, 0.5 / value, 0) * weight for value in (near, far)]
            else:
                slopes = [weight, weight]
            _add_gradient(
                anchor_gradient,
                candidate_gradient,
                block.rows,
                mine_rows,
                columns,
                torch.cat([block.positive, block.negative], 1),
                torch.cat([slopes[0], -slopes[1]], 1),
            )
    if with_gradient:
        anchor_gradient = torch.empty_like(anchor_gradient).index_copy_(0, layout.anchor_order, anchor_gradient * unit)
        candidate_gradient = torch.empty_like(candidate_gradient).index_copy_(
            0, layout.candidate_order, candidate_gradient * unit
        )
    return LossSum(
        total=total,
        num_pairs=num_pairs,
        num_active=num_active,
        anchor_gradient=anchor_gradient,
        candidate_gradient=candidate_gradient,
    )


def pair_distances(anchors: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances of `anchors` [R, D] to their `chosen` [R, K] columns by differences, a few slots at a time."""
    step = max(1, CHUNK_ELEMENTS // max(1, anchors.numel()))
    distances = [(anchors[:, None] - columns[slots]).square().sum(-1) for slots in chosen.split(step, dim=1)]
    return torch.cat(distances, 1)


def _add_gradient(
    anchor_gradient: Tensor,
    candidate_gradient: Tensor,
    rows: Tensor,
    anchors: Tensor,
    columns: Tensor,
    chosen: Tensor,
    slope: Tensor,
) -> None:
    """Add 2 Σ slope (x_a − x_j) at the anchors `rows` [R] and its mirror at the `chosen` [R, S] columns, in place.

    Weighted sums of gathered rows (embedding_bag), never a [pairs, D] copy; the mirror goes through the list sorted by
    column, so that each row is summed once and in one order: no atomics, the same bits every time.
    """
    gathered = embedding_bag(chosen, columns, mode="sum", per_sample_weights=slope)
    anchor_gradient[rows] += 2 * (slope.sum(1, keepdim=True) * anchors - gathered)
    flat_slope = slope.flatten()
    used = flat_slope.nonzero().squeeze(1)
    if used.numel() == 0:
        return
    keys = sort_rows((chosen.flatten()[used] << 32) | used)
    slot = keys & 0xFFFFFFFF
    column, sizes = torch.unique_consecutive(keys >> 32, return_counts=True)
    with_one = torch.cat([anchors, torch.ones_like(anchors[:, :1])], 1)
    mirrored = embedding_bag(
        slot // chosen.shape[1],
        with_one,
        sizes.cumsum(0) - sizes,
        mode="sum",
        per_sample_weights=flat_slope[slot],
    )
    candidate_gradient[column] += 2 * (mirrored[:, -1:] * columns[column] - mirrored[:, :-1])
