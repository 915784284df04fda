"""Folds of the training stimuli: every stimulus in one, balanced, and left out wherever training reads rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.batches.folds import (
    NO_FOLD,
    dealt,
    divides_stimuli,
    fold_of_stimuli,
    folds_of_rows,
    rows_of_folds,
)
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData


def data(study_folder: Path, leave_out: tuple[int, int] | None) -> StageData:
    dataset = Dataset.open(study_folder)
    device = torch.device("cpu")
    return StageData(dataset, needs=BatchNeeds(), latents={}, subjects=None, device=device, leave_out=leave_out)


@pytest.mark.parametrize("num_folds", [2, 3])
def test_a_stimulus_is_in_one_fold_and_left_out_with_all_its_segments(study_folder: Path, num_folds: int) -> None:
    whole = data(study_folder, None)
    stimulus = whole.dataset.index.stimulus
    everything = set(stimulus[whole.rows("train")].tolist())
    held_out = []
    for fold in range(num_folds):
        part = data(study_folder, (fold, num_folds))
        rows = part.rows("train")
        missing = np.setdiff1d(whole.rows("train"), rows)
        assert not set(stimulus[rows].tolist()) & set(stimulus[missing].tolist())
        assert np.array_equal(part.rows("val"), whole.rows("val"))
        held_out.append(set(stimulus[missing].tolist()))
        # What a plan reads of the training split, over two epochs.
        plan = part.shuffled(rows, 0, 4)
        read = np.concatenate([plan.batch(epoch, step) for epoch in (0, 1) for step in range(plan.steps_per_epoch)])
        assert not set(stimulus[read].tolist()) & held_out[-1]
    assert set().union(*held_out) == everything
    assert sum(len(part) for part in held_out) == len(everything)


def test_folds_are_balanced_within_classes_and_know_the_training_split_alone(study_folder: Path) -> None:
    dataset = Dataset.open(study_folder)
    folds = fold_of_stimuli(dataset, 2)
    trained = np.unique(dataset.index.stimulus[dataset.rows("train")])
    assert set(np.flatnonzero(folds != NO_FOLD).tolist()) == set(trained.tolist())
    for label in np.unique(dataset.stimuli.labels):
        counts = np.bincount(folds[trained][dataset.stimuli.labels[trained] == label], minlength=2)
        assert abs(counts[0] - counts[1]) <= 1


def test_dealing_depends_on_keys_and_not_on_their_order() -> None:
    labels, keys = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), [f"k{number}" for number in range(9)]
    folds = dealt(labels, keys, 2)
    assert sorted(np.bincount(folds).tolist()) == [4, 5]
    order = np.random.default_rng(0).permutation(9)
    assert np.array_equal(dealt(labels[order], [keys[place] for place in order], 2), folds[order])


def test_cross_validation_divides_training_and_validation_segments_by_stimulus(study_folder: Path) -> None:
    dataset = Dataset.open(study_folder)
    stimulus = dataset.index.stimulus
    together = np.union1d(dataset.rows("train"), dataset.rows("val"))
    seen = []
    for fold in range(3):
        part = StageData(
            dataset,
            needs=BatchNeeds(),
            latents={},
            subjects=None,
            device=torch.device("cpu"),
            validation_fold=(fold, 3),
        )
        train, val = part.rows("train"), part.rows("val")
        assert np.array_equal(np.union1d(train, val), together)
        assert not set(stimulus[train].tolist()) & set(stimulus[val].tolist())
        assert set(dataset.index.label[val].tolist()) == {0, 1, 2, 3}
        seen.append(val)
    assert np.array_equal(np.sort(np.concatenate(seen)), together)  # each once


def index_of(label: list[int], subject: list[int]) -> Any:
    """A data set whose classes have one stimulus each."""
    columns = {"label": np.array(label), "stimulus": np.array(label), "subject": np.array(subject)}
    return SimpleNamespace(index=SimpleNamespace(**columns))


def test_without_enough_stimuli_folds_are_stretches_of_recording_time_in_every_class() -> None:
    dataset = index_of([0, 1] * 12, [1] * 24)
    rows = np.arange(24)
    assert not divides_stimuli(dataset, rows, 3)
    folds = folds_of_rows(dataset, rows, 3)
    for label in (0, 1):
        own = folds[label::2]
        assert np.bincount(own).tolist() == [4, 4, 4]
        assert (np.diff(own) != 0).sum() == 2  # three stretches
    assert np.array_equal(folds, folds_of_rows(dataset, rows, 3))


def test_no_fold_is_empty_where_groups_are_smaller_than_folds() -> None:
    dataset = index_of([0, 0, 1, 1] * 2, [1] * 4 + [2] * 4)
    folds = folds_of_rows(dataset, np.arange(8), 4)
    assert sorted(np.bincount(folds, minlength=4).tolist()) == [2, 2, 2, 2]


def test_rows_of_folds_never_touch_the_test_split(study_folder: Path) -> None:
    dataset = Dataset.open(study_folder)
    assert not np.isin(rows_of_folds(dataset, None), dataset.rows("test")).any()
