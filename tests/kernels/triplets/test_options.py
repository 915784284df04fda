"""Mining calls whose rows, labels or options do not fit are refused with the reason."""

import numpy as np
import pytest
import torch

from neuroimagen.kernels.backends.semihard_reference import lattice_batch
from neuroimagen.kernels.batch_hard import BatchHardTripletLoss
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard
from neuroimagen.kernels.triplets.options import MiningCall, positives_limit


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool, torch.int64])
def test_label_types(dtype):
    rows, labels = lattice_batch(30, 2)
    found, expected = (mine_semihard(rows, same) for same in (labels.to(dtype), labels))
    assert all(torch.equal(*columns) for columns in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, "one for each row"),
        ({"labels": torch.zeros(20)}, TypeError, "must be integers"),
        ({"embeddings": torch.zeros(20, 4, dtype=torch.int64)}, TypeError, "floating point"),
        ({"embeddings": torch.zeros(20)}, ValueError, r"\[rows, features\]"),
        ({"candidates": torch.zeros(5, 16)}, ValueError, "need candidate_labels"),
        ({"candidate_labels": torch.zeros(5, dtype=torch.int64)}, ValueError, "need candidates"),
        (
            {"candidates": torch.zeros(5, 3), "candidate_labels": torch.zeros(5, dtype=torch.int64)},
            ValueError,
            "do not fit",
        ),
        ({"distance": "manhattan"}, ValueError, "'manhattan'"),
        ({"positives": 0}, ValueError, "positives=0"),
        ({"positives": "some"}, ValueError, "'some'"),
        ({"backend": "cuda"}, ValueError, "'cuda'"),
        ({"precision": "bf16"}, ValueError, "'bf16'"),
        ({"backend": "triton"}, ValueError, "rows are on the CPU"),
    ],
)
def test_calls_that_do_not_fit_say_why(change, error, words):
    rows, labels = lattice_batch(20, 3)
    with pytest.raises(error, match=words):
        mine_semihard(**{"embeddings": rows, "labels": labels} | change)


def test_an_offset_beyond_the_candidates_is_refused():
    rows, labels = lattice_batch(20, 3)
    with pytest.raises(ValueError, match="anchor_offset=5"):
        mine_semihard(rows, labels, candidates=rows, candidate_labels=labels, anchor_offset=5)


def test_a_call_gives_the_rows_that_are_compared():
    rows, labels = lattice_batch(20, 3)
    options = {"candidates": None, "candidate_labels": None, "anchor_offset": None}
    options |= {"positives": "all", "distance": "cosine", "precision": "exact", "backend": "auto"}
    call = MiningCall(rows, labels, **options)
    anchors, candidates = call.rows(torch.float64)
    assert anchors is candidates
    assert torch.allclose(anchors.norm(dim=1), torch.ones(20, dtype=torch.float64))
    assert bool(call.is_finite())
    broken = rows.clone()
    broken[2, 3] = 3e38  # the squared norm overflows
    assert not bool(MiningCall(broken, labels, **options).is_finite())
    assert (positives_limit("all"), positives_limit(3)) == (None, 3)


@pytest.mark.parametrize("positives", [1.5, 2.0, float("nan"), np.float64(2), True, -1])
def test_a_number_of_positives_is_whole(positives):
    with pytest.raises(ValueError, match="positives="):
        positives_limit(positives)
    assert positives_limit(np.int64(3)) == 3


@pytest.mark.parametrize("loss", [SemiHardTripletLoss, BatchHardTripletLoss])
@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_is_finite_and_not_negative(loss, margin):
    loss(margin=0)
    with pytest.raises(ValueError, match=f"margin={margin} must be a finite number"):
        loss(margin=margin)
