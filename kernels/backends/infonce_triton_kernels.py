"""The fused Triton kernels of InfoNCE: log-sum-exps of all logits and the products of the backward pass, without the
matrix of logits.

Operands are those of the miner's "exact" products (`prepare_kernel`): each row is the sum of two fp16 vectors, hi + lo,
and a product of rows is hi·lo + lo·hi + hi·hi, with an error of about 2⁻²² of the product of the norms, at half of the
matrix unit's fp16 rate or more where float32 itself has a sixteenth. Logits are in units of log 2, so that exp is exp2.

Forward: a program has BM rows and streams the columns, with the rows' maximum and sum online; of every tile it also
leaves the columns' maximum and sum over its BM rows. One pass over the logits thus serves both directions. Backward: a
slab of rows at a time. `slope_kernel` computes the logits again and writes ∂/∂ℓ as hi + lo, as many bytes as float32;
`product_kernel` multiplies it with the targets, and its transpose with the rows. A program could not hold its rows'
gradient on chip: 128 × 1,024 in float32 are 512 KB. No atomics: the same bits every time.
"""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _logits(
    A, B, rows, columns, FACTOR, half, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, NS: tl.constexpr
):  # fmt: skip
    """Logits / log 2 of the rows and columns given by number: float32 [BM, BN]."""
    a = A + rows.to(tl.int64)[:, None] * (2 * half) + tl.arange(0, BD)[None, :]
    b = B + columns.to(tl.int64)[None, :] * (2 * half) + tl.arange(0, BD)[:, None]
    large = tl.zeros([BM, BN], tl.float32)
    small = tl.zeros([BM, BN], tl.float32)  # of its own: a tensor core cuts off what is below the large sum's last bit
    for d in tl.range(0, half, BD, num_stages=NS):
        a_high = tl.load(a + d)
        b_high = tl.load(b + d)
        small = tl.dot(a_high, tl.load(b + half + d), small)
        small = tl.dot(tl.load(a + half + d), b_high, small)
        large = tl.dot(a_high, b_high, large)
    return (large + small) * tl.load(FACTOR)


