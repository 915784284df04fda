"""The fused Triton kernel: semi-hard negatives without an N × N matrix, O(N·K) memory.

One pass over the columns serves K pairs of each anchor. With rows centred and scaled so that |row| ≤ 0.99
(`class_layout.frame`) the order of the squared distances of an anchor a is the order of

    y_aj = 5 + |x_j|² − 2 x_a·x_j   ∈ [4, 8),

one binade: the bits of the float32 y are a fixed-point number with ulp 2⁻²¹. `key = bits(y) · BN + (j mod BN)` is an
unsigned integer that sorts by distance and then by column. With t the first key strictly farther than the positive, the
unsigned `min_j (key_j − t)` is test and running minimum in one: keys nearer than t wrap around to the top. Classes are
ranges of columns, so only the tiles that touch the anchors' own classes (and the ragged last one) pay for masks.
Positive keys come from the same matrix product as the negatives', so that equal rows compare equal. Anchors for which
nothing lies beyond some positive go through a second kernel that finds the farthest negative; row blocks without one
return at once.

Precision: "fast" is one fp16 product; "exact" splits each row into fp16 hi + lo and adds three (hi·hi + hi·lo + lo·hi,
error about 2⁻²² of the largest norm). Rows are scaled by 64, which keeps lo clear of fp16's subnormals.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005
# (Triton's language is not typed Python, and knows tuple + tuple but not unpacking.)

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def prepare_kernel(
    X, ORDER, CENTRE, UNIT, OPERAND, BIAS, num_rows, D, x_stride,
    BM: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """OPERAND[i] = fp16 of SCALE · (X[ORDER[i]] − CENTRE) / UNIT (hi, then lo when EXACT); BIAS[i] = 5 + |that row|².

    The norm is that of the rounded row: distances are those of the rounded points, and stay within the binade.
    """
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = r < num_rows
    source = tl.load(ORDER + r, mask=row_ok, other=0).to(tl.int64)
    inverse = SCALE / tl.load(UNIT)
    norm = tl.zeros([BM], tl.float32)
    WIDTH: tl.constexpr = ND * BD * (2 if EXACT else 1)
    for i in range(ND):
        d = i * BD + tl.arange(0, BD)
        ok = row_ok[:, None] & (d < D)[None, :]
        x = tl.load(X + source[:, None] * x_stride + d[None, :], mask=ok, other=0.0).to(tl.float32)
        x = tl.where(ok, (x - tl.load(CENTRE + d, mask=d < D, other=0.0)[None, :]) * inverse, 0.0)
        out = OPERAND + r.to(tl.int64)[:, None] * WIDTH + d[None, :]
        hi = x.to(tl.float16)
        tl.store(out, hi, mask=row_ok[:, None])
        used = hi.to(tl.float32)
        if EXACT:
            lo = (x - used).to(tl.float16)
            tl.store(out + ND * BD, lo, mask=row_ok[:, None])
            used += lo.to(tl.float32)
        used = used * (1.0 / SCALE)
        norm += tl.sum(used * used, axis=1)
    tl.store(BIAS + r, norm + 5.0, mask=row_ok)


@triton.jit
def _anchor_tiles(
    A, rows, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr, RESIDENT: tl.constexpr
):  # fmt: skip
    """The anchors' operand: a tuple of [BM, BD] tiles kept on chip, or (RESIDENT=False) the pointers to the first."""
    WIDTH: tl.constexpr = ND * BD * (2 if EXACT else 1)
    pointers = A + rows.to(tl.int64)[:, None] * WIDTH + tl.arange(0, BD)[None, :]
    tiles = ()
    if RESIDENT:
        for i in tl.static_range(ND * (2 if EXACT else 1)):
            tiles = tiles + (tl.load(pointers + i * BD),)
    else:
        tiles = (pointers,)
    return tiles


