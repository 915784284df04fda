"""SemiHardTripletLoss: value and gradient against float64 formulas, edge cases, autocast, other libraries."""

import pickle

import pytest
import torch

from neuroimagen.kernels.backends.semihard_reference import reference_loss, tensorflow_addons_loss
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def batch(num_rows=60, num_classes=7, num_features=12, *, dtype=torch.float32, seed=0, length=0.4):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, num_features, generator=generator, dtype=torch.float64) * length
    return rows.to(dtype), torch.randint(0, num_classes, (num_rows,), generator=generator)


def value_and_gradient(function, rows):
    rows = rows.clone().requires_grad_()
    loss = function(rows)
    loss.backward()
    return loss.detach(), rows.grad


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
@pytest.mark.parametrize("reduction", ["pairs", "active"])
def test_value_and_gradient_are_those_of_the_formula(dtype, distance, reduction):
    rows, labels = batch(dtype=dtype)
    loss = SemiHardTripletLoss(margin=0.3, distance=distance, reduction=reduction)
    value, gradient = value_and_gradient(lambda rows: loss(rows, labels), rows)
    expected, expected_gradient = value_and_gradient(
        lambda rows: reference_loss(rows, labels, margin=0.3, distance=distance, reduction=reduction), rows.double()
    )
    assert value.dtype == dtype
    assert abs(value - expected) < TOLERANCE[dtype]
    assert (gradient - expected_gradient).abs().max() < TOLERANCE[dtype]


def test_it_is_the_loss_of_tensorflow_addons():
    rows, labels = batch(dtype=torch.float64)
    value, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss(margin=1.0)(rows, labels), rows)
    expected, expected_gradient = value_and_gradient(
        lambda rows: tensorflow_addons_loss(rows, labels, margin=1.0), rows
    )
    assert abs(value - expected) < 1e-12
    assert (gradient - expected_gradient).abs().max() < 1e-12


def test_candidates_get_their_own_gradient():
    rows, labels = batch(30, 4, dtype=torch.float64)
    bank, bank_labels = batch(50, 5, dtype=torch.float64, seed=1)
    results = []
    for function in (SemiHardTripletLoss(margin=0.5), lambda *a, **k: reference_loss(*a, margin=0.5, **k)):
        leaves = rows.clone().requires_grad_(), bank.clone().requires_grad_()
        loss = function(leaves[0], labels, candidates=leaves[1], candidate_labels=bank_labels)
        loss.backward()
        results.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() < 1e-12
    frozen = rows.clone().requires_grad_()
    SemiHardTripletLoss(margin=0.5)(frozen, labels, candidates=bank, candidate_labels=bank_labels).backward()
    assert torch.equal(frozen.grad, results[0][1])


def test_the_margin_never_changes_the_triplets_and_the_loss_is_linear_where_all_are_active():
    rows, labels = batch()
    small, large = (SemiHardTripletLoss(margin=margin)(rows, labels) for margin in (100.0, 107.0))
    assert abs(float(large - small) - 7) < 1e-4


@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [5, 5, 5], []])
def test_a_batch_without_triplets_has_loss_zero_and_gradient_zero(labels, distance):
    rows = torch.randn(len(labels), 4, requires_grad=True)
    loss = SemiHardTripletLoss(distance=distance)(rows, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
def test_equal_rows_have_finite_gradients(distance):
    rows, labels = batch(20, 3)
    rows[5:15] = rows[5]
    value, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss(distance=distance)(rows, labels), rows)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    collapsed = torch.full((12, 4), 0.7)
    value, gradient = value_and_gradient(
        lambda rows: SemiHardTripletLoss(margin=0.25, distance=distance)(rows, torch.arange(12) % 3), collapsed
    )
    assert value == 0.25
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3]])
def test_rows_that_are_not_finite_make_the_loss_nan(value, labels):
    rows = torch.randn(4, 3)
    rows[2, 1] = value
    assert torch.isnan(SemiHardTripletLoss()(rows, torch.tensor(labels)))


def test_half_precision_rows_and_autocast():
    rows, labels = batch()
    expected, gradient = value_and_gradient(lambda rows: SemiHardTripletLoss()(rows, labels), rows.bfloat16().float())
    value, half_gradient = value_and_gradient(lambda rows: SemiHardTripletLoss()(rows, labels), rows.bfloat16())
    assert value == expected
    assert half_gradient.dtype == torch.bfloat16
    assert torch.equal(half_gradient, gradient.bfloat16())
    layer = torch.nn.Linear(12, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = layer(rows)
        loss = SemiHardTripletLoss()(embedded, labels)
    assert embedded.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss == SemiHardTripletLoss()(embedded.float(), labels)
    loss.backward()
    assert layer.weight.grad is not None


def test_the_same_call_gives_the_same_bits():
    rows, labels = batch(300, 10)
    first, second = (value_and_gradient(lambda rows: SemiHardTripletLoss()(rows, labels), rows) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_sampled_positives_estimate_the_loss_of_all_pairs_without_bias():
    rows, labels = batch(40, 1)
    labels = torch.arange(40) % 4  # equal classes: the mean over drawn pairs and over all pairs estimate the same
    everything = float(SemiHardTripletLoss()(rows, labels))
    torch.manual_seed(0)
    drawn = torch.stack([SemiHardTripletLoss(positives=2)(rows, labels) for _ in range(400)])
    assert abs(float(drawn.mean()) - everything) < 4 * float(drawn.std()) / 20


def test_it_pickles_and_prints_its_settings():
    loss = pickle.loads(pickle.dumps(SemiHardTripletLoss(margin=0.2, distance="cosine")))
    rows, labels = batch()
    assert loss(rows, labels) == SemiHardTripletLoss(margin=0.2, distance="cosine")(rows, labels)
    assert "margin=0.2, distance='cosine'" in repr(loss)


@pytest.mark.parametrize(
    "options",
    [{"margin": -1.0}, {"margin": float("nan")}, {"reduction": "mean"}, {"gradients": "max"}, {"positives": True}],
)
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SemiHardTripletLoss(**options)


def test_the_triplets_are_pytorch_metric_learnings_indices_tuple():
    from pytorch_metric_learning import distances, losses, reducers

    rows, labels = batch()
    distance = distances.LpDistance(normalize_embeddings=False, power=2)
    for reducer, reduction in ((reducers.MeanReducer(), "pairs"), (reducers.AvgNonZeroReducer(), "active")):
        theirs, ours = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        loss = losses.TripletMarginLoss(margin=0.3, distance=distance, reducer=reducer)
        value = loss(theirs, labels, mine_semihard(theirs, labels))
        expected = SemiHardTripletLoss(margin=0.3, reduction=reduction)(ours, labels)
        assert abs(value - expected) < 1e-6
        value.backward()
        expected.backward()
        assert (theirs.grad - ours.grad).abs().max() < 1e-6
    # Candidates are that library's `ref_emb`; four tensors would have been read as pairs.
    bank, bank_labels = batch(50, 7, seed=1)
    mined = mine_semihard(rows, labels, candidates=bank, candidate_labels=bank_labels)
    theirs = losses.TripletMarginLoss(margin=0.3, distance=distance, reducer=reducers.MeanReducer())
    value = theirs(rows, labels, mined, bank, bank_labels)
    ours = SemiHardTripletLoss(margin=0.3)(rows, labels, candidates=bank, candidate_labels=bank_labels)
    assert abs(value - ours) < 1e-6
