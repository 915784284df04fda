"""Features of segments against NumPy's and scikit-learn's own."""

import numpy as np
import pytest

from neuroimagen.trainer.evaluation import segment_features


def test_removing_the_trend_agrees_with_a_least_squares_fit() -> None:
    eeg = np.random.default_rng(0).normal(size=(3, 4, 50)).cumsum(axis=2)
    mean, slope, residual = segment_features.remove_trend(eeg)
    time = np.linspace(-0.5, 0.5, 50)
    expected = np.polyfit(time, eeg.reshape(12, 50).T, 1)
    np.testing.assert_allclose(slope.ravel(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(mean.ravel(), expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(residual.mean(axis=2), 0, atol=1e-6)
    assert segment_features.bin_means(eeg, 7).shape == (3, 28)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (150, 120)])
def test_principal_components_agree_with_scikit_learn(shape: tuple[int, int]) -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    train, test = rng.normal(size=shape), rng.normal(size=(5, shape[1]))
    scaler = StandardScaler().fit(train)
    reference = PCA(min(100, shape[0] - 1, shape[1]), svd_solver="full").fit(scaler.transform(train))
    for ours, part in zip(segment_features.principal_components(train, test), (train, test), strict=True):
        theirs = reference.transform(scaler.transform(part))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)  # components have no sign
