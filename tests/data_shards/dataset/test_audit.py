"""The audit of a split: each check on columns with and without the fault, and on whole data sets."""

from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.dataset import audit
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo

SPLITS = np.array([0, 0, 1, 2, 2])


def levels(findings: object) -> list[str]:
    return [finding.level for finding in findings]  # type: ignore[attr-defined]


def test_a_stimulus_in_two_splits_is_a_problem() -> None:
    keys = ("a", "b", "c", "d", "e")
    assert levels(audit.check_shared_stimuli(np.arange(5), SPLITS, keys)) == ["good"]
    (finding,) = audit.check_shared_stimuli(np.array([0, 1, 2, 3, 1]), SPLITS, keys)
    assert finding.level == "problem"
    assert "1 of 2 test stimuli" in finding.text
    assert "(b)" in finding.text


def test_subjects_that_should_have_been_left_out() -> None:
    subjects = np.array([1, 1, 1, 2, 2])
    assert levels(audit.check_subjects(subjects, SPLITS, "leave-subject-out:2")) == ["good"]
    subjects[0] = 2
    assert levels(audit.check_subjects(subjects, SPLITS, "subject 2 left out")) == ["problem"]
    assert levels(audit.check_subjects(subjects, SPLITS, "by image")) == ["note"]


def test_classes_without_training_segments() -> None:
    found = list(audit.check_classes(np.array([0, 0, 0, 0, 1]), SPLITS, ["cup", "dog"]))
    assert found[0].level == "problem"
    assert "dog" in found[0].text


def test_a_zero_shot_split_is_no_problem() -> None:
    """THINGS-EEG2's published split: other concepts in each of train and test."""
    found = list(audit.check_classes(np.array([0, 0, 1, 2, 2]), SPLITS, ["cup", "dog", "axe"]))
    assert [finding.level for finding in found] == ["note", "good"]
    assert "zero-shot: none of the 1 classes" in found[0].text


@pytest.mark.parametrize("block_design", [True, False])
def test_time_tells_the_class_in_blocks_only(tmp_path: Path, block_design: bool) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=18, block_design=block_design)
    found = {finding.check: finding for finding in audit.audit(Dataset.open(tmp_path / "data"))}
    assert found["stimuli"].level == found["segments"].level == "good"
    assert found["time"].level == ("problem" if block_design else "good")
    assert (found["time"].figures["accuracy"] > 0.8) == block_design
    assert (found["time"].figures["blocks_of_one_class"] == found["time"].figures["blocks"]) == block_design
    assert found["samples"].figures["unknown"] == len(Dataset.open(tmp_path / "data"))


def test_copies_of_segments_are_found() -> None:
    sizes = np.full(5, 10)
    assert levels(audit.check_equal_segments(np.array([1, 2, 3, 4, 5]), sizes, SPLITS)) == ["good"]
    assert levels(audit.check_equal_segments(np.array([1, 2, 3, 1, 5]), sizes, SPLITS)) == ["problem"]


@pytest.mark.parametrize("other", ["Coffee Mug", "coffee_mug", "coffee  mug ", "COFFEE-MUG", "coﬀee mug"])
def test_classes_that_differ_in_spelling_only_are_named(other: str) -> None:
    (finding,) = audit.check_spelling([ClassInfo(name="coffee mug"), ClassInfo(name="dog"), ClassInfo(name=other)])
    assert finding.level == "note"
    assert f"1 classes differ from another in spelling only: 'coffee mug' and {other!r}" in finding.text


def test_plurals_and_classes_of_different_wordnet_ids_are_different_classes() -> None:
    names = ["mug", "mugs", "coffee mug", "coffeemug"]
    assert levels(audit.check_spelling([ClassInfo(name=name) for name in names])) == ["good"]
    cranes = [ClassInfo(name="crane", wnid="n02012849"), ClassInfo(name="Crane", wnid="n03126707")]
    assert levels(audit.check_spelling(cranes)) == ["good"]
    assert levels(audit.check_spelling([cranes[0], ClassInfo(name="Crane")])) == ["note"]


def test_subjects_with_few_segments_are_named() -> None:
    (finding,) = audit.check_trials(np.repeat([1, 2, 3, 7], [100, 100, 90, 40]))
    assert "1 of 4 subjects" in finding.text
    assert "(subject 7: 40)" in finding.text
    assert levels(audit.check_trials(np.repeat([1, 2, 3], [100, 60, 90]))) == ["good"]
    assert levels(audit.check_trials(np.ones(5, dtype=int))) == []
