"""Whitening, compared with scikit-learn's shrinkage and SciPy's matrix power."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.discriminant_analysis import _cov

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.whitening import noise_covariance, shrunk_covariance, whitening_matrix

RNG = np.random.default_rng(0)
EPOCHS = [(image, (RNG.standard_normal((7, 7)) @ RNG.standard_normal((7, 50))) * 1e-6) for image in (3, 3, 3, 1, 8, 8)]


def test_the_covariance_of_an_epoch_is_shrunk_as_by_scikit_learn() -> None:
    for _, epoch in EPOCHS:
        np.testing.assert_allclose(shrunk_covariance(epoch), _cov(epoch.T, shrinkage="auto"), rtol=1e-10)


def test_every_image_counts_the_same() -> None:
    expected = np.mean(
        [np.mean([_cov(epoch.T, shrinkage="auto") for own, epoch in EPOCHS if own == image], 0) for image in (3, 1, 8)],
        axis=0,
    )
    np.testing.assert_allclose(noise_covariance(iter(EPOCHS), {3: 3, 1: 1, 8: 2}), expected, rtol=1e-10)
    with pytest.raises(UserError, match="there are none"):
        noise_covariance(iter(()), {})


def test_the_matrix_is_the_inverse_square_root() -> None:
    covariance = noise_covariance(iter(EPOCHS), {3: 3, 1: 1, 8: 2})
    matrix = whitening_matrix(covariance, tuple("abcdefg"), where="x")
    np.testing.assert_allclose(matrix, scipy.linalg.fractional_matrix_power(covariance, -0.5), rtol=1e-8)
    np.testing.assert_allclose(matrix @ covariance @ matrix, np.eye(7), atol=1e-9)


def test_channels_that_cannot_be_whitened_are_named() -> None:
    with pytest.raises(UserError, match="channels b never vary"):
        whitening_matrix(np.diag([1.0, 0.0]), ("a", "b"), where="x")
    with pytest.raises(UserError, match="depend on each other"):
        whitening_matrix(np.ones((2, 2)), ("a", "b"), where="x")
