"""Folds of the training stimuli: every stimulus in one, balanced, and left out wherever training reads rows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.batches.folds import NO_FOLD, dealt, fold_of_stimuli
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
