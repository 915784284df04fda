"""The float64 reference against PyTorch's own cross-entropy and against single sums."""

import math

import pytest
import torch

from neuroimagen.kernels.backends.infonce_reference import dense_infonce, reference_infonce


def test_with_distinct_labels_it_is_clip_s_loss():
    generator = torch.Generator().manual_seed(0)
    rows, targets = (torch.randn(9, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    dense = dense_infonce(rows, targets, logit_scale=3.0)
    assert float(reference_infonce(rows, targets, torch.arange(9), logit_scale=3.0)) == pytest.approx(float(dense))


def test_two_rows_of_one_label_share_their_positives():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([5, 5, 7])
    loss = reference_infonce(rows, rows, labels, logit_scale=2.0, directions="rows")
    logits = [[2.0, 0.0, 2.0], [0.0, 2.0, 2.0], [2.0, 2.0, 4.0]]
    logsumexps = [math.log(sum(map(math.exp, row))) for row in logits]
    expected = (logsumexps[0] - 1 + logsumexps[1] - 1 + logsumexps[2] - 4) / 3
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_soft_targets_of_equal_rows_are_uniform():
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    targets = torch.ones(6, 3)
    soft = reference_infonce(rows, targets, torch.arange(6), logit_scale=1.0, soft_targets=1.0)
    one_class = reference_infonce(rows, targets, torch.zeros(6), logit_scale=1.0)
    assert float(soft) == pytest.approx(float(one_class), abs=1e-12)
