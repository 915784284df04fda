"""The Triton kernels in Triton's interpreter. Run by test_semihard_triton.py in its own process, with
TRITON_INTERPRET=1: the variable is read when Triton is imported, and interpreted kernels cannot be compiled.

Cost is the number of tiles: batches are small, and classes have few members, since every 8 pairs are one pass.
"""

import numpy as np
import pytest
import torch

from neuroimagen.kernels.backends import semihard_loss_triton, semihard_triton, semihard_triton_kernels
from neuroimagen.kernels.backends.semihard_reference import (
    interval_violations,
    lattice_batch,
    reference_loss,
    reference_mine,
)
from neuroimagen.kernels.backends.semihard_triton import TileShape
from neuroimagen.kernels.semihard import SemiHardTripletLoss, choose_backend, mine_semihard
from neuroimagen.kernels.triplets.class_layout import PositiveSampler, class_layout


def as_list(triplets, is_fallback):
    return list(zip(*(part.tolist() for part in (*triplets, is_fallback)), strict=True))


def mined_list(rows, labels, **options):
    mined = mine_semihard(rows, labels, backend="triton", **options)
    return as_list(mined, mined.is_fallback)


def tiles(BM=64, BN=64, BD=16, ND=1, K=4, resident=True):
    return TileShape(BM=BM, BN=BN, BD=BD, ND=ND, K=K, resident=resident, num_warps=4, num_stages=2, max_registers=None)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles that leave several row blocks and ragged borders in a batch of a hundred rows."""

    def shape(num_features, num_slots, *, exact, arch):
        BD = 16 if num_features <= 16 else 64
        return tiles(BD=BD, ND=-(-num_features // BD), K=min(4, num_slots))

    monkeypatch.setattr(semihard_triton, "tile_shape", shape)


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize(
    ("shape", "num_splits"),
    [
        (tiles(), 1),
        (tiles(BM=128, BN=32, K=2), 3),
        (tiles(BM=64, BN=128, K=8), 2),
        (tiles(BD=16, ND=2, K=8), 1),
        (tiles(BD=16, ND=2, K=8, resident=False), 1),
    ],
    ids=["64x64", "128x32-3-splits", "64x128-2-splits", "two-product-tiles", "streamed"],
)
def test_every_tile_shape_split_and_precision_agrees_on_the_lattice(monkeypatch, precision, shape, num_splits):
    rows, labels = lattice_batch(140, 60, num_features=16 if shape.ND == 1 else 20)
    monkeypatch.setattr(semihard_triton, "tile_shape", lambda *_, **__: shape)
    monkeypatch.setattr(semihard_triton, "num_column_splits", lambda *_: num_splits)
    expected = reference_mine(rows, labels)
    assert sum(triplet[3] for triplet in expected) > 0
    assert mined_list(rows, labels, precision=precision) == expected


@pytest.mark.parametrize("num_rows", [1, 2, 63, 64, 65, 129])
def test_borders_of_the_tiles(small_tiles, num_rows):
    rows, labels = lattice_batch(num_rows, max(1, num_rows // 4), seed=num_rows)
    assert mined_list(rows, labels, precision="fast") == reference_mine(rows, labels)


def test_default_tiles_and_a_class_larger_than_a_tile():
    rows, _ = lattice_batch(170, 1)
    labels = torch.tensor([3] * 9 + [5] * 150 + [9] * 11)
    mined = mine_semihard(rows, labels, backend="triton", positives=4)
    every = set(reference_mine(rows, labels))
    assert set(as_list(mined, mined.is_fallback)) <= every
    assert len(mined.anchor) == 4 * 170


@pytest.mark.parametrize("labels", [[7] * 20, list(range(20)), [0] * 19 + [1]])
def test_degenerate_classes(small_tiles, labels):
    rows, _ = lattice_batch(20, 1)
    labels = torch.tensor(labels)
    assert mined_list(rows, labels) == reference_mine(rows, labels)


def test_a_collapsed_batch_and_negatives_that_copy_a_positive(small_tiles):
    labels = torch.arange(30) % 6
    collapsed = torch.full((30, 8), 0.3)
    assert mined_list(collapsed, labels) == reference_mine(collapsed, labels)
    rows, _ = lattice_batch(30, 1)
    rows[1::2] = rows[::2]  # neighbours are of different classes: each row has an equal negative
    assert mined_list(rows, labels) == reference_mine(rows, labels)


@pytest.mark.parametrize("num_slots", [1, 3, 19])
def test_other_candidates_unknown_classes_and_many_passes(small_tiles, num_slots):
    rows, labels = lattice_batch(30, 6)
    bank, bank_labels = lattice_batch(6 * (num_slots + 1), 6, seed=1)
    bank_labels = torch.arange(len(bank)) % 6 + 1
    mined = mined_list(rows, labels, candidates=bank, candidate_labels=bank_labels)
    assert mined == reference_mine(rows, labels, bank, bank_labels)


def test_a_rank_mines_its_slab(small_tiles):
    rows, labels = lattice_batch(100, 25)
    whole = reference_mine(rows, labels)
    slab = mined_list(rows[40:70], labels[40:70], candidates=rows, candidate_labels=labels, anchor_offset=40)
    assert [(anchor + 40, *rest) for anchor, *rest in slab] == [t for t in whole if 40 <= t[0] < 70]


@pytest.mark.parametrize(
    ("precision", "spread", "offset", "tolerance", "floor"),
    [
        ("exact", 1.0, 0.0, 2e-6, 0.995),
        ("exact", 0.01, 1.0, 2e-6, 0.99),
        ("fast", 1.0, 0.0, 2e-3, 0.9),
        ("fast", 0.01, 1.0, 2e-3, 0.9),
    ],
    ids=["exact", "exact-bunched", "fast", "fast-bunched"],
)
def test_random_rows_keep_the_interval_property(small_tiles, precision, spread, offset, tolerance, floor):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(130, 37, generator=generator) * spread + offset
    labels = torch.arange(130) % 26
    mined = mine_semihard(rows, labels, backend="triton", precision=precision)
    assert interval_violations(mined, mined.is_fallback, rows, labels, tolerance=tolerance) == 0
    pairs = zip(as_list(mined, mined.is_fallback), reference_mine(rows, labels), strict=True)
    assert np.mean([ours == true for ours, true in pairs]) >= floor


def test_scales_that_half_precision_cannot_hold(small_tiles):
    rows, labels = lattice_batch(40, 10)
    expected = reference_mine(rows, labels)
    for scale in (2.0**-40, 2.0**40):
        assert mined_list(rows * scale, labels) == expected


@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
def test_loss_and_gradient(small_tiles, distance):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 21, generator=generator) * 0.3
    labels = torch.cat([torch.arange(44) % 11, torch.arange(20, 26)])
    rows, true_rows = values.clone().requires_grad_(), values.double().requires_grad_()
    loss = SemiHardTripletLoss(margin=0.4, distance=distance, backend="triton")(rows, labels)
    expected = reference_loss(true_rows, labels, margin=0.4, distance=distance)
    loss.backward()
    expected.backward()
    assert abs(loss - expected) < 1e-6
    assert (rows.grad - true_rows.grad).abs().max() < 1e-6


def test_loss_with_candidates_and_with_nothing_to_learn(small_tiles):
    rows, labels = lattice_batch(12, 3)
    bank, bank_labels = lattice_batch(20, 3, seed=1)
    results = []
    for function in (
        SemiHardTripletLoss(margin=0.4, backend="triton"),
        lambda *a, **k: reference_loss(*a, margin=0.4, **k),
    ):
        leaves = rows.clone().requires_grad_(), bank.clone().requires_grad_()
        loss = function(leaves[0], labels, candidates=leaves[1], candidate_labels=bank_labels)
        loss.backward()
        results.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() < 1e-6
    rows.requires_grad_()
    loss = SemiHardTripletLoss(backend="triton")(rows, torch.arange(12))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not rows.grad.any()


def test_rows_that_are_not_finite_make_the_loss_nan(small_tiles):
    rows, labels = lattice_batch(12, 3)
    rows[4, 2] = float("inf")
    assert torch.isnan(SemiHardTripletLoss(backend="triton")(rows, labels))


def test_not_a_number_is_never_chosen_beside_healthy_columns():
    """The kernels alone, with one broken column: the host's frame would have spread it to every row."""
    rows, labels = lattice_batch(60, 15)
    layout = class_layout(labels, labels, 0)
    shape = tiles(K=4)
    ones = torch.ones(())
    operand, bias = semihard_triton.operand(rows, layout.candidate_order, torch.zeros(16), 2 * ones, shape, True)
    positive = semihard_triton.positive_slots(layout, PositiveSampler(layout, 4), 4)
    expected, broken = None, int(layout.candidate_order[17])
    for value in (None, float("nan"), float("inf"), -float("inf")):
        damaged = bias.clone()
        if value is not None:
            damaged[17] = value
        found = semihard_triton.launch(operand, operand, damaged, positive, layout, shape, exact=True, num_splits=1)
        if expected is None:
            expected = found.negative
            continue
        assert broken not in layout.candidate_order[found.negative[found.negative >= 0].long()].tolist()
        healthy = (positive != 17) & (expected != 17)
        healthy[:, 17] = False
        assert torch.equal(found.negative[healthy], expected[healthy])


