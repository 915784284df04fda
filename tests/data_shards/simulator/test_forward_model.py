"""The simulator's forward model against its own equations."""

from collections.abc import Iterator

import numpy as np
import pytest

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.simulator.forward_model import (
    EVOKED_GAIN,
    LAYOUT_GAIN,
    LONG_LENGTH,
    NOISE_BINS,
    PERIOD,
    USUAL_LENGTH,
    ForwardModel,
    ForwardModelConfig,
    class_responses,
)
from neuroimagen.data_shards.simulator.head_model import NUM_LAYOUT


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    with single_blas_thread():
        yield


@pytest.fixture(scope="module")
def model() -> ForwardModel:
    return ForwardModel(ForwardModelConfig(num_subjects=2))


def record(model: ForwardModel, count: int, *, label: int = 0, subject: int = 0) -> np.ndarray:
    """Segments in the units of the equations (not standardised), cut to the shortest length: [count, C, 491]."""
    segments = [
        model.segment(i, label=label, layout=np.zeros(NUM_LAYOUT), subject=subject)[:, : USUAL_LENGTH[0]]
        for i in range(count)
    ]
    return np.stack(segments) * model.scale[:, None] + model.mean[:, None]


@pytest.mark.parametrize("num_classes", [2, 5, 12])
def test_class_responses_are_a_simplex_of_side_root_two(num_classes: int) -> None:
    corners = class_responses(num_classes)
    assert corners.shape == (num_classes, num_classes - 1)
    distances = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    np.testing.assert_allclose(distances[~np.eye(num_classes, dtype=bool)], np.sqrt(2))
    np.testing.assert_allclose(corners.mean(0), 0, atol=1e-12)


def test_segments_are_float32_of_varying_length_and_depend_on_their_index_alone(model: ForwardModel) -> None:
    layout = np.linspace(-1, 1, NUM_LAYOUT)
    first = model.segment(7, label=3, layout=layout, subject=1)
    lengths = {model.segment(i, label=0, layout=layout, subject=0).shape for i in range(12)}
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert len(lengths) > 3
    assert all(USUAL_LENGTH[0] <= length <= USUAL_LENGTH[1] or length > 600 for _, length in lengths)
    assert model.segment(7, label=3, layout=layout, subject=1).tobytes() == first.tobytes()
    again = ForwardModel(ForwardModelConfig(num_subjects=2)).segment(7, label=3, layout=layout, subject=1)
    assert again.tobytes() == first.tobytes()
    other_seed = ForwardModel(ForwardModelConfig(num_subjects=2, seed=1)).segment(7, label=3, layout=layout, subject=1)
    assert other_seed[:, :400].tobytes() != first[:, :400].tobytes()


def test_a_few_segments_are_long(model: ForwardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuroimagen.data_shards.simulator.forward_model.LONG_SHARE", 1.0)
    length = model.segment(0, label=0, layout=np.zeros(NUM_LAYOUT), subject=0).shape[1]
    assert LONG_LENGTH[0] <= length <= LONG_LENGTH[1]


def test_channels_are_standardised(model: ForwardModel) -> None:
    rng = np.random.default_rng(0)
    segments = [
        model.segment(
            i,
            label=i % 12,
            layout=model.layout_sample[rng.integers(len(model.layout_sample))],
            subject=i % 2,
        )[:, : USUAL_LENGTH[0]]
        for i in range(240)
    ]
    eeg = np.stack(segments).transpose(1, 0, 2).reshape(128, -1)
    np.testing.assert_allclose(eeg.mean(1), 0, atol=0.15)
    np.testing.assert_allclose(eeg.std(1), 1, atol=0.1)


def test_noise_has_the_stated_spectral_covariance() -> None:
    model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=-60))
    noise = record(model, 160)
    spectral = model.spectral_covariance(0)
    white = model.amplifier_variance * np.eye(128)
    for lag in (0, 7, 50):
        turn = np.cos(2 * np.pi * np.arange(1, NOISE_BINS + 1) * lag / PERIOD)
        expected = 2 * np.tensordot(turn, spectral[1:] - white / PERIOD, axes=1) + (white if lag == 0 else 0)
        length = noise.shape[2] - lag
        measured = np.einsum("nct,ndt->cd", noise[:, :, :length], noise[:, :, lag:], optimize=True) / (160 * length)
        level = model.noise_variance
        # Slow components dominate the error: 160 segments have only that many independent values of them.
        np.testing.assert_allclose(measured / level, expected / level, atol=0.4)
        assert np.corrcoef(measured.ravel(), expected.ravel())[0, 1] > 0.98
    total = np.trace(2 * spectral[1:].sum(0) - NOISE_BINS * 2 * white / PERIOD + white) / 128
    assert total == pytest.approx(model.noise_variance)


