"""Views of a data set: the averages behind them, and the files."""

import re
from pathlib import Path

import numpy as np
import pytest
import simulated_run
from PIL import Image

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.trainer.report import plots
from neuroimagen.trainer.report.data_views import average


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "data"
    simulated_run.write_dataset(folder)
    return folder


def test_averages_are_those_of_the_part(data: Path) -> None:
    dataset = Dataset.open(data)
    averages = average(dataset, part="train", subjects=[2])
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
    averages = average(Dataset.open(data), part="train")
    peaks = averages.frequencies[averages.subject_power.mean(axis=(0, 1)).argmax()]
    assert 3 / 0.44 <= peaks <= 9 / 0.44  # the fixture's waves: 3 to 9 cycles in a window of 0.44 s


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_command_writes_one_file_that_needs_no_other(data: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"views.{suffix}"
    assert main(["data", "show", str(data), "--out", str(out)]) == 0
    if suffix == "png":
        with Image.open(out) as picture:
            assert picture.height > picture.width > 800
        return
    text = out.read_text(encoding="utf-8")
    assert text.count("<svg") == 5  # segments, classes, subjects, scalp maps, spectra
    assert text.count("amplitude, data set's units") == 3
    assert re.search(r"All in one scale: red is positive, blue negative, up to ±\d", text)
    assert "http://" not in text.replace("http://www.w3.org", "")
    for stand_in in (plots.INK, plots.MUTED, plots.GRID, *plots.SERIES):
        assert stand_in not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "views.pdf"], "ends with .html or .png"),
        (["--out", "v.png", "--classes", "unicorn"], "'unicorn' is not in the data set"),
        (["--out", "v.png", "--channel", "Z9"], "no channel 'Z9'"),
        (["--out", "v.png", "--subjects", "7"], "subject 7"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", str(data), *arguments]) == 1
    assert message in capsys.readouterr().err