def test_row_offsets_beyond_two_to_the_31(tmp_path):
    """Rows 67 million floats apart, in a sparse file: the offset of the last passes 2³²."""
    path = tmp_path / "sparse"
    step, num_rows = 67_108_864, 66
    with path.open("wb") as file:
        file.truncate((step * (num_rows - 1) + 16) * 4)
    rows = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+")).as_strided((num_rows, 16), (step, 1))
    rows[-1] = 0.25
    operand, bias = semihard_triton.operand(
        rows, torch.arange(num_rows), torch.zeros(16), torch.ones(()), tiles(), False
    )
    assert torch.equal(operand[-1], torch.full((16,), 16.0, dtype=torch.float16))
    assert not operand[:-1].any()
    assert bias[-1] == 6


def test_the_dispatcher_in_the_interpreter():
    cpu = torch.device("cpu")
    assert choose_backend("auto", cpu, num_positives=4) == "torch"
    assert choose_backend("triton", cpu, num_positives=4) == "triton"
    with pytest.raises(ValueError, match="float64"):
        choose_backend("triton", cpu, num_positives=4, dtype=torch.float64)


@pytest.mark.parametrize("num_features", [32, 33, 96, 128, 129, 192, 257, 512, 1000, 1024])
@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 103, 120, "gfx942"])
def test_every_width_has_a_tile_shape(num_features, arch):
    for exact in (False, True):
        shape = semihard_triton.tile_shape(num_features, 100, exact=exact, arch=arch)
        assert num_features <= shape.BD * shape.ND < num_features + 128
        few = arch in (100, 103) or (arch == 90 and exact and not shape.resident) or (arch == 120 and exact)
        expected = 4 if few else 8
        assert expected == shape.K


