"""The Triton backend of the miner: tile shapes by device, the launches, and index lists of what the kernels return."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from neuroimagen.kernels.backends.devices import (
    device_arch,
    family,
    launches_kernels,
    num_multiprocessors,
    shared_memory,
)
from neuroimagen.kernels.backends.semihard_triton_kernels import farthest_kernel, prepare_kernel, semihard_kernel
from neuroimagen.kernels.triplets.class_layout import ClassLayout, PositiveSampler, frame

OPERAND_SCALE = 64.0
PRODUCT_SCALE = -2.0 / OPERAND_SCALE**2


@dataclass(frozen=True, kw_only=True)
class TileShape:
    """Sizes of the kernels' tiles: BM anchors × BN columns per tile, K pairs of each anchor per pass."""

    BM: int
    BN: int
    BD: int
    """Features per product tile."""
    ND: int
    """Product tiles per row: rows are padded to ND · BD features."""
    K: int
    resident: bool
    """Keep the anchors' operand on chip; otherwise both operands are streamed."""
    num_warps: int
    num_stages: int
    max_registers: int | None
    """Per thread; None leaves it to the assembler."""

    def constants(self, *, exact: bool) -> dict[str, Any]:
        """The compile-time arguments of both kernels; semihard_kernel takes K besides."""
        return {
            "BM": self.BM,
            "BN": self.BN,
            "BD": self.BD,
            "ND": self.ND,
            "EXACT": exact,
            "RESIDENT": self.resident,
            "SCALE": PRODUCT_SCALE,
            "NS": self.num_stages,
        }

    def options(self) -> dict[str, Any]:
        """The compiler's options."""
        registers = {} if self.max_registers is None else {"maxnreg": self.max_registers}
        # Triton 3.10 no longer contracts multiply-add by itself; the scale of the product counts on it.
        fused = {"enable_fp_fusion": True}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **fused, **registers}


