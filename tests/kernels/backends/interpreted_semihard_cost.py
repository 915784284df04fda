"""What the Triton kernels do besides being right: work for nothing, dependent iterations, waits, rounding. In Triton's
interpreter; run as interpreted_semihard.py is.
"""

import inspect
from collections import Counter

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from neuroimagen.kernels.backends import (
    devices,
    semihard_loss_triton,
    semihard_triton,
    semihard_triton_kernels,
)
from neuroimagen.kernels.backends.semihard_reference import lattice_batch, reference_loss, reference_mine
from neuroimagen.kernels.backends.semihard_triton import TileShape
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard
from neuroimagen.kernels.triplets.class_layout import PositiveSampler, class_layout


def tile_shape(num_features, num_slots, *, exact, arch):
    return TileShape(
        BM=16, BN=16, BD=16, ND=-(-num_features // 16), K=2, resident=True, num_warps=4, num_stages=2, max_registers=None
    )


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(semihard_triton, "tile_shape", tile_shape)


@pytest.fixture
def per_program(monkeypatch):
    """Counter: (program, operation) → how often, for "dot" and "load"."""
    counts, program = Counter(), [0]
    builder = interpreter.InterpreterBuilder
    originals = {name: getattr(builder, name) for name in ("set_grid_idx", "create_dot", "create_masked_load")}

    def set_grid_idx(self, *place):
        program[0] += 1
        return originals["set_grid_idx"](self, *place)

    def create_dot(self, *args):
        counts[program[0], "dot"] += 1
        return originals["create_dot"](self, *args)

    def create_masked_load(self, *args):
        counts[program[0], "load"] += 1
        return originals["create_masked_load"](self, *args)

    for replacement in (set_grid_idx, create_dot, create_masked_load):
        monkeypatch.setattr(builder, replacement.__name__, replacement)
    return counts


def of_kind(counts, kind):
    return [count for (_, what), count in counts.items() if what == kind]


def as_list(mined):
    return list(zip(*(part.tolist() for part in (*mined, mined.is_fallback)), strict=True))


def test_a_large_class_costs_the_small_ones_nothing(per_program):
    """One class of 24 among classes of 2: 12 passes for two of the row blocks, one for all others."""
    labels = torch.cat([torch.zeros(24, dtype=torch.int64), 1 + torch.arange(72) // 2])
    rows, _ = lattice_batch(96, 1)
    layout = class_layout(labels, labels, 0)
    shape = tile_shape(16, 23, exact=False, arch=90)
    positive = semihard_triton.positive_slots(layout, PositiveSampler(layout, None), 24)
    operand, bias = semihard_triton.operand(rows, layout.candidate_order, torch.zeros(16), 2 * torch.ones(()), shape, False)
    per_program.clear()
    semihard_triton.launch(operand, operand, bias, positive, layout, shape, exact=False, num_splits=1)
    products = of_kind(per_program, "dot")
    # A pass over the 6 column tiles, and the tiles of the block's own classes before it. Two blocks hold the large class:
    # 12 passes each; the second also holds small ones. The four others have one pass.
    assert len(products) <= 2 * 12 + 4 + 6  # those of the farthest negatives, at most one for each block
    assert sum(products) <= (2 * 12 + 4) * (6 + 2) + 6 * 6
    mined = mine_semihard(rows, labels, backend="triton")
    assert as_list(mined) == reference_mine(rows, labels)


def test_a_list_that_every_anchor_chose_is_summed_in_two_levels(monkeypatch, per_program):
    monkeypatch.setattr(semihard_loss_triton, "PIECE_LENGTH", 64)
    generator = torch.Generator().manual_seed(0)
    rows, others = torch.randn(5, 20, generator=generator), torch.randn(30, 20, generator=generator)
    sizes = [3, 1500, 64, 0, 65]  # one hub; one list as long as a piece, one longer by one
    begin = torch.tensor([0, *sizes]).cumsum(0)
    other = torch.randint(0, 30, (sum(sizes),), generator=generator, dtype=torch.int32)
    slope = torch.randn(sum(sizes), generator=generator)
    found = semihard_loss_triton._weighted_differences(rows, others, begin, other, slope, 32)
    row = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    difference = rows.double()[row] - others.double()[other.long()]
    expected = torch.zeros(5, 20, dtype=torch.float64).index_add_(0, row, 2 * slope.double()[:, None] * difference)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    # 64 entries are 8 iterations of 3 loads; 24 pieces are 3 iterations. In one level it would be 188 iterations.
    assert max(of_kind(per_program, "load")) <= 8 * 3 + 8
    again = semihard_loss_triton._weighted_differences(rows, others, begin, other, slope, 32)
    assert torch.equal(found, again)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_pieces_cover_each_entry_of_a_long_list_once(length):
    sizes = [0, 1, 7, 8, 200, 64, 65, 0, 3]
    begin = torch.tensor([0, *sizes]).cumsum(0)
    piece_begin, piece_row = semihard_loss_triton.list_pieces(begin, sum(sizes), length)
    covered = Counter()
    for piece, row in enumerate(piece_row.tolist()):
        if row >= 0:
            first = int(begin[row]) + (piece - int(piece_begin[row])) * length
            covered.update(range(first, min(first + length, int(begin[row + 1]))))
    long = [entry for row, size in enumerate(sizes) if size > length for entry in range(begin[row], begin[row + 1])]
    assert covered == Counter(long)


def test_a_collapsed_batch_has_the_loss_and_gradient_of_the_definition(monkeypatch):
    """Every pair has the same negative, as it is early in training: one list that holds nearly all pairs."""
    monkeypatch.setattr(semihard_loss_triton, "PIECE_LENGTH", 16)
    values = torch.full((60, 8), 0.25)
    values[7] = torch.tensor([0.25, 0.5] * 4)  # the only row that is farther than another
    labels = torch.arange(60) % 20
    rows, true_rows = values.clone().requires_grad_(), values.double().requires_grad_()
    loss = SemiHardTripletLoss(margin=9.0, backend="triton")(rows, labels)
    loss.backward()
    reference_loss(true_rows, labels, margin=9.0).backward()
    assert (rows.grad - true_rows.grad).abs().max() < 1e-6
    assert true_rows.grad[7].abs().max() > 0.1


WAITS = ("__int__", "__float__", "__bool__", "__index__", "item", "tolist", "nonzero", "cpu", "unique")
"""Methods of a tensor for which a GPU has to finish what is queued."""


@pytest.mark.parametrize(("positives", "expected"), [(4, []), ("all", ["__int__"])])
def test_a_step_waits_for_the_largest_class_at_most(monkeypatch, positives, expected):
    rows, labels = lattice_batch(40, 10)
    rows.requires_grad_()
    found = []

    def noting(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            if "/kernels/" in inspect.stack()[1].filename:
                found.append(name)
            return original(self, *args, **kwargs)

        return method

    for name in WAITS:
        monkeypatch.setattr(torch.Tensor, name, noting(name))
    SemiHardTripletLoss(backend="triton", positives=positives)(rows, labels).backward()
    assert found == expected


def test_every_launch_is_on_the_device_of_the_rows(monkeypatch):
    """Noted at each launch: whether a device is guarded. Without one, kernels go to the current device."""
    guarded, launches = [], []
    original, executor = devices.launching_on, interpreter.GridExecutor.__call__

    class Guard:
        def __init__(self, device):
            self.context, self.device = original(device), device

        def __enter__(self):
            guarded.append(self.device)
            return self.context.__enter__()

        def __exit__(self, *error):
            guarded.pop()
            return self.context.__exit__(*error)

    def run(self, *args, **kwargs):
        launches.append(bool(guarded))
        return executor(self, *args, **kwargs)

    monkeypatch.setattr(devices, "launching_on", Guard)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", run)
    rows, labels = lattice_batch(20, 4)
    mine_semihard(rows, labels, backend="triton")
    SemiHardTripletLoss(backend="triton")(rows.requires_grad_(), labels).backward()
    from neuroimagen.kernels.infonce import InfoNCELoss

    InfoNCELoss(backend="triton")(rows, rows.detach(), labels, logit_scale=3.0).backward()
    assert len(launches) >= 10
    assert all(launches)


def truncate(values):
    """Float64 cut to float32 as tensor cores do it, toward zero."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.trunc(mantissa * 2**24) / 2**24, exponent)


@triton.jit
def scores_kernel(
    A, B, BIAS, OUT, N, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr, EXACT: tl.constexpr,
    RESIDENT: tl.constexpr, SCALE: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    r = tl.arange(0, BM)
    a = semihard_triton_kernels._anchor_tiles(A, r, BD, ND, EXACT, RESIDENT)
    bits = semihard_triton_kernels._scores(a, B, BIAS, 0, N, BM, BN, BD, ND, EXACT, RESIDENT, SCALE, NS)
    tl.store(OUT + r[:, None] * BN + tl.arange(0, BN)[None, :], bits.to(tl.float32, bitcast=True))


@pytest.mark.parametrize(("ND", "resident"), [(1, True), (8, True), (8, False)])
def test_large_products_do_not_cut_off_the_small_ones(monkeypatch, ND, resident):
    """Tensor cores emulated: sums of 16 products, exact, added to an accumulator that is cut to 24 bits toward zero."""

    def create_dot(self, a, b, d, *_):
        total = d.data.astype(np.float64)
        for first in range(0, a.data.shape[1], 16):
            part = slice(first, first + 16)
            total = truncate(total + a.data[:, part].astype(np.float64) @ b.data[part].astype(np.float64))
        return interpreter.TensorHandle(total.astype(np.float32), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    shape = TileShape(
        BM=64, BN=64, BD=128 // ND, ND=ND, K=2, resident=resident, num_warps=4, num_stages=2, max_registers=None
    )
    generator = torch.Generator().manual_seed(0)
    rows = 0.98 * torch.nn.functional.normalize(torch.randn(64, 128, generator=generator) + 1)  # products near 1
    operand, bias = semihard_triton.operand(rows, torch.arange(64), torch.zeros(128), torch.ones(()), shape, True)
    found = torch.empty(64, 64)
    scores_kernel[(1,)](operand, operand, bias, found, 64, **shape.constants(exact=True))
    true_rows = (operand[:, :128].double() + operand[:, 128:].double()) / semihard_triton.OPERAND_SCALE
    expected = 5 + true_rows.square().sum(1) - 2 * true_rows @ true_rows.T
    error = float((found.double() - expected).abs().max()) * 2**22
    assert error < 5  # in the order large, small: 7.9
