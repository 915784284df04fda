"""Baselines find what is in the EEG, from the features that they are named after."""

import numpy as np
import pytest

from neuroimagen.trainer.evaluation import baselines


def study(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Segments of three classes that differ in their response, or in the power of an oscillation of random phase."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), 40)
    eeg = 0.5 * rng.standard_normal((120, 6, 100))
    time = np.arange(100) / 200
    phase = 0.0 if kind == "response" else rng.uniform(0, 2 * np.pi, (120, 1))
    wave = np.sin(2 * np.pi * 10 * time + phase)
    for number, label in enumerate(labels):
        eeg[number, 2 * label] += wave[number] if kind == "power" else wave
    return eeg.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["response", "power"])
def test_each_decoder_finds_what_its_features_hold(kind: str) -> None:
    eeg, labels = study(kind)
    is_test = np.arange(120) >= 90
    subjects = np.ones(120, dtype=int)
    power, names = baselines.band_power(eeg, 200.0)
    assert any(name.startswith("alpha") for name in names)
    accuracy = {}
    for name, features, predict in (
        ("mean", eeg.reshape(120, -1), baselines._nearest_mean),
        ("ridge", eeg.reshape(120, -1), baselines._ridge),
        ("logistic", eeg.reshape(120, -1), baselines._logistic),
        ("power", power, baselines._logistic),
        ("mdm", eeg, baselines._riemann_mdm),
        ("tangent", eeg, baselines._riemann_tangent),
        ("tangent power", eeg, baselines._riemann_power),
    ):
        predicted = baselines._per_subject(features, labels, subjects, is_test, predict)
        accuracy[name] = float((predicted == labels[is_test]).mean())
    expected = (
        ("mean", "ridge", "logistic", "mdm", "tangent")
        if kind == "response"
        else ("power", "mdm", "tangent", "tangent power")
    )
    assert min(accuracy[name] for name in expected) > 0.9
    if kind == "power":
        assert max(accuracy[name] for name in ("mean", "ridge", "logistic")) < 0.7  # random phases average out


def test_band_power_is_that_of_the_sine() -> None:
    time = np.arange(400) / 200
    eeg = (3 * np.sin(2 * np.pi * 10.5 * time)).astype(np.float32)[None, None]
    power, names = baselines.band_power(eeg, 200.0)
    assert names[int(power[0].argmax())].startswith("alpha")
    louder, _ = baselines.band_power(2 * eeg, 200.0)
    np.testing.assert_allclose(louder - power, np.log(4), atol=1e-3)  # twice the amplitude, four times the power


def test_a_short_window_keeps_the_bands_that_it_resolves() -> None:
    power, names = baselines.band_power(np.random.default_rng(0).standard_normal((4, 2, 20)), 100.0)
    assert power.shape == (4, 2 * len(names))
    assert np.isfinite(power).all()
    assert not any(name.startswith("delta") for name in names)