def tile_shape(num_features: int, num_slots: int, *, exact: bool, arch: int | str) -> TileShape:
    """The tile shape for `arch` (80, 86, 90, 100, 120 … or "gfx942"); a static choice, not yet timed on a device.

    Where the matrix unit reads its operands from shared memory (sm_90, sm_100, sm_103) the anchors' rows stay there as
    long as they fit beside two stages of columns; elsewhere they would sit in registers, so only short rows stay.
    """
    BD = 32 if num_features <= 32 else 64 if num_features <= 64 or num_features % 128 in range(1, 65) else 128
    ND = triton.cdiv(num_features, BD)
    width = ND * BD * (1 + exact)
    unit, shared = family(arch), shared_memory(arch)
    # Eight minima per row spill on sm_100, where the products pass through registers as well, and on sm_120 beside three
    # products.
    is_crowded = unit == "blackwell" or (exact and isinstance(arch, int) and arch >= 120)
    K = min(4 if is_crowded else 8, triton.next_power_of_2(num_slots))
    from_shared = unit in ("hopper", "blackwell")
    # Narrower tiles hold longer rows, and spill except on sm_90.
    for BM, num_warps in ((128, 8), (64, 4)) if unit == "hopper" else ((128, 8),):
        fits = 2 * width * (BM + 2 * 64) + 2048 <= shared if from_shared else width <= 128
        if fits:
            # With 128 registers per thread two blocks fit a multiprocessor: one computes while the other scans.
            two_blocks = unit == "hopper" and BM == 128 and width <= 128 and K <= 4
            return TileShape(
                BM=BM, BN=64, BD=BD, ND=ND, K=K, resident=True, num_warps=num_warps, num_stages=2,
                max_registers=128 if two_blocks else None,
            )  # fmt: skip
    BD = 32 if num_features <= 32 else 64
    if exact and unit == "hopper":
        K = min(4, K)  # eight spill beside three products in flight
    return TileShape(
        BM=128, BN=64, BD=BD, ND=triton.cdiv(num_features, BD), K=K, resident=False, num_warps=8, num_stages=2,
        max_registers=None,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MinedColumns:
    """What the kernels found, int32 [slots, M], in class-sorted order; −1 where there is no positive."""

    positive: Tensor
    negative: Tensor
    is_fallback: Tensor
    """bool"""


def mine_columns(
    embeddings: Tensor, candidates: Tensor, layout: ClassLayout, positives: PositiveSampler, *, precision: str
) -> MinedColumns:
    """Mine contiguous rows of any float type."""
    exact = precision == "exact"
    shape = tile_shape(embeddings.shape[1], max(1, positives.most()), exact=exact, arch=device_arch(embeddings.device))
    # Slots beyond an anchor's last positive are empty, up to whole passes of K.
    positive = positive_slots(layout, positives, triton.cdiv(max(1, positives.most()), shape.K) * shape.K)
    centre, unit = frame(embeddings, candidates)
    columns, bias = operand(candidates, layout.candidate_order, centre, unit, shape, exact)
    rows = columns
    if candidates is not embeddings:
        rows, _ = operand(embeddings, layout.anchor_order, centre, unit, shape, exact)
    num_programs = triton.cdiv(embeddings.shape[0], shape.BM) * (positive.shape[0] // shape.K)
    num_splits = num_column_splits(num_programs, candidates.shape[0], shape, embeddings.device)
    return launch(rows, columns, bias, positive, layout, shape, exact=exact, num_splits=num_splits)


def launch(
    rows: Tensor,
    columns: Tensor,
    bias: Tensor,
    positive: Tensor,
    layout: ClassLayout,
    shape: TileShape,
    *,
    exact: bool,
    num_splits: int,
) -> MinedColumns:
    """Run both kernels on the operands `rows` [M, width] and `columns` [N, width], `bias` [N], `positive` [slots,
    M]."""
    num_slots, num_anchors = positive.shape
    num_candidates, device = columns.shape[0], columns.device
    blocks = triton.cdiv(num_anchors, shape.BM)
    start, end = layout.start.int(), layout.end.int()
    per_split = triton.cdiv(triton.cdiv(num_candidates, shape.BN), num_splits) * shape.BN
    best = torch.empty(num_splits, num_slots, num_anchors, dtype=torch.uint32, device=device)
    column = torch.empty(num_splits, num_slots, num_anchors, dtype=torch.int32, device=device)
    options = {**shape.constants(exact=exact), **shape.options()}
    semihard_kernel[(blocks, num_splits, num_slots // shape.K)](
        rows, columns, bias, positive, start, end, best, column, num_anchors, num_candidates, num_slots, per_split,
        K=shape.K, **options,
    )  # fmt: skip
    negative = column[0] if num_splits == 1 else _first_of_splits(best, column, shape.BN)
    farthest = torch.full((num_anchors,), -1, dtype=torch.int32, device=device)
    farthest_kernel[(blocks,)](
        rows, columns, bias, positive, negative, start, end, farthest, num_anchors, num_candidates, num_slots, **options
    )
    is_fallback = (negative < 0) & (positive >= 0)
    return MinedColumns(
        positive=positive, negative=torch.where(is_fallback, farthest, negative), is_fallback=is_fallback
    )


def positive_slots(layout: ClassLayout, positives: PositiveSampler, width: int) -> Tensor:
    """[width, M] int32: the columns of each anchor's positives, −1 where it has fewer."""
    rows = torch.arange(layout.anchor_order.shape[0], device=layout.start.device)
    column, exists = positives.columns(rows, width)
    return column.masked_fill(~exists, -1).int().T.contiguous()


def operand(
    rows: Tensor, order: Tensor, centre: Tensor, unit: Tensor, shape: TileShape, exact: bool
) -> tuple[Tensor, Tensor]:
    """fp16 operand [rows, width] in class order, and 5 + |row|² [rows] float32."""
    num_rows, num_features = rows.shape
    operand = torch.empty(num_rows, shape.ND * shape.BD * (1 + exact), dtype=torch.float16, device=rows.device)
    bias = torch.empty(num_rows, dtype=torch.float32, device=rows.device)
    prepare_kernel[(triton.cdiv(num_rows, 32),)](
        rows, order, centre, unit, operand, bias, num_rows, num_features, rows.stride(0),
        BM=32, BD=shape.BD, ND=shape.ND, EXACT=exact, SCALE=OPERAND_SCALE,
    )  # fmt: skip
    return operand, bias


def _first_of_splits(best: Tensor, column: Tensor, BN: int) -> Tensor:
    """The nearest of the splits' negatives, the first of equals: [slots, M] int32."""
    distance = best.view(torch.int32).long() & 0xFFFFFFFF
    order = (distance // BN << 32) + column
    order = order.masked_fill(column < 0, torch.iinfo(torch.int64).max)
    nearest = order.amin(0)
    return torch.where(nearest == torch.iinfo(torch.int64).max, -1, nearest & 0xFFFFFFFF).int()


def num_column_splits(num_blocks: int, num_candidates: int, shape: TileShape, device: torch.device) -> int:
    """Number of splits of the columns, so that few anchors fill the device too: two programs per multiprocessor."""
    if device.type != "cuda":
        return 1
    wanted = 2 * num_multiprocessors(device)
    return max(1, min(wanted // num_blocks, num_candidates // (8 * shape.BN)))


@launches_kernels
def mine(
    embeddings: Tensor, candidates: Tensor, layout: ClassLayout, positives: PositiveSampler, *, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(anchor, positive, negative) rows and is_fallback, each [T], ordered by anchor and then by positive."""
    mined = mine_columns(embeddings, candidates, layout, positives, precision=precision)
    by_anchor = torch.empty_like(layout.anchor_order)
    by_anchor[layout.anchor_order] = torch.arange(layout.anchor_order.shape[0], device=embeddings.device)
    # [slots, sorted anchor] → [anchor, slot], then the pairs that exist.
    positive, negative, is_fallback = (
        value.T[by_anchor] for value in (mined.positive, mined.negative, mined.is_fallback)
    )
    exists = positive >= 0
    anchor = exists.nonzero()[:, 0]
    return (
        anchor,
        layout.candidate_order[positive[exists].long()],
        layout.candidate_order[negative[exists].long()],
        is_fallback[exists],
    )
