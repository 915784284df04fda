"""The reference implementations agree with each other, and tell a wrong triplet from a right one."""

import torch

from neuroimagen.kernels.backends.semihard_reference import (
    interval_violations,
    lattice_batch,
    reference_distances,
    reference_loss,
    reference_mine,
    tensorflow_addons_loss,
)


def test_mining_by_hand():
    """On a line: 0 and 1 of one class; 3, 0.5 and 1 of another. At 1 lies a negative as far from 0 as the positive."""
    rows, labels = torch.tensor([[0.0], [1.0], [3.0], [0.5], [1.0]]), torch.tensor([0, 0, 1, 1, 1])
    mined = reference_mine(rows, labels)
    assert [triplet for triplet in mined if triplet[0] < 2] == [(0, 1, 2, False), (1, 0, 2, False)]
    assert (2, 3, 0, False) in mined  # 2.5 to the positive, 3 to row 0
    assert (3, 2, 0, True) in mined  # nothing lies beyond 2.5: the farthest, of two at 0.5 the first
    assert reference_mine(rows, torch.zeros(5)) == []


def test_its_loss_is_that_of_tensorflow_addons():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 6
    ours, theirs = (loss(rows, labels, margin=0.7) for loss in (reference_loss, tensorflow_addons_loss))
    assert abs(float(ours - theirs)) < 1e-12


def test_distances_of_a_lattice_are_exact_in_half_precision_and_often_equal():
    rows, _ = lattice_batch(50, 5)
    distances = reference_distances(rows, rows)
    assert torch.equal((rows.half()[:, None] - rows.half()[None]).square().sum(-1).double(), distances)
    assert len(distances.unique()) < 20


def test_a_wrong_negative_violates_the_interval():
    rows, labels = lattice_batch(50, 5)
    anchor, positive, negative, fallback = (
        torch.tensor(column) for column in zip(*reference_mine(rows, labels), strict=True)
    )
    assert interval_violations((anchor, positive, negative), fallback, rows, labels, tolerance=1e-6) == 0
    own_class = negative.clone()
    own_class[3] = positive[3]
    assert interval_violations((anchor, positive, own_class), fallback, rows, labels, tolerance=1e-6) == 1
    farthest = reference_distances(rows, rows).masked_fill(labels[:, None] == labels[None], -1).argmax(1)[anchor]
    assert interval_violations((anchor, positive, farthest), fallback, rows, labels, tolerance=1e-6) > 10