MUTATIONS = {
    "the ragged tail is not masked": ("(c >= N) | ((c >= start[:, None])", "(c >= N + N) | ((c >= start[:, None])"),
    "the class is not masked": ("& (c < end[:, None])), BELOW", "& (c < start[:, None])), BELOW"),
    "the minimum is signed": (
        "tl.min(key - threshold[k][:, None], axis=1)",
        "tl.min((key - threshold[k][:, None]).to(tl.int32, bitcast=True), axis=1).to(tl.uint32, bitcast=True)",
    ),
    "not strictly farther": ("(threshold[k] | (BN - 1)) + 1", "(threshold[k] | (BN - 1)) + 1 - BN"),
    "a later tile wins a tie": ("best[k] & (0xFFFFFFFF - (BN - 1))", "best[k]"),
    "the band ends one tile early": ("(j + BN > low) & (j < high)", "(j + BN > low) & (j + BN < high)"),
    "the farthest is the last of equals": ("(BN - 1 - col)[None, :].to(tl.uint32)", "col[None, :].to(tl.uint32)"),
    "the farthest may be of the own class": ("tl.where(negative & within, key, 0)", "tl.where(within, key, 0)"),
    "the norms are left out": ("tl.store(BIAS + r, norm + 5.0", "tl.store(BIAS + r, 0 * norm + 5.0"),
    "the negative pulls too": ("tl.where(above, far_slope, 0.0)", "tl.where(above, -far_slope, 0.0)"),
    "the other rows have the wrong sign": ("(x[None, :] - y)", "(x[None, :] + y)"),
    "the pair mask of the hinge is dropped": ("above = pair & (hinge > 0)", "above = hinge > 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome():
    """() → triplets, loss and gradients of a lattice batch by the kernels that the modules hold now, one by one."""
    rows, labels = lattice_batch(75, 20)
    # Two rows farther out: norms matter, and some pairs have nothing beyond. The last class, in the ragged tile, has
    # two equal rows and one that would be their nearest "negative" were it not masked.
    last = rows[2].repeat(3, 1)
    last[2, 0] *= -1
    rows = torch.cat([rows * 0.5, rows[:2], last * 0.5])
    labels = torch.cat([labels, labels[:2], torch.full((3,), 99)])
    layout = class_layout(labels, labels, 0)
    positives = PositiveSampler(layout, None)

    def run():
        yield from semihard_triton.mine(rows, rows, layout, positives, precision="exact")
        options = {"margin": 0.1, "distance": "sqeuclidean", "precision": "exact", "with_gradient": True}
        loss = semihard_loss_triton.loss_sum(rows, rows, layout, positives, **options)
        yield from (loss.total, loss.anchor_gradient, loss.candidate_gradient)

    run.expected = reference_mine(rows, labels)
    return run


@pytest.fixture(scope="module")
def mutation_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semihard_triton, "tile_shape", lambda *_, **__: tiles(BM=32, BN=32, K=8))
        yield


@pytest.fixture(scope="module")
def healthy(mutation_tiles, outcome):
    result = list(outcome())
    assert as_list(result[:3], result[3]) == outcome.expected
    return result


@pytest.mark.parametrize(("old", "new"), MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutant_does_not_survive(monkeypatch, load_mutant, healthy, outcome, old, new):
    """Each change to the kernels is noticed on one lattice batch: its triplets, its loss or its gradient."""
    mutant = load_mutant(semihard_triton_kernels, old, new)
    for module in (semihard_triton, semihard_loss_triton):
        for name in ("prepare_kernel", "semihard_kernel", "farthest_kernel", "hinge_kernel", "gradient_kernel"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(mutant, name))
    try:
        # What comes first decides: the loss of wrong triplets is not computed.
        assert any(not torch.equal(a, b) for a, b in zip(healthy, outcome(), strict=True))
    except IndexError:  # an invalid column
        return