@triton.jit(do_not_specialize=["first_row", "M", "N", "columns_per_split"])
def logsumexp_kernel(
    A, B, FACTOR, ROW_LARGEST, ROW_TOTAL, COLUMN_LARGEST, COLUMN_TOTAL, first_row, M, N, half, columns_per_split,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """Largest logit and Σ exp2(logit − largest), by rows and by columns. Grid (row blocks, column splits).

    A [M, 2 · half], B [N, 2 · half] fp16 operands, half a multiple of BD. Out, float32: ROW_… [splits, M] over the columns of the split; COLUMN_…
    [row blocks, N] over the rows of the block. The first block begins at row first_row.
    """
    block = tl.program_id(0)
    split = tl.program_id(1)
    r = first_row + block * BM + tl.arange(0, BM)
    row_ok = r < M
    rows = tl.minimum(r, M - 1)
    row_largest = tl.full([BM], float("-inf"), tl.float32)
    row_total = tl.zeros([BM], tl.float32)
    first = split * columns_per_split
    for j in tl.range(first, tl.minimum(first + columns_per_split, N), BN):
        c = j + tl.arange(0, BN)
        column_ok = c < N
        logit = _logits(A, B, rows, tl.minimum(c, N - 1), FACTOR, half, BM, BN, BD, NS)
        # Rows and columns beyond the last become NaN below, and are not stored.
        logit = tl.where(row_ok[:, None] & column_ok[None, :], logit, float("-inf"))
        column_largest = tl.max(logit, axis=0)
        column_total = tl.sum(tl.exp2(logit - column_largest[None, :]), axis=0)
        place = block.to(tl.int64) * N + c
        tl.store(COLUMN_LARGEST + place, column_largest, mask=column_ok)
        tl.store(COLUMN_TOTAL + place, column_total, mask=column_ok)
        largest = tl.maximum(row_largest, tl.max(logit, axis=1))
        row_total = row_total * tl.exp2(row_largest - largest)
        row_total += tl.sum(tl.exp2(logit - largest[:, None]), axis=1)
        row_largest = largest
    place = split.to(tl.int64) * M + r
    tl.store(ROW_LARGEST + place, row_largest, mask=row_ok)
    tl.store(ROW_TOTAL + place, row_total, mask=row_ok)


@triton.jit(do_not_specialize=["first_row", "M", "N"])
def slope_kernel(
    A, B, FACTOR, ROW_LSE, COLUMN_LSE, ROW_WEIGHT, COLUMN_WEIGHT, SCALE, HIGH, LOW, first_row, M, N, half, stride,
    BOTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """HIGH + LOW = SCALE (g_i exp2(ℓ_ij − ROW_LSE_i) + h_j exp2(ℓ_ij − COLUMN_LSE_j)) of the rows from first_row on.

    Grid (row blocks, column blocks). HIGH and LOW [row blocks · BM, stride] fp16, zero beyond the last row and column;
    g and h are ROW_WEIGHT [M] and, if BOTH, COLUMN_WEIGHT [N].
    """
    place = tl.program_id(0) * BM + tl.arange(0, BM)
    r = first_row + place
    c = tl.program_id(1) * BN + tl.arange(0, BN)
    row_ok = r < M
    column_ok = c < N
    rows = tl.minimum(r, M - 1)
    columns = tl.minimum(c, N - 1)
    logit = _logits(A, B, rows, columns, FACTOR, half, BM, BN, BD, NS)
    slope = tl.exp2(logit - tl.load(ROW_LSE + rows)[:, None]) * tl.load(ROW_WEIGHT + rows)[:, None]
    if BOTH:
        slope += tl.exp2(logit - tl.load(COLUMN_LSE + columns)[None, :]) * tl.load(COLUMN_WEIGHT + columns)[None, :]
    slope = tl.where(row_ok[:, None] & column_ok[None, :], slope * tl.load(SCALE), 0.0)
    high = slope.to(tl.float16)
    out = place.to(tl.int64)[:, None] * stride + c[None, :]
    tl.store(HIGH + out, high)
    tl.store(LOW + out, (slope - high.to(tl.float32)).to(tl.float16))


@triton.jit(do_not_specialize=["num_m", "num_n", "num_k", "blocks_per_split"])
def product_kernel(
    HIGH, LOW, B, FACTOR, OUT, num_m, num_n, num_k, blocks_per_split, half, stride, out_stride,
    TRANSPOSED: tl.constexpr, ADD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """OUT[split, m, n] = FACTOR Σ_k A[m, k] B[k, n] over the split's k, added to what is there if ADD.

    A = HIGH + LOW, fp16 [m, k] or, TRANSPOSED, [k, m], rows `stride` apart, with zeros up to whole tiles; B [num_k, 2 ·
    half] is an operand, of which n < num_n ≤ half counts, half a multiple of BN. A split has blocks_per_split · BK of
    the k. Grid (n blocks, m blocks, splits).
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    split = tl.program_id(2)
    large = tl.zeros([BM, BN], tl.float32)
    small = tl.zeros([BM, BN], tl.float32)
    first = split * blocks_per_split
    last = tl.minimum(first + blocks_per_split, tl.cdiv(num_k, BK))
    k = first * BK + tl.arange(0, BK)  # the compiler sees whole blocks, and loads in whole words
    if TRANSPOSED:
        place = k.to(tl.int64)[None, :] * stride + m[:, None]
    else:
        place = m.to(tl.int64)[:, None] * stride + k[None, :]
    step = BK * stride if TRANSPOSED else BK
    high = HIGH + place
    low = LOW + place
    b = B + k.to(tl.int64)[:, None] * (2 * half) + n[None, :]
    for block in tl.range(first, last, num_stages=NS):
        exists = (block * BK + tl.arange(0, BK) < num_k)[:, None]
        a_high = tl.load(high)
        b_high = tl.load(b, mask=exists, other=0.0)
        small = tl.dot(a_high, tl.load(b + half, mask=exists, other=0.0), small)
        small = tl.dot(tl.load(low), b_high, small)
        large = tl.dot(a_high, b_high, large)
        high += step
        low += step
        b += BK * 2 * half
    value = (large + small) * tl.load(FACTOR)
    out = OUT + (split.to(tl.int64) * num_m + m)[:, None] * out_stride + n[None, :]
    ok = (m < num_m)[:, None] & (n < num_n)[None, :]
    if ADD:
        value += tl.load(out, mask=ok, other=0.0)
    tl.store(out, value, mask=ok)
