"""The Triton backend of InfoNCE: tile shapes by device, the launches, and the sums over what the kernels return.

Shapes: M rows of this rank, N targets of all ranks, D features. Beyond inputs and gradients it takes the fp16 operands,
as many bytes as the inputs in float32, and a slab of slopes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from neuroimagen.kernels.backends.devices import device_arch, family, launches_kernels, num_multiprocessors, shared_memory
from neuroimagen.kernels.backends.infonce_triton_kernels import logsumexp_kernel, product_kernel, slope_kernel
from neuroimagen.kernels.backends.semihard_triton import OPERAND_SCALE
from neuroimagen.kernels.backends.semihard_triton_kernels import prepare_kernel
from neuroimagen.kernels.triplets.class_layout import power_of_two_above

SLAB_ELEMENTS = 1 << 26
"""Slopes that exist at a time: 256 MB, 1,024 rows of N = 65,536."""
PARTIAL_ELEMENTS = 1 << 24
"""Partial results of the columns that exist at a time: two arrays of 64 MB, of 32,768 rows at N = 65,536."""
SLOPE_SCALE = 2.0**14
"""The largest slope as fp16: small ones keep 22 bits down to 2⁻²⁸ of it, and no sum of two passes fp16's range."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sizes of the kernels' tiles: BM rows × BN columns, BD features (or entries of a sum) per product."""

    BM: int
    BN: int
    """Of logsumexp_kernel, which has two reductions beside the sums."""
    BN_backward: int
    """Of slope_kernel and product_kernel."""
    BD: int
    num_warps: int
    num_stages: int

    def constants(self, *, backward: bool) -> dict[str, Any]:
        """The compile-time arguments of the kernels that compute logits, slope_kernel without BOTH."""
        BN = self.BN_backward if backward else self.BN
        return {"BM": self.BM, "BN": BN, "BD": self.BD, "NS": self.num_stages}

    def product_constants(self, half: int) -> dict[str, Any]:
        """The compile-time arguments of product_kernel, without TRANSPOSED and ADD."""
        BN = self.BN_backward if half % self.BN_backward == 0 else 64
        return {"BM": self.BM, "BN": BN, "BK": self.BD, "NS": self.num_stages}

    def options(self) -> dict[str, Any]:
        """The compiler's options."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


def tiles_for(arch: int | str) -> Tiles:
    """The tile shape for `arch` (80, 86, 90, … or "gfx942"); a static choice, not yet timed on a device.

    As many stages of both operands, hi and lo, as fit the shared memory, three at most. Two sums of 128 × 128 fit the
    registers only where the matrix unit reads its operands from shared memory.
    """
    BM, BN = 128, 128 if family(arch) == "hopper" else 64
    BN_backward = 128 if family(arch) in ("hopper", "blackwell") else 64
    for BD, num_stages in ((64, 3), (64, 2), (32, 3), (32, 2)):
        bytes_of_stages = 2 * 2 * (BM + BN_backward) * BD * num_stages
        if bytes_of_stages + 4096 <= shared_memory(arch):
            break
    return Tiles(BM=BM, BN=BN, BN_backward=BN_backward, BD=BD, num_warps=8, num_stages=num_stages)


