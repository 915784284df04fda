"""The audit of a split: each check on columns with and without the fault, and on whole data sets."""

from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.dataset import audit
from neuroimagen.data_shards.dataset.dataset import Dataset

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


def test_copies_of_images_and_segments_are_found() -> None:
    rng = np.random.default_rng(0)
    keys = tuple("abcde")
    prints = rng.random((5, 256)) < 0.5
    content = [b"1", b"2", b"3", b"4", b"5"]
    assert levels(audit.check_equal_images(content, prints, np.arange(5), SPLITS, keys)) == ["good"]
    content[3] = b"2"
    prints[4] = prints[0]
    prints[4, 7] ^= True  # one bit of 256
    found = list(audit.check_equal_images(content, prints, np.arange(5), SPLITS, keys))
    assert levels(found) == ["problem", "note"]
    assert "d = b" in found[0].text
    assert "e = a" in found[1].text

    sizes = np.full(5, 10)
    assert levels(audit.check_equal_segments(np.array([1, 2, 3, 4, 5]), sizes, SPLITS)) == ["good"]
    assert levels(audit.check_equal_segments(np.array([1, 2, 3, 1, 5]), sizes, SPLITS)) == ["problem"]


def test_near_pairs_agree_with_counting_bits_and_flat_images_have_none() -> None:
    rng = np.random.default_rng(1)
    prints = rng.random((30, 256)) < 0.4
    prints[20:25] = prints[:5]
    prints[22, :2] ^= True
    prints[23, :9] ^= True
    prints[[8, 28]] = False  # two flat images
    test, training = np.arange(20, 30), np.arange(20)
    expected = [
        (one, other)
        for one in test
        for other in training
        if (prints[one] != prints[other]).sum() <= audit.NEAR_BITS and prints[one].any()
    ]
    assert audit.near_pairs(prints, test, training) == expected
    assert (28, 8) not in expected


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


def test_two_classes_in_blocks_are_told_by_time() -> None:
    """Twice chance is certainty with two classes; time telling all of them was no problem."""
    labels, blocks = np.repeat([0, 1], 10), np.repeat([0, 1], 10)
    orders, splits = np.tile(np.arange(10), 2), np.tile([0, 0, 0, 0, 2], 4)
    columns = (labels, np.ones(20, dtype=int), blocks, orders, splits)
    (finding,) = audit.check_time(*columns)
    assert finding.level == "problem"
    assert "taken for one block" not in finding.text
    (finding,) = audit.check_time(*columns, derived=True)
    assert "taken for one block" in finding.text
    (finding,) = audit.check_time(np.tile([0, 1], 10), *columns[1:])
    assert finding.level == "good"


def test_a_block_tells_the_class_where_its_neighbours_in_time_are_in_another_split() -> None:
    """The first image of each block is tested and the second validates: the third is as far as the block before."""
    blocks, orders = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    splits = np.tile([2, 1, *[0] * 8], 6)
    (finding,) = audit.check_time(blocks % 3, np.ones(60, dtype=int), blocks, orders, splits)
    assert finding.level == "problem"
    assert finding.figures["accuracy"] == finding.figures["told_by_block"] == 1.0


@pytest.mark.parametrize("block_design", [True, False])
def test_time_tells_the_class_in_blocks_only(tmp_path: Path, block_design: bool) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=18, block_design=block_design)
    found = {finding.check: finding for finding in audit.audit(Dataset.open(tmp_path / "data"))}
    assert found["stimuli"].level == found["segments"].level == "good"
    assert found["time"].level == ("problem" if block_design else "good")
    assert (found["time"].figures["accuracy"] > 0.8) == block_design
    assert (found["time"].figures["blocks_of_one_class"] == found["time"].figures["blocks"]) == block_design


def test_an_unknown_order_is_said_to_be_unknown() -> None:
    unknown = np.full(5, -1)
    (finding,) = audit.check_time(np.arange(5), np.ones(5, dtype=int), unknown, unknown, SPLITS)
    assert finding.level == "note"
    assert "unknown" in finding.text
