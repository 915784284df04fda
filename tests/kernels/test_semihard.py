"""mine_semihard with the chunked backend: definition, ties, invariances, degenerate batches, invalid inputs."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.kernels.backends.semihard_reference import interval_violations, lattice_batch, reference_mine
from neuroimagen.kernels.semihard import mine_semihard


def as_list(triplets):
    return list(zip(*(part.tolist() for part in (*triplets, triplets.is_fallback)), strict=True))


def random_batch(num_rows, num_classes, num_features=24, *, seed=0, spread=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, num_features, generator=generator) * spread + offset
    return rows, torch.randint(0, num_classes, (num_rows,), generator=generator)


@given(
    num_rows=st.integers(1, 60),
    num_classes=st.integers(1, 20),
    num_features=st.sampled_from([1, 3, 16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_lattice_batches_agree_with_the_definition_index_by_index(num_rows, num_classes, num_features, seed):
    rows, labels = lattice_batch(num_rows, num_classes, num_features=num_features, seed=seed)
    assert as_list(mine_semihard(rows, labels)) == reference_mine(rows, labels)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("num_classes", [3, 40])
def test_random_batches_keep_the_interval_property(num_classes, offset):
    rows, labels = random_batch(150, num_classes, spread=0.02 if offset else 1.0, offset=offset)
    triplets = mine_semihard(rows, labels)
    assert interval_violations(triplets, triplets.is_fallback, rows, labels, tolerance=1e-6) == 0
    reference = reference_mine(rows, labels)
    assert len(triplets.anchor) == len(reference)
    agreement = np.mean([mined == true for mined, true in zip(as_list(triplets), reference, strict=True)])
    assert agreement > 0.998


def test_far_apart_candidates_and_anchors_of_unknown_classes():
    rows, labels = lattice_batch(40, 6)
    bank, bank_labels = lattice_batch(90, 8, seed=1)
    bank_labels += 2  # labels 0 and 1 have no positives there, 6 to 9 are negatives only
    mined = mine_semihard(rows, labels, candidates=bank, candidate_labels=bank_labels)
    assert as_list(mined) == reference_mine(rows, labels, bank, bank_labels)
    assert set(labels[mined.anchor].tolist()) == {2, 3, 4, 5}


def test_a_slab_of_the_batch_mines_what_the_whole_batch_mines_for_it():
    rows, labels = lattice_batch(60, 5)
    whole = as_list(mine_semihard(rows, labels))
    slab = mine_semihard(rows[20:37], labels[20:37], candidates=rows, candidate_labels=labels, anchor_offset=20)
    assert [(anchor + 20, *rest) for anchor, *rest in as_list(slab)] == [t for t in whole if 20 <= t[0] < 37]


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_permuting_the_rows_permutes_the_triplets(seed):
    rows, labels = random_batch(50, 6, seed=seed)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
    shuffled = mine_semihard(rows[order], labels[order])
    back = {tuple(order[torch.tensor(t[:3])].tolist()) for t in as_list(shuffled)}
    assert back == {t[:3] for t in as_list(mine_semihard(rows, labels))}


def test_rotation_translation_and_scale_keep_the_choice():
    rows, labels = random_batch(80, 8)
    mined = as_list(mine_semihard(rows, labels))
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))[0]
    for moved in (rows @ rotation, rows + 5, rows * 1e-12, rows * 1e12):
        agreement = np.mean([a == b for a, b in zip(as_list(mine_semihard(moved, labels)), mined, strict=True)])
        assert agreement > 0.998


def test_a_far_negative_changes_fallbacks_only():
    rows, labels = lattice_batch(50, 3)
    far = torch.cat([rows, torch.full((1, 16), 50.0)])
    mined = mine_semihard(far, torch.cat([labels, torch.tensor([99])]))
    # The centre's grid is coarser than the lattice now, and the lattice stays exact all the same.
    for new, old in zip(as_list(mined), as_list(mine_semihard(rows, labels)), strict=True):
        assert new[:2] == old[:2]
        assert new[2:] == ((50, False) if old[3] else old[2:])


def test_cosine_ignores_the_length_of_the_rows():
    rows, labels = random_batch(60, 5)
    unit = torch.nn.functional.normalize(rows, dim=1)
    lengths = torch.rand(60, 1, generator=torch.Generator().manual_seed(3)) + 0.5
    assert as_list(mine_semihard(rows * lengths, labels, distance="cosine")) == as_list(mine_semihard(unit, labels))
    assert as_list(mine_semihard(rows, labels, distance="euclidean")) == as_list(mine_semihard(rows, labels))


def test_sampled_positives_are_distinct_true_positives_with_their_own_negatives():
    rows, labels = lattice_batch(80, 7)
    every = {t[:2]: t[2:] for t in as_list(mine_semihard(rows, labels))}
    size = labels.bincount()
    drawn = []
    for seed in range(300):
        mined = as_list(mine_semihard(rows, labels, positives=3, generator=torch.Generator().manual_seed(seed)))
        assert all(every[t[:2]] == t[2:] for t in mined)
        assert len({t[:2] for t in mined}) == len(mined) == int((size * (size - 1).clamp_max(3)).sum())
        drawn += [t[1] for t in mined if t[0] == 0]
    times = np.bincount(drawn, minlength=80)
    same_class = [row for row in range(1, 80) if labels[row] == labels[0]]
    expected = 300 * 3 / len(same_class)
    assert np.all(np.abs(times[same_class] - expected) < 5 * np.sqrt(expected))
    assert times.sum() == times[same_class].sum()


def test_sampled_positives_from_a_bank():
    rows, labels = lattice_batch(30, 4)
    bank, bank_labels = lattice_batch(50, 4, seed=5)
    every = set(as_list(mine_semihard(rows, labels, candidates=bank, candidate_labels=bank_labels)))
    mined = as_list(mine_semihard(rows, labels, candidates=bank, candidate_labels=bank_labels, positives=2))
    assert set(mined) <= every
    assert len(mined) == 60


@pytest.mark.parametrize(
    ("labels", "num_pairs"),
    [([0], 0), ([0, 0], 0), ([0, 1], 0), ([0, 0, 1], 2), ([4] * 15, 0), (list(range(15)), 0), ([0] * 14 + [1], 182)],
)
def test_small_and_degenerate_batches(labels, num_pairs):
    rows, _ = lattice_batch(len(labels), 1)
    labels = torch.tensor(labels)
    mined = mine_semihard(rows, labels)
    assert len(mined.anchor) == num_pairs
    assert as_list(mined) == reference_mine(rows, labels)


def test_no_rows_and_no_candidates():
    empty, labels = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    assert len(mine_semihard(empty, labels).anchor) == 0
    some = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    assert len(mine_semihard(*some, candidates=empty, candidate_labels=labels).anchor) == 0
    assert len(mine_semihard(empty, labels, candidates=some[0], candidate_labels=some[1]).anchor) == 0


def test_a_collapsed_batch_falls_back_to_the_first_column():
    rows, labels = torch.full((12, 5), 0.3), torch.arange(12) % 3
    mined = mine_semihard(rows, labels)
    assert bool(mined.is_fallback.all())
    assert as_list(mined) == reference_mine(rows, labels)
    assert set(mined.negative[labels[mined.anchor] == 0].tolist()) == {1}


def test_a_negative_at_exactly_the_positives_distance_is_not_beyond_it():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.5, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert as_list(mine_semihard(rows, labels))[0] == (0, 1, 4, False)


def test_negative_and_huge_labels():
    rows, labels = lattice_batch(30, 4)
    moved = torch.tensor([-7, 2**40, 3, -(2**50)])[labels]
    assert as_list(mine_semihard(rows, moved)) == reference_mine(rows, moved)


def test_layouts_of_the_rows():
    rows, labels = lattice_batch(48, 5)
    mined = as_list(mine_semihard(rows, labels))
    strided = torch.zeros(48, 32)[:, ::2].copy_(rows)
    shifted = torch.zeros(48 * 16 + 1)[1:].view(48, 16).copy_(rows)
    for same in (rows.T.contiguous().T, strided, shifted, rows.half(), rows.bfloat16(), rows.double()):
        assert as_list(mine_semihard(same, labels)) == mined
    requires = rows.clone().requires_grad_()
    assert as_list(mine_semihard(requires, labels)) == mined


def test_autocast_and_matmul_settings_do_not_reach_the_mining():
    rows, labels = random_batch(100, 10, spread=0.01, offset=1.0)
    mined = as_list(mine_semihard(rows, labels))
    setting = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert as_list(mine_semihard(rows, labels)) == mined
    try:
        torch.set_float32_matmul_precision("medium")
        assert as_list(mine_semihard(rows, labels)) == mined
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(setting)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_rows_that_are_not_finite_are_refused(value):
    rows, labels = lattice_batch(20, 3)
    rows[7, 3:5] = value
    with pytest.raises(ValueError, match="NaN, infinite or overflowing"):
        mine_semihard(rows, labels)


def test_triplets_survive_pickling():
    mined = mine_semihard(*lattice_batch(20, 3))
    again = pickle.loads(pickle.dumps(mined))
    assert as_list(again) == as_list(mined)
    assert len(again) == 3
