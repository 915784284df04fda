"""The classifier stage: what it learns and exports, and the share of labels it uses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.stages.classifier import labelled_rows
from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint, read_state

Train = Callable[..., Path]


def test_the_classifier_learns_and_exports(
    train_here: Train, recipe_path: Path, study_folder: Path, tmp_path: Path
) -> None:
    stage = train_here(recipe_path, "classifier", tmp_path / "run")
    state = read_state(latest_checkpoint(stage / "checkpoints"))
    assert state.best is not None
    assert state.best > 0.4  # chance 0.25
    model = ClassifierModel.from_pretrained(stage / "export")
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("val")
    eeg = torch.stack([torch.from_numpy(dataset.eeg(int(row))) for row in rows])
    right = (model(eeg).argmax(1).numpy() == dataset.index.label[rows]).mean()
    assert right == pytest.approx(state.best)


def test_a_share_of_labels_is_drawn_per_class() -> None:
    label = np.array([0] * 40 + [1] * 20 + [2] * 3)
    rows = np.arange(63)
    chosen = labelled_rows(rows, label, 0.1, seed=5)
    assert np.bincount(label[chosen]).tolist() == [4, 2, 1]
    assert np.array_equal(chosen, labelled_rows(rows, label, 0.1, seed=5))
    assert not np.array_equal(chosen, labelled_rows(rows, label, 0.1, seed=6))
    assert labelled_rows(rows, label, 1.0, seed=5) is rows
