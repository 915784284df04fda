"""Correlations against NumPy's, and the images that they are computed from."""

import numpy as np
import pytest
from smooth_images import random_images

from neuroimagen.trainer.evaluation.scoring.correlation import check_pairs, correlation_matrix, shrink, standardise


def test_the_matrix_is_numpy_s_and_a_constant_row_correlates_with_nothing() -> None:
    rng = np.random.default_rng(0)
    features, candidates = rng.normal(size=(7, 9)), rng.normal(size=(5, 9))
    expected = np.corrcoef(features, candidates)[:7, 7:]
    np.testing.assert_allclose(correlation_matrix(features, candidates), expected, atol=1e-6)
    features[2] = 3.0
    assert correlation_matrix(features, candidates)[2].tolist() == [0.0] * 5
    np.testing.assert_allclose(np.linalg.norm(standardise(candidates), axis=1), 1, atol=1e-6)


def test_images_are_averaged_over_areas() -> None:
    images = random_images(0, num=2, height=32, width=32)
    expected = images.reshape(2, 3, 16, 2, 16, 2).mean(axis=(3, 5)) / 255
    np.testing.assert_allclose(shrink(images, 16), expected.reshape(2, -1), atol=1e-6)
    assert shrink(images).shape == (2, 3 * 64 * 64)


def test_pairs_must_have_one_shape() -> None:
    images = random_images(0)
    check_pairs(images, images)
    for others in (images[:2], images[:, :2], images[0]):
        with pytest.raises(ValueError, match="pairs of images"):
            check_pairs(images, others)
