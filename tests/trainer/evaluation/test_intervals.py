"""Bootstrap intervals over stimuli: coverage, clusters, determinism."""

import numpy as np
import pytest
import scipy.stats

from neuroimagen.trainer.evaluation.intervals import bootstrap_difference, bootstrap_mean


def test_interval_agrees_with_scipy_when_every_stimulus_has_one_segment() -> None:
    values = np.random.default_rng(0).normal(size=80)
    estimate = bootstrap_mean(values, np.arange(80), num_resamples=4000)
    reference = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(reference.low, abs=0.02)
    assert estimate.high == pytest.approx(reference.high, abs=0.02)


def test_segments_of_a_stimulus_go_together() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=40), 25)  # 1,000 segments, but only 40 different stimuli
    stimuli = np.repeat(np.arange(40), 25)
    clustered, apart = bootstrap_mean(values, stimuli), bootstrap_mean(values, np.arange(1000))
    width, width_apart = clustered.high - clustered.low, apart.high - apart.low  # type: ignore[operator]
    assert width == pytest.approx(5 * width_apart, rel=0.1)
    assert clustered.n == 1000


def test_interval_covers_the_truth_about_19_times_of_20() -> None:
    rng = np.random.default_rng(5)
    stimuli = np.repeat(np.arange(60), 3)
    covered = 0
    for trial in range(200):
        values = np.repeat(rng.normal(size=60), 3) + rng.normal(size=180)
        estimate = bootstrap_mean(values, stimuli, seed=trial, num_resamples=400)
        covered += estimate.low <= 0.0 <= estimate.high  # type: ignore[operator]
    assert 0.89 <= covered / 200 <= 0.99


def test_paired_difference_is_narrower_than_its_parts_and_same_seed_gives_the_same_figures() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=50)
    first, second = shared + 0.3 + 0.1 * rng.normal(size=50), shared
    difference = bootstrap_difference(first, np.arange(50), second, np.arange(50))
    assert difference.low > 0.2  # type: ignore[operator]
    assert bootstrap_mean(first, np.arange(50)).low < 0.2  # type: ignore[operator]
    assert difference == bootstrap_difference(first, np.arange(50), second, np.arange(50))


def test_items_without_a_value_are_left_out_and_one_stimulus_has_no_interval() -> None:
    estimate = bootstrap_mean(np.array([1.0, np.nan, 0.0]), np.array([0, 1, 2]))
    assert (estimate.value, estimate.n) == (0.5, 2)
    assert bootstrap_mean(np.array([1.0, 0.0]), np.array([3, 3])).low is None
    assert bootstrap_mean(np.array([np.nan]), np.array([0])).n == 0


@pytest.mark.parametrize("num_stimuli", [2, 12, 200])
def test_at_the_borders_a_share_has_clopper_and_pearson_s_interval(num_stimuli: int) -> None:
    """No resample of all right ones has a wrong one, so the bootstrap alone leaves no doubt, of two stimuli too."""
    stimuli = np.repeat(np.arange(num_stimuli), 3)
    for value in (0.0, 1.0):
        estimate = bootstrap_mean(np.full(len(stimuli), value), stimuli, is_share=True)
        exact = scipy.stats.binomtest(round(value * num_stimuli), num_stimuli).proportion_ci(0.95, method="exact")
        assert (estimate.low, estimate.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
        unbounded = bootstrap_mean(np.full(len(stimuli), value), stimuli)  # 1 is no border of, say, a distance
        assert (unbounded.low, unbounded.high) == (value, value)
    inside = np.arange(len(stimuli)) % 2 / 1.0
    assert bootstrap_mean(inside, stimuli, is_share=True) == bootstrap_mean(inside, stimuli)
    assert bootstrap_mean(np.ones(3), np.zeros(3), is_share=True).low is None


@pytest.mark.parametrize("kind", ["hits", "shares of trials"])
def test_a_share_near_the_border_is_covered(kind: str) -> None:
    """The truth is 0.97, and 54 of 100 draws of 20 stimuli are all right: these cover it too."""
    rng = np.random.default_rng(3)
    stimuli, covered = np.repeat(np.arange(20), 2), 0
    for trial in range(300):
        wrong = rng.random(20) < 0.03 if kind == "hits" else rng.random(20) < 0.06
        values = np.repeat(1.0 - (1.0 if kind == "hits" else 0.5) * wrong, 2)
        estimate = bootstrap_mean(values, stimuli, is_share=True, seed=trial, num_resamples=400)
        covered += estimate.low <= 0.97 <= estimate.high  # type: ignore[operator]
    assert covered / 300 > 0.9