@triton.jit
def _scores(
    a, B, BIAS, j, N,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr,
    RESIDENT: tl.constexpr, SCALE: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """Bits of y for the anchors of `a` and the columns j … j + BN − 1 (the last column again beyond N): uint32 [BM,
    BN]."""
    WIDTH: tl.constexpr = ND * BD * (2 if EXACT else 1)
    column = tl.minimum(j + tl.arange(0, BN), N - 1).to(tl.int64)
    pointers = B + column[None, :] * WIDTH + tl.arange(0, BD)[:, None]
    s = tl.zeros([BM, BN], tl.float32)
    # Tensor cores cut off what lies below the accumulator's last bit. So the small products, hi·lo and lo·hi, are added
    # up before the large ones come: in the same accumulator where one product tile holds the whole rows.
    small = tl.zeros([BM, BN], tl.float32)
    if RESIDENT:
        for i in tl.static_range(ND):
            b = tl.load(pointers + i * BD)
            if EXACT:
                small = tl.dot(a[i], tl.load(pointers + (ND + i) * BD), small)
                small = tl.dot(a[ND + i], b, small)
            if ND == 1:
                s = tl.dot(a[i], b, small)
            else:
                s = tl.dot(a[i], b, s)
    else:
        for i in tl.range(0, ND, num_stages=NS):
            tile = tl.load(a[0] + i * BD)
            b = tl.load(pointers + i * BD)
            if EXACT:
                small = tl.dot(tile, tl.load(pointers + (ND + i) * BD), small)
                small = tl.dot(tl.load(a[0] + (ND + i) * BD), b, small)
            s = tl.dot(tile, b, s)
    if EXACT and (ND > 1 or not RESIDENT):
        s += small
    bias = tl.load(BIAS + column)
    return tl.fma(s, tl.full([BM, BN], SCALE, tl.float32), tl.broadcast_to(bias[None, :], [BM, BN])).to(
        tl.uint32, bitcast=True
    )


@triton.jit(do_not_specialize=["M", "N", "num_slots", "columns_per_split"])
def semihard_kernel(
    A, B, BIAS, POSITIVE, START, END, BEST, COLUMN, M, N, num_slots, columns_per_split,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr,
    RESIDENT: tl.constexpr, SCALE: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """Nearest negative strictly farther than each positive. Grid (row blocks, column splits, slots / K).

    A [M, WIDTH] and B [N, WIDTH] fp16 operands in class order, BIAS [N] float32; POSITIVE [slots, M] int32 columns, −1
    for none; START, END [M] int32: columns of the anchor's class. Out: BEST [splits, slots, M] uint32, the key minus
    the threshold; COLUMN [splits, slots, M] int32, −1 where this split has no such negative.
    """
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    first_slot = tl.program_id(2) * K
    row_ok = r < M
    col = tl.arange(0, BN)
    start = tl.load(START + r, mask=row_ok, other=0)
    end = tl.load(END + r, mask=row_ok, other=0)
    low = tl.min(tl.where(row_ok, start, N))
    high = tl.max(end)
    a = _anchor_tiles(A, tl.minimum(r, M - 1), BD, ND, EXACT, RESIDENT)
    BELOW: tl.constexpr = (0x40800000 * BN - 0x40000000) & 0xFFFFFFFF  # minus any threshold it is above LIVE
    LIVE: tl.constexpr = 0x800000 * BN  # a true difference is below it; nearer keys, NaN and infinity wrap above it
    threshold = ()
    best = ()
    tile = ()
    positive = ()
    for k in tl.static_range(K):
        positive = positive + (tl.load(POSITIVE + (first_slot + k).to(tl.int64) * M + r, mask=row_ok, other=-1),)
        threshold = threshold + (tl.zeros([BM], tl.uint32),)
        best = best + (tl.full([BM], 0xFFFFFFFF, tl.uint32),)
        tile = tile + (tl.zeros([BM], tl.int32),)
    # Slots are padded to the largest class. A block none of whose anchors has a positive in these scans no column.
    last = tl.full([BM], -1, tl.int32)
    for k in tl.static_range(K):
        last = tl.maximum(last, positive[k])
    num_columns = tl.where(tl.max(last) >= 0, N, 0)
    for j in tl.range(low // BN * BN, tl.minimum(high, num_columns), BN):  # the positives' keys: 1/C of the columns
        key = _scores(a, B, BIAS, j, N, BM, BN, BD, ND, EXACT, RESIDENT, SCALE, NS) * BN + col[None, :].to(tl.uint32)
        found = ()
        for k in tl.static_range(K):
            hit = (j + col)[None, :] == positive[k][:, None]
            found = found + (threshold[k] + tl.sum(tl.where(hit, key, 0), axis=1),)
        threshold = found
    strictly = ()
    for k in tl.static_range(K):
        strictly = strictly + ((threshold[k] | (BN - 1)) + 1,)
    threshold = strictly
    first = split * columns_per_split
    for j in tl.range(first, tl.minimum(first + columns_per_split, num_columns), BN, num_stages=NS):  # the negatives
        key = _scores(a, B, BIAS, j, N, BM, BN, BD, ND, EXACT, RESIDENT, SCALE, NS) * BN + col[None, :].to(tl.uint32)
        if ((j + BN > low) & (j < high)) | (j + BN > N):
            c = (j + col)[None, :]
            key = tl.where((c >= N) | ((c >= start[:, None]) & (c < end[:, None])), BELOW, key)
        new_best = ()
        new_tile = ()
        for k in tl.static_range(K):
            nearest = tl.min(key - threshold[k][:, None], axis=1)
            nearer = nearest < (best[k] & (0xFFFFFFFF - (BN - 1)))  # by distance only: of equals, the first tile stays
            new_tile = new_tile + (tl.where(nearer, j, tile[k]),)
            new_best = new_best + (tl.where(nearer, nearest, best[k]),)
        best = new_best
        tile = new_tile
    for k in tl.static_range(K):
        out = (split * num_slots + first_slot + k).to(tl.int64) * M + r
        column = tile[k] + ((best[k] + threshold[k]) & (BN - 1)).to(tl.int32)
        tl.store(BEST + out, best[k], mask=row_ok)
        tl.store(COLUMN + out, tl.where((best[k] < LIVE) & (positive[k] >= 0), column, -1), mask=row_ok)


@triton.jit(do_not_specialize=["M", "N", "num_slots"])
def farthest_kernel(
    A, B, BIAS, POSITIVE, NEGATIVE, START, END, FARTHEST, M, N, num_slots,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr,
    RESIDENT: tl.constexpr, SCALE: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """FARTHEST [M]: column of the farthest negative, for row blocks in which some pair found no negative in
    NEGATIVE."""
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = r < M
    missing = tl.zeros([BM], tl.int32)
    for k in range(num_slots):
        place = (tl.zeros([BM], tl.int64) + k) * M + r
        pair = tl.load(POSITIVE + place, mask=row_ok, other=-1) >= 0
        missing += (pair & (tl.load(NEGATIVE + place, mask=row_ok, other=0) < 0)).to(tl.int32)
    if tl.sum(missing) == 0:
        return
    col = tl.arange(0, BN)
    start = tl.load(START + r, mask=row_ok, other=0)
    end = tl.load(END + r, mask=row_ok, other=0)
    a = _anchor_tiles(A, tl.minimum(r, M - 1), BD, ND, EXACT, RESIDENT)
    best = tl.zeros([BM], tl.uint32)
    tile = tl.zeros([BM], tl.int32)
    for j in tl.range(0, N, BN, num_stages=NS):
        bits = _scores(a, B, BIAS, j, N, BM, BN, BD, ND, EXACT, RESIDENT, SCALE, NS)
        c = (j + col)[None, :]
        negative = (c < N) & ((c < start[:, None]) | (c >= end[:, None]))
        within = (bits >= 0x40800000) & (bits < 0x41000000)  # NaN and infinity would be the largest keys
        # Columns count down in the low bits, so that the maximum takes the first of equals; 0 is below every real key.
        key = (bits - 0x40800000) * BN + (BN - 1 - col)[None, :].to(tl.uint32) + 1
        key = tl.where(negative & within, key, 0)
        farthest = tl.max(key, axis=1)
        farther = ((farthest - 1) // BN > (best - 1) // BN) & (farthest > 0) | (best == 0)
        tile = tl.where(farther, j, tile)
        best = tl.where(farther, farthest, best)
    column = tile + (BN - 1 - ((best - 1) & (BN - 1)).to(tl.int32))
    tl.store(FARTHEST + r, tl.where(best > 0, column, -1), mask=row_ok)


@triton.jit(do_not_specialize=["M", "num_slots", "margin"])
def hinge_kernel(
    X, COLUMNS, LIST, SLOPE, SUM, ACTIVE, M, D, num_slots, margin, ROOT: tl.constexpr, BM: tl.constexpr, BD:
    tl.constexpr
):  # fmt: skip
    """Hinges of BM anchors. LIST [M, 2 · slots] int32 rows of COLUMNS, the positives first, −1 for none.

    Out: SLOPE [M, 2 · slots] float32, ∂Σ/∂d² of each entry; SUM [M] float32; ACTIVE [M] int32.
    """
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = r < M
    anchor = X + tl.minimum(r, M - 1).to(tl.int64)[:, None] * D
    place = r.to(tl.int64) * (2 * num_slots)
    total = tl.zeros([BM], tl.float32)
    active = tl.zeros([BM], tl.int32)
    for slot in range(num_slots):
        p = tl.load(LIST + place + slot, mask=row_ok, other=-1)
        n = tl.load(LIST + place + num_slots + slot, mask=row_ok, other=-1)
        pair = (p >= 0) & (n >= 0)
        near = tl.zeros([BM], tl.float32)
        far = tl.zeros([BM], tl.float32)
        positive = COLUMNS + tl.maximum(p, 0).to(tl.int64)[:, None] * D
        negative = COLUMNS + tl.maximum(n, 0).to(tl.int64)[:, None] * D
        num_features = tl.where(tl.max(pair.to(tl.int32)) > 0, D, 0)  # nothing is read for empty slots
        for first in range(0, num_features, BD):
            d = first + tl.arange(0, BD)[None, :]
            x = tl.load(anchor + d, mask=d < D, other=0.0).to(tl.float32)
            to_positive = x - tl.load(positive + d, mask=d < D, other=0.0).to(tl.float32)
            to_negative = x - tl.load(negative + d, mask=d < D, other=0.0).to(tl.float32)
            near += tl.sum(to_positive * to_positive, axis=1)
            far += tl.sum(to_negative * to_negative, axis=1)
        near_slope = tl.full([BM], 1.0, tl.float32)
        far_slope = tl.full([BM], -1.0, tl.float32)
        if ROOT:
            near = tl.sqrt(near)
            far = tl.sqrt(far)
            # d√s = ds / 2√s, and 0 is the subgradient at 0.
            near_slope = tl.where(near > 0, 0.5 / tl.where(near > 0, near, 1.0), 0.0)
            far_slope = tl.where(far > 0, -0.5 / tl.where(far > 0, far, 1.0), 0.0)
        hinge = near - far + margin
        above = pair & (hinge > 0)
        total += tl.where(above, hinge, 0.0)
        active += above.to(tl.int32)
        tl.store(SLOPE + place + slot, tl.where(above, near_slope, 0.0), mask=row_ok)
        tl.store(SLOPE + place + num_slots + slot, tl.where(above, far_slope, 0.0), mask=row_ok)
    tl.store(SUM + r, total, mask=row_ok)
    tl.store(ACTIVE + r, active, mask=row_ok)


@triton.jit
def _weighted_sum(
    x, d, OTHERS, OTHER, SLOPE, D, begin, end, BE: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """Σ_e SLOPE[e] (x − OTHERS[OTHER[e]]) over the entries begin ≤ e < end, BE at a time: float32 [BD]."""
    total = tl.zeros([BD], tl.float32)
    for first in range(begin, end, BE):
        e = first + tl.arange(0, BE)
        slope = tl.load(SLOPE + e, mask=e < end, other=0.0)
        other = tl.load(OTHER + e, mask=(e < end) & (slope != 0), other=0).to(tl.int64)
        y = tl.load(
            OTHERS + other[:, None] * D + d[None, :], mask=(slope != 0)[:, None] & (d < D)[None, :], other=0.0
        ).to(tl.float32)
        total += tl.sum(slope[:, None] * (x[None, :] - y), axis=0)
    return total


@triton.jit
def piece_kernel(
    X, OTHERS, BEGIN, OTHER, SLOPE, PIECE_BEGIN, PIECE_ROW, PARTS, D,
    LENGTH: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """PARTS[p]: the sum of `_weighted_sum` over piece p, LENGTH entries of row PIECE_ROW[p] (−1: no piece). Grid
    (pieces, D / BD)."""
    p = tl.program_id(0).to(tl.int64)
    row = tl.load(PIECE_ROW + p).to(tl.int64)
    if row < 0:
        return
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    x = tl.load(X + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    begin = tl.load(BEGIN + row) + (p - tl.load(PIECE_BEGIN + row)) * LENGTH
    end = tl.minimum(begin + LENGTH, tl.load(BEGIN + row + 1))
    total = _weighted_sum(x, d, OTHERS, OTHER, SLOPE, D, begin, end, BE, BD)
    tl.store(PARTS + p * D + d, total, mask=d < D)


@triton.jit
def gradient_kernel(
    X, OTHERS, BEGIN, OTHER, SLOPE, PIECE_BEGIN, PARTS, OUT, D, BE: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """OUT[i] = 2 Σ_e SLOPE[e] (X[i] − OTHERS[OTHER[e]]) over the entries BEGIN[i] ≤ e < BEGIN[i + 1]. Grid (rows, D /
    BD). A list that is long is summed already, in pieces PIECE_BEGIN[i] ≤ p < PIECE_BEGIN[i + 1] of PARTS."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    first_piece = tl.load(PIECE_BEGIN + i)
    end_piece = tl.load(PIECE_BEGIN + i + 1)
    total = tl.zeros([BD], tl.float32)
    if end_piece > first_piece:
        for first in range(first_piece, end_piece, BE):
            p = first + tl.arange(0, BE)
            part = tl.load(PARTS + p[:, None] * D + d[None, :], mask=(p < end_piece)[:, None] & (d < D)[None, :], other=0.0)
            total += tl.sum(part, axis=0)
    else:
        x = tl.load(X + i * D + d, mask=d < D, other=0.0).to(tl.float32)
        begin = tl.load(BEGIN + i)
        total = _weighted_sum(x, d, OTHERS, OTHER, SLOPE, D, begin, tl.load(BEGIN + i + 1), BE, BD)
    tl.store(OUT + i * D + d, 2 * total, mask=d < D)
