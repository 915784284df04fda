"""Declared preprocessing: the training split alone decides the figures."""

import numpy as np
import pytest
from scipy import signal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing

RNG = np.random.default_rng(0)
SEGMENTS = [
    (RNG.standard_normal((4, 50)) * [[1], [5], [0.1], [9]] + [[3], [0], [-1], [100]]).astype(np.float32)
    for _ in range(20)
]


def test_standardising_gives_mean_zero_and_variance_one_over_the_training_split() -> None:
    fitted = FittedPreprocessing.fit(Preprocessing(standardise=True), iter(SEGMENTS))
    done = np.concatenate([fitted(eeg) for eeg in SEGMENTS], axis=1)
    np.testing.assert_allclose(done.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(done.std(axis=1), 1, rtol=1e-5)
    assert done.dtype == np.float32


def test_detrending_is_scipys() -> None:
    fitted = FittedPreprocessing.fit(Preprocessing(detrend=True), iter(()))
    np.testing.assert_allclose(fitted(SEGMENTS[0]), signal.detrend(SEGMENTS[0].astype(np.float64)), atol=1e-5)


def test_order_is_detrend_standardise_clamp() -> None:
    fitted = FittedPreprocessing.fit(Preprocessing(detrend=True, standardise=True, clamp=1.5), iter(SEGMENTS))
    done = np.stack([fitted(eeg) for eeg in SEGMENTS])
    assert np.abs(done).max() == 1.5
    detrended = np.stack([signal.detrend(eeg.astype(np.float64)) for eeg in SEGMENTS])
    expected = (detrended / detrended.std(axis=(0, 2))[:, None]).clip(-1.5, 1.5)
    np.testing.assert_allclose(done, expected, atol=1e-4)
    assert fitted.summary()["clamp"] == 1.5
    assert len(fitted.summary()["channel_std"]) == 4


def test_nothing_asked_nothing_changed() -> None:
    def unread():
        raise AssertionError("the training split is read only to standardise")
        yield

    fitted = FittedPreprocessing.fit(Preprocessing(), unread())
    assert fitted(SEGMENTS[0]) is SEGMENTS[0]


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(UserError, match="training split is empty"):
        FittedPreprocessing.fit(Preprocessing(standardise=True), iter(()))
    flat = [np.concatenate([eeg, np.full((1, 50), 7.3, dtype=np.float32)]) for eeg in SEGMENTS]
    with pytest.raises(UserError, match=r"channels \[4\] never vary"):
        FittedPreprocessing.fit(Preprocessing(standardise=True), iter(flat))
    for clamp in (-1, 0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"clamp is {clamp}"):
            Preprocessing(clamp=clamp)