def padded(num_features: int) -> int:
    """Features of an operand: whole tiles of every kernel."""
    return triton.cdiv(num_features, 64) * 64


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Rows as two fp16 vectors each, hi + lo = OPERAND_SCALE · row / unit."""

    values: Tensor
    """[rows, 2 · padded features] fp16, hi and then lo."""
    unit: Tensor
    """0-dim float32, a power of two above the largest norm."""

    @classmethod
    def of(cls, rows: Tensor) -> "Operand":
        """The operand of contiguous rows [R, D], float32."""
        num_rows, num_features = rows.shape
        half = padded(num_features)
        unit = power_of_two_above(torch.linalg.vector_norm(rows, dim=1).amax())
        values = torch.empty(num_rows, 2 * half, dtype=torch.float16, device=rows.device)
        norms = torch.empty(num_rows, dtype=torch.float32, device=rows.device)
        order = torch.arange(num_rows, device=rows.device)
        prepare_kernel[(triton.cdiv(num_rows, 32),)](
            rows, order, rows.new_zeros(num_features), unit, values, norms, num_rows, num_features, rows.stride(0),
            BM=32, BD=64, ND=half // 64, EXACT=True, SCALE=OPERAND_SCALE,
        )  # fmt: skip
        return cls(values=values, unit=unit)


@launches_kernels
def logsumexps(rows: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `infonce_torch.logsumexps`."""
    num_rows, num_columns, device = rows.shape[0], targets.shape[0], rows.device
    if num_rows == 0:
        return rows.new_empty(0), rows.new_full((num_columns,), -torch.inf), rows.new_zeros(num_columns)
    tiles = tiles_for(device_arch(device))
    a, b, factor = _operands(rows, targets, scale)
    column_blocks = triton.cdiv(num_columns, tiles.BN)
    row_blocks = triton.cdiv(num_rows, tiles.BM)
    # Two programs for each multiprocessor, where the rows alone are too few.
    splits = max(1, min(2 * num_multiprocessors(device) // row_blocks, column_blocks // 4))
    per_split = triton.cdiv(column_blocks, splits)
    splits = triton.cdiv(column_blocks, per_split)
    of_rows = torch.empty(2, splits, num_rows, device=device)
    largest, total = rows.new_full((num_columns,), -torch.inf), rows.new_zeros(num_columns)
    slab = max(1, PARTIAL_ELEMENTS // num_columns)
    for first in range(0, row_blocks, slab):
        blocks = min(slab, row_blocks - first)
        of_columns = torch.empty(2, blocks, num_columns, device=device)
        logsumexp_kernel[(blocks, splits)](
            a.values, b.values, factor, of_rows[0], of_rows[1], of_columns[0], of_columns[1], first * tiles.BM, num_rows,
            num_columns, padded(rows.shape[1]), per_split * tiles.BN, **tiles.constants(backward=False),
            **tiles.options(),
        )  # fmt: skip
        above = torch.maximum(largest, of_columns[0].amax(0))
        total = total * (largest - above).exp2() + (of_columns[1] * (of_columns[0] - above).exp2_()).sum(0)
        largest = above
    row_largest = of_rows[0].amax(0)
    row_total = (of_rows[1] * (of_rows[0] - row_largest).exp2()).sum(0)
    return (row_largest + row_total.log2()) * math.log(2), largest * math.log(2), total


@launches_kernels
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
    """As `infonce_torch.slope_products`."""
    (num_rows, num_features), num_columns, device = rows.shape, targets.shape[0], rows.device
    row_products = torch.empty_like(rows) if of_rows else None
    target_products = torch.zeros_like(targets) if of_targets else None
    if num_rows == 0:
        return row_products, target_products
    tiles = tiles_for(device_arch(device))
    a, b, factor = _operands(rows, targets, scale)
    row_lse, column_lse = (value / math.log(2) for value in logsumexp)
    row_weight, column_weight = weight
    largest = row_weight.abs().amax() + (0.0 if column_weight is None else column_weight.abs().amax())
    slope_unit = power_of_two_above(largest)
    slope_scale = SLOPE_SCALE / slope_unit
    stride = triton.cdiv(num_columns, 128) * 128
    # Slopes are padded with zeros to whole tiles in either direction.
    row_blocks = triton.cdiv(num_rows, tiles.BM)
    slab = max(1, min(row_blocks, SLAB_ELEMENTS // stride // tiles.BM))
    slopes = torch.empty(2, slab * tiles.BM, stride, dtype=torch.float16, device=device)
    options = tiles.options()
    for first in range(0, row_blocks, slab):
        blocks = min(slab, row_blocks - first)
        begin, end = first * tiles.BM, min(num_rows, (first + blocks) * tiles.BM)
        slope_kernel[(blocks, stride // tiles.BN_backward)](
            a.values, b.values, factor, row_lse, column_lse, row_weight,
            row_weight if column_weight is None else column_weight, slope_scale, slopes[0], slopes[1], begin, num_rows,
            num_columns, padded(num_features), stride, BOTH=column_weight is not None,
            **tiles.constants(backward=True), **options,
        )  # fmt: skip
        if row_products is not None:
            of_slope = slope_unit * b.unit / (SLOPE_SCALE * OPERAND_SCALE)
            _multiply(slopes, b.values, of_slope, row_products[begin:end], num_columns, tiles, transposed=False)
        if target_products is not None:
            of_slope = slope_unit * a.unit * scale / (SLOPE_SCALE * OPERAND_SCALE)
            _multiply(slopes, a.values[begin:end], of_slope, target_products, end - begin, tiles, transposed=True)
    return row_products, target_products


def _operands(rows: Tensor, targets: Tensor, scale: Tensor) -> tuple[Operand, Operand, Tensor]:
    """Both operands, and what makes logits / log 2 of their products, 0-dim."""
    a, b = Operand.of(rows.contiguous()), Operand.of(targets.contiguous())
    return a, b, scale * a.unit * b.unit / (OPERAND_SCALE**2 * math.log(2))


def _multiply(
    slopes: Tensor, operand: Tensor, factor: Tensor, out: Tensor, num_k: int, tiles: Tiles, *, transposed: bool
) -> None:
    """out = factor · slopes @ operand; transposed: out += factor · slopesᵀ @ operand. The sum has num_k terms."""
    num_m, num_features = out.shape
    half = padded(num_features)
    constants = tiles.product_constants(half)
    blocks = triton.cdiv(num_features, constants["BN"]), triton.cdiv(num_m, tiles.BM)
    k_blocks, splits = triton.cdiv(num_k, tiles.BD), 1
    if not transposed:
        # A slab has few rows: long sums are split, so that all multiprocessors have work.
        wanted = 2 * num_multiprocessors(out.device) // (blocks[0] * blocks[1])
        splits = max(1, min(wanted, k_blocks // 16))
    per_split = triton.cdiv(k_blocks, splits)
    splits = triton.cdiv(k_blocks, per_split)
    parts = out if splits == 1 else out.new_empty(splits, num_m, num_features)
    product_kernel[(*blocks, splits)](
        slopes[0], slopes[1], operand, factor, parts, num_m, num_features, num_k, per_split, half,
        slopes.stride(1), num_features, TRANSPOSED=transposed, ADD=transposed,
        **constants, **tiles.options(),
    )  # fmt: skip
    if splits > 1:
        torch.sum(parts, 0, out=out)
