"""A sealed split cannot be read by any way that leads to its EEG or its images, here or in a child process."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.sealed import SealedSplitError, sealed, sealed_splits
from neuroimagen.data_shards.loading.plan import SequentialPlan
from neuroimagen.data_shards.loading.reader import Reader


def test_a_sealed_split_gives_neither_rows_nor_eeg_nor_images(tiny_dataset_folder: Path) -> None:
    test_rows = Dataset.open(tiny_dataset_folder).rows("test")
    with sealed("test"):
        dataset = Dataset.open(tiny_dataset_folder)
        with pytest.raises(SealedSplitError, match="the test split"):
            dataset.rows("test")
        with pytest.raises(SealedSplitError, match="segment"):
            dataset.eeg(int(test_rows[0]))
        with pytest.raises(SealedSplitError, match="segment"):
            next(Reader(dataset, SequentialPlan(test_rows, 2)).epoch(0))
        with pytest.raises(SealedSplitError, match="stimulus"):
            dataset.stimuli.images(dataset.index.stimulus[test_rows[:1]], 16)
        for split in ("train", "val"):
            rows = dataset.rows(split)
            assert dataset.eeg(int(rows[0])).shape == (6, 20)
            assert dataset.stimuli.images(dataset.index.stimulus[rows], 16).shape[0] == len(rows)
    assert np.array_equal(Dataset.open(tiny_dataset_folder).rows("test"), test_rows)


def test_an_image_that_is_also_shown_elsewhere_stays_readable(tiny_dataset_folder: Path) -> None:
    dataset = Dataset.open(tiny_dataset_folder)
    shared = int(dataset.index.stimulus[dataset.rows("test")[0]])
    stimuli = dataset.index.stimulus.copy()
    stimuli[dataset.rows("train")[0]] = shared
    index = dataclasses.replace(dataset.index, stimulus=stimuli)
    with sealed("test"):
        again = Dataset(dataset.folder, dataset.metadata, index, dataset.stimuli)
        again.stimuli.image(shared)


def test_processes_that_are_started_under_a_seal_are_sealed(tiny_dataset_folder: Path) -> None:
    code = (
        "import sys; from neuroimagen.data_shards.dataset.dataset import Dataset\n"
        "Dataset.open(sys.argv[1]).rows(sys.argv[2])"
    )
    with sealed("test"):
        assert sealed_splits() == ("test",)
        for split, refused in (("val", False), ("test", True)):
            done = subprocess.run(
                [sys.executable, "-c", code, str(tiny_dataset_folder), split],
                capture_output=True,
                text=True,
                check=False,
            )
            assert ("SealedSplitError" in done.stderr) is refused
    assert sealed_splits() == ()
