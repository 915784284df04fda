"""The Inception Score against torchmetrics and closed forms."""

import numpy as np
import pytest
import torch

from neuroimagen.trainer.evaluation.metrics.inception_score import inception_score


def test_inception_score_agrees_with_torchmetrics_and_closed_forms() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 8)) * 3)
    reference = InceptionScore(feature=torch.nn.Flatten(1), splits=1)
    reference.update(logits.float())
    mean, _ = inception_score(torch.softmax(logits, dim=1).numpy(), num_splits=1)
    assert mean == pytest.approx(float(reference.compute()[0]), rel=1e-5)
    assert inception_score(np.eye(12), num_splits=1)[0] == pytest.approx(12.0)
    assert inception_score(np.full((20, 12), 1 / 12), num_splits=4) == (pytest.approx(1.0), pytest.approx(0.0))
    with pytest.raises(ValueError, match="10 splits of 3"):
        inception_score(np.eye(3))
