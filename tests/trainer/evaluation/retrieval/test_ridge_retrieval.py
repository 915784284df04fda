"""Retrieval of the stimulus from the EEG alone."""

import dataclasses

import numpy as np
import pytest
from simulated_run import Finished

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import summarise_segments
from neuroimagen.trainer.evaluation.results import find
from neuroimagen.trainer.evaluation.retrieval.ridge_retrieval import (
    StimulusFeatures,
    predicted_features,
    retrieval_results,
)
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def test_ridge_regression_finds_the_layout() -> None:
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((60, 5))
    stimuli, subjects = np.tile(np.arange(60), 2), np.repeat([1, 2], 60)
    features = targets[stimuli] @ rng.standard_normal((5, 40)) + 0.1 * rng.standard_normal((120, 40))
    is_test = stimuli >= 45
    predicted = predicted_features(features, targets, np.arange(60), stimuli, subjects, is_test)
    assert np.corrcoef(predicted.ravel(), targets[stimuli[is_test]].ravel())[0, 1] > 0.95


def test_the_training_mean_is_that_of_distinct_training_stimuli() -> None:
    features = StimulusFeatures(stimuli=np.array([3, 5, 9]), clip=np.eye(3), pixels=2 * np.eye(3))
    centred = features.minus_training_mean(np.array([3, 9, 9, 9]))
    np.testing.assert_allclose(centred.clip, np.eye(3) - [0.5, 0, 0.5])
    np.testing.assert_allclose(centred.pixels, 2 * np.eye(3) - [1, 0, 1])


def test_the_stimulus_is_found_above_chance_and_the_definition_says_how(finished: Finished, scoring: Scoring) -> None:
    dataset = Dataset.open(finished.data)
    summaries = summarise_segments(dataset, encoder=None)
    results = retrieval_results(dataset, summaries, scoring)
    assert {item.condition for item in results} == {"linear_retrieval"}  # no encoder, and no repetitions
    found, within = (find(results, "linear_retrieval", metric) for metric in ("two_way_clip", "within_class_two_way"))
    assert found is not None
    assert within is not None
    assert found.value > 0.6
    assert "fitted on the training split" in found.definition
    assert "at 16 px" in within.definition
    assert find(results, "linear_retrieval", "within_class_p") is not None


def test_repetitions_of_a_stimulus_are_averaged(finished: Finished, scoring: Scoring) -> None:
    dataset = Dataset.open(finished.data)
    summaries = summarise_segments(dataset, encoder=None, subjects=[1])
    twice = dataclasses.replace(
        summaries,
        **{name: np.concatenate([getattr(summaries, name)] * 2) for name in ("rows", "is_test", "slow", "window")},
    )
    results = retrieval_results(dataset, twice, scoring)
    single, averaged = (
        find(results, condition, "two_way_clip") for condition in ("linear_retrieval", "linear_retrieval_averaged")
    )
    assert single is not None
    assert averaged is not None
    assert single.n == 2 * averaged.n
    assert single.value == pytest.approx(averaged.value)  # the repetitions are equal here
    assert "averaged over the repetitions" in averaged.definition
