"""FID against scipy, torchmetrics and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import torch

from neuroimagen.trainer.evaluation.metrics.frechet_distance import frechet_distance


def test_frechet_distance_agrees_with_scipy_and_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(50, 6)) + 0.5
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)

    reference = FrechetInceptionDistance(feature=torch.nn.Flatten(1), input_img_size=(3, 1, 2), normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(torch.from_numpy(x).view(-1, 3, 1, 2), real=True)
    reference.update(torch.from_numpy(y).view(-1, 3, 1, 2), real=False)
    assert frechet_distance(x, y) == pytest.approx(float(reference.compute()), rel=1e-5)


def test_frechet_distance_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, 40))
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(x, x + 3) == pytest.approx(40 * 9)
    assert frechet_distance(x, 2 * x) == pytest.approx(
        np.cov(x, rowvar=False).trace()
        + (x.mean(0) ** 2).sum()  # same directions: (2σ − σ)², and the mean moves by itself
    )
