"""PixCorr against scipy and against the saliency stage's own implementation."""

import numpy as np
import scipy.stats
import torch
from smooth_images import random_images

from neuroimagen.trainer.evaluation.metrics.pixel_correlation import pixel_correlation
from neuroimagen.trainer.networks import gan
from neuroimagen.trainer.networks.pixels import from_uint8


def test_pixel_correlation_agrees_with_scipy_and_is_zero_for_constants() -> None:
    x, y = random_images(0), random_images(1)
    expected = [scipy.stats.pearsonr(a.ravel(), b.ravel()).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(pixel_correlation(x, y), expected, atol=1e-6)
    np.testing.assert_allclose(pixel_correlation(x, 255 - x), -1, atol=1e-6)
    assert pixel_correlation(np.full_like(x, 7), y).tolist() == [0.0] * 5


def test_the_saliency_stage_computes_the_same_correlation() -> None:
    x, y = random_images(0), random_images(1)
    logged = gan.pixel_correlation(*(from_uint8(torch.from_numpy(images)) for images in (x, y)))
    np.testing.assert_allclose(logged.numpy(), pixel_correlation(x, y), atol=1e-5)
