"""Identification and retrieval against brute force, sorting and closed forms."""

import numpy as np

from neuroimagen.trainer.evaluation.metrics.identification import retrieval_accuracy, two_way_identification
from neuroimagen.trainer.evaluation.scoring.correlation import correlation_matrix


def test_two_way_identification_agrees_with_brute_force_and_divides_by_n_minus_one() -> None:
    rng = np.random.default_rng(0)
    features, candidates, targets = rng.normal(size=(7, 9)), rng.normal(size=(5, 9)), rng.integers(0, 5, size=7)
    expected = []
    for item, target in enumerate(targets):
        correlation = [np.corrcoef(features[item], candidate)[0, 1] for candidate in candidates]
        expected.append(sum(correlation[j] < correlation[target] for j in range(5) if j != target) / 4)
    similarity = correlation_matrix(features, candidates)
    np.testing.assert_allclose(two_way_identification(similarity, targets), expected)


def test_identification_closed_forms() -> None:
    perfect = np.eye(6)
    targets = np.arange(6)
    assert two_way_identification(perfect, targets).tolist() == [1.0] * 6
    assert two_way_identification(-perfect, targets).tolist() == [0.0] * 6
    assert two_way_identification(np.zeros((6, 6)), targets).tolist() == [0.5] * 6  # ties
    assert retrieval_accuracy(np.zeros((6, 6)), targets, top_k=5).tolist() == [0.0] * 6
    assert retrieval_accuracy(perfect, targets).tolist() == [1.0] * 6


def test_retrieval_agrees_with_sorting() -> None:
    rng = np.random.default_rng(4)
    similarity, targets = rng.normal(size=(50, 20)), rng.integers(0, 20, size=50)
    order = np.argsort(-similarity, axis=1)
    for top_k in (1, 5):
        expected = (order[:, :top_k] == targets[:, None]).any(axis=1)
        np.testing.assert_array_equal(retrieval_accuracy(similarity, targets, top_k=top_k), expected)


def test_identification_within_a_class_sees_only_that_class() -> None:
    similarity = np.array([[0.5, 0.9, 0.4], [0.5, 0.9, 0.4]])  # candidate 1, of another class, must not count
    allowed = np.array([[True, False, True], [True, False, False]])
    values = two_way_identification(similarity, np.array([0, 0]), allowed=allowed)
    assert values[0] == 1.0
    assert np.isnan(values[1])  # the only one of its class
    assert retrieval_accuracy(similarity, np.array([0, 0]), allowed=allowed)[0] == 1.0


def test_a_similarity_that_is_not_a_number_is_no_hit() -> None:
    """Whichever side it is on: a network that broke must not look like one that recognises the stimulus."""
    targets = np.arange(6)
    for broken in (np.full((6, 6), np.nan), np.where(np.eye(6), np.nan, 0.0), np.where(np.eye(6), 1.0, np.nan)):
        assert two_way_identification(broken, targets).tolist() == [0.0] * 6
        assert retrieval_accuracy(broken, targets).tolist() == [0.0] * 6
