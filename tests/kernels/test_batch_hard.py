"""Batch-hard mining against its definition, one anchor at a time in float64, and against pytorch-metric-learning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.miners import BatchHardMiner

from neuroimagen.kernels import batch_hard
from neuroimagen.kernels.batch_hard import BatchHardTripletLoss, mine_batch_hard


def by_definition(rows, labels, margin, distance, reduction):
    rows = rows.double()
    if distance == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=1)
    hinges = []
    for a in range(len(rows)):
        squared = (rows - rows[a]).square().sum(1)
        d = {"sqeuclidean": squared, "euclidean": squared.sqrt(), "cosine": squared / 2}[distance]
        positives = [d[p] for p in range(len(rows)) if p != a and labels[p] == labels[a]]
        negatives = [d[n] for n in range(len(rows)) if labels[n] != labels[a]]
        if positives and negatives:
            hinges.append(max(0.0, float(max(positives) - min(negatives)) + margin))
    count = len(hinges) if reduction == "pairs" else sum(hinge > 0 for hinge in hinges)
    return sum(hinges) / max(1, count)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 1000), st.sampled_from(["pairs", "active"]))
@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
def test_the_loss_is_its_definition(distance, num_rows, num_classes, seed, reduction):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, 4, generator=generator)
    labels = torch.randint(0, num_classes, (num_rows,), generator=generator)
    loss = BatchHardTripletLoss(margin=0.4, distance=distance, reduction=reduction)(rows, labels)
    assert float(loss) == pytest.approx(by_definition(rows, labels, 0.4, distance, reduction), abs=1e-5)


def test_triplets_are_those_of_pytorch_metric_learning_in_any_chunks(monkeypatch):
    rows, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(2)), torch.arange(60) % 5
    anchor, positive, negative = BatchHardMiner()(torch.nn.functional.normalize(rows), labels)
    for chunk in (7, 1024):
        monkeypatch.setattr(batch_hard, "CHUNK", chunk)
        ours = mine_batch_hard(*[torch.nn.functional.normalize(rows), labels] * 2, 0)
        assert torch.equal(ours[0], anchor)
        assert torch.equal(ours[1], positive)
        assert torch.equal(ours[2], negative)


def test_the_gradient_is_that_of_the_chosen_triplets():
    rows = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    labels = torch.arange(12) % 3
    for distance in ("sqeuclidean", "euclidean", "cosine"):
        assert torch.autograd.gradcheck(BatchHardTripletLoss(margin=5.0, distance=distance), (rows, labels))


def test_what_cannot_be_mined_is_zero_or_nan_and_never_silent():
    loss = BatchHardTripletLoss(distance="euclidean")
    for labels in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        rows = torch.randn(4, 2, requires_grad=True)
        value = loss(rows, labels)
        value.backward()
        assert value == 0
        assert torch.equal(rows.grad, torch.zeros(4, 2))
    assert loss(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)) == 0
    broken = torch.randn(6, 2)
    broken[5] = torch.inf
    assert torch.isnan(loss(broken, torch.arange(6) % 2))
    same = torch.ones(4, 2, requires_grad=True)  # every distance is 0
    loss(same, torch.arange(4) % 2).backward()
    assert torch.isfinite(same.grad).all()
    assert loss(torch.randn(8, 3).bfloat16(), torch.arange(8) % 2).dtype == torch.float32
    with pytest.raises(ValueError, match="distance='manhattan'"):
        BatchHardTripletLoss(distance="manhattan")
    with pytest.raises(ValueError, match="margin"):
        BatchHardTripletLoss(margin=-1.0)
