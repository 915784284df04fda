"""n-way accuracy against brute force and closed forms."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.trainer.evaluation.metrics.n_way_accuracy import n_way_accuracy


@given(seed=st.integers(0, 1000), n_way=st.integers(2, 12), top_k=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_n_way_accuracy_is_the_hypergeometric_expectation(seed: int, n_way: int, top_k: int) -> None:
    if top_k >= n_way:
        return
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(40, 12)), rng.integers(0, 12, size=40)
    beaters = (scores > scores[np.arange(40), labels][:, None]).sum(axis=1)
    expected = scipy.stats.hypergeom(11, beaters, n_way - 1).cdf(top_k - 1)
    measured = n_way_accuracy(scores, labels, n_way=n_way, top_k=top_k, num_trials=4000, seed=seed)
    np.testing.assert_allclose(measured, expected, atol=5 * 0.5 / np.sqrt(4000))


def test_n_way_accuracy_draws_classes_like_brute_force() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 20)), rng.integers(0, 20, size=30)
    hits = np.zeros(30)
    for _ in range(500):
        for item, label in enumerate(labels):
            others = rng.choice(np.delete(np.arange(20), label), size=6, replace=False)
            hits[item] += (scores[item, others] >= scores[item, label]).sum() < 2
    measured = n_way_accuracy(scores, labels, n_way=7, top_k=2, num_trials=3000)
    np.testing.assert_allclose(measured, hits / 500, atol=0.1)


def test_n_way_accuracy_over_all_classes_is_plain_accuracy() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(50, 12)), rng.integers(0, 12, size=50)
    measured = n_way_accuracy(scores, labels, n_way=12)
    np.testing.assert_array_equal(measured, scores.argmax(axis=1) == labels)


def test_n_way_accuracy_counts_ties_against_and_names_bad_settings() -> None:
    assert n_way_accuracy(np.zeros((1, 5)), np.array([2]), n_way=5).tolist() == [0.0]
    with pytest.raises(ValueError, match="n_way 50"):
        n_way_accuracy(np.zeros((1, 12)), np.array([0]), n_way=50)


def test_n_way_accuracy_of_random_scores_is_chance() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(20_000, 100)), rng.integers(0, 100, size=20_000)
    assert n_way_accuracy(scores, labels, n_way=50).mean() == pytest.approx(1 / 50, abs=0.004)


@pytest.mark.parametrize("n_way", [4, 12])
def test_a_score_that_is_not_a_number_is_no_hit(n_way: int) -> None:
    labels = np.arange(12)
    for broken in (np.full((12, 12), np.nan), np.where(np.eye(12), np.nan, 0.0), np.where(np.eye(12), 1.0, np.nan)):
        assert n_way_accuracy(broken, labels, n_way=n_way).tolist() == [0.0] * 12
