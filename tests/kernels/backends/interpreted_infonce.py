"""The Triton kernels of InfoNCE in Triton's interpreter, with several slabs, splits and ragged tiles; run by
test_infonce_triton.py in a process of its own.
"""

import pytest
import torch

from neuroimagen.kernels.backends import infonce_operator, infonce_torch, infonce_triton
from neuroimagen.kernels.backends.infonce_triton import Tiles


def batch(num_rows, num_columns, num_features, *, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        spread * torch.nn.functional.normalize(torch.randn(number, num_features, generator=generator))
        for number in (num_rows, num_columns)
    )


@pytest.fixture(params=["one slab", "slabs", "splits"])
def small_tiles(monkeypatch, request):
    """Tiles that leave several blocks in a hundred rows; slabs of one block of rows, or splits of columns and sums."""
    tiles = Tiles(BM=32, BN=32, BN_backward=64, BD=16, num_warps=4, num_stages=2)
    monkeypatch.setattr(infonce_triton, "tiles_for", lambda arch: tiles)
    if request.param == "slabs":
        monkeypatch.setattr(infonce_triton, "SLAB_ELEMENTS", 1)
        monkeypatch.setattr(infonce_triton, "PARTIAL_ELEMENTS", 1)
    if request.param == "splits":
        monkeypatch.setattr(infonce_triton, "num_multiprocessors", lambda device: 16)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("shape", [(1, 1, 3), (33, 33, 65), (70, 300, 20)], ids=str)
def test_sums_and_products_are_those_of_float64(small_tiles, shape, scale):
    rows, targets = batch(*shape)
    scale = torch.tensor(scale)
    found = infonce_triton.logsumexps(rows, targets, scale)
    logits = scale.double() * rows.double() @ targets.double().T
    torch.testing.assert_close(found[0].double(), logits.logsumexp(1), rtol=0, atol=1e-6 * float(scale))
    column = found[1].double() + found[2].double().log()
    torch.testing.assert_close(column, logits.logsumexp(0), rtol=0, atol=1e-6 * float(scale))
    generator = torch.Generator().manual_seed(1)
    weight = tuple(torch.rand(length, generator=generator) - 0.3 for length in shape[:2])
    for weights in (weight, (weight[0], None)):
        products = infonce_triton.slope_products(
            rows, targets, scale, (found[0], column.float()), weights, of_rows=True, of_targets=True
        )
        slope = (logits - logits.logsumexp(1, keepdim=True)).exp() * weight[0].double()[:, None]
        if weights[1] is not None:
            slope += (logits - logits.logsumexp(0)).exp() * weight[1].double()
        expected = slope @ targets.double(), scale.double() * slope.T @ rows.double()
        for mine, true in zip(products, expected, strict=True):
            torch.testing.assert_close(mine.double(), true, rtol=0, atol=4e-6 * float(true.abs().max()) * max(1, scale / 10))


@pytest.mark.parametrize("spread", [2.0**-40, 2.0**20])
def test_rows_of_any_length(small_tiles, spread):
    """Half precision could hold neither; the kernels see multiples of a power of two."""
    rows, targets = batch(40, 40, 8, spread=spread)
    scale = torch.tensor(5 / spread**2)
    for mine, expected in zip(
        infonce_triton.logsumexps(rows, targets, scale), infonce_torch.logsumexps(rows, targets, scale), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_small_slopes_keep_their_digits(small_tiles):
    """Slopes of very different sizes: those of a row with weight 1e-6 are right to 1e-3 of themselves."""
    rows, targets = batch(40, 40, 8)
    scale = torch.tensor(3.0)
    logsumexp = infonce_torch.logsumexps(rows, targets, scale)
    weight = torch.ones(40)
    weight[::2] = 1e-6
    both = [
        backend.slope_products(
            rows, targets, scale, (logsumexp[0], logsumexp[1]), (weight, None), of_rows=True, of_targets=False
        )[0]
        for backend in (infonce_triton, infonce_torch)
    ]
    torch.testing.assert_close(both[0][::2], both[1][::2], rtol=0, atol=1e-9)


def test_what_is_not_asked_for_is_not_computed(small_tiles):
    rows, targets = batch(40, 40, 8)
    groups = infonce_operator.LabelGroups.of(torch.arange(40))
    for needs in ((True, False), (False, True), (False, False)):
        leaves = [side.clone().requires_grad_(need) for side, need in zip((rows, targets), needs, strict=True)]
        scale = torch.tensor(3.0, requires_grad=not any(needs))
        sums = infonce_operator.logit_sums(*leaves, scale, groups, own=slice(0, 40), backend="triton")
        sum(value.sum() for value in sums).backward()
        assert [leaf.grad is not None for leaf in (*leaves, scale)] == [*needs, not any(needs)]


def test_the_same_bits_every_time(small_tiles):
    rows, targets = batch(70, 70, 20)
    first, second = (infonce_triton.logsumexps(rows, targets, torch.tensor(9.0)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