def test_the_sources_carry_class_layout_and_variability() -> None:
    """With almost no noise and no jitter the amplitudes can be estimated: they have the stated mean and spread."""
    config = ForwardModelConfig(num_subjects=1, snr_db=60, jitter_ms=0)
    model = ForwardModel(config)
    courses = model.time_courses(0, np.arange(USUAL_LENGTH[0], dtype=np.float64))
    design = np.einsum("ck,kt->ctk", model.topographies[0], courses).reshape(-1, model.num_sources)
    eeg = record(model, 150, label=4).reshape(150, -1)
    amplitudes = np.linalg.lstsq(design.T @ design, design.T @ eeg.T, rcond=None)[0].T
    n = model.num_class_sources
    mean = np.concatenate([model.class_responses[4], np.zeros(NUM_LAYOUT), np.full(3, EVOKED_GAIN)])
    np.testing.assert_allclose(amplitudes.mean(0), mean, atol=4 * config.variability / np.sqrt(150))
    np.testing.assert_allclose(amplitudes[:, :n].std(0), config.variability, rtol=0.25)
    spread = LAYOUT_GAIN * config.layout_variability
    np.testing.assert_allclose(amplitudes[:, n : n + NUM_LAYOUT].std(0), spread, rtol=0.25)


def test_signal_to_noise_ratio_is_as_asked() -> None:
    loud, quiet = (ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=snr)) for snr in (10.0, 0.0))
    assert quiet.noise_variance / loud.noise_variance == pytest.approx(10)
    silent = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=60))
    rng = np.random.default_rng(0)
    times, powers = np.arange(40.0, 440.0), []
    for label in range(12):
        layouts = silent.layout_sample[rng.integers(4096, size=20)]
        amplitudes = silent.amplitudes(rng, labels=np.full(20, label), layouts=layouts)
        amplitudes[:, -3:] = 0
        signal = (silent.topographies[0] * amplitudes[:, None]) @ silent.time_courses(0, times)
        powers.append(np.mean(signal**2))
    assert np.mean(powers) == pytest.approx(quiet.noise_variance, rel=0.15)


def test_drift_has_the_stated_size_and_changes_slowly() -> None:
    model = ForwardModel(ForwardModelConfig(num_subjects=1, drift=2.0))
    places = np.arange(0, 4000, 0.5)
    drift = model.drift(0, 4000, places)
    np.testing.assert_allclose(drift.std(0), 2, rtol=0.15)
    assert np.corrcoef(drift[:-1].ravel(), drift[1:].ravel())[0, 1] > 0.85
    eeg = [model.segment(0, label=0, layout=np.zeros(9), subject=0, drift=d) for d in (None, drift[0])]
    moved = (eeg[1] - eeg[0]) * model.scale[:, None] / np.sqrt(model.noise_variance)
    np.testing.assert_allclose(moved, np.broadcast_to(drift[0][:, None], moved.shape), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "1 classes"),
        ({"num_classes": 13}, "2 to 12"),
        ({"num_subjects": 0}, "0 subjects"),
        ({"snr_db": float("nan")}, "nan dB"),
        ({"variability": -0.1}, "variability of -0.1"),
        ({"drift": float("inf")}, "drift of inf"),
        ({"jitter_ms": 40.0}, "40.0 ms"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForwardModelConfig(**options)
