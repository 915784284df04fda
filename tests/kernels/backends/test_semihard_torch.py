"""The chunked backend: chunks, and mutants that the comparison with itself must notice.

That its triplets and losses are those of the definition is tested in test_semihard.py and test_semihard_loss.py.
"""

import pytest
import torch

from neuroimagen.kernels.backends import semihard_torch
from neuroimagen.kernels.backends.semihard_reference import lattice_batch, reference_mine
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard
from neuroimagen.kernels.triplets.class_layout import PositiveSampler, class_layout


def as_list(triplets):
    return list(zip(*(column.tolist() for column in (*triplets, triplets.is_fallback)), strict=True))


def random_batch():
    """60 float64 rows of 7 classes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 12, generator=generator, dtype=torch.float64) * 0.4
    return rows, torch.randint(0, 7, (60,), generator=generator)


@pytest.mark.parametrize("chunk_elements", [16, 700, 1 << 21])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk_elements):
    rows, labels = lattice_batch(130, 9)
    monkeypatch.setattr(semihard_torch, "CHUNK_ELEMENTS", chunk_elements)
    assert as_list(mine_semihard(rows, labels)) == reference_mine(rows, labels)


def test_classes_of_very_different_sizes_share_chunks_without_waste():
    labels = torch.tensor([0] * 60 + [1] * 20 + [value for value in range(2, 32) for _ in range(2)])
    layout = class_layout(labels, labels, 0)
    positives = PositiveSampler(layout, None)
    rows = torch.randn(labels.shape[0], 8, generator=torch.Generator().manual_seed(0))
    slots = used = 0
    for block in semihard_torch.search_blocks(rows[layout.anchor_order], rows[layout.anchor_order], layout, positives):
        slots += block.exists.numel()
        used += int(block.exists.sum())
    assert used == int(positives.count.sum())
    assert slots < 2 * used


def test_without_gradients_none_is_formed(monkeypatch):
    rows, labels = lattice_batch(60, 7)
    monkeypatch.setattr(semihard_torch, "_add_gradient", None)
    with torch.no_grad():
        value = SemiHardTripletLoss()(rows.requires_grad_(), labels)
    assert not value.requires_grad


MUTATIONS = {
    "the positive's own distance passes": (".long() + 1) << 32", ".long()) << 32"),
    "the class's own columns stay": ("keys[begin : begin + last - first, start:end] =", "keys[:0, start:end] ="),
    "the farthest is the last of equals": ("torch.searchsorted(keys, largest)", "num_negatives - 1"),
    "positive and negative swap in the gradient": ("[slopes[0], -slopes[1]]", "[-slopes[0], slopes[1]]"),
    "the candidates get no gradient": ("candidate_gradient[column] += 2", "candidate_gradient[column] += 0"),
    "the pairs are not counted": ("num_pairs += block.exists.sum()", "num_pairs += 1"),
    "a margin enters the choice": ("torch.searchsorted(keys, wanted)", "torch.searchsorted(keys, wanted + (1 << 54))"),
}


@pytest.mark.parametrize(("old", "new"), MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutant_does_not_survive(load_mutant, old, new):
    """Triplets, loss or gradient of a lattice batch or a random one differ with each of these changes."""
    mutant = load_mutant(semihard_torch, old, new)
    survived = True
    for rows, labels in (lattice_batch(60, 5), random_batch()):
        layout = class_layout(labels, labels, 0)
        results = []
        for module in (semihard_torch, mutant):
            positives = PositiveSampler(layout, None)
            mined = torch.stack(
                [column.long() for column in module.mine(rows.float(), rows.float(), layout, positives)]
            )
            got = module.loss_sum(rows, rows, layout, positives, margin=0.3, distance="sqeuclidean", with_gradient=True)
            gradient = got.anchor_gradient + got.candidate_gradient
            results.append((mined, got.total / got.num_pairs, gradient))
        survived &= all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not survived
