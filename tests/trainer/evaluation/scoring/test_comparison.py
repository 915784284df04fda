"""The input of a metric: images, their stimuli, and what the networks compute from both."""

import numpy as np
import pytest

from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def test_images_that_are_shown_twice_are_described_once(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    references = scoring.references
    described: list[int] = []
    describe = type(scoring.networks.classifier).describe

    def count(network: object, images: np.ndarray) -> object:
        described.append(len(images))
        return describe(network, images)  # type: ignore[arg-type]

    monkeypatch.setattr(type(scoring.networks.classifier), "describe", count)
    shown, columns = np.array([0, 2, 2, 1]), np.array([0, 2, 5, 1])
    segments = np.array([1, 0, 0, 2])
    comparison = Comparison(scoring, references.images[:3], columns=columns, shown=shown, segments=segments)
    assert len(comparison) == 4
    np.testing.assert_array_equal(comparison.images, references.images[shown])
    np.testing.assert_array_equal(comparison.stimuli, references.images[columns])
    np.testing.assert_array_equal(comparison.class_scores[1], comparison.class_scores[2])
    np.testing.assert_allclose(comparison.class_scores, references.classifier.scores[shown], atol=1e-4)  # type: ignore[index]
    assert comparison.predicted.shape == (4,)
    assert described == [3]
    assert comparison.first_of_segment.tolist() == [1, 0, 3]


def test_a_stimulus_is_most_similar_to_itself(scoring: Scoring) -> None:
    references = scoring.references
    columns = np.arange(len(references.images))
    comparison = Comparison(scoring, references.images, columns=columns)
    for similarity in (
        comparison.similarity_in_pixels,
        comparison.similarity_in_clip,
        comparison.similarity_in_classifier,
    ):
        assert similarity.argmax(axis=1).tolist() == columns.tolist()
        np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-4)
    np.testing.assert_array_equal(comparison.in_same_class, references.same_class)
    np.testing.assert_array_equal(comparison.targets, scoring.networks.classes[references.labels])
    assert comparison.first_of_segment.tolist() == columns.tolist()
