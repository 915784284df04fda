"""The ceiling of identification: closed forms, its bounds, and its decoder on simulated segments."""

import numpy as np
import pytest
from scipy.stats import norm

from neuroimagen.data_shards.simulator.ceiling import Decoder
from neuroimagen.data_shards.simulator.forward_model import LAYOUT_GAIN, ForwardModel, ForwardModelConfig
from neuroimagen.data_shards.simulator.identification_ceiling import (
    identification_figures,
    measure_identification_ceiling,
    stimulus_hypotheses,
)


def gallery(model: ForwardModel, num_stimuli: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(num_stimuli) % model.config.num_classes, model.layout_sample[:num_stimuli]


def test_figures_count_the_stimuli_above_the_true_one() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0, -1.0, -2.0, -3.0], [0.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    assert identification_figures(scores, np.array([0, 0])).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert identification_figures(scores, np.array([2, 5])).tolist() == [[0, 1, 1 - 1 / 6], [0, 1, 1 - 4 / 6]]


def test_two_stimuli_of_a_class_without_noise_are_a_gaussian_tail() -> None:
    """Equal classes, layouts that differ by a known distance: only the layout's variability confuses them."""
    model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=40, jitter_ms=0, layout_variability=0.8))
    layouts = np.zeros((2, 9))
    layouts[1, 0] = 1.0
    found = measure_identification_ceiling(model, np.zeros(2, dtype=int), layouts, num_draws=50_000)
    distance, deviation = LAYOUT_GAIN, LAYOUT_GAIN * 0.8
    expected = norm.cdf(distance / 2 / deviation)
    assert found.bound.top1 == pytest.approx(expected, abs=0.01)
    assert found.bound.two_way == pytest.approx(found.bound.top1)
    assert found.achievable.top1 == pytest.approx(expected, abs=0.03)
    assert found.bound.top5 == 1


def test_it_falls_with_the_noise_and_with_the_number_of_stimuli() -> None:
    previous = 1.0
    for snr in (0.0, -15.0, -30.0):
        model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=snr))
        found = measure_identification_ceiling(model, *gallery(model, 60), num_draws=4000)
        assert found.achievable.top1 <= found.bound.top1 <= previous + 0.01
        assert found.bound.top1 <= found.bound.top5 <= 1
        previous = found.bound.top1
    more = measure_identification_ceiling(model, *gallery(model, 240), num_draws=4000)
    assert more.bound.top1 < previous
    assert measure_identification_ceiling(model, *gallery(model, 240), num_draws=4000) == more


def test_the_decoder_reaches_its_figure_on_simulated_segments() -> None:
    model = ForwardModel(ForwardModelConfig(num_subjects=1, snr_db=-28, seed=3))
    labels, layouts = gallery(model, 60)
    decoder = Decoder(model, 0, stimulus_hypotheses(model, labels, layouts))
    true = np.random.default_rng(0).integers(60, size=300)
    segments = [
        model.segment(i, label=int(labels[number]), layout=layouts[number], subject=0)[None, :, :460]
        for i, number in enumerate(true)
    ]
    scores = decoder.log_posterior(np.concatenate([decoder.features(segment) for segment in segments]))
    reached = identification_figures(scores, true).mean(axis=0)[0]
    predicted = measure_identification_ceiling(model, labels, layouts, num_draws=20_000).achievable.top1
    assert 0.2 < predicted < 0.95
    assert reached == pytest.approx(predicted, abs=4 * np.sqrt(predicted * (1 - predicted) / 300))
