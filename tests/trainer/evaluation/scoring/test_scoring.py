"""What images are scored with."""

import dataclasses

import numpy as np
import pytest
from simulated_run import Finished

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, Scoring, load_scoring


def test_references_are_the_stimuli_of_the_split(finished: Finished, scoring: Scoring, config: EvaluateConfig) -> None:
    dataset = Dataset.open(finished.data)
    references = scoring.references
    test = np.unique(dataset.index.stimulus[dataset.rows("test")])
    assert references.stimuli.tolist() == test.tolist()
    assert references.keys == tuple(dataset.stimuli.keys[number] for number in test)
    assert references.images.shape == (12, 3, 32, 32)
    assert len(references.classifier.features) == len(references.clip.features) == len(references.captions) == 12
    assert references.same_class.sum(axis=1).tolist() == [2] * 12
    assert references.class_sizes == "2"
    assert dataclasses.replace(references, labels=np.array([0] * 3 + [1] * 5 + [2] * 4)).class_sizes == "3 to 5"
    val = load_scoring(config, dataset, subjects=None, size_px=16, split="val", device="cpu").references
    assert set(val.keys).isdisjoint(references.keys)
    assert val.images.shape[2] == 16


def test_numbers_are_those_of_the_evaluation(scoring: Scoring) -> None:
    assert scoring.n_way == 12  # the classifier knows no more
    assert scoring.numbers["trials"] == "one (all classes take part)"
    assert scoring.num_candidates == 12
    few = dataclasses.replace(scoring, config=EvaluateConfig(n_way=7, num_trials=9))
    assert (few.n_way, few.numbers["n_others"], few.numbers["trials"]) == (7, 6, 9)


def test_classes_that_the_classifier_does_not_know_are_named(finished: Finished, config: EvaluateConfig) -> None:
    dataset = Dataset.open(finished.data)
    first, *others = dataset.metadata.classes
    unknown = dataclasses.replace(first, name="unicorn", wnid="n00000000")
    dataset.metadata = dataclasses.replace(dataset.metadata, classes=(unknown, *others))
    with pytest.raises(UserError, match="unicorn"):
        load_scoring(config, dataset, subjects=None, size_px=32, device="cpu")


def test_settings_that_make_no_sense_are_refused() -> None:
    for name, value in (("n_way", 1), ("num_trials", 0), ("num_resamples", 99), ("inception_splits", 0)):
        with pytest.raises(ValueError, match=rf"evaluate\.{name} must be at least"):
            EvaluateConfig(**{name: value})
    assert EvaluateConfig(classifier="embedded").classifier == "bundled"  # the name in recipes of earlier versions
