"""The averages behind the views of a data set."""

from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.report.data_averages import average


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "data"
    simulated_run.write_dataset(folder)
    return folder


def test_averages_are_those_of_the_split(data: Path) -> None:
    dataset = Dataset.open(data)
    averages = average(dataset, split="train", subjects=[2])
    rows = dataset.rows("train", [2])
    eeg = np.stack([dataset.eeg(row) for row in rows]).astype(np.float64)
    labels = dataset.index.label[rows]
    np.testing.assert_allclose(averages.evoked, eeg.mean(axis=0), atol=1e-6)
    for number, label in enumerate(averages.classes):
        own = eeg[labels == label]
        np.testing.assert_allclose(averages.class_mean[number], own.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(averages.class_error[number], own.std(axis=0, ddof=1) / np.sqrt(len(own)), atol=1e-5)
    assert averages.subjects.tolist() == [2]
    # Parseval: with the linear trend gone, the density integrates to the variance under the window.
    assert averages.subject_power.shape == (1, 8, 31)


def test_a_sine_stands_at_its_frequency(data: Path) -> None:
    averages = average(Dataset.open(data), split="train")
    peaks = averages.frequencies[averages.subject_power.mean(axis=(0, 1)).argmax()]
    assert 3 / 0.44 <= peaks <= 9 / 0.44  # the fixture's waves: 3 to 9 cycles in a window of 0.44 s


def test_what_is_not_there_is_an_error(data: Path) -> None:
    dataset = Dataset.open(data)
    with pytest.raises(UserError, match="subject 9 is not in the data set"):
        average(dataset, split="test", subjects=[9])
    with pytest.raises(UserError, match="class 'unicorn' is not in the data set"):
        average(dataset, split="test", class_names=["unicorn"])
