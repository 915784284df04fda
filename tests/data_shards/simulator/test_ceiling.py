"""The best achievable accuracy: closed forms, brute force, and decoding of segments that were actually simulated."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.linalg import toeplitz
from scipy.stats import norm

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.simulator.ceiling import (
    Decoder,
    achievable_accuracy,
    measure_ceiling,
    noise_free_accuracy,
    source_information,
    upper_bound,
)
from neuroimagen.data_shards.simulator.forward_model import (
    NOISE_BINS,
    PERIOD,
    ForwardModel,
    ForwardModelConfig,
)


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    with single_blas_thread():
        yield


def test_noise_free_accuracy_of_two_classes_is_the_gaussian_tail() -> None:
    assert noise_free_accuracy(2, 0.5) == pytest.approx(norm.cdf(np.sqrt(2) / 2 / 0.5), abs=1e-8)
    assert noise_free_accuracy(12, 100.0) == pytest.approx(1 / 12, abs=0.002)
    assert noise_free_accuracy(12, 0.0) == 1
    assert noise_free_accuracy(12, 0.05) == pytest.approx(1)


def test_information_agrees_with_generalised_least_squares_in_the_time_domain() -> None:
    """Two channels are few enough for the full covariance, 2,000 × 2,000."""
    model = ForwardModel(ForwardModelConfig(num_classes=4, num_subjects=1))
    model.topographies, model.noise_mixing = model.topographies[:, :2], model.noise_mixing[:, :2]
    turn = 2 * np.pi * np.outer(np.arange(1, NOISE_BINS + 1), np.arange(PERIOD)) / PERIOD
    mixing, power = model.noise_mixing[0], model.noise_power[0]
    lags = np.einsum("ar,rf,br,fl->abl", mixing, power, mixing, np.cos(turn), optimize=True)
    covariance = np.block([[toeplitz(lags[a, b]) for b in range(2)] for a in range(2)])
    covariance += model.amplifier_variance * np.eye(2 * PERIOD)
    courses = model.time_courses(0, np.arange(PERIOD, dtype=np.float64))[:3]
    fields = np.einsum("ck,kt->ctk", model.topographies[0][:, :3], courses).reshape(2 * PERIOD, 3)
    expected = fields.T @ np.linalg.solve(covariance, fields)
    np.testing.assert_allclose(source_information(model, 0, 3), expected, rtol=1e-6)


def test_the_default_study_has_a_ceiling_worth_reaching() -> None:
    """Between 0.75 and 0.95 for 12 classes; the two bounds enclose it within 0.01."""
    ceiling = measure_ceiling(ForwardModel(ForwardModelConfig()), num_draws=50_000)
    assert 0.75 < ceiling.achievable < 0.95
    assert ceiling.accuracy <= ceiling.noise_free == pytest.approx(0.8793, abs=1e-4)
    assert ceiling.accuracy - ceiling.achievable < 0.01
    assert ceiling.chance == pytest.approx(1 / 12)


def test_bounds_stay_in_order_and_fall_with_the_noise() -> None:
    previous = 1.0
    for snr in (10.0, -15.0, -40.0):
        model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=snr))
        above, below = upper_bound(model, 20_000), achievable_accuracy(model, 4000)
        assert below < above + 0.02
        assert above < previous + 0.005
        previous = above
    assert below < 0.4


def test_the_decoder_reaches_its_figure_on_simulated_segments() -> None:
    model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=-15, drift=1.0, seed=3))
    decoder = Decoder(model, 0)
    rng = np.random.default_rng(0)
    labels = rng.integers(12, size=400)
    drift = model.drift(0, 400, np.arange(400.0))
    features = np.concatenate(
        [
            decoder.features(
                model.segment(i, label=int(label), layout=model.layout_sample[i], subject=0, drift=drift[i])[
                    None, :, :460
                ]
            )
            for i, label in enumerate(labels)
        ]
    )
    predicted = achievable_accuracy(model, 10_000)
    reached = np.mean(decoder.log_posterior(features).argmax(1) == labels)
    assert reached == pytest.approx(predicted, abs=4 * np.sqrt(predicted * (1 - predicted) / 400))
    # The features themselves are distributed as `draw` says, noise and drift included.
    drawn, _ = decoder.draw(rng, 20_000)
    np.testing.assert_allclose(features.std(0) / drawn.std(0), 1, atol=0.25)


def test_ceiling_is_deterministic_and_known_for_two_classes_without_jitter() -> None:
    model = ForwardModel(ForwardModelConfig(num_classes=2, num_subjects=1, jitter_ms=0, snr_db=40, variability=0.6))
    first, second = (measure_ceiling(model, num_draws=100_000) for _ in range(2))
    assert first == second
    assert first.accuracy == pytest.approx(norm.cdf(1 / np.sqrt(2) / 0.6), abs=0.004)
    assert first.achievable == pytest.approx(first.accuracy, abs=0.012)


def test_the_decoder_s_estimate_does_not_exceed_what_no_decoder_exceeds() -> None:
    """Both are Monte Carlo means; with these four classes they coincide but for their errors."""
    model = ForwardModel(ForwardModelConfig(num_classes=4, num_subjects=2))
    assert achievable_accuracy(model, 10_000) > noise_free_accuracy(4, model.config.variability)  # by chance, this seed
    ceiling = measure_ceiling(model)
    assert ceiling.achievable <= ceiling.accuracy <= ceiling.noise_free
